"""What README and docs say to type is typed here: every block runs in a home of its own, as a smoke run of seconds."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from subprocess import PIPE

import click
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from conftest import share_banks
from desk import make_library, make_models, make_photos, make_sets
from documented import LISTINGS, NOT_RUN, ROOT, SUBSTITUTIONS, blocks_of, smoke_words, why_not_run, words_of
from model_folders import own_cache
from sightline.faces.cli.main import sightline
from sightline.faces.demo.photos import gather_photos, load_photos
from sightline.kit.config import library_dir
from sightline.lab.training.log import read_log
from sightline.lab.training.recipes import describe_recipe, known_recipes
from test_cli_train import call_main

PAGES = ("README.md", "docs/usage.md", "docs/training.md", "docs/data.md", "docs/evaluation.md")
SLOW = ("train", "sweep", "generate", "compare", "eval", "index --model")
"""How the commands begin that take seconds (the last one exports a model), and so the blocks that give them."""
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}

LISTED = [block for page in PAGES for block in blocks_of(page) if block.is_listing]
BLOCKS = [block for page in PAGES for block in blocks_of(page) if not block.is_listing]
PYTHON = [block for block in BLOCKS if block.is_python]
SESSIONS = [block for block in BLOCKS if block.is_session]
SHELL = [block for block in BLOCKS if not block.is_python and not block.is_session]
LINES = [(block.place, line) for block in SHELL for line in block.commands()]


def marked(block):
    commands = [" ".join(words_of(line)[1:]) for line in block.commands() if not why_not_run(line)]
    is_slow = any(command.startswith(SLOW) for command in commands)
    return pytest.param(block, id=block.place, marks=[pytest.mark.slow] if is_slow else [])


@pytest.fixture(scope="module")
def template(tmp_path_factory, banks):
    """The home that each block gets a copy of, and the cache that all share."""
    home = tmp_path_factory.mktemp("desk")
    share_banks(home / "cache", banks)
    with own_cache(home / "cache"):
        make_photos(home)
        make_sets(home / "sets")
        make_models(home / "models")
        make_library(home, home / "my-library")
        yield home


@pytest.fixture
def desk(template, tmp_path, monkeypatch):
    """A home in which the names of the pages stand for something, and no library."""
    ignored = shutil.ignore_patterns("my-library", "cache", "runs")
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True, ignore=ignored)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SIGHTLINE_CACHE", str(template / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(template):
    """The folder of a smoke run."""
    with own_cache(template / "cache"):
        code, _, err = call_main("train", "scenes-scratch", "--smoke", "--output", template / "runs" / "trained")
    assert code == 0, err
    return template / "runs" / "trained"


def stand_before(block, template, request):
    """Make what the page's earlier blocks have made: libraries, runs that are models, a run that was stopped."""
    given = [smoke_words(line) for line in block.commands() if not why_not_run(line)]
    if not any(words[:2] == ["sightline", "index"] for words in given):
        for folder in (library_dir(), "my-library"):
            shutil.copytree(template / "my-library", folder)
    made = set()
    for words in given:
        output = words[words.index("--output") + 1] if "--output" in words else None
        runs = {run for word in words for run in re.findall(r"dir:(runs/\w+)", word)}
        if "--resume" in words:
            runs.add(output)
        for run in runs - made:
            shutil.copytree(request.getfixturevalue("trained"), run)
        if "--resume" in words:
            stop_early(Path(output))
        made |= runs | {output}


def stop_early(run):
    """Leave of a run what one has that was interrupted after its first checkpoint."""
    newest = max((run / "checkpoints").iterdir(), key=lambda folder: int(folder.name.partition("-")[2]))
    shutil.rmtree(newest)
    (run / "result.json").unlink()


@pytest.mark.parametrize("block", [marked(block) for block in SHELL])
def test_every_shell_block_runs(desk, template, block, request):
    stand_before(block, template, request)
    for line in block.commands():
        if why_not_run(line):
            continue
        tool, *words = smoke_words(line)
        assert tool == "sightline", f"{block.place}: {line}: run it, or say in NOT_RUN why not"
        code, out, err = START.get(words[0], call_main)(*words)
        assert code == 0, f"{line}\n{err}"
        assert out or err, line
        assert "Traceback" not in err
        if "--resume" in words:
            run = Path(words[words.index("--output") + 1])
            assert [row["step"] for row in read_log(run) if row["kind"] == "train"] == list(range(1, 9))


@pytest.mark.parametrize("block", SESSIONS, ids=[block.place for block in SESSIONS])
def test_a_session_shows_what_its_commands_print(desk, block):
    """Apart from figures, folders and what comes after the best hit: those differ between processors and models."""
    pytest.importorskip("skimage")
    gather_photos(load_photos(), Path("demo-out/photos"))
    for line, shown in block.exchanges():
        tool, *words = smoke_words(line)
        assert tool == "sightline", line
        code, out, err = START.get(words[0], call_main)(*words)
        assert code == 0, f"{line}\n{err}"
        printed = out if words[0] not in START else err.splitlines()
        assert bare(shown[0]) == bare(printed[0]), line
        assert len(shown) == len(printed), line
        assert images_in(shown)[:1] == images_in(printed)[:1], line


def bare(line):
    return re.sub(r"\d+(\.\d+)?", "0", re.sub(r"/\S*/", "/", line))


def images_in(lines):
    return re.findall(r"[\w-]+\.(?:png|jpg)", "\n".join(lines))


def serve(*words):
    """Start a server, ask it for its libraries, and stop it as Ctrl-C does."""
    import httpx2

    with start(*words) as process:
        said = []
        while not (address := re.search(r"http://127\.0\.0\.1:\d+", said[-1] if said else "")):
            said.append(process.stderr.readline())
            assert said[-1], "".join(said)
        answer = httpx2.get(address[0] + "/api/libraries", timeout=240)
        assert answer.status_code == 200, answer.text
        process.send_signal(signal.SIGINT)
        said.append(process.stderr.read())
        return process.wait(240), answer.json(), "".join(said)


def mcp(*words):
    """Start a server on stdin and stdout, greet it, and end it as an assistant does."""
    with start(*words) as process:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())["result"]
        process.stdin.close()
        return process.wait(240), answer, process.stderr.read()


START = {"serve": serve, "mcp": mcp}
"""Commands that go on until they are stopped."""


@contextlib.contextmanager
def start(*words):
    command = [sys.executable, "-m", "sightline", *words]
    with subprocess.Popen(command, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("block", PYTHON, ids=[block.place for block in PYTHON])
def test_every_python_block_runs(desk, block):
    (desk / "data").mkdir()
    shutil.copytree("sets/flickr8k", "data/flickr8k")
    code = block.code.replace("flickr8k:PATH", "flickr8k:sets/flickr8k")
    exec(compile(code, block.place, "exec"), {})


UNRUN = [(place, line) for place, line in LINES if why_not_run(line)]


@pytest.mark.parametrize(("place", "line"), UNRUN, ids=[f"{place} {line}" for place, line in UNRUN])
def test_what_is_not_run_is_read(place, line):
    tool, *words = words_of(line)
    if tool == "sightline":
        parse(sightline, tool, words)
    elif tool == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), words[0]


def parse(command, name, words):
    """Have click take all words, as it does before a command runs."""
    context = command.make_context(name, list(words), resilient_parsing=False)
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        sub_name, sub, rest = command.resolve_command(context, rest)
        parse(sub, sub_name, rest)


def test_the_tables_hold_only_what_is_documented():
    assert {start for start in NOT_RUN for _, line in LINES if line.startswith(start)} == set(NOT_RUN)
    assert {block.code.split()[0] for block in LISTED} == set().union(*LISTINGS.values())
    texts = [block.code for block in BLOCKS] + [describe_recipe(recipe) for recipe in known_recipes()]
    assert [text for text in SUBSTITUTIONS if not any(text in given for given in texts)] == []


def test_every_extra_that_a_page_names_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {
        name
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        for brackets in re.findall(r"'(?:sightline-images|\.)\[([\w,]+)\]'", page.read_text("utf-8"))
        for name in brackets.split(",")
    }
    assert {"web", "train", "heif", "all"} <= named <= set(extras)


def test_what_readme_has_made_is_what_lands_only_when_green():
    run = (ROOT / ".ci" / "run").read_text("utf-8")
    targets = {word for line in re.findall(r"^make (.*)$", run, re.MULTILINE) for word in line.split()}
    assert {"demo", "check", "test", "documented"} <= targets
