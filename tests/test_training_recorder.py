"""What a run leaves for those who study it, and how they end it."""

import json
import os
import signal

import numpy as np
import pytest
import torch

import sightline.lab.training.loop as loop
from sightline.core.models.loading import load_encoder
from sightline.errors import TrainingError
from sightline.lab.data.pixel_cache import open_pixel_cache
from sightline.lab.experiments.results import read_run
from sightline.lab.training.log import read_log
from sightline.lab.training.loop import prepare, train
from sightline.lab.training.parallel import World
from sightline.lab.training.recorder import Recorder
from sightline.lab.training.run_folder import RunFolder
from training_world import make_world, small_config


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path)


def test_a_run_leaves_its_result_and_vectors_before_and_after(world, tmp_path):
    train(small_config(world, epochs=3, average_decay=0.5), tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert (run.state, run.images_seen) == ("complete", 72)
    assert run.metrics["mean_recall"] == max(r["mean_recall"] for r in run.rows if r["kind"] == "val" and r["step"])
    start, best = run.probe("start"), run.probe("best")
    assert start.step == 0 < best.step
    assert start.ids == best.ids == tuple(f"val/{i:02}.png" for i in range(8))
    assert start.texts[0] == "a red square, number 0"
    assert start.image_ND.shape == start.text_ND.shape == (8, 16)
    assert not np.allclose(start.image_ND, best.image_ND)
    # the kept weights give the same vectors
    encoder = load_encoder(f"dir:{tmp_path / 'run'}", runtime="torch")
    assert np.allclose(encoder.encode_texts(list(best.texts)), best.text_ND, atol=1e-5)


def test_pairs_with_classes_are_probed_with_the_names_of_their_classes(world, tmp_path, monkeypatch):
    from dataclasses import replace

    import sightline.lab.training.pairs as pairs_of_run
    from sightline.lab.data.addressing import load_dataset

    def labelled(*args, **rest):
        dataset = load_dataset(*args, **rest)
        pairs = [
            replace(pair, captions=("red", "green")[row % 2 :][:1], label=row % 2) for row, pair in enumerate(dataset)
        ]
        return replace(dataset, pairs=pairs, class_names=(("red",), ("green",)))

    monkeypatch.setattr(pairs_of_run, "load_dataset", labelled)
    train(small_config(world, epochs=1), tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert run.quality == "acc1"
    assert run.probe("best").texts[:3] == ("red", "green", "red")
    assert np.allclose(np.linalg.norm(run.probe("best").text_ND, axis=1), 1, atol=1e-5)


def test_a_reason_given_after_a_measurement_ends_the_run_with_a_checkpoint(world, tmp_path):
    asked = []

    def stop_at_two(step, metrics):
        asked.append((step, metrics["mean_recall"]))
        return "pruned" if step == 6 else None

    report = train(small_config(world, epochs=4), tmp_path / "run", on_measure=stop_at_two)
    rows = [row for row in read_log(tmp_path / "run") if row["kind"] == "val"]
    assert asked == [(row["step"], row["mean_recall"]) for row in rows if row["step"]]
    assert all(row["loss"] > 0 and row["chance_loss"] > 0 for row in rows)
    assert "loss" not in report.metrics
    assert (report.steps, report.total_steps, report.stopped, report.interrupted) == (6, 12, "pruned", False)
    assert (tmp_path / "run" / "checkpoints" / "step-6").is_dir()
    run = read_run(tmp_path / "run")
    assert (run.state, run.reason) == ("complete", "pruned")


def test_a_reason_after_the_last_step_changes_nothing(world, tmp_path):
    report = train(small_config(world, epochs=1), tmp_path / "run", on_measure=lambda step, metrics: "too late")
    assert report.stopped is None


def test_a_result_counts_all_sessions_and_is_gone_while_the_run_goes_on(world, tmp_path, monkeypatch):
    original = Recorder.log
    seen = []

    def log(self, facts):
        original(self, facts)
        seen.append((self.output / "result.json").exists())
        if self.state.step == 2 and not self.state.took_s:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Recorder, "log", log)
    config = small_config(world, epochs=2)
    first = train(config, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert first.interrupted
    assert (result["steps"], result["interrupted"], result["images_seen"]) == (2, True, 16)
    assert read_run(tmp_path / "run").state == "stopped"
    second = train(config, tmp_path / "run", resume=True)
    run = read_run(tmp_path / "run")
    assert (run.state, run.images_seen, any(seen)) == ("complete", 48, False)
    at_checkpoint_s = json.loads((tmp_path / "run/checkpoints/step-3/state.json").read_text())["state"]["took_s"]
    assert second.took_s < run.took_s < 2 * first.took_s + second.took_s  # nothing is counted twice
    assert 0 < at_checkpoint_s < run.took_s


def test_a_run_stopped_before_its_first_checkpoint_measures_its_start_once(world, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", lambda run, step, check: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(small_config(world), tmp_path / "broken")
    train(small_config(world), tmp_path / "broken", resume=True)
    train(small_config(world), tmp_path / "whole")
    assert read_log(tmp_path / "broken") == read_log(tmp_path / "whole")


def test_batch_sizes_and_parts_of_the_data_see_the_same_number_of_images(world, tmp_path):
    for changes in ({"batch_size": 4}, {"batch_size": 8, "train_fraction": 0.5}):
        config = small_config(world, samples_seen=48, epochs=2, **changes)
        run = tmp_path / str(len(changes))
        lines = []
        report = train(config, run, report=lines.append)
        assert report.steps * config.batch_size == 48
        measured = [row["step"] / report.steps for row in read_log(run) if row["kind"] == "val"]
        assert measured == [0.0, 0.5, 1.0]
        assert any("= round(48 samples / batch of" in line for line in lines)


def test_a_part_of_the_images_is_taken_from_the_pixels_of_all(world, tmp_path, monkeypatch):
    import sightline.lab.training.pairs as pairs_of_run

    opened = []

    def count(dataset, **rest):
        opened.append((dataset.split, len(dataset)))
        return open_pixel_cache(dataset, **rest)

    monkeypatch.setattr(pairs_of_run, "open_pixel_cache", count)
    (tmp_path / "pairs" / "train" / "03.png").write_bytes(b"no picture")
    config = small_config(world, train_fraction=0.75)

    def pixels(name):
        (tmp_path / name).mkdir()
        lines = []
        batches = prepare(config, tmp_path / name, World(), report=lines.append, resumed=False).batches
        told = [line for line in lines if "are decoded once" not in line]
        return torch.cat([chunk.image_B3SS for chunk in batches.at(0).chunks]), batches.ids_of(batches.usable), told

    of_the_whole = pixels("whole")
    assert opened == [("train", 24), ("val", 8)]
    monkeypatch.setattr(pairs_of_run, "_MOST_COPIED_BYTES", 0)
    of_the_part = pixels("part")
    assert opened[2:] == [("train", 18), ("val", 8)]
    assert torch.equal(of_the_whole[0], of_the_part[0])
    assert of_the_whole[1:] == of_the_part[1:]


def test_a_result_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "result.json").mkdir()
    with pytest.raises(TrainingError, match=r"result\.json can't be written.*--resume"):
        RunFolder(path=tmp_path).write_result({})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
