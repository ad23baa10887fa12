"""The examples of the agents' page, run on a library of the demo's photos."""

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp")
pytest.importorskip("smolagents")
pytest.importorskip("fastapi")

from test_integrations_mcp_server import READING
from web_demo import make_demo_library

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "hugging-face.md").read_text(encoding="utf-8").split("\n## Agents: reference\n")[1].split("\n## ")[0]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    from sightline.faces.service.library import shared_libraries

    yield make_demo_library(tmp_path_factory.mktemp("docs"))
    shared_libraries.close()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def run(code):
    printed, names = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs", "exec"), names)
    return printed.getvalue().splitlines(), names


@pytest.mark.usefixtures("kept_bank")
def test_every_python_block_runs_and_prints_what_the_page_says(library, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_LIBRARY", str(library))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    client, scripted, real, sandboxed = blocks("python")
    # The SDK gives a server few variables of ours; a person's own library needs none of them.
    client = client.replace('args=["mcp"]', f'args=["mcp", "--library", {str(library)!r}]')
    lines, _ = run(client)
    assert lines[0].split() == READING
    assert [len(line.split("  ")) for line in lines[1:4]] == [2, 2, 2]
    assert lines[4].split() == ["text", "text", "image"]
    lines, _ = run(scripted)
    assert lines[0].startswith("The best one shows ")
    assert [line.partition("(")[0] for line in lines[1:]] == ["search_images", "caption_image", "final_answer"]
    assert callable(run(real)[1]["ask"])
    assert "docker" in sandboxed
    assert callable(run(sandboxed)[1]["make_agent"])


def test_the_settings_of_an_assistant_start_a_real_command():
    from sightline.faces.cli.main import sightline

    settings, hostile = map(json.loads, blocks("json"))
    (server,) = settings["mcpServers"].values()
    assert server["command"] == "sightline"
    assert server["args"][0] in sightline.commands
    assert set(hostile) == {"name", "caption"}


def test_the_page_names_every_tool_and_no_other():
    from sightline.faces.integrations.tools import TOOLS

    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(TOOLS)
