"""Gradients and attention: the cells of an image tower that move the similarity. Loads torch.

Shape suffixes: B images, T texts, H W rows and columns of cells, N cells or tokens, C channels, K heads, D joint
space, S side in pixels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.core.models.torch_models import ClipTowers, ConvTowers, TorchEncoder


def gradient_cells(
    encoder: TorchEncoder, pixels_BSS3: NDArray[np.uint8], text_TD: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Gradient x activation of the last layer with fine cells: (B, T, H, W), negative where they speak against.

    It is the gradient of the cosine, which leaves out what a cell shares with the image's own vector. In a
    convolutional tower it is averaged over the cells first, a weight for each channel (Selvaraju et al. 2017, Grad-CAM,
    arXiv:1610.02391), at the end of the last stage but one; in a ViT each patch keeps its own, where what pools them
    reads them: CLIP's class token in the last layer's attention, SigLIP's head after the last norm.
    """
    convolutional = isinstance(encoder.towers, ConvTowers)
    with _kept(_patch_layer(encoder.towers)) as kept, torch.enable_grad():
        embed_BD = _embed(encoder, pixels_BSS3)
        (activation,) = kept
        heat = []
        for gradient in _gradients(embed_BD, [activation], text_TD):
            if convolutional:
                heat.append((gradient[0].mean(dim=(2, 3), keepdim=True) * activation).sum(dim=1))
            else:
                heat.append(_square((gradient[0] * activation).sum(dim=-1), encoder))
    return _to_numpy(torch.stack(heat, dim=1))


def attention_cells(
    encoder: TorchEncoder, pixels_BSS3: NDArray[np.uint8], text_TD: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The class token's share of each patch through all layers: (B, T, H, W), not negative.

    Attention is weighted by its gradient, averaged over heads where it helps, and rolled out from layer to layer
    (Chefer et al. 2021, arXiv:2103.15679, equations 5 and 6).
    """
    vision = encoder.towers.model.vision_model
    layers = [layer.self_attn for layer in vision.encoder.layers]
    with _eager_attention(vision), _kept(*layers, output=1) as kept, torch.enable_grad():
        embed_BD = _embed(encoder, pixels_BSS3)
        heat = []
        for gradients in _gradients(embed_BD, kept, text_TD):
            relevance_BNN = torch.eye(kept[0].shape[-1], device=embed_BD.device).expand(len(embed_BD), -1, -1)
            for attention_BKNN, gradient_BKNN in zip(kept, gradients, strict=True):
                mixed_BNN = (gradient_BKNN * attention_BKNN).clamp(min=0).mean(dim=1)
                relevance_BNN = relevance_BNN + mixed_BNN @ relevance_BNN
            heat.append(_square(relevance_BNN[:, 0], encoder))
    return _to_numpy(torch.stack(heat, dim=1))


def _embed(encoder: TorchEncoder, pixels_BSS3: NDArray[np.uint8]) -> torch.Tensor:
    """Unit vectors (B, D) with their graph, also of towers whose weights are frozen."""
    planes_B3SS = torch.from_numpy(encoder.card.preprocessing.normalise(pixels_BSS3)).to(encoder.device)
    embed_BD = encoder.towers.embed_images(planes_B3SS.requires_grad_(True))[0]
    return torch.nn.functional.normalize(embed_BD.float(), dim=-1)


def _gradients(
    embed_BD: torch.Tensor, kept: Sequence[torch.Tensor], text_TD: NDArray[np.float32]
) -> Iterator[tuple[torch.Tensor, ...]]:
    """For each text, the gradients of its cosines by what was kept. Images don't mix, so one sum serves all."""
    for text_D in torch.from_numpy(text_TD).to(embed_BD.device):
        yield torch.autograd.grad((embed_BD @ text_D).sum(), kept, retain_graph=True)


def _patch_layer(towers: Any) -> Any:
    """The module whose output is looked at."""
    if isinstance(towers, ConvTowers):
        tower = towers.model.image_tower
        return tower.blocks[tower.fine_block]
    vision = towers.model.vision_model
    # After a norm: before it, scaling a patch changes nothing, so gradient x activation would be 0 but for rounding.
    return vision.encoder.layers[-1].layer_norm1 if isinstance(towers, ClipTowers) else vision.post_layernorm


@contextlib.contextmanager
def _kept(*layers: torch.nn.Module, output: int = 0) -> Iterator[list[torch.Tensor]]:
    """The outputs of layers while the block runs, in the order in which they ran."""
    kept: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, outputs: Any) -> None:
        kept.append(outputs[output] if isinstance(outputs, tuple) else outputs)

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _eager_attention(vision: Any) -> Iterator[None]:
    """Attention that tells its weights, which the fast kernels don't."""
    before = vision.config._attn_implementation
    vision.set_attn_implementation("eager")
    try:
        yield
    finally:
        vision.set_attn_implementation(before)


def _square(tokens_BN: torch.Tensor, encoder: TorchEncoder) -> torch.Tensor:
    """Tokens (B, N) -> rows and columns of patches, without CLIP's class token."""
    patches_BN = tokens_BN[:, 1:] if isinstance(encoder.towers, ClipTowers) else tokens_BN
    side = math.isqrt(patches_BN.shape[1])
    return patches_BN.reshape(-1, side, side)


def _to_numpy(heat_BTHW: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = heat_BTHW.detach().float().cpu().numpy()
    return array


METHODS: dict[str, Callable[[TorchEncoder, NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32]]] = {
    "gradient": gradient_cells,
    "attention": attention_cells,
}
