"""The package as an index would show it: its name, its page, its addresses.

Covers: sightline.errors.
"""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from sightline.errors import DISTRIBUTION, install_advice

sys.path.insert(0, str(Path(__file__).parents[2]))
import hatch_build

REPOSITORY = Path(__file__).parents[2]
ADDRESS = "https://example.org/x/y"
STRANGERS_PACKAGE = re.compile(
    r"(?:pip3? install|pipx install|uv tool install|uv add|uv pip install)\b[^\n`]*?[ '\"]sightline(?![\w./-])"
    r"|\bsightline\[(?:torch|demo|heif|train|generate|web|mcp|agents|dev|all)\b"
)


def project():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]


def told_files():
    """What people read or run: sources, documents, notebooks, settings."""
    endings = ("*.md", "*.py", "*.toml", "*.ipynb", "*.template", "*.yml", "*.html", "*.js", "*.cff")
    folders = ("src", "docs", "notebooks", "scripts", "benchmarks", ".github")
    yield from (path for folder in folders for ending in endings for path in (REPOSITORY / folder).rglob(ending))
    yield from (path for ending in endings for path in REPOSITORY.glob(ending))
    yield from (REPOSITORY / name for name in ("Makefile", "requirements.txt"))


def test_no_advice_would_install_the_package_of_a_stranger():
    found = {
        f"{path.relative_to(REPOSITORY)}: {match[0]}"
        for path in told_files()
        for match in STRANGERS_PACKAGE.finditer(path.read_text("utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    "advice",
    [
        "pip install 'sightline[web]'",
        "needs `sightline[train]`",
        "pip install --upgrade sightline",
        "pipx install sightline",
        "uv tool install sightline\n",
        "RUN pip install ipykernel 'sightline'",
    ],
)
def test_such_advice_would_be_found(advice):
    assert STRANGERS_PACKAGE.search(advice)


@pytest.mark.parametrize("advice", [install_advice("web"), install_advice(), "pip install .\nsightline index"])
def test_other_advice_is_not(advice):
    assert not STRANGERS_PACKAGE.search(advice)


def test_messages_name_the_distribution_and_extras_that_it_has():
    assert project()["name"] == DISTRIBUTION
    source = "\n".join(path.read_text("utf-8") for path in (REPOSITORY / "src").rglob("*.py"))
    named = set(re.findall(r"""install_advice\(["'](\w+)["']\)""", source))
    assert len(named) >= 7
    assert named <= set(project()["optional-dependencies"])


def targets_of(markdown):
    """Where the links and pictures of a text lead, as a renderer sees them."""
    tokens = [child for token in MarkdownIt().parse(markdown) for child in token.children or []]
    return [target for token in tokens if (target := token.attrGet("href") or token.attrGet("src"))]


def is_relative(target):
    return not re.match(r"[a-z]+:|#", str(target))


def test_every_relative_link_of_the_readme_leads_to_a_file():
    targets = [target for target in targets_of((REPOSITORY / "README.md").read_text("utf-8")) if is_relative(target)]
    assert len(targets) > 10
    assert [target for target in targets if not (REPOSITORY / target.partition("#")[0]).exists()] == []


def test_links_lead_to_files_and_images_of_the_ref():
    text = """
![A](docs/a.webp) and [b](./docs/b.md#c), [![badge](b.svg)](LICENSE); <img src="docs/D.PNG"> [kept](https://a.b/c) [on
the page](#x) [mail](mailto:a@b.c)

[r]: docs/r.md
    git clone ADDRESS
"""
    assert (
        hatch_build.make_absolute(text, address=ADDRESS, ref="v1") == f"""
![A]({ADDRESS}/raw/v1/docs/a.webp) and [b]({ADDRESS}/blob/v1/docs/b.md#c), """
        f"""[![badge]({ADDRESS}/raw/v1/b.svg)]({ADDRESS}/blob/v1/LICENSE); <img src="{ADDRESS}/raw/v1/docs/D.PNG"> """
        f"""[kept](https://a.b/c) [on
the page](#x) [mail](mailto:a@b.c)

[r]: {ADDRESS}/blob/v1/docs/r.md
    git clone {ADDRESS}
"""
    )


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("https://user:secret@example.org/x/y.git", ADDRESS),
        ("https://example.org:8443/x/y/", "https://example.org:8443/x/y"),
        ("http://example.org/x/y", ADDRESS),
        ("git@example.org:x/y.git\n", ADDRESS),
        ("example.org:x/y", ADDRESS),
        ("ssh://git@example.org:22/x/y.git", ADDRESS),
        ("/srv/git/y.git", ""),
        ("file:///srv/git/y.git", ""),
        ("../y", ""),
        ("C:\\git\\y", ""),
        ("https://example.org", ""),
        ("https://[example.org/x/y", ""),
        ("https://example.org:port/x/y", ""),
        ("", ""),
    ],
)
def test_an_address_is_one_that_browsers_open_and_holds_no_secret(given, cleaned):
    assert hatch_build.clean_address(given) == cleaned


def run_git(folder, *arguments):
    identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "tag.gpgSign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    run_git(tmp_path, "init", "-q")
    run_git(tmp_path, "commit", "-q", "--allow-empty", "--no-gpg-sign", "-m", "first")
    run_git(tmp_path, "remote", "add", "origin", "git@example.org:x/y.git")
    return tmp_path


def test_the_repository_is_that_of_the_variable_or_of_github_or_of_origin(checkout):
    github = {"GITHUB_SERVER_URL": "https://example.com", "GITHUB_REPOSITORY": "o/n"}
    named = {hatch_build.VARIABLE: "https://a:b@example.net/o/n.git"}
    assert hatch_build.find_repository(checkout, {**github, **named}) == "https://example.net/o/n"
    assert hatch_build.find_repository(checkout, github) == "https://example.com/o/n"
    assert hatch_build.find_repository(checkout, {}) == ADDRESS


def test_the_ref_is_a_tag_or_else_the_commit(checkout):
    commit = run_git(checkout, "rev-parse", "HEAD")
    assert hatch_build.find_ref(checkout, {}) == commit
    run_git(checkout, "tag", "v1")
    assert hatch_build.find_ref(checkout, {}) == "v1"
    github = {"GITHUB_REPOSITORY": "o/n", "GITHUB_REF_NAME": "7/merge", "GITHUB_SHA": "abc"}
    assert hatch_build.find_ref(checkout, {**github, "GITHUB_REF_TYPE": "branch"}) == "abc"
    assert hatch_build.find_ref(checkout, {**github, "GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "v2"}) == "v2"


def test_a_folder_within_another_project_has_no_address(checkout):
    inner = checkout / "unpacked"
    inner.mkdir()
    assert hatch_build.find_repository(inner, {}) == ""
    assert hatch_build.find_ref(inner, {}) == "HEAD"


def test_without_git_there_is_no_address(checkout, monkeypatch):
    monkeypatch.setenv("PATH", str(checkout / "nothing"))
    assert hatch_build.find_repository(checkout, {}) == ""


def test_a_variable_that_holds_no_address_is_refused(tmp_path):
    with pytest.raises(ValueError, match="SIGHTLINE_REPOSITORY_URL is no address of a repository; give one such as"):
        hatch_build.find_repository(tmp_path, {hatch_build.VARIABLE: "our server"})


def build(source, target, environment, *options):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(target), *options],
        cwd=source,
        env=environment,
        check=True,
        capture_output=True,
    )


def read_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


@pytest.fixture
def bare_environment(monkeypatch):
    for name in (hatch_build.VARIABLE, "GITHUB_REPOSITORY", "GITHUB_SERVER_URL", "GITHUB_REF_TYPE", "GITHUB_SHA"):
        monkeypatch.delenv(name, raising=False)
    return dict(os.environ)


def test_the_page_of_a_package_has_links_that_work_there_also_when_built_from_an_sdist(tmp_path, bare_environment):
    told = {**bare_environment, hatch_build.VARIABLE: "https://user:secret@example.org/x/y.git"}
    build(REPOSITORY, tmp_path, told)
    (direct,) = tmp_path.glob("sightline_images-*.whl")
    metadata = read_metadata(direct)
    page = metadata.get_payload()
    assert metadata["Name"] == DISTRIBUTION
    assert [target for target in targets_of(page) if is_relative(target)] == []
    assert f"git clone {ADDRESS} " in page
    assert "secret" not in direct.read_bytes().decode("latin-1")
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL"))
    assert set(urls) == {"Documentation", "Source", "Issues", "Changelog"}
    assert all(url.startswith(ADDRESS) for url in urls.values())

    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    build(next(tmp_path.glob("sightline_images-*/")), tmp_path / "again", bare_environment, "-t", "wheel")
    (again,) = (tmp_path / "again").glob("*.whl")
    assert read_metadata(again).as_bytes() == metadata.as_bytes()
    assert again.read_bytes() == direct.read_bytes()


def test_a_package_of_unknown_origin_claims_no_address(tmp_path, bare_environment):
    source = tmp_path / "unpacked"
    (source / "src/sightline/core/models/starter").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py", "src/sightline/__init__.py"):
        (source / name).write_bytes((REPOSITORY / name).read_bytes())
    (source / "src/sightline/core/models/starter/LICENSE").write_text("as they say")
    build(source, tmp_path, bare_environment, "-t", "wheel")
    (wheel,) = tmp_path.glob("*.whl")
    metadata = read_metadata(wheel)
    assert metadata.get_all("Project-URL") is None
    assert metadata.get_payload(decode=True) == (REPOSITORY / "README.md").read_bytes()
