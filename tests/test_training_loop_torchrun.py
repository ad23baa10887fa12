import os
import subprocess
import sys

import pytest
import torch

from sightline.lab.training.log import read_log
from sightline.lab.training.loop import train
from sightline.lab.training.run_folder import RunFolder
from training_world import make_world, small_config

PROGRAM = """
import sys
from pathlib import Path
from sightline.lab.training.loop import train
from sightline.lab.training.run_folder import RunFolder
config = RunFolder(path=Path(sys.argv[1])).read_config()
train(config, Path(sys.argv[2]), resume=sys.argv[3] == "resume")
"""


def torchrun(config, output, tmp_path, *, resume=False):
    """The same training in two processes on the CPU."""
    settings = tmp_path / "settings"
    if not settings.exists():
        RunFolder(path=settings).start(config)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    return subprocess.run(
        [*command, str(settings), str(output), "resume" if resume else "new"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def curve(run):
    return [row["loss"] for row in read_log(run) if row["kind"] == "train"]


@pytest.mark.parametrize(
    ("architecture", "changes"), [("vit", {}), pytest.param("conv", {"freeze_norm": True}, marks=pytest.mark.slow)]
)
def test_two_processes_follow_the_curve_of_one(tmp_path, architecture, changes):
    data = make_world(tmp_path)
    config = small_config(data, architecture, negatives_per_caption=1, **changes).changed(["towers.dropout=0"])
    done = torchrun(config, tmp_path / "two", tmp_path)
    assert done.returncode == 0, done.stderr[:6000]
    torch.set_num_threads(1)
    train(config, tmp_path / "one")
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), rel=2e-4)
    again = torchrun(config, tmp_path / "two", tmp_path, resume=True)
    assert again.returncode == 0, again.stderr[:6000]


def test_unfrozen_batch_norm_in_two_processes_is_refused(tmp_path):
    done = torchrun(small_config(make_world(tmp_path), "conv"), tmp_path / "two", tmp_path)
    assert done.returncode != 0
    assert "batch norm layers" in done.stderr
    assert not (tmp_path / "two" / "run.json").exists()
