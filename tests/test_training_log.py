import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from sightline.errors import InputError, TrainingError
from sightline.lab.training.log import LOG_FILE, TENSORBOARD_FOLDER, RunLog, read_log


def write_run(folder, steps, *, resume_step=None):
    with RunLog(folder, resume_step=resume_step, tensorboard=False) as run_log:
        for step in steps:
            run_log.write("train", step, {"loss": 1 / step, "ids": ["ü.jpg"]})
            if step % 3 == 0:
                run_log.write("val", step, {"image_retrieval_recall@1": step / 10})


def test_each_row_is_one_object_and_on_disk_at_once(tmp_path):
    with RunLog(tmp_path / "run", tensorboard=False) as run_log:
        run_log.write("train", 1, {"loss": 2.5, "note": "line\nbreak"})
        lines = (tmp_path / "run" / LOG_FILE).read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "kind": "train", "loss": 2.5, "note": "line\nbreak"}]


def test_a_log_is_read_by_its_folder_or_its_file(tmp_path):
    write_run(tmp_path, range(1, 5))
    rows = read_log(tmp_path)
    assert rows == read_log(tmp_path / LOG_FILE)
    assert [(row["kind"], row["step"]) for row in rows] == [(k, s) for s in (1, 2, 3) for k in ("train",)] + [
        ("val", 3),
        ("train", 4),
    ]


def test_numpys_numbers_are_taken_and_what_is_not_finite_becomes_null(tmp_path):
    values = {"a": np.float32(0.5), "b": np.int64(3), "c": math.nan, "d": math.inf, "e": True, "f": None}
    with RunLog(tmp_path, tensorboard=False) as run_log:
        run_log.write("train", 1, values)
    (row,) = read_log(tmp_path)
    assert row == {"step": 1, "kind": "train", "a": 0.5, "b": 3, "c": None, "d": None, "e": True, "f": None}


def test_a_resumed_log_equals_an_uninterrupted_one(tmp_path):
    write_run(tmp_path / "whole", range(1, 11))
    write_run(tmp_path / "killed", range(1, 8))
    write_run(tmp_path / "killed", range(5, 11), resume_step=4)
    logs = [(tmp_path / name / LOG_FILE).read_bytes() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [LOG_FILE]


def test_a_last_line_that_a_crash_broke_off_is_left_out_and_cut_on_resume(tmp_path):
    write_run(tmp_path, range(1, 4))
    with (tmp_path / LOG_FILE).open("a") as file:
        file.write('{"step": 4, "kind": "tr')
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 3]
    write_run(tmp_path, range(4, 6), resume_step=3)
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 3, 4, 5]


def test_a_last_line_that_lost_only_its_end_of_line_is_kept(tmp_path):
    write_run(tmp_path, range(1, 3))
    path = tmp_path / LOG_FILE
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    write_run(tmp_path, range(3, 4), resume_step=2)
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 3]


def test_a_crash_while_cutting_leaves_the_old_log(tmp_path, monkeypatch):
    write_run(tmp_path, range(1, 8))
    before = (tmp_path / LOG_FILE).read_bytes()

    def crash(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(TrainingError, match=r"log.jsonl can't be written: No space left on device.*--resume"):
        RunLog(tmp_path, resume_step=4, tensorboard=False)
    assert (tmp_path / LOG_FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [LOG_FILE]


@pytest.mark.parametrize(
    "line", ["{broken", "[1, 2]", '{"kind": "train"}', '{"step": "1", "kind": "x"}', '{"step": 1}']
)
def test_a_broken_line_before_the_last_is_refused_with_its_number(tmp_path, line):
    write_run(tmp_path, range(1, 3))
    path = tmp_path / LOG_FILE
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], line, lines[1]]) + "\n", "utf-8")
    with pytest.raises(InputError, match=r"log\.jsonl:2 "):
        read_log(tmp_path)
    with pytest.raises(InputError, match=r"log\.jsonl:2 "):
        RunLog(tmp_path, resume_step=1, tensorboard=False)


def test_the_log_of_another_run_is_never_written_over(tmp_path):
    write_run(tmp_path, range(1, 3))
    before = (tmp_path / LOG_FILE).read_bytes()
    with pytest.raises(TrainingError, match=r"another run.*--resume"):
        RunLog(tmp_path, tensorboard=False)
    assert (tmp_path / LOG_FILE).read_bytes() == before


def test_resuming_a_run_whose_log_is_gone_begins_a_new_one(tmp_path):
    write_run(tmp_path, range(5, 7), resume_step=4)
    assert [row["step"] for row in read_log(tmp_path)] == [5, 6, 6]


def test_a_missing_log_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_log(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path):
    (tmp_path / LOG_FILE).symlink_to("/dev/full")
    run_log = RunLog(tmp_path, tensorboard=False)
    with pytest.raises(TrainingError, match="No space left on device"):
        run_log.write("train", 1, {})
    run_log._file.buffer.raw.close()  # type: ignore[attr-defined]


def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="can't be written"):
        RunLog(tmp_path / "file" / "run", tensorboard=False)


def test_numbers_reach_tensorboard_and_resuming_hides_the_steps_that_come_again(tmp_path):
    pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def write(steps, resume_step=None):
        with RunLog(tmp_path, resume_step=resume_step) as run_log:
            for step in steps:
                run_log.write("train", step, {"loss": float(step), "lr": np.float32(2), "ids": "a", "flag": True})

    write(range(1, 8))
    write(range(5, 10), resume_step=4)
    events = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss", "train/lr"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (s, float(s)) for s in range(1, 10)
    ]


def test_without_tensorboard_there_is_one_notice_and_the_log(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    notices = []
    with RunLog(tmp_path, notice=notices.append) as run_log:
        for step in (1, 2):
            run_log.write("train", step, {"loss": 1.0})
    assert len(notices) == 1
    assert "sightline-images[train]" in notices[0]
    assert [path.name for path in tmp_path.iterdir()] == [LOG_FILE]
    assert len(read_log(tmp_path)) == 2
