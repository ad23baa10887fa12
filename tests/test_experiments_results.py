import dataclasses
import json

import numpy as np
import pytest

from sightline.errors import InputError, TrainingError
from sightline.lab.experiments.results import read_results, read_run
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.run_folder import PROBE_BEST_FILE, Probe, RunFolder, read_probe, write_probe

CONFIG = TrainConfig(recipe="scenes-scratch", data="scenes:0", batch_size=8, epochs=2)
RESULT = {
    "steps": 6, "total_steps": 6, "stopped": None, "interrupted": False, "best_step": 3,
    "metrics": {"mean_recall": 0.4}, "images_per_s": 4.8, "took_s": 10.0, "images_seen": 48,
}  # fmt: skip


def row(kind, step, **values):
    return json.dumps({"kind": kind, "step": step, **values}) + "\n"


def make_run(path, config=CONFIG, *, result=None, log=""):
    folder = RunFolder(path=path)
    folder.start(config)
    (path / "log.jsonl").write_text(log)
    if result is not None:
        folder.write_result(result)
    return path


def make_probe(n=5, **changes):
    rows_ND = np.eye(n, 8, dtype=np.float32)
    names = tuple(f"val-{i}" for i in range(n))
    values = {"image_ND": rows_ND, "text_ND": rows_ND, "ids": names, "texts": ("ein Hündchen",) * n}
    return Probe(**{**values, "step": 3, "temperature": 14.5, **changes})


def test_a_finished_run_is_read_from_its_result(tmp_path):
    run = read_run(make_run(tmp_path / "run", result=RESULT, log=row("train", 6, epoch=2.0, loss=1.0)))
    assert (run.name, run.state, run.reason, run.images_seen, run.took_s) == ("run", "complete", None, 48, 10.0)
    assert (run.metrics, run.quality) == ({"mean_recall": 0.4}, "mean_recall")
    assert (run.config, len(run.rows)) == (CONFIG, 1)
    assert run.probe("start") is run.probe("best") is None


@pytest.mark.parametrize(("interrupted", "state"), [(True, "stopped"), (False, "complete")])
def test_a_run_that_ended_early_says_why(tmp_path, interrupted, state):
    result = RESULT | {"stopped": "because", "interrupted": interrupted}
    run = read_run(make_run(tmp_path / "run", result=result))
    assert (run.state, run.reason) == (state, "because")


def test_a_run_without_a_result_is_read_from_its_log(tmp_path):
    log = row("val", 0, mean_recall=0.9) + row("train", 3, epoch=1.0) + row("val", 3, mean_recall=0.3)
    run = read_run(make_run(tmp_path / "going", log=log + row("val", 4, mean_recall=None)))
    assert (run.state, run.images_seen, run.metrics) == ("running", 24, {"mean_recall": 0.3})
    assert "--resume" in run.reason
    run = read_run(make_run(tmp_path / "older", log=log + row("train", 6, epoch=2.0)))
    assert (run.state, run.reason) == ("complete", None)
    tuned = dataclasses.replace(CONFIG, init="dir:x")
    assert read_run(make_run(tmp_path / "tuned", tuned, log=log)).metrics == {"mean_recall": 0.9}
    assert read_run(make_run(tmp_path / "empty")).metrics == {}


def test_runs_of_one_name_get_their_folders_name_too(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / name / "run", result=RESULT)
    make_run(tmp_path / "other", result=RESULT)
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "other", tmp_path / "a" / ".." / "other"]
    assert [run.name for run in read_results(paths)] == ["a/run", "b/run", "other"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("result.json", "{", "is damaged"),
        ("result.json", "{}", "is damaged"),
        ("result.json", json.dumps(RESULT | {"metrics": None}), "is damaged"),
        ("run.json", '{"colour": 1}', "another version of Sightline: There is no setting colour"),
        ("run.json", "{}", "another version of Sightline"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(tmp_path, file, content, message):
    path = make_run(tmp_path / "run", result=RESULT)
    (path / file).write_text(content)
    with pytest.raises(InputError, match=f"{file}.*{message}"):
        read_run(path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither a run"):
        read_run(tmp_path)


def test_a_probe_comes_back_as_it_was(tmp_path):
    probe = make_probe()
    write_probe(probe, tmp_path / PROBE_BEST_FILE)
    read = read_probe(tmp_path / PROBE_BEST_FILE)
    assert np.array_equal(read.image_ND, probe.image_ND)
    assert (read.ids, read.texts, read.step, read.temperature) == (probe.ids, probe.texts, 3, 14.5)
    assert [path.name for path in tmp_path.iterdir()] == [PROBE_BEST_FILE]


def test_a_probe_whose_rows_differ_is_refused():
    with pytest.raises(InputError, match="a row of pictures and of texts"):
        make_probe(ids=("one",))


def test_a_probe_that_is_missing_damaged_or_a_pickle_is_refused(tmp_path):
    with pytest.raises(InputError, match="doesn't exist"):
        read_probe(tmp_path / "none.npz")
    for content in (b"", b"PK\x03\x04 no zip", b"text"):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            read_probe(tmp_path / "broken.npz")
    np.savez(tmp_path / "pickle.npz", image_ND=np.array([object()], dtype=object))
    with pytest.raises(InputError, match="is damaged"):
        read_probe(tmp_path / "pickle.npz")


def test_a_probe_that_cannot_be_written_is_explained(tmp_path):
    with pytest.raises(TrainingError, match="can't be written"):
        write_probe(make_probe(), tmp_path / "no" / "folder.npz")
