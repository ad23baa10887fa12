"""Model cards on disk: `sightline.json`, or what can be derived from a transformers folder's own JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.base import ModelCard, TextSpec
from sightline.core.models.json_files import read_json
from sightline.core.models.transformers_config import card_from_transformers
from sightline.errors import ModelError

CARD_FILE = "sightline.json"

_KINDS = ("encoder", "captioner")
_FAMILIES = ("clip", "siglip", "blip", "sightline-clip", "sightline-captioner")
_REQUIRED = ("name", "kind", "family", "image", "text")
_OPTIONAL = (
    "dim",
    "source",
    "revision",
    "licence",
    "paper",
    "activation",
    "temperature",
    "size_bytes",
    "figures",
    "files",
    "weights_hash",
)
_IMAGE_KEYS = ("size_px", "resize", "interpolation", "mean", "std")
_TEXT_KEYS = ("context_length", "pad_id", "bos_id", "eos_id", "padding", "lowercase")


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder, from `sightline.json` or derived from transformers' configuration files.

    Raises ModelError where the folder holds no model, a key is missing or unknown, or the model type isn't supported.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}; `dir:PATH` must name an existing folder.")
    card_path = folder / CARD_FILE
    if card_path.is_file():
        return card_from_json(read_json(card_path), origin=str(card_path))
    if (folder / "config.json").is_file():
        return card_from_transformers(folder)
    raise ModelError(
        f"{folder} is no model folder: it has neither {CARD_FILE} nor config.json. "
        "Give a folder saved by Sightline or by transformers' `save_pretrained`."
    )


def write_card(folder: Path, card: ModelCard) -> None:
    """Write the card as `folder/sightline.json`, in UTF-8 with a line for each key."""
    text = json.dumps(card_to_json(card), indent=2, ensure_ascii=False)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")


def card_to_json(card: ModelCard) -> dict[str, Any]:
    """The card as plain JSON values: what `sightline.json` holds and `models info --json` prints."""
    preprocessing, text = card.preprocessing, card.text
    return {
        "name": card.name,
        "kind": card.kind,
        "family": card.family,
        "dim": card.dim,
        "image": {
            "size_px": preprocessing.size_px,
            "resize": preprocessing.resize_mode,
            "interpolation": preprocessing.interpolation,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
        "text": {key: getattr(text, key) for key in _TEXT_KEYS},
        "source": card.source,
        "revision": card.revision,
        "licence": card.licence,
        "paper": card.paper,
        "activation": card.activation,
        "temperature": card.temperature,
        "size_bytes": card.size_bytes,
        "figures": dict(card.figures),
        "files": dict(card.files),
        "weights_hash": card.weights_hash,
    }


def card_from_json(values: Any, *, origin: str) -> ModelCard:
    """Plain JSON values -> the card; `origin` names where they came from in the ModelError of a bad key or value."""
    _check_keys(values, required=_REQUIRED, optional=_OPTIONAL, origin=origin)
    _check_choice(values["kind"], _KINDS, f"{origin}: kind")
    _check_choice(values["family"], _FAMILIES, f"{origin}: family")
    dim = values.get("dim")
    if values["kind"] == "encoder" and not (isinstance(dim, int) and dim > 0):
        raise ModelError(f"{origin}: dim is {dim!r}; an encoder's card needs a positive whole number.")
    return ModelCard(
        name=values["name"],
        kind=values["kind"],
        family=values["family"],
        dim=dim,
        preprocessing=preprocessing_from_json(values["image"], origin=f"{origin}: image"),
        text=text_from_json(values["text"], origin=f"{origin}: text"),
        source=values.get("source") or "unknown",
        revision=values.get("revision") or "main",
        licence=values.get("licence") or "unknown",
        paper=values.get("paper"),
        activation=values.get("activation"),
        temperature=values.get("temperature"),
        size_bytes=values.get("size_bytes"),
        figures=values.get("figures") or {},
        files=values.get("files") or {},
        weights_hash=values.get("weights_hash"),
    )


def preprocessing_from_json(values: Any, *, origin: str) -> Preprocessing:
    """The `image` part of a card -> Preprocessing. Raises ModelError naming `origin`."""
    _check_keys(values, required=("size_px", "resize"), optional=_IMAGE_KEYS, origin=origin)
    _check_choice(values["resize"], ("squash", "crop"), f"{origin}.resize")
    if not (isinstance(values["size_px"], int) and values["size_px"] > 0):
        raise ModelError(f"{origin}.size_px is {values['size_px']!r}; it must be a positive number of pixels.")
    options: dict[str, Any] = {}
    if (interpolation := values.get("interpolation")) is not None:
        _check_choice(interpolation, ("bicubic", "bilinear"), f"{origin}.interpolation")
        options["interpolation"] = interpolation
    for key in ("mean", "std"):
        if (channels := values.get(key)) is not None:
            options[key] = _three_channels(channels, f"{origin}.{key}")
    return Preprocessing(size_px=values["size_px"], resize_mode=values["resize"], **options)


def text_from_json(values: Any, *, origin: str) -> TextSpec:
    """The `text` part of a card -> TextSpec. Raises ModelError naming `origin`."""
    _check_keys(values, required=("context_length", "pad_id"), optional=_TEXT_KEYS, origin=origin)
    _check_choice(values.get("padding", "longest"), ("longest", "fixed"), f"{origin}.padding")
    return TextSpec(**values)


def _check_keys(values: Any, *, required: tuple[str, ...], optional: tuple[str, ...], origin: str) -> None:
    if not isinstance(values, Mapping):
        raise ModelError(f"{origin} must be a JSON object, but is {type(values).__name__}.")
    valid = sorted({*required, *optional})
    for key in values:
        if key not in valid:
            raise ModelError(f"{origin}: unknown key {key!r}. Valid keys: {', '.join(valid)}.")
    if missing := [key for key in required if key not in values]:
        raise ModelError(f"{origin}: missing {', '.join(missing)}. Required keys: {', '.join(required)}.")


def _check_choice(value: Any, choices: tuple[str, ...], origin: str) -> None:
    if value not in choices:
        raise ModelError(f"{origin} is {value!r}; it must be one of {', '.join(choices)}.")


def _three_channels(values: Any, origin: str) -> tuple[float, float, float]:
    if not (isinstance(values, list | tuple) and len(values) == 3 and all(isinstance(v, int | float) for v in values)):
        raise ModelError(f"{origin} is {values!r}; it must be three numbers, for red, green and blue in [0, 1].")
    red, green, blue = values
    return (float(red), float(green), float(blue))
