"""The starter captioner as torch modules, which learn here; the package has its graphs alone.

Shape suffixes: B images, T concepts told, C channels, H W height and width, N cells, L tokens, E width, R rows of each
image, M cells of the memory, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sightline.core.models import convolutional
from sightline.core.models.cached_decoder import CrossAttention, Layer, joined, linear_of
from sightline.core.models.lite import CELL_WIDTH, LiteImageTower
from sightline.errors import ModelError

CELL_PX = 32
"""Side of the square of pixels that a cell stands for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteCaptionerConfig(convolutional.SavedConfig):
    """Sizes of a `LiteCaptioner`; `image_width` and `image_depth` are EfficientNet's factors.

    It looks for `nouns` things that captions name and `classes` that images are of, and tells its decoder the `told`
    likeliest of either.
    """

    model_type: ClassVar[str] = "sightline-lite-captioner"

    size_px: int = 240
    image_width: float = 1.1
    image_depth: float = 1.2
    nouns: int = 400
    classes: int = 1000
    told: int = 5
    vocab_size: int = 4000
    context_length: int = 32
    pad_id: int = 0
    text_width: int = 256
    text_layers: int = 3
    text_heads: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse sizes that no model can have. Raises ModelError."""
        super().__post_init__()
        if self.told > min(self.nouns, self.classes):
            raise ModelError(f"told ({self.told}) must be at most nouns ({self.nouns}) and classes ({self.classes}).")

    @property
    def cells(self) -> int:
        """Cells of an image."""
        return math.ceil(self.size_px / CELL_PX) ** 2


class LiteCaptioner(convolutional.Saved):
    """A captioner in BLIP's shape (arXiv:2201.12086) on an EfficientNet-Lite: a causal decoder over what that shows.

    Beside the image's cells the decoder attends over concepts: the nouns and the classes that two linear layers find
    likeliest in the pooled cells, each with its probability, as in attribute-guided captioning (You et al. 2016,
    arXiv:1603.03925). So it can name things that no captioned image showed it. The output layer is the token embedding
    transposed (tied).
    """

    config_class = LiteCaptionerConfig
    config: LiteCaptionerConfig

    def __init__(self, config: LiteCaptionerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_width
        self.memory_norm = nn.LayerNorm(width)
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.context_length, width))
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            convolutional.TransformerLayer(width, config.text_heads, config.dropout, memory_width=width)
            for _ in range(config.text_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.image_tower = LiteImageTower(config.image_width, config.image_depth)
        self.cells = nn.Linear(CELL_WIDTH, width)
        self.places = nn.Parameter(0.02 * torch.randn(config.cells, width))
        self.nouns = nn.Linear(CELL_WIDTH, config.nouns)
        self.classes = nn.Linear(CELL_WIDTH, config.classes)
        self.concepts = nn.Embedding(config.nouns + config.classes, width)
        self.sureness = nn.Linear(2, width)

    def encode_images(self, image_BCHW: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> cells, then concepts (B, N + 2 * told, E)."""
        cells_BNC = self.image_tower(image_BCHW).flatten(2).transpose(1, 2)
        concept_BT, sure_BT = self.find_concepts(cells_BNC.mean(dim=1))
        return self.remember(cells_BNC, self.concepts(concept_BT), sure_BT)

    def decode(self, ids_BL: Tensor, memory_BNC: Tensor) -> Tensor:
        """Tokens so far (B, L), the first BOS, and memory -> logits of each next token (B, L, V)."""
        normed_BNC = self.memory_norm(memory_BNC)
        x_BLE = self.dropout(self.tokens(ids_BL) + self.positions[: ids_BL.shape[1]])
        for layer in self.layers:
            x_BLE = layer(x_BLE, normed_BNC, causal=True)
        return F.linear(self.norm(x_BLE), self.tokens.weight)

    def forward(self, image_BCHW: Tensor, ids_BL: Tensor) -> Tensor:
        """Images and their captions so far -> logits of each next token (B, L, V)."""
        return self.decode(ids_BL, self.encode_images(image_BCHW))

    def find_concepts(self, pooled_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled cells (B, 1280) -> the likeliest nouns, then classes, and their probabilities (B, 2 * told)."""
        return self.choose_concepts(torch.sigmoid(self.nouns(pooled_BC)), pooled_BC)

    def choose_concepts(self, noun_sure_BN: Tensor, pooled_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Concepts as `find_concepts` gives them, from probabilities of the nouns that are known already (B, nouns)."""
        noun_sure_BT, noun_BT = noun_sure_BN.topk(self.config.told)
        class_sure_BT, class_BT = torch.softmax(self.classes(pooled_BC), dim=-1).topk(self.config.told)
        return torch.cat([noun_BT, class_BT + self.config.nouns], -1), torch.cat([noun_sure_BT, class_sure_BT], -1)

    def remember(self, cells_BNC: Tensor, concept_BTE: Tensor, sure_BT: Tensor) -> Tensor:
        """Cells (B, N, 1280), concepts (B, T, E) and their probabilities -> memory (B, N + T, E)."""
        return torch.cat([self.cells(cells_BNC) + self.places, self.hear(concept_BTE, sure_BT)], dim=1)

    def hear(self, concept_BTE: Tensor, sure_BT: Tensor) -> Tensor:
        """Concepts (B, T, E) with their probabilities -> memory of them alone (B, T, E)."""
        hearsay_BTE: Tensor = concept_BTE + self.sureness(torch.stack([sure_BT, sure_BT.sqrt()], dim=-1))
        return hearsay_BTE


class OwnParts(nn.Module):
    """A `LiteCaptioner` as `CachedDecoder` takes it."""

    def __init__(self, model: LiteCaptioner) -> None:
        super().__init__()
        self.model = model

    def see(self, pixels_B3SS: Tensor) -> Tensor:
        """The memory, normed once (B, M, C)."""
        normed_BMC: Tensor = self.model.memory_norm(self.model.encode_images(pixels_B3SS))
        return normed_BMC

    def embed(self, ids_BRL: Tensor, places_L: Tensor) -> Tensor:
        """Words and places, summed."""
        return F.embedding(ids_BRL, self.model.tokens.weight) + F.embedding(places_L, self.model.positions)

    def layers(self) -> list[Layer]:
        """The decoder's, each with its norms first."""
        return [self._layer(layer) for layer in self.model.layers]

    def _layer(self, layer: Any) -> Layer:
        own, other = layer.self_attention, layer.cross_attention
        key, value = halves(other.key_value)
        cross = CrossAttention(heads=other.heads, query=other.query, key=key, value=value, out=other.out)
        return Layer(
            heads=own.heads,
            joint=joined(own.query, own.key_value),
            out=own.out,
            cross=cross,
            mlp=layer.mlp,
            norms=[layer.self_norm, layer.cross_norm, layer.mlp_norm],
            norms_first=True,
        )

    def logits(self, x_BRLE: Tensor) -> Tensor:
        """By the token embedding transposed."""
        return F.linear(self.model.norm(x_BRLE), self.model.tokens.weight)


def halves(both: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """The inverse of `joined`, of two of the same size."""
    first, second = zip(both.weight.detach().chunk(2), both.bias.detach().chunk(2), strict=True)
    return linear_of(*first), linear_of(*second)
