"""The two towers of a run: made from random weights, or loaded from any model folder, and written back into one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import ModelCard, find_card, write_card
from sightline.core.models.convolutional import ConvClip, ConvClipConfig, Saved
from sightline.core.models.files import TOKENIZER_FILES, WEIGHTS_FILE, find_weights, resolve_folder
from sightline.core.models.inputs import Tokenizer
from sightline.core.models.lite import comes_as_graphs
from sightline.core.models.torch_models import ClipTowers, ConvTowers, Towers, load_towers
from sightline.errors import TrainingError
from sightline.kit.paths import share_as_others
from sightline.lab.training.config import TowersConfig, TrainConfig
from sightline.lab.training.vocabulary import BOS_ID, EOS_ID, PAD_ID, text_spec


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What is trained: the towers, the card that describes them, and the folder that has their tokenizer."""

    towers: Towers
    card: ModelCard
    tokenizer: Tokenizer
    tokenizer_folder: Path


def make_towers(train: TrainConfig, tokenizer_folder: Path) -> TrainedModel:
    """Towers with random weights, and their card; `tokenizer_folder` has the tokenizer that they will read with."""
    torch.manual_seed(train.seed)
    config = train.towers
    text = text_spec(config.context_length)
    tokenizer = Tokenizer.load(tokenizer_folder, text)
    make = _make_conv if config.architecture == "conv" else _make_vit
    towers = make(dataclasses.replace(config, vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        towers.model.logit_scale.fill_(math.log(train.temperature))
    card = ModelCard(
        name="trained",
        kind="encoder",
        family="sightline-clip" if config.architecture == "conv" else "clip",
        source="trained with Sightline",
        preprocessing=Preprocessing(size_px=config.size_px, resize_mode=config.resize_mode),
        text=text,
        dim=config.dim,
        licence="that of the data it was trained on",
        activation=None if config.architecture == "conv" else _ACTIVATION,
    )
    return TrainedModel(towers=towers, card=card, tokenizer=tokenizer, tokenizer_folder=tokenizer_folder)


def load_trained(name: str) -> TrainedModel:
    """The towers of any encoder that has PyTorch weights here: `dir:PATH`, `hf:ORG/NAME` once pulled, a known name.

    Raises ModelError where it isn't on this machine, TrainingError where it has no weights that can be trained.
    """
    card = find_card(name)
    if card.kind != "encoder":
        raise TrainingError(f"{name} is a {card.kind}; training starts from an encoder (CLIP, SigLIP or our own).")
    folder = resolve_folder(card, runtime="torch")
    if not find_weights(folder) and not comes_as_graphs(folder):
        raise TrainingError(
            f"{name} has no {WEIGHTS_FILE} in {folder}, only graphs, which can't be trained further. "
            "Start from a model that has its weights, such as dir:RUN of an earlier run."
        )
    tokenizer = Tokenizer.load(folder, card.text)
    return TrainedModel(towers=load_towers(card, folder), card=card, tokenizer=tokenizer, tokenizer_folder=folder)


def write_settings(model: TrainedModel, folder: Path, *, figures: dict[str, Any]) -> None:
    """Write all of a model folder but the weights: config, tokenizer, preprocessor and card.

    Raises TrainingError where it can't be written, as on a full disk.
    """
    with _explained(folder):
        _write_settings(model, folder, figures)


def _write_settings(model: TrainedModel, folder: Path, figures: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        source = model.tokenizer_folder / name
        if source.is_file() and source.resolve() != (folder / name).resolve():
            shutil.copyfile(source, folder / name)
    inner = model.towers.model
    if isinstance(inner, Saved):
        _write_json(folder / "config.json", inner.config.to_dict())
    else:
        inner.config.save_pretrained(folder)
        _write_json(folder / "preprocessor_config.json", _preprocessor(model.card))
    write_card(folder, dataclasses.replace(model.card, figures=figures, files={}, weights_hash=None))


def write_weights(module: nn.Module, path: Path) -> None:
    """Write a module's tensors as safetensors, so that a reader sees the old file or the new one.

    Raises TrainingError where it can't be written, as on a full disk; the old file stays.
    """
    partial = path.with_name(path.name + ".partial")
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with _explained(path):
        try:
            save_file(tensors, partial, metadata={"format": "pt"})
            share_as_others(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A disk's refusal as an error that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"The model can't be written to {path}: {error}. Checkpoints and what was written before are whole: free "
            "some space and go on with --resume."
        ) from error


_ACTIVATION = "gelu"


def _make_conv(config: TowersConfig) -> Towers:
    model = ConvClip(
        ConvClipConfig(
            size_px=config.size_px,
            image_width=config.image_width,
            image_blocks=config.image_blocks,
            vocab_size=config.vocab_size,
            context_length=config.context_length,
            pad_id=PAD_ID,
            text_width=config.text_width,
            text_layers=config.text_layers,
            text_heads=config.text_heads,
            dropout=config.dropout,
            dim=config.dim,
            coordinates=config.coordinates,
            text_bigrams=config.text_bigrams,
        )
    )
    return ConvTowers(model, dim=config.dim)


def _make_vit(config: TowersConfig) -> Towers:
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.text_width,
        "intermediate_size": 4 * config.text_width,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": config.text_heads,
        "max_position_embeddings": config.context_length,
        "attention_dropout": config.dropout,
        "hidden_act": _ACTIVATION,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "projection_dim": config.dim,
    }
    vision = {
        "hidden_size": config.image_width,
        "intermediate_size": 4 * config.image_width,
        "num_hidden_layers": config.image_layers,
        "num_attention_heads": config.image_heads,
        "image_size": config.size_px,
        "patch_size": config.patch_px,
        "attention_dropout": config.dropout,
        "hidden_act": _ACTIVATION,
        "projection_dim": config.dim,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.dim))
    return ClipTowers(model, dim=config.dim)


def _preprocessor(card: ModelCard) -> dict[str, Any]:
    """What transformers' CLIPImageProcessor reads: the same pixels as our own preprocessing."""
    image = card.preprocessing
    side = {"height": image.size_px, "width": image.size_px}
    crops = image.resize_mode == "crop"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image.size_px} if crops else side,
        "resample": 3 if image.interpolation == "bicubic" else 2,
        "do_center_crop": crops,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
