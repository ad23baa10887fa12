"""The command that each recipe names, with `--smoke`, on pairs of the kind that it is for, and what comes of it."""

import json
import math
import re
import stat
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from desk import make_models, make_sets
from documented import smoke_words
from model_folders import own_cache
from sightline.lab.training.log import read_log
from sightline.lab.training.recipes import describe_recipe, known_recipes
from test_cli_train import call_main

COMMAND = re.compile(r"(?:torchrun [^\n]* -m )?sightline train \S+.*?--output\s+\S+", re.DOTALL)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    home = tmp_path_factory.mktemp("desk")
    with own_cache(home / "cache"):
        make_sets(home / "sets")
        make_models(home / "models")
        yield home


def documented_command(recipe):
    (command,) = COMMAND.findall(describe_recipe(recipe))
    return " ".join(command.split())


def run(words, home):
    """The exit code, lines of stdout and stderr of a command as it stands; torchrun's in processes of its own."""
    if words[0] == "sightline":
        return call_main(*words[1:])
    assert words[0] == "torchrun"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout.splitlines(), done.stderr


def check_losses(output):
    losses = [row["loss"] for row in read_log(output) if row["kind"] == "train"]
    assert losses
    assert all(map(math.isfinite, losses))


def check_model(output):
    """The weights have the mode of other files, and the folder is a model that can be measured, here without export."""
    modes = {name: stat.S_IMODE((output / name).stat().st_mode) for name in ("model.safetensors", "run.json")}
    assert modes["model.safetensors"] == modes["run.json"]
    words = ("eval", "retrieval", "--model", f"dir:{output}", "--data", "scenes", "--limit", "8")
    code, out, err = call_main(*words, "--runtime", "torch", "--json")
    assert code == 0, err
    assert json.loads(out[0])["n_images"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("recipe", known_recipes())
def test_the_command_of_a_recipe_leaves_a_model_that_can_be_measured(recipe, desk, monkeypatch):
    monkeypatch.chdir(desk)
    words = smoke_words(documented_command(recipe))
    assert words[words.index("train") + 1] == recipe
    code, _, err = run(words, desk)
    assert code == 0, err
    output = desk / words[words.index("--output") + 1]
    config = json.loads((output / "run.json").read_text("utf-8"))
    if "--data" in words:
        assert config["data"].split(":")[0] == documented_command(recipe).partition("--data ")[2].split(":")[0]
    if "--init" in words:
        assert config["init"] == "dir:models/clip"
    check_losses(output)
    check_model(output)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in known_recipes() if "--data" in documented_command(name)])
def test_a_smoke_run_needs_no_data(recipe, desk, monkeypatch, tmp_path):
    monkeypatch.chdir(desk)
    code, _, err = call_main("train", recipe, "--smoke", "--output", tmp_path / "run")
    assert code == 0, err
    check_losses(tmp_path / "run")
