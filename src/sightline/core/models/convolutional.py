"""A small convolutional CLIP as torch modules: what `sightline train` makes from a random start.

`ConvClip` is a dual encoder, a ResNet and a bidirectional text transformer, in one joint space. It is sized to train on
a laptop's CPU in under an hour and to run there at hundreds of images a second. It saves to `config.json` and
`model.safetensors`, never to a pickle.

Shape suffixes: B images, T texts, C channels, H W height and width, N = H * W cells, L tokens, V vocabulary,
D joint-space dimension, E transformer width, K heads, F = E / K.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightline.core.models.files import WEIGHTS_FILE
from sightline.errors import ModelError
from sightline.kit.files import share_as_others

CONFIG_FILE = "config.json"
_HASH = (331, 7919)
"""Factors of a pair's two ids; part of the weights' meaning."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedConfig:
    """The `config.json` of a model of our own; subclasses add its sizes."""

    model_type: ClassVar[str]
    may_be_zero: ClassVar[tuple[str, ...]] = ("pad_id", "dropout")

    vocab_size: int
    pad_id: int
    text_width: int
    text_heads: int
    dropout: float

    def __post_init__(self) -> None:
        """Refuse sizes that no model can have. Raises ModelError."""
        for name, value in vars(self).items():
            least = min(value, default=0) if isinstance(value, tuple) else value
            if least < 0 or (least == 0 and name not in self.may_be_zero):
                raise ModelError(f"{name} must be {'0 or more' if least < 0 else 'above 0'}, got {value}.")
        if self.text_width % self.text_heads:
            raise ModelError(f"text_heads ({self.text_heads}) must divide text_width ({self.text_width}).")
        if self.pad_id >= self.vocab_size:
            raise ModelError(f"pad_id must lie in [0, {self.vocab_size}), got {self.pad_id}.")
        if self.dropout >= 1:
            raise ModelError(f"dropout must lie in [0, 1), got {self.dropout}.")

    def to_dict(self) -> dict[str, Any]:
        """The config as `config.json` holds it."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {"model_type": self.model_type, **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The config that `config.json` holds.

        Raises ModelError for another `model_type`, an unknown key, or a value that `__post_init__` refuses.
        """
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        found = values.pop("model_type", None)
        if found != cls.model_type:
            raise ModelError(f"This config is of model_type {found!r}; expected {cls.model_type!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ModelError(f"Unknown config key {', '.join(unknown)}. Valid keys: {', '.join(sorted(known))}.")
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvClipConfig(SavedConfig):
    """Sizes of a `ConvClip`.

    `size_px` is the side of the squashed square input, `image_width` the channels of the ResNet's first stage (each
    later stage doubles them), `context_length` the most tokens of a text with its BOS and EOS, `dim` the dimension D of
    the joint space. Without text layers the text tower is a bag of words: the mean of its tokens, whatever their order.
    """

    model_type: ClassVar[str] = "sightline-clip"
    may_be_zero: ClassVar[tuple[str, ...]] = ("pad_id", "dropout", "text_layers", "text_bigrams", "coordinates")

    size_px: int = 112
    image_width: int = 32
    image_blocks: tuple[int, ...] = (2, 2, 2, 2)
    vocab_size: int = 5000
    context_length: int = 32
    pad_id: int = 0
    text_width: int = 256
    text_layers: int = 3
    text_heads: int = 4
    dropout: float = 0.1
    dim: int = 256
    coordinates: bool = False
    """The image tower also sees where each pixel lies, as two more channels."""
    text_bigrams: int = 0
    """Rows of a table of embeddings for pairs of neighbouring tokens, found by hash; 0 has none."""

    def __post_init__(self) -> None:
        """Refuse sizes that no model can have. Raises ModelError."""
        super().__post_init__()
        if self.text_bigrams and not self.text_layers:
            raise ModelError("text_bigrams must be 0 for a bag of words, which knows no neighbours.")

    @property
    def cell_width(self) -> int:
        """Channels of the last feature map."""
        return int(self.image_width * 2 ** (len(self.image_blocks) - 1))


class Saved(nn.Module):
    """Saving to and loading from a model folder: `config.json` and `model.safetensors`."""

    config_class: ClassVar[type[Any]]
    config: Any

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `config.json` and `model.safetensors` into `folder`, which is made when missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(self.config.to_dict(), indent=2) + "\n", encoding="utf-8")
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        share_as_others(folder / WEIGHTS_FILE)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """Load a model in evaluation mode from the folder that `save_pretrained` wrote.

        Raises ModelError where a file is missing, the config is of another model, or the weights don't fit it.
        """
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise ModelError(
                    f"{folder} has no {name}; a {cls.__name__} folder needs {CONFIG_FILE} and {WEIGHTS_FILE}."
                )
        model = cls(cls.config_class.from_dict(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))))
        try:
            model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except RuntimeError as error:
            raise ModelError(f"The weights in {folder} don't fit its {CONFIG_FILE}: {error}") from error
        return model.eval()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2015, arXiv:1512.03385, the basic block)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        # Each block starts as its shortcut alone, which trains faster from a random start (arXiv:1706.02677).
        nn.init.zeros_(self.norm2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        y_BCHW = F.relu(self.norm1(self.conv1(x_BCHW)))
        y_BCHW = self.norm2(self.conv2(y_BCHW))
        return F.relu(y_BCHW + self.shortcut(x_BCHW))


class ImageTower(nn.Module):
    """A ResNet without its pooling: normalised pixels -> a map of cells, one for each 16x16 pixels.

    A stride-2 stem without max pooling, then one stage for each entry of `blocks`; every stage but the first halves the
    side and doubles the channels. ReLU and batch norm throughout, so that static int8 keeps its speed. With coordinates
    (Liu et al. 2018, arXiv:1807.03247) it can tell left from right, which it else has from the padding alone.
    """

    def __init__(self, width: int, blocks: tuple[int, ...], *, coordinates: bool = False) -> None:
        super().__init__()
        self.coordinates = coordinates
        channels = 5 if coordinates else 3
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        stages: list[nn.Module] = []
        self.fine_block = max(sum(blocks[:-1]), 1) - 1
        """Block that ends the last stage but one: the last cells that are still small."""
        width_in = width
        for stage, count in enumerate(blocks):
            width_out = width * 2**stage
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                stages.append(ResidualBlock(width_in, width_out, stride))
                width_in = width_out
        self.blocks = nn.Sequential(*stages)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, S, S) -> cells (B, C, S / 16, S / 16)."""
        if self.coordinates:
            image_BCHW = torch.cat([image_BCHW, _coordinates(image_BCHW)], dim=1)
        cells_BCHW: Tensor = self.blocks(self.stem(image_BCHW))
        return cells_BCHW


class Attention(nn.Module):
    """Multi-head attention of queries over a memory (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(memory_width or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BLE: Tensor, memory_BNE: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """(B, L, E) attending over (B, N, E') -> (B, L, E); `mask` is true where attention may look."""
        query_BKLF = self._split(self.query(x_BLE))
        key_BNE, value_BNE = self.key_value(memory_BNE).chunk(2, dim=-1)
        mixed_BKLF = F.scaled_dot_product_attention(
            query_BKLF, self._split(key_BNE), self._split(value_BNE), attn_mask=mask, is_causal=causal
        )
        return typing.cast(Tensor, self.out(mixed_BKLF.transpose(1, 2).flatten(2)))

    def _split(self, x_BLE: Tensor) -> Tensor:
        """(B, L, E) -> (B, K, L, F)."""
        return x_BLE.reshape(*x_BLE.shape[:-1], self.heads, -1).transpose(1, 2)


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer: self-attention, cross-attention where a memory is expected, then an MLP."""

    def __init__(self, width: int, heads: int, dropout: float, memory_width: int | None = None) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width) if memory_width else None
        self.cross_attention = Attention(width, heads, memory_width) if memory_width else None
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x_BLE: Tensor, memory_BNE: Tensor | None = None, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """(B, L, E) -> (B, L, E)."""
        y_BLE = self.self_norm(x_BLE)
        x_BLE = x_BLE + self.dropout(self.self_attention(y_BLE, y_BLE, mask=mask, causal=causal))
        if self.cross_attention is not None and self.cross_norm is not None and memory_BNE is not None:
            x_BLE = x_BLE + self.dropout(self.cross_attention(self.cross_norm(x_BLE), memory_BNE))
        return x_BLE + typing.cast(Tensor, self.dropout(self.mlp(self.mlp_norm(x_BLE))))


class TextTower(nn.Module):
    """A bidirectional transformer over tokens, averaged without padding; with no layers a bag of words."""

    def __init__(self, config: ConvClipConfig) -> None:
        super().__init__()
        self.pad_id = config.pad_id
        self.tokens = nn.Embedding(config.vocab_size, config.text_width)
        order = 0.02 * torch.randn(config.context_length, config.text_width)
        self.positions = nn.Parameter(order) if config.text_layers else None
        nn.init.normal_(self.tokens.weight, std=0.02)
        # Pairs of words mean something together ("red ring"), which attention takes thousands of steps to find out.
        self.bigrams = nn.Embedding(config.text_bigrams, config.text_width) if config.text_bigrams else None
        if self.bigrams is not None:
            nn.init.normal_(self.bigrams.weight, std=0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(config.text_width, config.text_heads, config.dropout) for _ in range(config.text_layers)
        )
        self.norm = nn.LayerNorm(config.text_width)

    def forward(self, ids_TL: Tensor) -> Tensor:
        """int64 (T, L) -> (T, E). Padding never changes a text's vector."""
        state_TLE = self.states(ids_TL)
        weight_TL1 = (ids_TL != self.pad_id)[:, :, None].to(state_TLE.dtype)
        return (state_TLE * weight_TL1).sum(1) / weight_TL1.sum(1).clamp(min=1.0)

    def states(self, ids_TL: Tensor) -> Tensor:
        """int64 (T, L) -> a vector of each token (T, L, E); those of padding mean nothing."""
        real_TL = ids_TL != self.pad_id
        x_TLE = self.tokens(ids_TL)
        if self.positions is not None:
            x_TLE = x_TLE + self.positions[: ids_TL.shape[1]]
        if self.bigrams is not None:
            before_TL = F.pad(ids_TL, (1, 0))[:, :-1]
            x_TLE = x_TLE + self.bigrams((before_TL * _HASH[0] + ids_TL * _HASH[1]) % self.bigrams.num_embeddings)
        x_TLE = self.dropout(x_TLE)
        for layer in self.layers:
            x_TLE = layer(x_TLE, mask=real_TL[:, None, None, :])
        return typing.cast(Tensor, self.norm(x_TLE))


class OwnClip(Saved):
    """A CLIP (Radford et al. 2021, arXiv:2103.00020) of our own. Subclasses bring towers and projections."""

    text_tower: nn.Module
    text_projection: nn.Module

    def encode_images(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels (B, 3, S, S) -> unit vectors (B, D) and the map they come from (B, H, W, D)."""
        raise NotImplementedError

    def encode_texts(self, ids_TL: Tensor) -> Tensor:
        """int64 (T, L), padded with `pad_id` -> unit vectors (T, D)."""
        return to_unit(self.text_projection(self.text_tower(ids_TL)))

    def forward(self, image_BCHW: Tensor, ids_TL: Tensor) -> tuple[Tensor, Tensor]:
        """Images and texts -> unit vectors (B, D) and (T, D)."""
        return self.encode_images(image_BCHW)[0], self.encode_texts(ids_TL)


class ConvClip(OwnClip):
    """A small CLIP: ResNet and text transformer in one joint space."""

    config_class = ConvClipConfig
    config: ConvClipConfig

    def __init__(self, config: ConvClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image_tower = ImageTower(config.image_width, config.image_blocks, coordinates=config.coordinates)
        self.image_projection = nn.Linear(config.cell_width, config.dim, bias=False)
        self.text_tower = TextTower(config)
        self.text_projection = nn.Linear(config.text_width, config.dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_images(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels (B, 3, S, S) -> unit vectors (B, D) and the map they come from (B, H, W, D).

        The projection is linear, so projecting each cell and averaging equals projecting the average: an image's vector
        is its map's mean, normalised, and a cell's dot product with a text is that cell's share of the similarity.
        """
        cells_BCHW = self.image_tower(image_BCHW)
        map_BHWD = self.image_projection(cells_BCHW.permute(0, 2, 3, 1))
        return to_unit(map_BHWD.mean(dim=(1, 2))), map_BHWD


def _coordinates(image_BCHW: Tensor) -> Tensor:
    """Places of the pixels, right and down, -1 to 1, as channels (B, 2, H, W)."""
    height, width = image_BCHW.shape[-2:]
    right_W = torch.linspace(-1, 1, width, device=image_BCHW.device)
    down_H = torch.linspace(-1, 1, height, device=image_BCHW.device)
    place_2HW = torch.stack([right_W.expand(height, width), down_H[:, None].expand(height, width)])
    # shape[0], since len() would make the batch a constant of an exported graph
    return place_2HW.to(image_BCHW.dtype).expand(image_BCHW.shape[0], -1, -1, -1)


def to_unit(x_BD: Tensor) -> Tensor:
    """Rows scaled to length 1. `F.normalize` would export an Expand that ONNX Runtime's shape inference rejects."""
    x_BD = x_BD.float()
    length_B1: Tensor = torch.linalg.vector_norm(x_BD, dim=-1, keepdim=True)
    return x_BD / length_B1.clamp(min=1e-12)
