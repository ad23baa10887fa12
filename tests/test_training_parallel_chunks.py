"""This file is also the script whose memory is measured: a batch of 4,096 on a ViT."""

import itertools
import json
import os
import subprocess
import sys
import time

import pytest
import torch
from torch import nn
from torch.nn import functional

from sightline.errors import TrainingError
from sightline.lab.evaluation.measured_model import peak_resident_bytes
from sightline.lab.training.losses import contrastive, softmax_contrastive
from sightline.lab.training.optimiser import freeze_batch_norms, set_training_mode
from sightline.lab.training.parallel import (
    chunk_seeds,
    contrastive_backward,
    refuse_false_batch_statistics,
)

GROUP_B = torch.arange(12)
GROUP_T = torch.arange(12).repeat_interleave(2)


class TwoTowers(nn.Module):
    """A little attention in each tower, and a dropout of choice."""

    def __init__(self, dropout=0.0, precision=None):
        super().__init__()
        torch.manual_seed(0)
        layer = {"nhead": 2, "dim_feedforward": 32, "dropout": dropout, "batch_first": True}
        self.image = nn.TransformerEncoderLayer(16, **layer)
        self.text = nn.Sequential(nn.Embedding(30, 16), nn.TransformerEncoderLayer(16, **layer))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))
        self.precision = precision

    def encode(self, chunk):
        images, texts = chunk
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            outputs = self.image(images), self.text(texts)
        return tuple(functional.normalize(rows.float().mean(1), dim=1) for rows in outputs)

    def gradients(self):
        return {name: parameter.grad for name, parameter in self.named_parameters() if parameter.grad is not None}


def make_chunks(n_chunks):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(12, 5, 16, generator=generator)
    texts = torch.randint(30, (24, 4), generator=generator)
    return list(zip(images.tensor_split(n_chunks), texts.tensor_split(n_chunks), strict=True))


def make_loss_of(model, name="softmax"):
    bias = model.bias if name == "sigmoid" else None
    return lambda image_BD, text_TD: contrastive(
        image_BD, text_TD, GROUP_B, GROUP_T, scale=model.logit_scale.exp(), bias=bias
    )


def whole_batch_gradients(model, n_chunks, name="softmax"):
    """Each chunk encoded once, with the random numbers of its seed, and one graph over all of it."""
    encoded = []
    for chunk, seed in zip(make_chunks(n_chunks), range(n_chunks), strict=True):
        torch.manual_seed(seed)
        encoded.append(model.encode(chunk))
    loss = make_loss_of(model, name)(*(torch.cat(rows) for rows in zip(*encoded, strict=True)))
    loss.backward()
    return loss.detach(), model.gradients()


def assert_same_gradients(gradients, expected, *, atol=1e-6, rtol=1e-5):
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            gradients[name],
            value,
            rtol=rtol,
            atol=atol,
            msg=lambda text, name=name: f"{name}: {text}",  # type: ignore[misc]
        )


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("n_chunks", [1, 3, 5])
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_chunks_give_the_gradients_of_the_whole_batch(n_chunks, name, dropout):
    expected_loss, expected = whole_batch_gradients(TwoTowers(dropout), n_chunks, name)
    model = TwoTowers(dropout)
    loss = contrastive_backward(model.encode, make_chunks(n_chunks), make_loss_of(model, name), seeds=range(n_chunks))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    assert not loss.requires_grad
    assert {"logit_scale", "image.linear1.weight", "text.0.weight"} <= expected.keys()
    assert_same_gradients(model.gradients(), expected)


def test_without_dropout_the_number_of_chunks_does_not_matter():
    _, expected = whole_batch_gradients(TwoTowers(), 1)
    model = TwoTowers()
    contrastive_backward(model.encode, make_chunks(12), make_loss_of(model), seeds=range(12))
    assert_same_gradients(model.gradients(), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_bf16_autocast_repeats_the_first_pass_bit_for_bit(dropout):
    model = TwoTowers(dropout, precision="bf16")
    seen = []

    def encode(chunk):
        seen.append(model.encode(chunk))
        return seen[-1]

    contrastive_backward(encode, make_chunks(3), make_loss_of(model), seeds=[7, 8, 9])
    first, second = seen[:3], seen[3:]
    for before, after in zip(itertools.chain(*first), itertools.chain(*second), strict=True):
        assert not before.requires_grad
        assert after.requires_grad
        assert torch.equal(before, after)
    _, expected = whole_batch_gradients(TwoTowers(precision="bf16"), 3)
    assert model.gradients().keys() == expected.keys()


def test_bf16_autocast_gives_the_gradients_of_the_whole_batch():
    _, expected = whole_batch_gradients(TwoTowers(precision="bf16"), 3)
    model = TwoTowers(precision="bf16")
    contrastive_backward(model.encode, make_chunks(3), make_loss_of(model), seeds=range(3))
    # weights' gradients are summed over chunks in bf16 by one graph, in fp32 by the other
    assert_same_gradients(model.gradients(), expected, atol=2e-3, rtol=2e-2)


def test_a_single_chunk_is_encoded_once_and_several_twice():
    model = TwoTowers()
    calls = []

    def encode(chunk):
        calls.append(torch.is_grad_enabled())
        return model.encode(chunk)

    contrastive_backward(encode, make_chunks(1), make_loss_of(model), seeds=[0])
    assert calls == [True]
    calls.clear()
    contrastive_backward(encode, make_chunks(3), make_loss_of(model), seeds=range(3))
    assert calls == [False] * 3 + [True] * 3


def test_gradients_add_to_those_that_are_there():
    model = TwoTowers()
    contrastive_backward(model.encode, make_chunks(3), make_loss_of(model), seeds=range(3))
    once = {name: gradient.clone() for name, gradient in model.gradients().items()}
    contrastive_backward(model.encode, make_chunks(3), make_loss_of(model), seeds=range(3))
    assert_same_gradients(model.gradients(), {name: 2 * gradient for name, gradient in once.items()})


@pytest.mark.parametrize("n_chunks", [1, 3])
def test_a_frozen_tower_gets_no_gradients_and_the_other_the_same_as_ever(n_chunks):
    _, expected = whole_batch_gradients(TwoTowers(), n_chunks)
    model = TwoTowers()
    model.image.requires_grad_(False)
    contrastive_backward(model.encode, make_chunks(n_chunks), make_loss_of(model), seeds=range(n_chunks))
    assert_same_gradients(
        model.gradients(), {name: value for name, value in expected.items() if not name.startswith("image.")}
    )


def test_embeddings_that_the_loss_leaves_out_have_no_gradient():
    model = TwoTowers()
    contrastive_backward(
        model.encode, make_chunks(3), lambda image_BD, text_TD: image_BD.square().sum(), seeds=range(3)
    )
    assert not any(gradient.any() for name, gradient in model.gradients().items() if name.startswith("text."))


def test_seeds_decide_dropout_and_the_random_state_stays_as_it_was():
    def gradients(seeds):
        model = TwoTowers(dropout=0.5)
        before = torch.get_rng_state()
        contrastive_backward(model.encode, make_chunks(2), make_loss_of(model), seeds=seeds)
        assert torch.equal(torch.get_rng_state(), before)
        return model.gradients()["image.linear1.weight"]

    assert torch.equal(gradients([1, 2]), gradients([1, 2]))
    assert not torch.allclose(gradients([1, 2]), gradients([1, 3]))


def test_gradient_checkpointing_inside_a_chunk_changes_nothing():
    _, expected = whole_batch_gradients(TwoTowers(dropout=0.5), 3)
    model = TwoTowers(dropout=0.5)

    def encode(chunk):
        return torch.utils.checkpoint.checkpoint(model.encode, chunk, use_reentrant=False)

    contrastive_backward(encode, make_chunks(3), make_loss_of(model), seeds=range(3))
    assert_same_gradients(model.gradients(), expected)


def test_seeds_of_chunks_repeat_and_differ_between_steps_ranks_and_chunks():
    assert chunk_seeds(3, seed=1, step=2) == chunk_seeds(3, seed=1, step=2)
    assert chunk_seeds(5, seed=1, step=2)[:3] == chunk_seeds(3, seed=1, step=2)
    places = itertools.product(range(2), range(10), range(3))
    seeds = [seed for run, step, rank in places for seed in chunk_seeds(4, seed=run, step=step, rank=rank)]
    assert len(set(seeds)) == 2 * 10 * 3 * 4


def test_other_randomness_than_torchs_is_found():
    model = TwoTowers()
    counter = itertools.count()

    def encode(chunk):
        images, texts = chunk
        return model.encode((images + next(counter), texts))

    with pytest.raises(TrainingError, match="other embeddings than the first"):
        contrastive_backward(encode, make_chunks(2), make_loss_of(model), seeds=[0, 1])


def test_nan_is_left_to_the_loss_to_show():
    model = TwoTowers()
    with torch.no_grad():
        model.image.linear1.weight[0, 0] = torch.nan
    assert contrastive_backward(model.encode, make_chunks(2), make_loss_of(model), seeds=[0, 1]).isnan()


@pytest.mark.parametrize(("n_chunks", "n_seeds"), [(0, 0), (2, 3)])
def test_each_chunk_needs_a_seed(n_chunks, n_seeds):
    model = TwoTowers()
    chunks = make_chunks(n_chunks) if n_chunks else []
    with pytest.raises(TrainingError, match=f"{n_chunks} chunks with {n_seeds} seeds"):
        contrastive_backward(model.encode, chunks, make_loss_of(model), seeds=range(n_seeds))


def test_autocast_around_both_passes_is_refused():
    model = TwoTowers()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TrainingError, match="inside `encode` only"):
        contrastive_backward(model.encode, make_chunks(2), make_loss_of(model), seeds=[0, 1])


@pytest.mark.parametrize("n_chunks", [1, 2])
def test_a_batch_that_trains_no_tower_is_refused(n_chunks):
    model = TwoTowers()
    model.image.requires_grad_(False)
    model.text.requires_grad_(False)
    with pytest.raises(TrainingError, match="unfreeze a tower"):
        contrastive_backward(model.encode, make_chunks(n_chunks), make_loss_of(model), seeds=range(n_chunks))


def make_conv():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))


def test_chunks_of_unfrozen_batch_norm_would_be_false_and_of_frozen_are_exact():
    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    text_TD = torch.eye(8)

    def gradient(n_chunks, *, frozen_norm):
        model = make_conv()
        if frozen_norm:
            freeze_batch_norms(model)
        set_training_mode(model)
        before = {name: tensor.clone() for name, tensor in model.named_buffers()}
        contrastive_backward(
            lambda chunk: (functional.normalize(model(chunk), dim=1),),
            images.tensor_split(n_chunks),
            lambda image_BD: softmax_contrastive(image_BD, text_TD, torch.arange(8), torch.arange(8), scale=5.0),
            seeds=range(n_chunks),
        )
        unchanged = all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
        assert unchanged == frozen_norm
        return model[0].weight.grad

    torch.testing.assert_close(gradient(4, frozen_norm=True), gradient(1, frozen_norm=True), rtol=1e-5, atol=1e-6)
    difference = gradient(4, frozen_norm=False) - gradient(1, frozen_norm=False)
    assert difference.norm() > 0.1 * gradient(1, frozen_norm=False).norm()  # why it is refused


@pytest.mark.parametrize(
    ("world_size", "n_chunks", "split"),
    [
        (2, 1, "split into 2 ranks: "),
        (1, 4, "split into 4 chunks of gradient caching: "),
        (2, 4, "2 ranks and 4 chunks of"),
    ],
)
def test_false_batch_statistics_are_refused_with_the_ways_out(world_size, n_chunks, split):
    model = make_conv()
    with pytest.raises(TrainingError, match=split) as raised:
        refuse_false_batch_statistics(model, world_size=world_size, n_chunks=n_chunks)
    assert "2 batch norm layers (1, 4)" in str(raised.value)
    for way_out in ("--set freeze_norm=true", "one process without gradient caching", "without batch norm"):
        assert way_out in str(raised.value)
    freeze_batch_norms(model)
    set_training_mode(model)
    refuse_false_batch_statistics(model, world_size=world_size, n_chunks=n_chunks)


def test_true_batch_statistics_are_not_refused():
    refuse_false_batch_statistics(make_conv(), world_size=1, n_chunks=1)
    refuse_false_batch_statistics(TwoTowers(), world_size=8, n_chunks=8)


def test_the_first_layers_stand_for_many():
    model = nn.Sequential(*(nn.BatchNorm1d(2) for _ in range(5)))
    with pytest.raises(TrainingError, match=r"5 batch norm layers \(0, 1, 2, \.\.\.\)"):
        refuse_false_batch_statistics(model, world_size=2, n_chunks=1)


def test_batch_norm_without_running_statistics_is_never_true_in_parts():
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(TrainingError, match="1 batch norm layers"):
        refuse_false_batch_statistics(model, world_size=2, n_chunks=1)


@pytest.mark.slow
def test_a_batch_of_4096_on_a_vit_stays_under_4_gib():
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["n_gradients"] == measured["n_parameters"]
    assert measured["peak_bytes"] < 4 * 2**30, measured


def measure_large_batch(*, batch=4096, chunk=128, precision=torch.bfloat16):
    """One backward of a contrastive batch on a CLIP with random weights; prints peak memory, time and the loss."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 4}
    config = CLIPConfig(
        vision_config=tower | {"image_size": 64, "patch_size": 8},
        text_config=tower
        | {"num_hidden_layers": 4, "vocab_size": 5000, "max_position_embeddings": 16}
        | {"bos_token_id": 1, "eos_token_id": 4999, "pad_token_id": 0},
        projection_dim=256,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).train()
    pixels = torch.randint(256, (batch, 3, 64, 64), dtype=torch.uint8)
    ids = torch.randint(2, 4999, (batch, 16))
    ids[:, -1] = 4999
    group = torch.arange(batch)

    def encode(part):
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            image = model.get_image_features(pixel_values=pixels[part].float() / 127.5 - 1).pooler_output
            text = model.get_text_features(input_ids=ids[part]).pooler_output
        return functional.normalize(image.float(), dim=1), functional.normalize(text.float(), dim=1)

    parts = [slice(start, start + chunk) for start in range(0, batch, chunk)]
    base = peak_resident_bytes()
    start = time.monotonic()
    loss = contrastive_backward(
        encode,
        parts,
        lambda image_BD, text_TD: softmax_contrastive(image_BD, text_TD, group, group, scale=model.logit_scale.exp()),
        seeds=chunk_seeds(len(parts), seed=0, step=0),
    )
    measured = {
        "batch": batch,
        "chunk": chunk,
        "precision": str(precision),
        "base_bytes": base,
        "peak_bytes": peak_resident_bytes(),
        "time_s": round(time.monotonic() - start, 1),
        "loss": loss.item(),
        "n_gradients": sum(parameter.grad is not None for parameter in model.parameters()),
        "n_parameters": len(list(model.parameters())),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    sizes = dict(zip(("batch", "chunk"), map(int, sys.argv[1:3]), strict=False))
    measure_large_batch(**sizes, precision=getattr(torch, sys.argv[3]) if len(sys.argv) > 3 else torch.bfloat16)
