"""The examples of docs/web.md, run against a server of the demo's photos."""

import contextlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from web_demo import make_demo_library, run_on_a_socket

PAGE = (Path(__file__).parents[1] / "docs" / "web.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The demo's folder, and the address of a server of its library."""
    library = make_demo_library(tmp_path_factory.mktemp("docs"))
    with run_on_a_socket(library) as (_, address):
        yield library.parent, address.rstrip("/")


def example(language, address):
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert "http://127.0.0.1:8000" in code
    return code.replace("http://127.0.0.1:8000", address)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_example_answers(served):
    folder, address = served
    script = example("sh", address).replace("--json", "-H 'Content-Type: application/json' -d")  # for an older curl
    lines = script.splitlines()
    answers = []
    for request in (lines[0], *("\n".join([lines[1], line]) for line in lines[2:])):
        done = subprocess.run(["sh", "-c", request], cwd=folder, capture_output=True, text=True, check=True)
        answers.append(json.loads(done.stdout))
    search, upload, vectors = answers
    assert len(search["hits"]) == 3
    assert len(upload["key"]) == 32
    assert len(vectors["vectors"]) == 2


def test_the_python_example_prints_hits(served, monkeypatch):
    folder, address = served
    monkeypatch.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example("python", address), "docs/web.md", "exec"), {})
    lines = printed.getvalue().splitlines()
    assert len(lines) > 3 + 15 + 1
    assert lines[3].endswith("coffee.png")
    assert lines[-2].startswith("done ")
    assert lines[-1] == "15 images"


def test_the_page_names_every_address_of_the_api_and_no_other(served):
    from sightline.faces.web.app import create_app
    from sightline.faces.web.config import ServeConfig

    folder, _ = served
    paths = create_app(ServeConfig(libraries=(folder / "library",))).openapi()["paths"]
    named = set(re.findall(r"(/(?:api|healthz|metrics)[a-z/{}]*)", PAGE)) - {"/api/openapi.json"}
    tops = {re.match(r"/(api/)?[a-z]+", path)[0] for path in paths}
    assert tops == {re.match(r"/(api/)?[a-z]+", path)[0] for path in named if not path.startswith("/api/openapi")}
