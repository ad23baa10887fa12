"""Gradients of a contrastive batch in chunks, so that its size doesn't depend on memory; and batch norm's part in it.

Gao et al. 2021 (arXiv:2101.06983): a contrastive loss needs the embeddings of the whole batch but not the activations
behind them. So all chunks are encoded without a graph, the loss gives its gradient with respect to the embeddings, and
each chunk is encoded once more, with a graph, to carry its rows of that gradient back into the towers. That costs one
more forward pass, and equals the gradient of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.errors import TrainingError

Chunk = TypeVar("Chunk")

REPEATABLE = 0.02
"""How far two passes over one chunk may lie apart, relative to its norm: kernels' rounding, no other randomness."""


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
    by_kind = [torch.split(_gradient_of(tensor), sizes) for tensor, *sizes in zip(features, *n_rows, strict=True)]
    for number, gradients in enumerate(zip(*by_kind, strict=True)):
        again = encoded[number]
        if not is_plain:
            again = _encode(encode, chunks[number], seeds[number], with_graph=True)
            _check_repeated(encoded[number], again)
        _carry_back(again, gradients)
    return loss.detach()


def chunk_seeds(n_chunks: int, *, seed: int, step: int, rank: int = 0) -> tuple[int, ...]:
    """A seed for each chunk of a step, the same after a resume and different between steps, ranks and chunks."""
    return tuple(
        int(np.random.SeedSequence([seed, step, rank, number]).generate_state(1)[0]) for number in range(n_chunks)
    )


def refuse_false_batch_statistics(module: nn.Module, *, world_size: int, n_chunks: int) -> None:
    """Raises TrainingError where batch norm would take the statistics of a part of the batch for those of all of it."""
    guilty = [name for name, layer in _batch_norms(module) if layer.training or layer.running_mean is None]
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


def _gradient_of(feature: Tensor) -> Tensor:
    return torch.zeros_like(feature) if feature.grad is None else feature.grad


def _carry_back(encoded: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> None:
    """Backward from the embeddings of one chunk; those of a frozen tower need none."""
    trained = [(tensor, gradient) for tensor, gradient in zip(encoded, gradients, strict=True) if tensor.requires_grad]
    if not trained:
        raise TrainingError("No embedding depends on a parameter that is trained; unfreeze a tower or a projection.")
    tensors, wanted = zip(*trained, strict=True)
    torch.autograd.backward(tensors, wanted)


def _check_repeated(first: tuple[Tensor, ...], again: tuple[Tensor, ...]) -> None:
    for before, after in zip(first, again, strict=True):
        # written so that NaN passes: the loss shows it, and the loop names its cause
        if before.shape != after.shape or (after.detach() - before).norm() > REPEATABLE * before.norm():
            raise TrainingError(
                "The second pass over a chunk gave other embeddings than the first, so that gradients would be wrong. "
                "`encode` may draw random numbers from torch only, and must not change the chunk."
            )


def _batch_norms(module: nn.Module) -> list[tuple[str, _BatchNorm]]:
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
