"""The command that rebuilds the starter models runs through, on a few pictures of everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SHARED_DATA

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "starter" / "train.py"


@pytest.mark.slow
@pytest.mark.shared
def test_both_models_are_rebuilt_from_the_shared_material_and_a_second_run_finds_them_done(tmp_path):
    if not (SHARED_DATA.parent / "teacher").is_dir():
        pytest.skip("needs the teacher's trunk beside the shared data")
    command = [sys.executable, SCRIPT, "--data", SHARED_DATA.parent, "--output", tmp_path / "out", "--smoke"]
    command += ["--install", tmp_path / "package"]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run(command, check=True, env=environment)
    logged = len((tmp_path / "out" / "log.jsonl").read_text().splitlines())
    for name, graphs in (("clip", {"image", "text"}), ("captioner", {"image", "decoder"})):
        folder = tmp_path / "package" / name
        assert {path.name for path in (folder / "onnx").iterdir()} == {f"{graph}.int8.onnx" for graph in graphs}
        card = json.loads((folder / "sightline.json").read_text())
        assert set(card["figures"]) >= {"int8", "fp32"}
        assert "flickr8k_val" in card["figures"]["int8"]
    command = command[: command.index("--install")]
    subprocess.run([*command, "--stages", "words", "clip"], check=True, env=environment)
    rows = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()[logged:]]
    assert {row["stage"] for row in rows} == {"corpus", "student"}  # nothing was learned again
