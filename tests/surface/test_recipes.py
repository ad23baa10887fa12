"""`sightline train RECIPE --smoke` of every recipe, as a person calls it, and what its folder is good for."""

import json
import math
import stat
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from sightline.training.journal import read_journal
from sightline.training.recipes import known_recipes


def call(*words):
    command = [sys.executable, "-m", "sightline", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", known_recipes())
def test_the_smoke_run_of_a_recipe_leaves_a_model_that_can_be_measured(recipe, tmp_path):
    run = tmp_path / "run"
    done = call("train", recipe, "--smoke", "--output", run)
    assert done.returncode == 0, done.stderr
    losses = [row["loss"] for row in read_journal(run) if row["kind"] == "train"]
    assert losses
    assert all(map(math.isfinite, losses))
    modes = {name: stat.S_IMODE((run / name).stat().st_mode) for name in ("model.safetensors", "run.json")}
    assert modes["model.safetensors"] == modes["run.json"]
    measured = call("eval", "retrieval", "--model", f"dir:{run}", "--data", "scenes", "--limit", "8", "--json")
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["n_images"] == 8
