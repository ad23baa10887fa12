"""Ranks are real processes: this file is also the script that two of them run, started by torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from sightline.errors import TrainingError
from sightline.lab.training.losses import contrastive, distillation
from sightline.lab.training.parallel import (
    ENVIRONMENT,
    World,
    all_equal,
    any_rank,
    average_gradients,
    broadcast_from_first,
    chunk_seeds,
    contrastive_backward,
    gather_features,
    highest,
    read_world,
    start_world,
)

GROUP_B = torch.arange(8) + 3
GROUP_T = torch.tensor([3, 3, 4, 5, 5, 6, 6, 7, 8, 9, 9, 10, -1])
EVEN = {"images": [0, 4, 8], "texts": [0, 7, 13]}
"""Where each rank's rows begin and end: as many images on both, other numbers of texts."""
UNEVEN = {"images": [0, 5, 8], "texts": [0, 8, 13]}
CASES = [
    ("softmax", EVEN, 1),
    ("sigmoid", EVEN, 1),
    ("softmax", UNEVEN, 1),
    ("sigmoid", UNEVEN, 2),
    ("softmax", EVEN, 3),
]
"""Loss, rows of the ranks, chunks of gradient caching on each rank."""


class TwoTowers(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.image = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 6))
        self.text = nn.Sequential(nn.EmbeddingBag(20, 12), nn.Linear(12, 6))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def encode(self, batch):
        images, texts = batch
        return tuple(functional.normalize(x, dim=1) for x in (self.image(images), self.text(texts)))


def make_batch():
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(8, 10, generator=generator)
    texts = torch.randint(20, (13, 4), generator=generator)
    return images, texts, torch.randn(8, 6, generator=generator)


def gradients_of_step(name, borders, n_chunks, world):
    """One training step's gradients, on this rank's part of the batch."""
    model = TwoTowers()
    images, texts, teacher = make_batch()
    own = {kind: slice(ends[world.rank], ends[world.rank + 1]) for kind, ends in borders.items()}

    def loss_of(image_BD, text_TD):
        image_BD, text_TD = gather_features(image_BD, world), gather_features(text_TD, world)
        bias = model.bias if name == "sigmoid" else None
        loss = contrastive(image_BD, text_TD, GROUP_B, GROUP_T, scale=model.logit_scale.exp(), bias=bias)
        return loss + 0.5 * distillation(image_BD, teacher)

    chunks = list(
        zip(images[own["images"]].tensor_split(n_chunks), texts[own["texts"]].tensor_split(n_chunks), strict=True)
    )
    seeds = chunk_seeds(n_chunks, seed=0, step=0, rank=world.rank)
    value = contrastive_backward(model.encode, chunks, loss_of, seeds=seeds)
    average_gradients(model.parameters(), world, bucket_bytes=400)
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    return {"loss": value, **gradients}


def state_of(module):
    """Exact values of all parameters and buffers as text."""
    return str({name: tensor.tolist() for name, tensor in module.state_dict().items()})


def run_rank(folder):
    results = {}
    with start_world("cpu", timeout_s=60) as world:
        for number, case in enumerate(CASES):
            results |= {f"{number}.{key}": value for key, value in gradients_of_step(*case, world).items()}

        rows = torch.full((world.rank, 2), 1.0 + world.rank, dtype=torch.bfloat16)  # rank 0 has none
        results["ragged"] = gather_features(rows, world)

        partly = nn.ParameterDict({key: nn.Parameter(torch.ones(3)) for key in ("both", "second", "never", "frozen")})
        partly["narrow"] = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        partly["frozen"].requires_grad_(False)
        ((partly["both"] + partly["narrow"]) * (1.0 + world.rank)).sum().backward()
        if world.rank == 1:
            (partly["second"] * 5).sum().backward()
        average_gradients(partly.parameters(), world)
        results |= {f"partly.{key}": p.grad for key, p in partly.items() if p.grad is not None}

        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        module.register_buffer("flags", torch.tensor([world.rank == 0, True]))
        with torch.no_grad():
            for tensor in (*module.parameters(), module[1].running_mean):
                tensor.fill_(world.rank + 1)
        before = all_equal(state_of(module), world)
        broadcast_from_first(module, world)
        after = all_equal(state_of(module), world)
        results["broadcast"] = torch.stack([module[0].weight.mean(), module[1].running_mean.mean(), *module.flags])
        answers = [before, after, any_rank(world.rank == 1, world), any_rank(False, world)]
        results["highest"] = torch.tensor(highest(3 - world.rank, world))
        results["answers"] = torch.tensor([*answers, all_equal("one config", world)])
        save_file({key: value.contiguous() for key, value in results.items()}, folder / f"{world.rank}.safetensors")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What each of two processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_two_ranks_have_the_gradients_of_one_process(two_ranks, number):
    name, _, _ = CASES[number]
    whole = gradients_of_step(name, {"images": [0, 8], "texts": [0, 13]}, 1, World())
    assert {"loss", "logit_scale", "image.0.weight", "text.0.weight"} <= whole.keys()
    assert ("bias" in whole) == (name == "sigmoid")
    for results in two_ranks:
        own = {key.removeprefix(f"{number}."): value for key, value in results.items() if key.startswith(f"{number}.")}
        assert own.keys() == whole.keys()
        for key, value in whole.items():
            torch.testing.assert_close(
                own[key],
                value,
                rtol=1e-5,
                atol=1e-6,
                msg=lambda text, key=key: f"{key}: {text}",  # type: ignore[misc]
            )


def test_both_ranks_have_the_same_gradients_bit_for_bit(two_ranks):
    assert two_ranks[0].keys() == two_ranks[1].keys()
    assert all(torch.equal(value, two_ranks[1][key]) for key, value in two_ranks[0].items())


def test_rows_come_in_rank_order_also_where_a_rank_has_none(two_ranks):
    assert torch.equal(two_ranks[0]["ragged"], torch.full((1, 2), 2.0, dtype=torch.bfloat16))


def test_a_parameter_that_one_rank_used_is_averaged_and_one_that_none_used_has_no_gradient(two_ranks):
    assert two_ranks[0]["partly.both"].tolist() == [1.5] * 3
    assert two_ranks[0]["partly.second"].tolist() == [2.5] * 3
    assert torch.equal(two_ranks[0]["partly.narrow"], torch.full((3,), 1.5, dtype=torch.bfloat16))
    assert not {"partly.never", "partly.frozen"} & two_ranks[0].keys()


def test_weights_and_buffers_of_the_first_rank_reach_all(two_ranks):
    assert two_ranks[1]["broadcast"].tolist() == [1, 1, 1, 1]


def test_ranks_find_out_whether_they_agree(two_ranks):
    weights_before, weights_after, any_yes, any_no, config = two_ranks[0]["answers"].tolist()
    assert (weights_before, weights_after, any_yes, any_no, config) == (False, True, True, False, True)


def test_the_highest_number_of_any_rank_is_known_to_all(two_ranks):
    assert [results["highest"].item() for results in two_ranks] == [3, 3]


def test_one_process_exchanges_nothing():
    world = World()
    rows = torch.ones(2, 3, requires_grad=True)
    assert gather_features(rows, world) is rows
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 3.0])
    average_gradients([parameter], world)
    assert parameter.grad.tolist() == [1.0, 3.0]
    broadcast_from_first(nn.Linear(1, 1), world)
    assert all_equal("anything", world)
    assert any_rank(True, world)
    assert not any_rank(False, world)
    assert highest(2, world) == 2
    assert world.is_first


def set_environment(monkeypatch, **values):
    complete = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in {**complete, **values}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)


def test_without_torchrun_a_process_is_alone(monkeypatch):
    set_environment(monkeypatch, **dict.fromkeys(ENVIRONMENT))
    with start_world("cpu") as world:
        assert (world.rank, world.size, world.device) == (0, 1, torch.device("cpu"))
    assert not torch.distributed.is_initialized()


def test_a_world_of_one_under_torchrun_needs_no_process_group(monkeypatch):
    set_environment(monkeypatch, WORLD_SIZE="1")
    with start_world("cpu") as world:
        assert world.size == 1
        assert not torch.distributed.is_initialized()


def test_the_environment_of_torchrun_says_rank_and_size(monkeypatch):
    set_environment(monkeypatch, RANK="3", WORLD_SIZE="4", LOCAL_RANK="1")
    world = read_world(os.environ, device="cpu")
    assert (world.rank, world.size, world.is_first) == (3, 4, False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"MASTER_PORT": None, "LOCAL_RANK": None}, "RANK, WORLD_SIZE, MASTER_ADDR but not LOCAL_RANK, MASTER_PORT"),
        ({"WORLD_SIZE": ""}, "but not WORLD_SIZE"),
        ({"RANK": "two"}, "RANK must be a whole number of 0 or more, not 'two'"),
        ({"RANK": "-1"}, "not '-1'"),
        ({"RANK": "2"}, "RANK is 2, but WORLD_SIZE 2 allows 0 to 1"),
    ],
)
def test_an_incomplete_environment_is_refused(monkeypatch, values, message):
    set_environment(monkeypatch, **values)
    with pytest.raises(TrainingError, match=message), start_world("cpu"):
        pass


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    set_environment(monkeypatch, RANK="2", WORLD_SIZE="4", LOCAL_RANK="2")
    with pytest.raises(TrainingError, match="GPU 2 was asked for, but this machine shows 2 GPUs"):
        read_world(os.environ, device="cuda")
    set_environment(monkeypatch, RANK="1", WORLD_SIZE="4", LOCAL_RANK="1")
    assert read_world(os.environ, device="cuda").device == torch.device("cuda", 1)


def test_ranks_can_not_share_a_device_that_has_no_way_to_exchange(monkeypatch):
    set_environment(monkeypatch)
    with pytest.raises(TrainingError, match="on cuda and cpu, not on mps"):
        read_world(os.environ, device="mps")


def test_others_that_never_come_are_an_error(monkeypatch):
    set_environment(monkeypatch, RANK="1", MASTER_PORT="9")  # nothing listens there
    with (
        pytest.raises(TrainingError, match=r"Rank 1 of 2 can't reach the others at 127.0.0.1:9"),
        start_world("cpu", timeout_s=1),
    ):
        pass


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
