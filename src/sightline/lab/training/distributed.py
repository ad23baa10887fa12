"""Several processes that train one model, started by `torchrun`: who takes part, and what they exchange.

The scaling, which a test holds to one process's gradient: every rank gathers the embeddings of all W ranks and computes
the same loss L of the whole batch. `gather_features` sums the gradients of those W equal losses, so that each rank's
embeddings get W * dL/dx. `average_gradients` then divides the sum over ranks by W, which gives dL/dw of the whole
batch, as in one process. The loss's own parameters (scale, bias) get dL/dw on each rank, and their average is the same.
A loss of a rank's own rows (distillation) is averaged over ranks: the batch's mean where ranks have equally many rows.

Shape suffixes: B rows of one rank, D dimension.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sightline.core.models.torch_models import choose_device
from sightline.errors import TrainingError

ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What `torchrun` sets for each process."""
BUCKET_BYTES = 32 * 2**20
"""How much of the gradients is exchanged at once."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes that train together, seen from one of them; by default one alone, on the CPU."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes files and talks to the user."""
        return self.rank == 0


@contextlib.contextmanager
def start_world(device: str = "auto", *, timeout_s: float = 1800.0) -> Iterator[World]:
    """Join the processes that `torchrun` started (nccl on CUDA, gloo on the CPU), or be alone where it didn't.

    A rank that waits `timeout_s` for another gives up. Raises TrainingError where the environment is incomplete or
    contradicts itself, the device isn't there or can't be shared, or the other processes can't be reached.
    """
    world = read_world(os.environ, device=device)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.size == 1:
        yield world
        return
    _join(world, timeout_s=timeout_s)
    try:
        yield world
        any_rank(False, world)  # a rank that leaves first would take the connections of the others with it
    finally:
        dist.destroy_process_group()


def read_world(environment: Mapping[str, str], *, device: str = "auto") -> World:
    """The world as the variables in `ENVIRONMENT` describe it; see `start_world` for the errors."""
    missing = [name for name in ENVIRONMENT if not environment.get(name)]
    if len(missing) == len(ENVIRONMENT):
        return World(device=_own_device(choose_device(device), local_rank=0, size=1))
    if missing:
        there = ", ".join(name for name in ENVIRONMENT if name not in missing)
        raise TrainingError(
            f"The environment has {there} but not {', '.join(missing)}, so it isn't clear which processes train "
            "together. Start with `torchrun --nproc-per-node N -m sightline train ...`, which sets all of them, or "
            f"unset {there} to train in one process."
        )
    rank, size, local_rank = (_read_count(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if rank >= size:
        raise TrainingError(f"RANK is {rank}, but WORLD_SIZE {size} allows 0 to {size - 1}; start with torchrun.")
    return World(rank=rank, size=size, device=_own_device(choose_device(device), local_rank=local_rank, size=size))


def gather_features(rows_BD: Tensor, world: World) -> Tensor:
    """The rows of all ranks in rank order, (sum of B, D), with gradients; ranks may have different B.

    Backward sums the gradients over ranks and keeps the own rows: see the scaling above. Every rank must call it, and
    call backward, in the same order. Keep embeddings in fp32: the sum is taken in their precision.
    """
    if world.size == 1:
        return rows_BD
    gathered: Tensor = _GatherRows.apply(rows_BD, world)  # type: ignore[no-untyped-call]
    return gathered


def gather_ids(ids_B: Tensor, world: World) -> Tensor:
    """The ids (groups) of all ranks in rank order, without gradients. They must mean the same on every rank."""
    return ids_B if world.size == 1 else torch.cat(_gather_rows(ids_B, world))


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], world: World, *, bucket_bytes: int = BUCKET_BYTES) -> None:
    """Replace gradients by their mean over ranks, a few large exchanges instead of one for each parameter.

    A parameter that only some ranks have used counts as zero on the others; one that no rank has used keeps None, so
    that an optimiser skips it as it would in one process.
    """
    if world.size == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    used = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32, device=world.device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    gradients = []
    for parameter, is_used in zip(trained, used.tolist(), strict=True):
        if is_used:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    for bucket in _fill_buckets(gradients, bucket_bytes):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])  # of several dtypes in the widest of them
        dist.all_reduce(flat)
        means = torch.split(flat / world.size, [gradient.numel() for gradient in bucket])
        for gradient, mean in zip(bucket, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def broadcast_from_first(module: nn.Module, world: World) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if world.size == 1:
        return
    for tensor in (*module.parameters(), *module.buffers()):
        sent = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(sent, src=0)
        tensor.copy_(sent)


def all_equal(value: str, world: World) -> bool:
    """Whether all ranks have the same string: the fingerprint of a config or of data. All must ask."""
    if world.size == 1:
        return True
    digest = torch.frombuffer(bytearray(hashlib.blake2b(value.encode(), digest_size=16).digest()), dtype=torch.uint8)
    digests = _gather_rows(digest.to(world.device), world)
    return all(torch.equal(other, digests[0]) for other in digests)


def any_rank(flag: bool, world: World) -> bool:
    """Whether any rank says yes, known to all: to stop together. Waits until all ranks have asked."""
    if world.size == 1:
        return flag
    answer = torch.tensor([flag], dtype=torch.int32, device=world.device)
    dist.all_reduce(answer, op=dist.ReduceOp.MAX)
    return bool(answer.item())


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward is the all-reduced gradient's own rows."""

    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor, world: World) -> Tensor:
        by_rank = _gather_rows(rows_BD, world)
        start = sum(len(rows) for rows in by_rank[: world.rank])
        ctx.own = slice(start, start + len(rows_BD))
        return torch.cat(by_rank)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[ctx.own], None


def _gather_rows(rows: Tensor, world: World) -> list[Tensor]:
    """The rows of each rank, padded on the way to the most that one has, since gathering wants equal shapes."""
    n_rows = torch.tensor([len(rows)], device=world.device)
    counts = [torch.zeros_like(n_rows) for _ in range(world.size)]
    dist.all_gather(counts, n_rows)
    lengths = [int(count) for count in counts]
    padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in range(world.size)]
    dist.all_gather(gathered, padded)
    return [tensor[:length] for tensor, length in zip(gathered, lengths, strict=True)]


def _fill_buckets(tensors: Iterable[Tensor], bucket_bytes: int) -> Iterator[list[Tensor]]:
    """Consecutive tensors, together at most `bucket_bytes`, or a larger one alone."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and filled + tensor.nbytes > bucket_bytes:
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.nbytes
    if bucket:
        yield bucket


def _join(world: World, *, timeout_s: float) -> None:
    # Optimisers import it sooner or later. Imported after the group is made, it keeps the group's threads alive past
    # their end, and the process aborts when it exits (torch 2.13).
    import torch._dynamo  # noqa: F401

    is_cuda = world.device.type == "cuda"
    try:
        dist.init_process_group(
            "nccl" if is_cuda else "gloo",
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout_s),
            device_id=world.device if is_cuda else None,
        )
    except (RuntimeError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise TrainingError(
            f"Rank {world.rank} of {world.size} can't reach the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: {first_line}. "
            "Check that all processes were started, and that nothing blocks that port."
        ) from error


def _own_device(kind: str, *, local_rank: int, size: int) -> torch.device:
    device = torch.device(kind)
    if device.type == "cuda":
        return _own_gpu(device, local_rank=local_rank)
    if device.type != "cpu" and size > 1:
        raise TrainingError(
            f"Several processes can train together on cuda and cpu, not on {device.type}. Start one process without "
            "torchrun, or choose the device cpu."
        )
    return device


def _own_gpu(device: torch.device, *, local_rank: int) -> torch.device:
    n_gpus = torch.cuda.device_count()
    index = local_rank if device.index is None else device.index
    if index >= n_gpus:
        raise TrainingError(
            f"GPU {index} was asked for, but this machine shows {n_gpus} GPUs. Start at most that many processes a "
            "machine (`torchrun --nproc-per-node`), or choose the device cpu."
        )
    return torch.device("cuda", index)


def _read_count(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise TrainingError(f"{name} must be a whole number of 0 or more, not {text!r}; start with torchrun.")
    return int(text)
