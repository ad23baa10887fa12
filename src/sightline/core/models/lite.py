"""The starter: a CLIP of EfficientNet-Lite and a BERT-like text tower. The captioner beside it ships as graphs alone.

Both towers have the shape of published ones, so that a model can start from their weights: EfficientNet-Lite (Tan and
Le 2019, arXiv:1905.11946, without squeeze-and-excitation, with ReLU6) and MiniLM (Wang et al. 2020, arXiv:2002.10957).
The image tower's batch norms are folded into its convolutions.

Shape suffixes: B images, T texts, C channels, H W height and width, L tokens, D joint-space dimension, E width.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sightline.core.models import convolutional
from sightline.core.models.cards import read_card
from sightline.core.models.files import WEIGHTS_FILE
from sightline.errors import ModelError

CELL_WIDTH = 1280
TRANSPOSED = "_Transposed"
"""Stands after the name of a weight that a graph holds the other way round."""
_GRAPHS = ("onnx/image.int8.onnx", "onnx/text.int8.onnx")
_STEM_WIDTH = 32
_STAGES = (
    # kernel, stride, expansion, width, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteClipConfig(convolutional.SavedConfig):
    """Sizes of a `LiteClip`; the defaults are EfficientNet-Lite2 and all-MiniLM-L6-v2.

    `size_px` is the side of the squashed square input, `image_width` and `image_depth` EfficientNet's factors,
    `feature_width` the features that both heads read, `head_width` their hidden layer.
    """

    model_type: ClassVar[str] = "sightline-lite-clip"

    size_px: int = 240
    image_width: float = 1.1
    image_depth: float = 1.2
    feature_width: int = 512
    head_width: int = 1024
    vocab_size: int = 30522
    context_length: int = 64
    pad_id: int = 0
    text_width: int = 384
    text_layers: int = 6
    text_heads: int = 12
    dim: int = 384
    dropout: float = 0.1


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: at stride 2 one more row below and right than above and left."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        if self.stride[0] == 1:
            return super().forward(x_BCHW)
        height, width = (_padding(side, self.kernel_size[0], self.stride[0]) for side in x_BCHW.shape[-2:])
        padding = (height[0], width[0])
        if padding != (height[1], width[1]):
            x_BCHW, padding = F.pad(x_BCHW, (*width, *height)), (0, 0)
        return F.conv2d(x_BCHW, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _same_conv(width_in: int, width_out: int, kernel: int, stride: int = 1, groups: int = 1) -> SameConv:
    return SameConv(width_in, width_out, kernel, stride, (kernel - 1) // 2 if stride == 1 else 0, groups=groups)


def _padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class InvertedBlock(nn.Module):
    """Expand, convolve each channel for itself, project; with a shortcut where shapes allow (arXiv:1801.04381)."""

    def __init__(self, width_in: int, width_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.expand = nn.Conv2d(width_in, inner, 1) if expansion > 1 else None
        self.depthwise = _same_conv(inner, inner, kernel, stride, groups=inner)
        self.project = nn.Conv2d(inner, width_out, 1)
        self.shortcut = stride == 1 and width_in == width_out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        inner_BCHW = x_BCHW if self.expand is None else F.relu6(self.expand(x_BCHW))
        y_BCHW: Tensor = self.project(F.relu6(self.depthwise(inner_BCHW)))
        return x_BCHW + y_BCHW if self.shortcut else y_BCHW


class LiteImageTower(nn.Module):
    """An EfficientNet-Lite without pooling and classifier: normalised pixels -> a map of cells of 32x32 pixels."""

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self.stem = _same_conv(3, _STEM_WIDTH, 3, 2)
        blocks: list[InvertedBlock] = []
        width_in, self.fine_block = _STEM_WIDTH, 0
        for index, (kernel, stride, expansion, stage_width, count) in enumerate(_STAGES):
            width_out = _rounded(stage_width * width)
            # Lite keeps the first and the last stage at one block, whatever the depth.
            n_blocks = count if index in (0, len(_STAGES) - 1) else math.ceil(count * depth)
            for place in range(n_blocks):
                step = stride if place == 0 else 1
                if step > 1:
                    self.fine_block = len(blocks) - 1
                blocks.append(InvertedBlock(width_in, width_out, kernel=kernel, stride=step, expansion=expansion))
                width_in = width_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(width_in, CELL_WIDTH, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, S, S) -> cells (B, 1280, S / 32, S / 32), sides rounded up."""
        cells_BCHW: Tensor = F.relu6(self.head(self.blocks(F.relu6(self.stem(image_BCHW)))))
        return cells_BCHW


def _rounded(width: float, divisor: int = 8) -> int:
    """EfficientNet's rounding of channels: to a multiple of 8, never below nine tenths."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


class BertLayer(nn.Module):
    """A transformer layer whose norms come after its sums, as BERT's."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = convolutional.Attention(width, heads)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_TLE: Tensor, mask: Tensor) -> Tensor:
        """(T, L, E) -> (T, L, E); `mask` is true where attention may look."""
        x_TLE = self.attention_norm(x_TLE + self.dropout(self.attention(x_TLE, x_TLE, mask=mask)))
        y_TLE: Tensor = self.mlp_norm(x_TLE + self.dropout(self.mlp(x_TLE)))
        return y_TLE


class BertTextTower(nn.Module):
    """A BERT whose tokens are averaged, start and end included, padding left out."""

    def __init__(self, config: LiteClipConfig) -> None:
        super().__init__()
        self.pad_id = config.pad_id
        self.tokens = nn.Embedding(config.vocab_size, config.text_width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.context_length, config.text_width))
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.norm = nn.LayerNorm(config.text_width, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            BertLayer(config.text_width, config.text_heads, config.dropout) for _ in range(config.text_layers)
        )

    def forward(self, ids_TL: Tensor) -> Tensor:
        """int64 (T, L) -> (T, E). Padding never changes a text's vector."""
        real_TL = ids_TL != self.pad_id
        x_TLE = self.dropout(self.norm(self.tokens(ids_TL) + self.positions[: ids_TL.shape[1]]))
        for layer in self.layers:
            x_TLE = layer(x_TLE, real_TL[:, None, None, :])
        weight_TL1 = real_TL[:, :, None].to(x_TLE.dtype)
        pooled_TE: Tensor = (x_TLE * weight_TL1).sum(1) / weight_TL1.sum(1).clamp(min=1.0)
        return pooled_TE


class Head(nn.Module):
    """A linear map into the joint space, plus what a hidden layer adds to it."""

    def __init__(self, width: int, config: LiteClipConfig, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, config.dim)
        self.hidden = nn.Linear(width, config.head_width)
        self.out = nn.Linear(config.head_width, config.dim)
        self.dropout = dropout

    def context(self, x_BE: Tensor) -> Tensor:
        """Addition of the hidden layer: (B, E) -> (B, D)."""
        added_BD: Tensor = self.out(F.dropout(F.relu(self.hidden(x_BE)), self.dropout, self.training))
        return added_BD

    def forward(self, x_BE: Tensor) -> Tensor:
        """(B, E) -> (B, D), not normalised."""
        x_BE = F.dropout(x_BE, self.dropout, self.training)
        mapped_BD: Tensor = self.linear(x_BE) + self.context(x_BE)
        return mapped_BD


class ImageHead(Head):
    """A head that reads fewer features than the tower gives."""

    def __init__(self, config: LiteClipConfig, dropout: float) -> None:
        super().__init__(config.feature_width, config, dropout)
        self.features = nn.Linear(CELL_WIDTH, config.feature_width)


class LiteClip(convolutional.OwnClip):
    """A CLIP of EfficientNet-Lite and a small BERT."""

    config_class = LiteClipConfig
    config: LiteClipConfig

    def __init__(self, config: LiteClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image_tower = LiteImageTower(config.image_width, config.image_depth)
        self.image_projection = ImageHead(config, 0.3)
        self.text_tower = BertTextTower(config)
        self.text_projection = Head(config.text_width, config, 0.3)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_images(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels (B, 3, S, S) -> unit vectors (B, D) and the map they come from (B, H, W, D).

        A cell's vector is its own linear share plus what the hidden layer says of the whole image, so an image's
        vector is its map's mean, normalised, and cells differ in a text's similarity by their own share alone.
        """
        cells_BHWC = self.image_tower(image_BCHW).permute(0, 2, 3, 1)
        head = self.image_projection
        feature_BHWE = head.features(cells_BHWC)
        pooled_BE = F.dropout(feature_BHWE.mean(dim=(1, 2)), head.dropout, self.training)
        context_BD = head.context(pooled_BE)
        map_BHWD = head.linear(feature_BHWE) + context_BD[:, None, None]
        return convolutional.to_unit(head.linear(pooled_BE) + context_BD), map_BHWD

    @classmethod
    def from_graphs(cls, folder: Path) -> Self:
        """The model in evaluation mode, from the weights in a folder's int8 graphs and the temperature of its card.

        So training goes on from what ships, to within int8's rounding. Needs `onnx`. Raises ModelError where the
        graphs lack weights of the model.
        """
        model = cls(
            cls.config_class.from_dict(json.loads((folder / convolutional.CONFIG_FILE).read_text(encoding="utf-8")))
        )
        wanted = model.state_dict()
        weights = {name: value for graph in _GRAPHS for name, value in _read_weights(folder / graph, wanted).items()}
        weights["logit_scale"] = torch.tensor(math.log(read_card(folder).temperature or 1.0))
        lacking = [name for name, value in wanted.items() if name not in weights or weights[name].shape != value.shape]
        if lacking:
            raise ModelError(f"The graphs in {folder} lack {len(lacking)} weights ({', '.join(lacking[:3])}, ...).")
        model.load_state_dict({name: weights[name] for name in wanted})
        return model.eval()


def load_own_clip(folder: Path) -> convolutional.ConvClip | LiteClip:
    """A CLIP of our own in evaluation mode, of the kind that its `config.json` names.

    Raises ModelError where a file is missing, the config is of another model, or the weights don't fit it.
    """
    if _model_type(folder) == LiteClipConfig.model_type:
        return LiteClip.from_graphs(folder) if comes_as_graphs(folder) else LiteClip.from_pretrained(folder)
    return convolutional.ConvClip.from_pretrained(folder)


def comes_as_graphs(folder: Path) -> bool:
    """True where a folder holds a `LiteClip` as int8 graphs and without weights, as the starter ships."""
    bare = not (folder / WEIGHTS_FILE).is_file() and all((folder / graph).is_file() for graph in _GRAPHS)
    return bare and _model_type(folder) == LiteClipConfig.model_type


def _read_weights(path: Path, wanted: Collection[str]) -> dict[str, Tensor]:
    """The weights that an int8 graph computes with, by the names that they have in the module. Needs `onnx`."""
    import onnx

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    weights = {}
    for name, value in constants.items():
        own = re.sub(r"(_quantized|/int8)$", "", name)
        transposed = own.endswith(TRANSPOSED)
        place = own.removesuffix(TRANSPOSED)
        if place not in wanted:
            continue
        if value.dtype != np.float32:
            keys = (f"{name}_scale", f"{own}_scale", f"{own}/scale")
            scale = next(constants[key] for key in keys if key in constants)
            zero = constants.get(f"{own}_zero_point", np.zeros(1)).reshape(-1)[0]
            shape = [1] * value.ndim  # one scale for all, or one for each output
            if scale.size > 1:
                shape[int(transposed)] = -1
            value = (value.astype(np.float32) - float(zero)) * scale.reshape(shape)
        weights[place] = torch.from_numpy(np.array(value.T if transposed else value))
    return weights


def _model_type(folder: Path) -> str | None:
    path = folder / convolutional.CONFIG_FILE
    found: str | None = json.loads(path.read_text(encoding="utf-8")).get("model_type") if path.is_file() else None
    return found
