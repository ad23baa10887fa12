"""The text side of either captioner as the one module that is exported: tokens and what came before them -> logits.

Two things make it fast. What earlier tokens were in each layer (keys and values) comes in and goes out, so that only
new tokens are computed. And cross-attention has no keys and values at all: instead of projecting every cell of an
image's memory for every layer, the few queries are taken into the memory's own space, and what they pick up is taken
out of it (the products are only grouped otherwise; a key's bias adds the same to all cells, which softmax ignores). For
BLIP-base and 20 tokens that is a third of the arithmetic, and an image holds 2 MB instead of 42. Needs the extra
`torch`.

Shape suffixes: B images, R rows of each, L new tokens, P earlier ones, Q both, M cells of an image's memory, C its
width, E width of the decoder, K heads, F width of a head, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from sightline.core.models.convolutional import OwnCaptioner


class CachedDecoder(nn.Module):
    """Tokens, memory and what is kept of earlier tokens -> logits, and what is to be kept of all.

    Ids (B, R, L), memory (B, M, C), and of each layer keys and values (B, R, K, P, F) -> logits (B, R, L, V), then the
    layers' keys and values (B, R, K, Q, F).
    """

    def __init__(self, model: Any) -> None:
        """Take the weights of a `OwnCaptioner` or of transformers' `BlipForConditionalGeneration`."""
        super().__init__()
        self.parts: _Parts = _OwnParts(model) if isinstance(model, OwnCaptioner) else _BlipParts(model.text_decoder)
        self.layers = nn.ModuleList(self.parts.layers())

    def forward(self, ids_BRL: Tensor, memory_BMC: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """`past` holds the key and the value of the first layer, then those of the second, ..."""
        earlier, new = past[0].shape[3], ids_BRL.shape[2]
        places_L = torch.arange(new) + earlier
        sees_LQ = torch.arange(earlier + new) <= places_L[:, None]
        mask_LQ = torch.where(sees_LQ, 0.0, -torch.inf)
        x_BRLE = self.parts.embed(ids_BRL, places_L)
        present: list[Tensor] = []
        for layer, key, value in zip(self.layers, past[::2], past[1::2], strict=True):
            x_BRLE, *states = layer(x_BRLE, memory_BMC, key, value, mask_LQ)
            present += states
        return self.parts.logits(x_BRLE), *present

    def empty_past(self, images: int, rows: int, earlier: int) -> list[Tensor]:
        """Zeros in the shapes of `past`."""
        sizes = [(layer.heads, layer.head_width) for layer in self.parts.layers() for _ in ("key", "value")]
        return [torch.zeros(images, rows, heads, earlier, width) for heads, width in sizes]


class _Layer(nn.Module):
    """Self-attention, cross-attention, MLP; the norm before each (our own) or after each (BLIP)."""

    def __init__(
        self, *, heads: int, joint: nn.Linear, out: nn.Linear, cross: _CrossAttention, mlp: nn.Module, norms: _Norms
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = joint.in_features // heads
        self.joint = joint
        self.out = out
        self.cross = cross
        self.mlp = mlp
        self.norms = norms

    def forward(
        self, x_BRLE: Tensor, memory_BMC: Tensor, past_key: Tensor, past_value: Tensor, mask_LQ: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> (B, R, L, E), keys and values (B, R, K, Q, F)."""
        query, key, value = (self._split(part) for part in self.joint(self.norms.before(0, x_BRLE)).chunk(3, dim=-1))
        key, value = torch.cat([past_key, key], dim=3), torch.cat([past_value, value], dim=3)
        weights = torch.softmax((query * self.head_width**-0.5) @ key.transpose(-1, -2) + mask_LQ, dim=-1)
        mixed_BRLE = (weights @ value).transpose(2, 3).flatten(3)
        x_BRLE = self.norms.after(0, x_BRLE + self.out(mixed_BRLE))
        x_BRLE = self.norms.after(1, x_BRLE + self.cross(self.norms.before(1, x_BRLE), memory_BMC))
        return self.norms.after(2, x_BRLE + self.mlp(self.norms.before(2, x_BRLE))), key, value

    def _split(self, x_BRLE: Tensor) -> Tensor:
        """(B, R, L, E) -> (B, R, K, L, F)."""
        return x_BRLE.reshape(*x_BRLE.shape[:3], self.heads, self.head_width).transpose(2, 3)


class _CrossAttention(nn.Module):
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


class _Norms(nn.Module):
    """Three layer norms, all before or all after what they belong to."""

    def __init__(self, norms: list[Any], *, first: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)
        self.first = first

    def before(self, index: int, x: Tensor) -> Tensor:
        return self.norms[index](x) if self.first else x

    def after(self, index: int, x: Tensor) -> Tensor:
        return x if self.first else self.norms[index](x)


class _Parts(nn.Module):
    """What captioners differ in: tokens to vectors, the layers' weights, vectors to logits."""

    def embed(self, ids_BRL: Tensor, places_L: Tensor) -> Tensor:
        """Tokens and where they stand -> (B, R, L, E)."""
        raise NotImplementedError

    def layers(self) -> list[_Layer]:
        """The layers."""
        raise NotImplementedError

    def logits(self, x_BRLE: Tensor) -> Tensor:
        """-> (B, R, L, V)."""
        raise NotImplementedError


class _BlipParts(_Parts):
    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def embed(self, ids_BRL: Tensor, places_L: Tensor) -> Tensor:
        table = self.decoder.bert.embeddings
        x_BRLE = table.word_embeddings(ids_BRL) + table.position_embeddings(places_L)
        normed: Tensor = table.LayerNorm(x_BRLE)
        return normed

    def layers(self) -> list[_Layer]:
        return [self._layer(layer) for layer in self.decoder.bert.encoder.layer]

    def _layer(self, layer: Any) -> _Layer:
        own, other = layer.attention, layer.crossattention
        cross = _CrossAttention(
            heads=other.self.num_attention_heads,
            query=other.self.query,
            key=other.self.key,
            value=other.self.value,
            out=other.output.dense,
        )
        return _Layer(
            heads=own.self.num_attention_heads,
            joint=_joined(own.self.query, own.self.key, own.self.value),
            out=own.output.dense,
            cross=cross,
            mlp=nn.Sequential(layer.intermediate.dense, layer.intermediate.intermediate_act_fn, layer.output.dense),
            norms=_Norms([own.output.LayerNorm, other.output.LayerNorm, layer.output.LayerNorm], first=False),
        )

    def logits(self, x_BRLE: Tensor) -> Tensor:
        logits_BRLV: Tensor = self.decoder.cls(x_BRLE)
        return logits_BRLV


class _OwnParts(_Parts):
    def __init__(self, model: OwnCaptioner) -> None:
        super().__init__()
        self.model = model

    def embed(self, ids_BRL: Tensor, places_L: Tensor) -> Tensor:
        return embedding(ids_BRL, self.model.tokens.weight) + embedding(places_L, self.model.positions)

    def layers(self) -> list[_Layer]:
        return [self._layer(layer) for layer in self.model.layers]

    def _layer(self, layer: Any) -> _Layer:
        own, other = layer.self_attention, layer.cross_attention
        key, value = _halves(other.key_value)
        cross = _CrossAttention(heads=other.heads, query=other.query, key=key, value=value, out=other.out)
        return _Layer(
            heads=own.heads,
            joint=_joined(own.query, own.key_value),
            out=own.out,
            cross=cross,
            mlp=layer.mlp,
            norms=_Norms([layer.self_norm, layer.cross_norm, layer.mlp_norm], first=True),
        )

    def logits(self, x_BRLE: Tensor) -> Tensor:
        return linear(self.model.norm(x_BRLE), self.model.tokens.weight)


def _joined(*linears: nn.Linear) -> nn.Linear:
    """Several maps of the same vector as one."""
    weight = torch.cat([one.weight.detach() for one in linears])
    return _linear(weight, torch.cat([one.bias.detach() for one in linears]))


def _halves(both: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """The inverse of `_joined`, of two of the same size."""
    first, second = zip(both.weight.detach().chunk(2), both.bias.detach().chunk(2), strict=True)
    return _linear(*first), _linear(*second)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = nn.Parameter(weight), nn.Parameter(bias)
    return made
