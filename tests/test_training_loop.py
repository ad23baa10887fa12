"""The loop of a training run: steps, measurements, interrupts and resumed runs.

Covers: sightline.lab.training.pairs.
"""

import dataclasses
import functools
import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import sightline.lab.training.loop as loop
import sightline.lab.training.pairs as teaching
from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.loading import load_encoder
from sightline.core.models.torch_models import TorchEncoder
from sightline.errors import InputError, TrainingError
from sightline.lab.training.log import read_log
from sightline.lab.training.loop import train
from sightline.lab.training.parallel import World
from sightline.lab.training.recorder import Recorder
from training_world import TOWERS, make_world, small_config


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path)


def weights(run):
    return load_file(run / "model.safetensors")


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def stop_after(monkeypatch, step):
    """A run that is interrupted when so many updates are done."""
    original = Recorder.log

    def log(self, facts):
        original(self, facts)
        if self.state.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Recorder, "log", log)


@pytest.mark.parametrize("architecture", ["conv", "vit"])
def test_a_run_learns_and_its_folder_is_a_model(world, tmp_path, architecture):
    run = tmp_path / "run"
    lines = []
    report = train(small_config(world, architecture, epochs=10, lr=5e-3, colour_jitter=0.0), run, report=lines.append)
    rows = read_log(run)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert report.steps == report.total_steps == 30
    assert report.metrics["mean_recall"] == max(row["mean_recall"] for row in rows if row["kind"] == "val")
    encoder = load_encoder(f"dir:{run}", runtime="torch")
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    assert encoder.encode_images(pixels).shape == encoder.encode_texts(["a red square"]).shape == (1, 16)
    assert encoder.card.preprocessing == Preprocessing(size_px=32, resize_mode="squash")
    assert (run / "curves.png").stat().st_size > 10_000
    said = "\n".join(lines)
    assert "steps an epoch: 3 = floor(24 pictures / batch of 8)" in said
    assert "tokens lost to truncation: 0 of" in said


class ScalarReads(TorchDispatchMode):
    """Counts the float32 tensors that are read one by one; what is known beforehand is of other types."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        reads = function is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.float32
        self.count += reads
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"chunk_size": 3}, {"loss": "sigmoid", "negatives_per_caption": 1}])
def test_all_that_a_step_shows_is_read_from_the_device_at_once(tmp_path, monkeypatch, changes):
    config = small_config("scenes:0", "vit", limit=24, val_limit=8, captions_per_image=2, **changes)
    run = loop.prepare(config, tmp_path, World(), report=print, resumed=False)
    monkeypatch.setattr(run.optimiser, "step", lambda: None)  # on the CPU AdamW reads its own counters
    whole = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: whole.append(self.dtype) or original(self))
    with ScalarReads() as reads:
        facts = loop.update(run, 0)
    assert (reads.count, whole.count(torch.float32)) == (0, 1)
    assert all(np.isfinite([facts.loss, facts.gradient_norm, facts.scale, *facts.terms.values()]))
    assert list(facts.terms) == (["negatives_loss"] if "negatives_per_caption" in changes else [])


@pytest.mark.parametrize("changes", [{}, {"average_decay": 0.9}, {"loss": "sigmoid"}, {"precision": "bf16"}])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(world, tmp_path, monkeypatch, changes):
    config = small_config(world, epochs=3, **changes)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, whole)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        report = train(config, broken)
    assert report.steps == 5
    assert "interrupted" in report.stopped
    report = train(config, broken, resume=True)
    assert report.steps == 9
    for name in ("model", "optimiser", "objective"):
        last = "checkpoints/step-9"
        assert_same_weights(
            load_file(whole / last / f"{name}.safetensors"), load_file(broken / last / f"{name}.safetensors")
        )
    assert_same_weights(weights(whole), weights(broken))
    assert read_log(whole) == read_log(broken)


def test_a_run_killed_between_checkpoints_goes_on_from_the_last_one(world, tmp_path, monkeypatch):
    config = small_config(world, epochs=3)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, whole)
    with monkeypatch.context() as patch:
        original = loop.update

        def update(run, step, *, check):
            if step == 5:
                raise KeyboardInterrupt
            return original(run, step, check=check)

        patch.setattr(loop, "update", update)
        with pytest.raises(KeyboardInterrupt):
            train(config, broken)
    lines = []
    train(config, broken, resume=True, report=lines.append)
    assert "going on after step 3 of 9" in lines[0]
    assert_same_weights(weights(whole), weights(broken))
    assert read_log(whole) == read_log(broken)


def test_a_run_stopped_before_its_first_checkpoint_resumes_from_the_start(world, tmp_path, monkeypatch):
    config = small_config(world)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", lambda run, step, check: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    assert train(config, tmp_path / "run", resume=True).steps == 6


def test_chunks_do_not_change_what_is_learned(world, tmp_path):
    config = small_config(world, "vit", epochs=1).changed(["towers.dropout=0"])
    train(config, tmp_path / "whole")
    train(config.changed(["chunk_size=3"]), tmp_path / "chunks")
    whole, chunks = weights(tmp_path / "whole"), weights(tmp_path / "chunks")
    for name in whole:
        assert torch.allclose(whole[name], chunks[name], atol=2e-4), name


def test_chunks_with_batch_norm_are_refused_and_leave_nothing_behind(world, tmp_path):
    with pytest.raises(TrainingError, match="batch norm"):
        train(small_config(world, chunk_size=4), tmp_path / "run")
    train(small_config(world, chunk_size=4, freeze_norm=True, epochs=1), tmp_path / "run")


def test_training_early_stops_where_nothing_gets_better(world, tmp_path):
    report = train(small_config(world, epochs=20, lr=1e-9, patience=2), tmp_path / "run")
    assert report.steps < report.total_steps
    assert report.stopped == "no better measurement in the last 2"


def test_fine_tuning_starts_at_the_start_and_a_destroyed_model_raises_an_alarm(world, tmp_path):
    start = tmp_path / "start"
    train(small_config(world, "vit", epochs=8, lr=3e-3, eval_epochs=8), start)
    before = json.loads((start / "sightline.json").read_text())["figures"]["mean_recall"]
    lines = []
    config = small_config(world, "vit", init=f"dir:{start}", lr=0.5, epochs=2)
    report = train(config, tmp_path / "tuned", report=lines.append)
    first = next(row for row in read_log(tmp_path / "tuned") if row["kind"] == "val")
    assert first["mean_recall"] == pytest.approx(before, abs=1e-3)
    assert any("known to destroy pretrained ViT towers" in line for line in lines)
    assert any("the run destroys what the model knew" in line for line in lines)
    assert report.best_step == 0
    assert_same_weights(weights(start), weights(tmp_path / "tuned"))


def test_a_frozen_image_tower_keeps_its_vectors(world, tmp_path):
    start = tmp_path / "start"
    train(small_config(world, epochs=2), start)
    tuned = tmp_path / "tuned"
    train(small_config(world, init=f"dir:{start}", freeze_image=True, lr=5e-3, epochs=4, average_decay=0.5), tuned)
    last = load_file(tuned / "checkpoints/step-12/model.safetensors")
    for name, value in weights(start).items():
        assert torch.equal(value, last[name]) == name.startswith(("image_",)), name


def test_low_rank_adapters_are_merged_into_the_model_that_is_kept(world, tmp_path):
    start, tuned = tmp_path / "start", tmp_path / "tuned"
    train(small_config(world, "vit", epochs=1), start)
    train(small_config(world, "vit", init=f"dir:{start}", lora_rank=2, lr=1e-2, epochs=6), tuned)
    assert weights(start).keys() == weights(tuned).keys()
    assert any(".lora_A." in name for name in load_file(tuned / "checkpoints/step-18/model.safetensors"))
    load_encoder(f"dir:{tuned}", runtime="torch")


def test_a_teacher_pulls_image_vectors(world, tmp_path):
    rows = np.random.default_rng(0).standard_normal((24, 5)).astype(np.float32)
    np.save(tmp_path / "teacher.npy", rows)
    config = small_config(
        world, epochs=8, eval_epochs=8, teacher=str(tmp_path / "teacher.npy"), teacher_weight=5.0, lr=1e-2, flip=False
    )
    train(config, tmp_path / "run")
    distances = [row["teacher_distance"] for row in read_log(tmp_path / "run") if row["kind"] == "train"]
    assert np.mean(distances[-3:]) < 0.75 * np.mean(distances[:3])


def test_a_teacher_of_other_images_is_refused(world, tmp_path):
    np.save(tmp_path / "teacher.npy", np.ones((3, 5), np.float32))
    with pytest.raises(InputError, match="a row for each pair"):
        train(small_config(world, teacher=str(tmp_path / "teacher.npy")), tmp_path / "run")


def test_shuffled_captions_are_a_derangement_of_the_pairs(world):
    from sightline.lab.training.pairs import load_train_parts

    (plain,) = load_train_parts(small_config(world))
    (shuffled,) = load_train_parts(small_config(world, shuffle_captions=True))
    assert sorted(p.captions for p in plain) == sorted(p.captions for p in shuffled)
    assert sum(a.captions == b.captions for a, b in zip(plain, shuffled, strict=True)) < len(plain) / 4
    assert shuffled.fingerprint != plain.fingerprint


def test_other_settings_than_the_runs_own_are_refused_on_resume(world, tmp_path):
    train(small_config(world), tmp_path / "run")
    with pytest.raises(TrainingError, match=r"lr was 0\.002, is now 0\.1"):
        train(small_config(world, lr=0.1), tmp_path / "run", resume=True)


def test_changed_pairs_are_refused_on_resume(world, tmp_path):
    train(small_config(world), tmp_path / "run")
    lines = tmp_path / "pairs" / "train" / "metadata.jsonl"
    lines.write_text(lines.read_text().replace("red", "crimson"))
    with pytest.raises(TrainingError, match="another data"):
        train(small_config(world), tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_model_is_refused(world, tmp_path):
    train(small_config(world, "conv"), tmp_path / "conv")
    train(small_config(world, "vit"), tmp_path / "vit")
    source, target = (tmp_path / name / "checkpoints" / "step-6" / "model.safetensors" for name in ("conv", "vit"))
    target.write_bytes(source.read_bytes())
    with pytest.raises(TrainingError, match="the weights of another model"):
        train(small_config(world, "vit"), tmp_path / "vit", resume=True)


def test_images_that_cannot_be_read_are_left_out_and_named(world, tmp_path):
    (tmp_path / "pairs" / "train" / "03.png").write_bytes(b"no picture")
    lines = []
    train(small_config(world, epochs=1), tmp_path / "run", report=lines.append)
    assert any("03.png" in line for line in lines)
    assert any("pictures: 23 usable of 24; captions: 48" in line for line in lines)


def test_too_few_images_for_a_batch_are_refused(world, tmp_path):
    with pytest.raises(InputError, match="fewer than one batch"):
        train(small_config(world, batch_size=64), tmp_path / "run")


def test_measuring_on_the_training_pairs_is_refused(world, tmp_path):
    with pytest.raises(InputError, match="measured on what it is trained on"):
        train(small_config(world, val_split="train"), tmp_path / "run")


def test_a_nan_names_the_step_and_the_batch(world, tmp_path, monkeypatch):
    from sightline.lab.training.losses import Objective

    original = Objective.forward
    monkeypatch.setattr(Objective, "forward", lambda self, *f: original(self, *f) * float("nan"))
    with pytest.raises(TrainingError, match=r"(?s)Step 1.*png"):
        train(small_config(world), tmp_path / "run")


@pytest.mark.parametrize("dropout", [0.1, 0.0])  # without it, attention would choose a fused kernel where it may
@pytest.mark.parametrize("changes", [{}, {"chunk_size": 4, "precision": "bf16"}])
def test_checkpointing_activations_gives_the_same_weights(world, tmp_path, dropout, changes):
    towers = dataclasses.replace(TOWERS["vit"], dropout=dropout)
    for name, on in (("plain", False), ("saving", True)):
        config = small_config(world, "vit", epochs=1, gradient_checkpointing=on, **changes)
        train(dataclasses.replace(config, towers=towers), tmp_path / name)
    plain, saving = weights(tmp_path / "plain"), weights(tmp_path / "saving")
    for name in plain:
        assert torch.allclose(plain[name], saving[name], atol=1e-6), name


def test_checkpointing_activations_with_batch_norm_is_refused(world, tmp_path):
    with pytest.raises(TrainingError, match="count each batch twice"):
        train(small_config(world, gradient_checkpointing=True), tmp_path / "run")


def test_a_full_disk_while_the_model_is_written_is_explained_and_the_run_goes_on_later(world, tmp_path, monkeypatch):
    import sightline.lab.training.towers as towers

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    config = small_config(world, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(towers, "save_file", full)
        with pytest.raises(TrainingError, match=r"No space left on device.*--resume"):
            train(config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.partial"))
    assert train(config, tmp_path / "run", resume=True).steps == 3


def make_teacher(world, tmp_path, monkeypatch):
    """A model of the student's sizes whose vectors mean something: one that was trained for a moment."""
    monkeypatch.setattr(teaching, "load_encoder", functools.partial(load_encoder, runtime="torch"))  # no export
    train(small_config(world, epochs=4, lr=5e-3), tmp_path / "teacher")
    return f"dir:{tmp_path / 'teacher'}"


def test_a_student_follows_a_teacher_in_its_own_space_and_leaves_the_texts_alone(world, tmp_path, monkeypatch):
    teacher = make_teacher(world, tmp_path, monkeypatch)
    train(small_config(world, epochs=1, seed=1), tmp_path / "start")
    config = small_config(
        world, init=f"dir:{tmp_path / 'start'}", teacher=teacher, teacher_map=False, freeze_text=True, crops=3,
        teacher_weight=100.0, epochs=6, lr=1e-2,
    )  # fmt: skip
    train(config, tmp_path / "run")
    before = weights(tmp_path / "start")
    after = load_file(tmp_path / "run/checkpoints/step-18/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("text_"))
    distances = [row["teacher_distance"] for row in read_log(tmp_path / "run") if row["kind"] == "train"]
    assert np.mean(distances[-3:]) < 0.7 * np.mean(distances[:3])


def test_what_the_teacher_sees_is_kept_and_goes_on_after_an_interruption(world, tmp_path, monkeypatch):
    teacher = make_teacher(world, tmp_path, monkeypatch)
    config = small_config(world, teacher=teacher, crops=3, epochs=1, eval_epochs=1)
    calls = []
    original = TorchEncoder.encode_images

    def counted(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 2 and stops:
            raise KeyboardInterrupt
        return original(self, pixels)

    monkeypatch.setattr(teaching, "_CROPS_AT_ONCE", 24)
    monkeypatch.setattr(TorchEncoder, "encode_images", counted)
    stops = True
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "first")
    stops = False
    calls.clear()
    train(config, tmp_path / "second")
    computed = calls[:2]
    train(dataclasses.replace(config, crops=2), tmp_path / "fewer")
    assert calls.count(24) == 4  # two more batches: other crops are looked at anew
    calls.clear()
    train(config, tmp_path / "third")
    assert computed == [24, 24]  # of 72 crops the first 24 were kept
    assert len(calls) == 2
    assert set(calls) == {8}
    assert_same_weights(weights(tmp_path / "second"), weights(tmp_path / "third"))


def test_a_teacher_of_another_space_needs_a_map(world, tmp_path, monkeypatch):
    teacher = make_teacher(world, tmp_path, monkeypatch)
    towers = dataclasses.replace(small_config(world).towers, dim=12)
    config = dataclasses.replace(small_config(world, teacher=teacher, teacher_map=False), towers=towers)
    with pytest.raises(TrainingError, match=r"of the model's own dimension, 12; dir:.* has 16"):
        train(config, tmp_path / "run")


def test_two_sets_are_mixed_and_their_words_learned(world, tmp_path):
    (tmp_path / "other").mkdir()
    other = make_world(tmp_path / "other", n=16)
    lines = []
    report = train(
        small_config(world, more_data=(other,), data_repeats=2, epochs=1), tmp_path / "run", report=lines.append
    )
    assert report.total_steps == (2 * 24 + 16) // 8
    assert any("pictures an epoch: 64 = 2 x 24 + 16" in line for line in lines)
