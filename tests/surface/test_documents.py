"""What README and docs say to type: every command is one of ours with options that exist, every Python block runs."""

import json
import os
import re
import shutil

import click
import pytest
from PIL import Image

from documented import ROOT, blocks_of
from sightline.cli.main import sightline

PAGES = ("README.md", "docs/training.md", "docs/data.md", "docs/evaluation.md")
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [(block.place, words) for block in BLOCKS if block.kind == "shell" for words in block.commands()]
OTHER_TOOLS = {"pip", "pipx", "uv"}
"""They need the network."""


def ids(entries):
    return [f"{place} {' '.join(words)}" for place, words in entries]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder in which the names of the pages stand for something."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("photo.jpg", "beach.jpg", "Pictures/a.jpg", "Pictures/b.jpg", "photos/a.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.effect_noise((64, 48), 90).convert("RGB").save(tmp_path / path)
    for folder in ("sweep", "PATH/Images", "data"):
        (tmp_path / folder).mkdir(parents=True)
    images = []
    for number in range(6):
        name = f"{number}.jpg"
        Image.effect_noise((64, 48), 20 + 10 * number).convert("RGB").save(tmp_path / "PATH" / "Images" / name)
        sentences = [{"raw": f"picture {number} of noise"}, {"raw": f"noise, number {number}"}]
        images.append({"filename": name, "split": ("train", "val", "test")[number % 3], "sentences": sentences})
    (tmp_path / "PATH" / "dataset_flickr8k.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    shutil.copytree(tmp_path / "PATH", tmp_path / "data" / "flickr8k")
    return tmp_path


def parse(command, name, words):
    """Have click take all words, as it does before a command runs."""
    context = command.make_context(name, list(words), resilient_parsing=False)
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        sub_name, sub, rest = command.resolve_command(context, rest)
        parse(sub, sub_name, rest)


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=ids(COMMANDS))
def test_every_command_is_one_that_there_is(desk, place, words):
    tool, *rest = words
    if tool == "sightline":
        parse(sightline, tool, [os.path.expanduser(word) for word in rest])  # noqa: PTH111 (as a shell does)
    elif tool == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), rest[0]
    else:
        assert tool in OTHER_TOOLS


PYTHON = [block for block in BLOCKS if block.kind == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=[block.place for block in PYTHON])
def test_every_python_block_runs(desk, block):
    pytest.importorskip("torch")
    exec(compile(block.code, block.place, "exec"), {})
