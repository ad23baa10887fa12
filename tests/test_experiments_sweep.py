"""Sweeps. Most tests train nothing: `FakeTraining` stands for `train` and leaves what a run leaves.

Covers: sightline.lab.experiments.trial_queue.
"""

import dataclasses
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import sightline.lab.training.loop as loop
from sightline.errors import InputError, TrainingError
from sightline.lab.experiments.results import read_results, read_sweep
from sightline.lab.experiments.sweep import run_sweep
from sightline.lab.experiments.sweep_config import METRICS, SweepConfig, best_first
from sightline.lab.experiments.trial_queue import STORAGE_FILE
from sightline.lab.training.loop import TrainReport
from sightline.lab.training.recorder import Recorder
from sightline.lab.training.run_folder import RunFolder


class FakeTraining:
    """Gives a known quality at a quarter, a half and the end of each run."""

    def __init__(self, quality=lambda config: config.lr * 100):
        self.quality = quality
        self.configs = []
        self.resumed = []
        self.fail = lambda config: None
        self.interrupt_at = None
        """Number of the call, from 0, that is interrupted."""

    def __call__(self, config, output, *, resume=False, report=None, progress=None, on_measure=None):
        call = len(self.configs)
        self.configs.append(config)
        self.resumed.append(resume)
        folder = RunFolder(path=output)
        if not resume:
            folder.start(config)
        self.fail(config)
        stopped, steps, metrics = None, 0, {}
        if call == self.interrupt_at:
            return self._report(output, 1, "interrupted; go on with --resume", {}, interrupted=True)
        for step in (25, 50, 100):
            progress(step, 100, "loss 1")
            metrics = {"mean_recall": self.quality(config) * step / 100, "text_retrieval_median_rank": 9.0}
            steps, stopped = step, on_measure(step, metrics)
            if stopped and step < 100:
                break
        return self._report(output, steps, stopped if steps < 100 else None, metrics)

    def _report(self, output, steps, stopped, metrics, *, interrupted=False):
        values = {
            "steps": steps, "total_steps": 100, "stopped": stopped, "interrupted": interrupted, "best_step": steps,
            "metrics": metrics, "images_per_s": 1.0, "took_s": 1.0, "images_seen": steps,
        }  # fmt: skip
        RunFolder(path=output).write_result(values)
        return TrainReport(
            output=output, steps=steps, total_steps=100, stopped=stopped, best_step=steps, metrics=metrics,
            images_per_s=1.0, took_s=1.0, interrupted=interrupted,
        )  # fmt: skip


@pytest.fixture
def training(monkeypatch):
    fake = FakeTraining()
    monkeypatch.setattr(loop, "train", fake)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # Optuna's journal waits for the disk at every line
    monkeypatch.setattr(gc, "collect", lambda: 0)  # nothing was trained that would have to go
    return fake


def sweep_config(*grid, **changes):
    return SweepConfig(recipe="scenes-scratch", grid=grid or ("lr=1e-3,3e-3", "batch_size=32,64"), **changes)


def optuna_states(output):
    """Of the trials in the storage, by number."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    name = json.loads((output / "sweep.json").read_text())["study"]
    storage = JournalStorage(JournalFileBackend(str(output / STORAGE_FILE)))
    return [trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials]


def test_every_cell_of_a_grid_is_trained_once_in_a_folder_of_its_own(training, tmp_path):
    lines = []
    results = run_sweep(sweep_config(), tmp_path / "sweep", report=lines.append)
    assert [dict(result.settings) for result in results] == [
        {"lr": 0.001, "batch_size": 32}, {"lr": 0.001, "batch_size": 64},
        {"lr": 0.003, "batch_size": 32}, {"lr": 0.003, "batch_size": 64},
    ]  # fmt: skip
    assert results[0].name == "000-lr=0.001-batch_size=32"
    assert {result.state for result in results} == {"complete"}
    assert [result.config.lr for result in results] == [0.001, 0.001, 0.003, 0.003]
    assert results[2].metrics["mean_recall"] == pytest.approx(0.3)
    assert optuna_states(tmp_path / "sweep") == ["COMPLETE"] * 4
    assert "trial 0 (1 of 4): lr=0.001 batch_size=32" in lines
    assert best_first(results, "mean_recall")[0].name.startswith("002")


def test_a_second_run_of_the_same_sweep_trains_nothing_again(training, tmp_path):
    run_sweep(sweep_config(), tmp_path / "sweep")
    again = run_sweep(sweep_config("batch_size=32,64", "lr=1e-3,3e-3"), tmp_path / "sweep")
    assert len(training.configs) == 4
    assert len(again) == 4


def test_a_failing_trial_is_kept_with_its_reason_and_the_others_are_trained(training, tmp_path):
    def fail(config):
        if config.batch_size == 64:
            raise InputError("fewer than one batch of 64")

    training.fail = fail
    lines = []
    results = run_sweep(sweep_config(), tmp_path / "sweep", report=lines.append)
    assert [result.state for result in results] == ["complete", "failed", "complete", "failed"]
    assert results[1].reason == "fewer than one batch of 64"
    assert optuna_states(tmp_path / "sweep") == ["COMPLETE", "FAIL", "COMPLETE", "FAIL"]
    assert any("trial 1: failed, no result" in line and "fewer than one batch" in line for line in lines)
    run_sweep(sweep_config(), tmp_path / "sweep")
    assert len(training.configs) == 4  # a second run doesn't try them again


def test_an_error_that_is_no_answer_of_ours_is_kept_with_where_it_came_from(training, tmp_path):
    def fail(config):
        raise RuntimeError("out of memory\nmany lines more")

    training.fail = fail
    results = run_sweep(sweep_config("lr=1e-3"), tmp_path / "sweep")
    assert results[0].reason == "RuntimeError: out of memory"
    assert "out of memory" in "".join(json.loads((results[0].path / "trial.json").read_text())["traceback"])


def test_a_full_disk_ends_the_sweep_and_not_all_its_trials_one_by_one(training, tmp_path):
    def fail(config):
        raise TrainingError("weights can't be written") from OSError(errno.ENOSPC, "No space left on device")

    training.fail = fail
    with pytest.raises(TrainingError, match=r"can't be written The sweep stops here; the same command goes on"):
        run_sweep(sweep_config(), tmp_path / "sweep")
    assert [trial.state for trial in read_sweep(tmp_path / "sweep").trials] == ["stopped"]
    training.fail = lambda config: None
    results = run_sweep(sweep_config(), tmp_path / "sweep")
    assert [result.state for result in results] == ["complete"] * 4


def test_failed_trials_are_trained_once_more_when_asked(training, tmp_path):
    def fail(config):
        raise TrainingError("disk full")

    training.fail = fail
    run_sweep(sweep_config(), tmp_path / "sweep")
    training.fail = lambda config: None
    results = run_sweep(sweep_config(retry_failed=True), tmp_path / "sweep")
    assert [result.state for result in results] == ["failed"] * 4 + ["complete"] * 4
    assert dict(results[4].settings) == dict(results[0].settings)
    assert len(run_sweep(sweep_config(retry_failed=True), tmp_path / "sweep")) == 8


def test_an_interrupted_trial_ends_the_run_and_is_gone_on_with_by_the_next(training, tmp_path):
    training.interrupt_at = 1
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep_config(), tmp_path / "sweep")
    assert [trial.state for trial in read_sweep(tmp_path / "sweep").trials] == ["complete", "stopped"]
    results = run_sweep(sweep_config(), tmp_path / "sweep")
    assert [result.state for result in results] == ["complete"] * 4
    assert training.resumed == [False, False, True, False, False]


def test_an_interruption_before_the_first_step_leaves_a_trial_that_begins_anew(training, tmp_path):
    def fail(config):
        raise KeyboardInterrupt

    training.fail = fail
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep_config(), tmp_path / "sweep")
    assert [trial.state for trial in read_sweep(tmp_path / "sweep").trials] == ["stopped"]
    training.fail = lambda config: None
    assert [trial.state for trial in run_sweep(sweep_config(), tmp_path / "sweep")] == ["complete"] * 4


def killed_while_training(output):
    def die(config):
        os.kill(os.getpid(), signal.SIGKILL)

    fake = FakeTraining()
    fake.fail = die
    loop.train = fake
    run_sweep(sweep_config(), output)


def test_a_trial_whose_process_was_killed_is_found_and_gone_on_with(training, tmp_path):
    script = f"from pathlib import Path; import {Path(__file__).stem} as this; "
    script += f"this.killed_while_training(Path({str(tmp_path / 'sweep')!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [trial.state for trial in read_sweep(tmp_path / "sweep").trials] == ["running"]
    with (tmp_path / "sweep" / STORAGE_FILE).open("ab") as file:
        file.write(b'{"op_code": 8, "wor')  # what a killed process may leave of a line
    results = run_sweep(sweep_config(), tmp_path / "sweep")
    assert [result.state for result in results] == ["complete"] * 4
    assert training.resumed == [True, False, False, False]


def test_two_processes_on_one_folder_share_the_trials(training, tmp_path):
    """Threads stand for processes: each has its own queue and file locks."""
    inside = threading.Barrier(2, timeout=240)
    first = threading.Event()

    def meet(config):
        if not first.is_set():
            inside.wait()  # both are in a trial at the same time
            first.set()

    training.fail = meet
    config = sweep_config("lr=1e-3,2e-3,3e-3,4e-3", "batch_size=32,64")
    workers = [threading.Thread(target=run_sweep, args=(config, tmp_path / "sweep")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
    trained = sorted((config.lr, config.batch_size) for config in training.configs)
    assert trained == sorted({*trained})
    assert len(trained) == 8
    assert [trial.state for trial in read_sweep(tmp_path / "sweep").trials] == ["complete"] * 8


def test_no_trial_is_begun_that_the_budget_has_no_time_for(training, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def take_a_minute(config):
        now[0] += 60

    training.fail = take_a_minute
    lines = []
    results = run_sweep(sweep_config(budget_s=150.0), tmp_path / "sweep", report=lines.append)
    assert len(results) == 2
    assert lines[-1] == "2 trials are left, which the budget of 150 s has no time for"
    assert results[0].state == "complete"
    assert len(run_sweep(sweep_config(budget_s=150.0), tmp_path / "sweep")) == 4  # each command has its own


def test_trials_that_are_worse_than_others_were_are_pruned(training, tmp_path):
    grid = "lr=9e-3,8e-3,7e-3,6e-3,1e-3"
    results = run_sweep(sweep_config(grid, pruner="median"), tmp_path / "sweep")
    assert [result.state for result in results] == ["complete"] * 4 + ["pruned"]
    assert results[4].reason == "pruned after 25% (median)"
    assert results[4].images_seen == 25
    assert optuna_states(tmp_path / "sweep")[-1] == "PRUNED"


def test_halving_prunes_what_is_not_among_the_best_third(training, tmp_path):
    results = run_sweep(sweep_config("lr=9e-3,1e-3,2e-3", pruner="halving"), tmp_path / "sweep")
    assert [result.state for result in results] == ["complete", "pruned", "pruned"]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_settings_are_drawn_from_ranges_and_never_twice_the_same(training, tmp_path, sampler):
    config = sweep_config("lr=1e-4..1e-2", "batch_size=32..512", "loss=softmax,sigmoid", sampler=sampler, trials=6)
    run_sweep(config, tmp_path / "sweep")
    more = run_sweep(dataclasses.replace(config, trials=9), tmp_path / "sweep")
    drawn = [result.settings for result in more]
    assert len({settings["lr"] for settings in drawn}) == 9
    assert all(1e-4 <= settings["lr"] <= 1e-2 and 32 <= settings["batch_size"] <= 512 for settings in drawn)
    assert {type(settings["batch_size"]) for settings in drawn} == {int}
    assert {settings["loss"] for settings in drawn} == {"softmax", "sigmoid"}
    assert [config.lr for config in training.configs] == [settings["lr"] for settings in drawn]


def test_tpe_draws_more_often_where_it_was_good(training, tmp_path):
    training.quality = lambda config: 1.0 / (1.0 + abs(config.weight_decay - 0.2) * 20)
    config = sweep_config("weight_decay=0..1", sampler="tpe", trials=30)
    drawn = [result.settings["weight_decay"] for result in run_sweep(config, tmp_path / "sweep")]
    assert sum(abs(value - 0.2) < 0.15 for value in drawn[15:]) > sum(abs(value - 0.2) < 0.15 for value in drawn[:10])


def test_a_database_may_keep_the_trials(training, tmp_path):
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    first = run_sweep(sweep_config(storage=url), tmp_path / "sweep")
    assert [result.state for result in first] == ["complete"] * 4
    # another machine's folder on the same sweep: nothing is left to do
    assert run_sweep(sweep_config(storage=url), tmp_path / "elsewhere") == []
    assert url not in (tmp_path / "sweep" / "sweep.json").read_text()
    with pytest.raises(InputError, match="the same --storage again"):
        run_sweep(sweep_config(), tmp_path / "sweep")


def test_a_trial_of_another_machine_is_left_alone(training, tmp_path):
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    training.interrupt_at = 0
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep_config(storage=url), tmp_path / "one")
    lines = []
    results = run_sweep(sweep_config(storage=url), tmp_path / "other", report=lines.append)
    assert [result.state for result in results] == ["complete"] * 3
    assert lines[-1] == "1 trials are under way in other processes"


def test_a_database_that_cannot_be_opened_is_explained_and_leaves_no_sweep(training, tmp_path):
    for url in ("nonsense", f"sqlite:///{tmp_path / 'no' / 'folder.db'}"):
        with pytest.raises(InputError, match="the database can't be opened"):
            run_sweep(sweep_config(storage=url), tmp_path / "sweep")
    assert run_sweep(sweep_config("lr=1e-3"), tmp_path / "sweep")[0].state == "complete"


def test_another_grid_is_refused_unless_it_extends_the_sweep(training, tmp_path):
    run_sweep(sweep_config("lr=1e-3,3e-3", "loss=softmax"), tmp_path / "sweep")
    wider = sweep_config("lr=1e-3,5e-3", "loss=softmax,sigmoid")
    with pytest.raises(InputError, match="--extend"):
        run_sweep(wider, tmp_path / "sweep")
    results = run_sweep(dataclasses.replace(wider, extend=True), tmp_path / "sweep")
    cells = {(result.settings["lr"], result.settings["loss"]) for result in results}
    assert cells == {(lr, loss) for lr in (1e-3, 3e-3, 5e-3) for loss in ("softmax", "sigmoid")}
    assert len(results) == 6
    assert read_sweep(tmp_path / "sweep").asked["grid"] == {"lr": [1e-3, 3e-3, 5e-3], "loss": ["softmax", "sigmoid"]}


def test_extending_to_other_settings_or_by_what_optuna_fixes_is_refused(training, tmp_path):
    run_sweep(sweep_config("towers.image_blocks=1,1;2,2"), tmp_path / "blocks")
    with pytest.raises(InputError, match="--extend can't add values to towers"):
        run_sweep(sweep_config("towers.image_blocks=1,1;3,3", extend=True), tmp_path / "blocks")
    run_sweep(sweep_config("lr=1e-3"), tmp_path / "lr")
    with pytest.raises(InputError, match="to vary others, start another sweep"):
        run_sweep(sweep_config("seed=0,1", extend=True), tmp_path / "lr")
    run_sweep(sweep_config("lr=1e-4..1e-2", sampler="random", trials=1), tmp_path / "range")
    with pytest.raises(InputError, match="values can't become a range"):
        run_sweep(sweep_config("lr=1e-3,2e-3", sampler="random", trials=1, extend=True), tmp_path / "range")
    wider = sweep_config("lr=1e-5..1e-1", sampler="random", trials=3, extend=True)
    assert len(run_sweep(wider, tmp_path / "range")) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": ("warmup_fraction=0",)}, "with settings"),
        ({"metric": "image_retrieval_recall@1"}, "with metric"),
        ({"pruner": "median"}, "with pruner"),
    ],
)
def test_other_settings_than_the_sweep_began_with_are_refused(training, tmp_path, changes, message):
    run_sweep(sweep_config("lr=1e-3"), tmp_path / "sweep")
    with pytest.raises(InputError, match=message):
        run_sweep(sweep_config("lr=1e-3", **changes), tmp_path / "sweep")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "best"}, "sampler is 'best'"),
        ({"pruner": "all"}, "prune is 'all'"),
        ({"metric": "mean_recal"}, "Did you mean mean_recall"),
        ({"trials": 0}, "at least 1"),
        ({"budget_s": 0.0}, "more than 0"),
        ({"settings": ("lr=1",)}, "lr can't be both varied"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        sweep_config(**changes)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (("lr=-1,1e-3",), r"--grid lr=-1: lr must be above 0"),
        (("lrr=1,2",), "Did you mean lr"),
        (("lr=1e-4..1e-2",), "--sampler random or tpe"),
    ],
)
def test_what_no_trial_can_have_is_refused_before_the_first(training, tmp_path, grid, message):
    with pytest.raises(InputError, match=message):
        run_sweep(sweep_config(*grid), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
    assert training.configs == []


def test_a_value_that_only_fits_with_others_is_no_error(training, tmp_path):
    results = run_sweep(sweep_config("freeze_image=true,false", "freeze_text=false,true"), tmp_path / "sweep")
    assert [result.state for result in results] == ["complete", "failed", "complete", "complete"]
    assert "freeze_image and freeze_text" in results[1].reason
    assert results[1].config is None


def test_a_metric_that_the_pairs_do_not_give_fails_with_those_there_are(training, tmp_path):
    results = run_sweep(sweep_config("lr=1e-3", metric="acc1"), tmp_path / "sweep")
    assert (results[0].state, results[0].reason) == (
        "failed", "it has no acc1; there are mean_recall, text_retrieval_median_rank",
    )  # fmt: skip


def test_of_a_rank_less_is_better(training, tmp_path):
    assert not sweep_config(metric="text_retrieval_median_rank").maximise
    results = run_sweep(sweep_config("lr=1e-3,2e-3"), tmp_path / "sweep")
    worse = dataclasses.replace(results[0], metrics={"text_retrieval_median_rank": 20.0})
    assert best_first([worse, results[1]], "text_retrieval_median_rank")[0] is results[1]
    assert set(METRICS) >= {"mean_recall", "image_retrieval_recall@10", "text_retrieval_mAP", "acc1"}


def test_folders_that_hold_something_else_are_refused(training, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_text("")
    run_sweep(sweep_config("lr=1e-3"), tmp_path / "sweep")
    run = next((tmp_path / "sweep" / "trials").iterdir())
    for path, message in ((tmp_path / "file", "is a file"), (tmp_path / "full", "isn't empty"), (run, "holds a run")):
        with pytest.raises(InputError, match=message):
            run_sweep(sweep_config("lr=1e-3"), path)


def test_torchrun_and_a_missing_optuna_are_explained(training, tmp_path, monkeypatch):
    import sightline.lab.experiments.sweep as sweep

    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "4")
        with pytest.raises(InputError, match="start the same command several times"):
            run_sweep(sweep_config(), tmp_path / "sweep")
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    with pytest.raises(
        TrainingError, match=r"optuna and torch and transformers: pip install 'sightline-images\[train\]'"
    ):
        run_sweep(sweep_config(), tmp_path / "sweep")


def test_a_storage_that_fails_ends_the_sweep_and_not_the_trial(training, tmp_path, monkeypatch):
    from sightline.lab.experiments.trial_queue import TrialQueue

    def refuse(self, *args, **rest):
        raise TrainingError("The sweep's storage can't be read or written")

    with monkeypatch.context() as patch:
        patch.setattr(TrialQueue, "report", refuse)
        with pytest.raises(TrainingError, match="storage"):
            run_sweep(sweep_config("lr=1e-3"), tmp_path / "sweep")
    assert [trial.state for trial in run_sweep(sweep_config("lr=1e-3"), tmp_path / "sweep")] == ["complete"]


def test_smoke_trials_have_images_enough_for_the_grid(training, tmp_path):
    run_sweep(sweep_config("batch_size=8,64", "train_fraction=0.5,1", smoke=True), tmp_path / "sweep")
    assert {config.limit for config in training.configs} == {129}


def test_runs_of_several_sweeps_have_names_of_their_own(training, tmp_path):
    for name in ("a", "b"):
        run_sweep(sweep_config("lr=1e-3"), tmp_path / name)
    results = read_results([tmp_path / "a", tmp_path / "b", tmp_path / "a"])
    assert [result.name for result in results] == ["a/000-lr=0.001", "b/000-lr=0.001"]


def test_a_damaged_trial_or_sweep_is_named(training, tmp_path):
    run_sweep(sweep_config("lr=1e-3"), tmp_path / "sweep")
    trial = next((tmp_path / "sweep" / "trials").iterdir()) / "trial.json"
    trial.write_text('{"state": "lost"}')
    with pytest.raises(InputError, match=r"trial\.json is damaged"):
        read_sweep(tmp_path / "sweep")
    (tmp_path / "sweep" / "sweep.json").write_text("[]")
    with pytest.raises(InputError, match="an object is expected"):
        read_sweep(tmp_path / "sweep")
    with pytest.raises(InputError, match="holds no sweep"):
        read_sweep(tmp_path)


def test_a_sweep_of_real_runs_is_interrupted_and_gone_on_with(tmp_path, monkeypatch):
    """The whole of it: two runs of scenes, the second stopped by Ctrl-C in the middle, and one that can't be."""
    original = Recorder.log

    def log(self, facts):
        original(self, facts)
        if self.config.seed == 1 and self.state.step == 3 and not resumed:
            os.kill(os.getpid(), signal.SIGINT)

    resumed = False
    monkeypatch.setattr(Recorder, "log", log)
    config = SweepConfig(recipe="scenes-sweep", grid=("seed=0,1", "batch_size=16,99999"), smoke=True)
    with monkeypatch.context() as patch:
        patch.setattr("sightline.lab.experiments.sweep_config._MOST_SMOKE_IMAGES", 32)
        config = dataclasses.replace(config, settings=("train_fraction=0.75", "samples_seen=96"))
        with pytest.raises(KeyboardInterrupt):
            run_sweep(config, tmp_path / "sweep")
        assert [trial.state for trial in read_sweep(tmp_path / "sweep").trials] == ["complete", "failed", "stopped"]
        resumed = True
        results = run_sweep(config, tmp_path / "sweep")
    assert [result.state for result in results] == ["complete", "failed", "complete", "failed"]
    assert "fewer than one batch of 99999" in results[1].reason
    assert results[2].images_seen == 96
    assert results[2].probe("start").step == 0
    steps = [row["step"] for row in results[2].rows if row["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert results[2].took_s > 0
