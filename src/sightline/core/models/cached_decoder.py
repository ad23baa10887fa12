"""The decoder of a captioner with a cache, as torch modules: what PyTorch runs, and what is exported to ONNX.

Two things make it fast. What earlier tokens were in each layer (keys and values) comes in and goes out, so that only
new tokens are computed. And cross-attention has no keys and values at all: instead of projecting every cell of an
image's memory for every layer, the few queries are taken into the memory's own space, and what they pick up is taken
out of it (the products are only grouped otherwise; a key's bias adds the same to all cells, which softmax ignores). For
BLIP-base and 20 tokens that is a third of the arithmetic, and an image holds 2 MB instead of 42.

Shape suffixes: B images, R rows of each, L new tokens, P earlier ones, Q both, M cells of an image's memory, C its
width, E width of the decoder, K heads, F width of a head, V vocabulary, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class CachedDecoder(nn.Module):
    """Tokens, memory and what is kept of earlier tokens -> logits, and what is to be kept of all.

    Ids (B, R, L), memory (B, M, C), and of each layer keys and values (B, R, K, P, F) -> logits (B, R, L, V), then the
    layers' keys and values (B, R, K, Q, F).
    """

    def __init__(self, parts: CaptionerParts) -> None:
        super().__init__()
        self.parts = parts
        layers = parts.layers()
        self.layers = nn.ModuleList(layers)
        self._sizes = [(layer.heads, layer.head_width) for layer in layers for _ in ("key", "value")]

    def forward(self, ids_BRL: Tensor, memory_BMC: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """`past` holds the key and the value of the first layer, then those of the second, ..."""
        earlier, new = past[0].shape[3], ids_BRL.shape[2]
        places_L = torch.arange(new, device=ids_BRL.device) + earlier
        sees_LQ = torch.arange(earlier + new, device=ids_BRL.device) <= places_L[:, None]
        mask_LQ = torch.where(sees_LQ, 0.0, -torch.inf)
        x_BRLE = self.parts.embed(ids_BRL, places_L)
        present: list[Tensor] = []
        for layer, key, value in zip(self.layers, past[::2], past[1::2], strict=True):
            x_BRLE, *states = layer(x_BRLE, memory_BMC, key, value, mask_LQ)
            present += states
        return self.parts.logits(x_BRLE), *present

    def empty_past(self, images: int, rows: int, earlier: int) -> list[Tensor]:
        """Zeros in the shapes of `past`."""
        device = next(self.parameters()).device
        return [torch.zeros(images, rows, heads, earlier, width, device=device) for heads, width in self._sizes]


class Layer(nn.Module):
    """Self-attention, cross-attention, MLP; a norm before each (`norms_first`: the starter's) or after each (BLIP)."""

    def __init__(
        self,
        *,
        heads: int,
        joint: nn.Linear,
        out: nn.Linear,
        cross: CrossAttention,
        mlp: nn.Module,
        norms: list[Any],
        norms_first: bool,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = heads, joint.in_features // heads
        self.joint, self.out, self.cross, self.mlp = joint, out, cross, mlp
        self.norms, self.norms_first = nn.ModuleList(norms), norms_first

    def forward(
        self, x_BRLE: Tensor, memory_BMC: Tensor, past_key: Tensor, past_value: Tensor, mask_LQ: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> (B, R, L, E), keys and values (B, R, K, Q, F)."""
        states: list[Tensor] = []

        def attend(x_BRLE: Tensor) -> Tensor:
            query, key, value = (self._split(part) for part in self.joint(x_BRLE).chunk(3, dim=-1))
            key, value = torch.cat([past_key, key], dim=3), torch.cat([past_value, value], dim=3)
            states[:] = key, value
            weights = torch.softmax((query * self.head_width**-0.5) @ key.transpose(-1, -2) + mask_LQ, dim=-1)
            mixed_BRLE: Tensor = self.out((weights @ value).transpose(2, 3).flatten(3))
            return mixed_BRLE

        changes: tuple[Callable[[Tensor], Tensor], ...] = (attend, lambda x: self.cross(x, memory_BMC), self.mlp)
        for norm, change in zip(self.norms, changes, strict=True):
            x_BRLE = x_BRLE + change(norm(x_BRLE)) if self.norms_first else norm(x_BRLE + change(x_BRLE))
        key, value = states
        return x_BRLE, key, value

    def _split(self, x_BRLE: Tensor) -> Tensor:
        """(B, R, L, E) -> (B, R, K, L, F)."""
        return x_BRLE.reshape(*x_BRLE.shape[:3], self.heads, self.head_width).transpose(2, 3)


class CrossAttention(nn.Module):
    """Multi-head attention over cells, without a key or a value for any of them."""

    def __init__(self, *, heads: int, query: nn.Linear, key: nn.Linear, value: nn.Linear, out: nn.Linear) -> None:
        super().__init__()
        self.heads = heads
        self.query = query
        self.out = out
        scale = (query.out_features // heads) ** -0.5
        self.into_KFC = nn.Parameter(scale * key.weight.detach().reshape(heads, -1, key.in_features))
        self.out_of_KCF = nn.Parameter(
            value.weight.detach().reshape(heads, -1, value.in_features).transpose(1, 2).contiguous()
        )
        self.value_bias_E = value.bias

    def forward(self, x_BRLE: Tensor, memory_BMC: Tensor) -> Tensor:
        """(B, R, L, E) over (B, M, C) -> (B, R, L, E)."""
        images, rows, new, width = x_BRLE.shape
        query_KnF = self.query(x_BRLE).reshape(-1, self.heads, width // self.heads).transpose(0, 1)
        asked_KnC = query_KnF @ self.into_KFC
        asked_BnC = asked_KnC.reshape(self.heads, images, rows * new, -1).transpose(0, 1).flatten(1, 2)
        found_BnC = torch.softmax(asked_BnC @ memory_BMC.transpose(1, 2), dim=-1) @ memory_BMC
        found_KnC = found_BnC.reshape(images, self.heads, rows * new, -1).transpose(0, 1).flatten(1, 2)
        mixed_nE = (found_KnC @ self.out_of_KCF).transpose(0, 1).flatten(1) + self.value_bias_E
        mixed: Tensor = self.out(mixed_nE.reshape(images, rows, new, width))
        return mixed


class CaptionerParts(Protocol):
    """A captioner taken apart, as `CachedDecoder` takes it: a module that holds its `model`."""

    model: Any

    def see(self, pixels_B3SS: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> the memory that the decoder attends over (B, M, C)."""

    def embed(self, ids_BRL: Tensor, places_L: Tensor) -> Tensor:
        """Tokens and their places -> (B, R, L, E)."""

    def layers(self) -> list[Layer]:
        """The decoder's layers."""

    def logits(self, x_BRLE: Tensor) -> Tensor:
        """(B, R, L, E) -> (B, R, L, V)."""


class BlipParts(nn.Module):
    """transformers' `BlipForConditionalGeneration`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def see(self, pixels_B3SS: Tensor) -> Tensor:
        memory_BMC: Tensor = self.model.vision_model(pixel_values=pixels_B3SS)[0]
        return memory_BMC

    def embed(self, ids_BRL: Tensor, places_L: Tensor) -> Tensor:
        table = self.model.text_decoder.bert.embeddings
        x_BRLE = table.word_embeddings(ids_BRL) + table.position_embeddings(places_L)
        normed_BRLE: Tensor = table.LayerNorm(x_BRLE)
        return normed_BRLE

    def layers(self) -> list[Layer]:
        return [self._layer(layer) for layer in self.model.text_decoder.bert.encoder.layer]

    def _layer(self, layer: Any) -> Layer:
        own, other = layer.attention, layer.crossattention
        cross = CrossAttention(
            heads=other.self.num_attention_heads,
            query=other.self.query,
            key=other.self.key,
            value=other.self.value,
            out=other.output.dense,
        )
        return Layer(
            heads=own.self.num_attention_heads,
            joint=joined(own.self.query, own.self.key, own.self.value),
            out=own.output.dense,
            cross=cross,
            mlp=nn.Sequential(layer.intermediate.dense, layer.intermediate.intermediate_act_fn, layer.output.dense),
            norms=[own.output.LayerNorm, other.output.LayerNorm, layer.output.LayerNorm],
            norms_first=False,
        )

    def logits(self, x_BRLE: Tensor) -> Tensor:
        logits_BRLV: Tensor = self.model.text_decoder.cls(x_BRLE)
        return logits_BRLV


def joined(*linears: nn.Linear) -> nn.Linear:
    """Several maps of the same vector as one."""
    weight = torch.cat([one.weight.detach() for one in linears])
    return linear_of(weight, torch.cat([one.bias.detach() for one in linears]))


def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A map with these weights."""
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = nn.Parameter(weight), nn.Parameter(bias)
    return made
