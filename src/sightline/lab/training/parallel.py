"""One batch in several parts: ranks that work at once (torchrun), chunks that follow each other (gradient caching).

The scaling, which a test holds to one process's gradient: every rank gathers the embeddings of all W ranks and computes
the same loss L of the whole batch. `gather_features` sums the gradients of those W equal losses, so that each rank's
embeddings get W * dL/dx. `average_gradients` then divides the sum over ranks by W, which gives dL/dw of the whole
batch, as in one process. The loss's own parameters (scale, bias) get dL/dw on each rank, and their average is the same.
A loss of a rank's own rows (distillation) is averaged over ranks: the batch's mean where ranks have equally many rows.

Chunks (Gao et al. 2021, arXiv:2101.06983): a contrastive loss needs the embeddings of the whole batch but not the
activations behind them. So all chunks are encoded without a graph, the loss gives its gradient with respect to the
embeddings, and each chunk is encoded once more, with a graph, to carry its rows of that gradient back into the towers.
That costs one more forward pass, and equals the gradient of the whole batch.

Shape suffixes: B rows of one rank, D dimension.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.core.models.torch_models import choose_device
from sightline.errors import TrainingError

ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""The variables that `torchrun` sets for each process."""
BUCKET_BYTES = 32 * 2**20
"""The gradients that are exchanged at once."""
REPEATABLE = 0.02
"""Two passes over one chunk may lie so far apart, relative to its norm: kernels' rounding, no other randomness."""

Chunk = TypeVar("Chunk")


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes that train together, seen from one of them; by default one alone, on the CPU."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """True for the rank that writes files and talks to the user."""
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
    """True where all ranks have the same string: the fingerprint of a config or of data. All must ask."""
    number = int.from_bytes(hashlib.blake2b(value.encode(), digest_size=7).digest())
    return highest(number, world) == -highest(-number, world)


def any_rank(flag: bool, world: World) -> bool:
    """True where any rank says yes, known to all: to stop together. Waits until all ranks have asked."""
    return bool(highest(int(flag), world))


def highest(number: int, world: World) -> int:
    """The highest number that any rank gives, known to all. Waits until all ranks have asked."""
    if world.size == 1:
        return number
    answer = torch.tensor([number], dtype=torch.int64, device=world.device)
    dist.all_reduce(answer, op=dist.ReduceOp.MAX)
    return int(answer.item())


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
        n_gpus = torch.cuda.device_count()
        index = local_rank if device.index is None else device.index
        if index >= n_gpus:
            raise TrainingError(
                f"GPU {index} was asked for, but this machine shows {n_gpus} GPUs. Start at most that many processes a "
                "machine (`torchrun --nproc-per-node`), or choose the device cpu."
            )
        return torch.device("cuda", index)
    if device.type != "cpu" and size > 1:
        raise TrainingError(
            f"Several processes can train together on cuda and cpu, not on {device.type}. Start one process without "
            "torchrun, or choose the device cpu."
        )
    return device


def _read_count(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise TrainingError(f"{name} must be a whole number of 0 or more, not {text!r}; start with torchrun.")
    return int(text)


def contrastive_backward(
    encode: Callable[[Chunk], tuple[Tensor, ...]],
    chunks: Sequence[Chunk],
    loss_of_features: Callable[..., Tensor],
    *,
    seeds: Sequence[int],
) -> Tensor:
    """Add the gradients of one batch's loss to the parameters' `.grad`; returns the loss, a scalar without a graph.

    `encode(chunk)` gives embeddings (rows, D), one tensor for each kind (images, texts); kinds and chunks may have
    different numbers of rows. `loss_of_features(*features)` takes them with the rows of all chunks in order, gathers
    them over ranks where there are several, and may use parameters of its own. A single chunk needs no second pass.
    Both passes over a chunk see torch's random numbers from its seed (dropout), and nothing else may be random in
    `encode`; the caller's random state stays as it was. `encode` opens autocast itself, so that backward runs outside.

    Raises TrainingError where seeds don't fit the chunks, autocast is on already, no embedding needs a gradient, or a
    second pass gives other embeddings than the first.
    """
    _check_call(len(chunks), len(seeds))
    is_plain = len(chunks) == 1
    encoded = [_encode(encode, chunk, seed, with_graph=is_plain) for chunk, seed in zip(chunks, seeds, strict=True)]
    features = [torch.cat(rows).detach().requires_grad_() for rows in zip(*encoded, strict=True)]
    with torch.enable_grad():
        loss = loss_of_features(*features)
    loss.backward()  # type: ignore[no-untyped-call]
    n_rows = [[len(tensor) for tensor in tensors] for tensors in encoded]
    wanted = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in features]
    by_kind = [torch.split(gradient, sizes) for gradient, *sizes in zip(wanted, *n_rows, strict=True)]
    differ = []
    for number, gradients in enumerate(zip(*by_kind, strict=True)):
        again = encoded[number]
        if not is_plain:
            again = _encode(encode, chunks[number], seeds[number], with_graph=True)
            differ += _differences(encoded[number], again)
        _carry_back(again, gradients)
    if differ and torch.stack(differ).any():  # read once for all chunks
        raise TrainingError(
            "The second pass over a chunk gave other embeddings than the first, so that gradients would be wrong. "
            "`encode` may draw random numbers from torch only, and must not change the chunk."
        )
    return loss.detach()


def chunk_seeds(n_chunks: int, *, seed: int, step: int, rank: int = 0) -> tuple[int, ...]:
    """A seed for each chunk of a step, the same after a resume and different between steps, ranks and chunks."""
    return tuple(
        int(np.random.SeedSequence([seed, step, rank, number]).generate_state(1)[0]) for number in range(n_chunks)
    )


def refuse_false_batch_statistics(module: nn.Module, *, world_size: int, n_chunks: int) -> None:
    """Raises TrainingError where batch norm would take the statistics of a part of the batch for those of all of it."""
    norms = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    guilty = [name for name, layer in norms if layer.training or layer.running_mean is None]
    if not guilty or (world_size == 1 and n_chunks == 1):
        return
    split = " and ".join(
        f"{number} {parts}"
        for number, parts in ((world_size, "ranks"), (n_chunks, "chunks of gradient caching"))
        if number > 1
    )
    raise TrainingError(
        f"{len(guilty)} batch norm layers ({', '.join(guilty[:3])}{', ...' if len(guilty) > 3 else ''}) normalise by "
        f"the statistics of what they see at once, but this batch is split into {split}: each part would be normalised "
        "by itself, and the run would not be that of the batch size it states. Freeze the statistics (`--set "
        "freeze_norm=true`, fit for weights that were trained before), or train in one process without gradient "
        "caching, or choose a tower without batch norm (a ViT)."
    )


def _check_call(n_chunks: int, n_seeds: int) -> None:
    if n_chunks == 0 or n_chunks != n_seeds:
        raise TrainingError(f"{n_chunks} chunks with {n_seeds} seeds; a batch needs a chunk, and each chunk a seed.")
    if any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda", "mps")):
        raise TrainingError(
            "contrastive_backward was called under autocast, where the first pass would leave weights without "
            "gradients in autocast's cache; open autocast inside `encode` only."
        )


def _encode(
    encode: Callable[[Chunk], tuple[Tensor, ...]], chunk: Chunk, seed: int, *, with_graph: bool
) -> tuple[Tensor, ...]:
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus), torch.set_grad_enabled(with_graph):
        torch.manual_seed(seed)
        return encode(chunk)


def _carry_back(encoded: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> None:
    """Backward from the embeddings of one chunk; those of a frozen tower need none."""
    trained = [(tensor, gradient) for tensor, gradient in zip(encoded, gradients, strict=True) if tensor.requires_grad]
    if not trained:
        raise TrainingError("No embedding depends on a parameter that is trained; unfreeze a tower or a projection.")
    tensors, wanted = zip(*trained, strict=True)
    torch.autograd.backward(tensors, wanted)


def _differences(first: tuple[Tensor, ...], again: tuple[Tensor, ...]) -> list[Tensor]:
    """For each kind of embedding whether the second pass gave others, bool on their device."""
    # comparing so that NaN passes: the loss shows it, and the loop names its cause
    return [
        (after.detach() - before).norm() > REPEATABLE * before.norm()
        for before, after in zip(first, again, strict=True)
    ]
