"""A model's card from the configuration files of a folder in transformers' layout, without importing transformers.

Saved configurations omit values that equal the class's default, so those defaults are repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.files import read_json
from sightline.errors import ModelError

_MODEL_TYPES = ("clip", "siglip", "blip")

_MATCHER_CLASS = "BlipForImageTextRetrieval"
"""The class of a BLIP with a matching head, as `architectures` names it; the others write captions."""

_LEGACY_CLIP_EOS_ID = 2
"""End id of CLIP texts in configurations of 2021; it means "the highest id of the vocabulary"."""

_RESAMPLINGS = {2: "bilinear", 3: "bicubic"}
_DEFAULT_IMAGE_SIZES_PX = {"clip": 224, "siglip": 224, "blip": 384}
_HALF = [0.5, 0.5, 0.5]


def describe_transformers_folder(folder: Path) -> dict[str, Any]:
    """The card of a CLIP, SigLIP or BLIP folder from its own JSON files, as `sightline.json` would hold it.

    Raises ModelError for another model type, or where preprocessing isn't the scaling and cropping that we do.
    """
    config = read_json(folder / "config.json")
    family = config.get("model_type")
    if family not in _MODEL_TYPES:
        raise ModelError(
            f"{folder}: model_type {family!r} is not supported. Supported: {', '.join(_MODEL_TYPES)} "
            "(SigLIP 2 of fixed resolution has model_type siglip), and folders that Sightline made."
        )
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    kinds = {"blip": "matcher" if _MATCHER_CLASS in config.get("architectures", ()) else "captioner"}
    dims = {"clip": config.get("projection_dim", 512), "siglip": vision.get("hidden_size", 768)}
    return {
        "name": folder.name,
        "kind": kinds.get(family, "encoder"),
        "family": family,
        "dim": dims.get(family),
        "source": str(folder),
        "image": _describe_image(folder, family, vision),
        "text": _describe_text(folder, family, text),
        "activation": text.get("hidden_act", "quick_gelu") if family == "clip" else None,
    }


def _describe_image(folder: Path, family: str, vision: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing from `preprocessor_config.json` or `processor_config.json`; the family's own where both lack.

    Raises ModelError where the model's image size and the preprocessor's differ, or the steps aren't ours.
    """
    values = _image_processor_values(folder)
    model_size_px = _side(vision.get("image_size", _DEFAULT_IMAGE_SIZES_PX[family]), folder)
    size, crop_size = values.get("size", model_size_px), values.get("crop_size", model_size_px)
    crops = values.get("do_center_crop", family == "clip")
    size_px, crop_px = _side(size, folder), _side(crop_size, folder)
    if size_px != model_size_px or (crops and crop_px != size_px):
        raise ModelError(
            f"{folder}: the preprocessor scales to {size!r} and crops to {crop_size!r}, the model takes "
            f"{model_size_px} pixels; Sightline needs all of them equal. Check the folder's JSON files."
        )
    resample = values.get("resample", 3)
    if resample not in _RESAMPLINGS:
        raise ModelError(f"{folder}: resample {resample!r} is not supported; it must be 2 (bilinear) or 3 (bicubic).")
    squashes = not crops or (isinstance(size, Mapping) and "height" in size)
    default_mean, default_std = (_HALF, _HALF) if family == "siglip" else (Preprocessing.mean, Preprocessing.std)
    return {
        "size_px": size_px,
        "resize": "squash" if squashes else "crop",
        "interpolation": _RESAMPLINGS[resample],
        "mean": values.get("image_mean", default_mean),
        "std": values.get("image_std", default_std),
    }


def _image_processor_values(folder: Path) -> Mapping[str, Any]:
    """Version 5 writes one `processor_config.json` with the image processor inside; before, a file of its own."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            values: Mapping[str, Any] = read_json(folder / name)
            nested: Mapping[str, Any] = values.get("image_processor", values)
            if "image_mean" in nested or "size" in nested:
                return nested
    return {}


def _side(size: Any, folder: Path) -> int:
    """One side in pixels of `224`, `{"shortest_edge": 224}` or `{"height": 224, "width": 224}`."""
    sides = set(size.values()) if isinstance(size, Mapping) else {size}
    if len(sides) == 1 and isinstance(side := sides.pop(), int):
        return side
    raise ModelError(f"{folder}: image size {size!r} is not supported; it must be one square of a fixed size.")


def _describe_text(folder: Path, family: str, text: Mapping[str, Any]) -> dict[str, Any]:
    if family == "clip":
        eos_id, bos_id = text.get("eos_token_id", 49407), text.get("bos_token_id", 49406)
        if eos_id == _LEGACY_CLIP_EOS_ID:
            eos_id = text.get("vocab_size", 49408) - 1
            bos_id = eos_id - 1
        # The causal tower never looks past EOS, so EOS pads too, as OpenAI's tokenizer does.
        length = text.get("max_position_embeddings", 77)
        return {"context_length": length, "pad_id": eos_id, "bos_id": bos_id, "eos_id": eos_id}
    if family == "siglip":
        length, pad_id = text.get("max_position_embeddings", 64), _pad_id(folder, text)
        return {"context_length": length, "pad_id": pad_id, "padding": "fixed", "lowercase": True}
    return {
        "context_length": text.get("max_position_embeddings", 512),
        "pad_id": text.get("pad_token_id", 0),
        "bos_id": text.get("bos_token_id", 30522),
        "eos_id": text.get("sep_token_id", 102),
    }


def _pad_id(folder: Path, text: Mapping[str, Any]) -> int:
    """Id of the tokenizer's own pad token: SigLIP reads its padding, and its model configuration often has it wrong."""
    settings_path = folder / "tokenizer_config.json"
    settings = read_json(settings_path) if settings_path.is_file() else {}
    token = settings.get("pad_token")
    if isinstance(token, Mapping):
        token = token.get("content")
    for id_text, added in settings.get("added_tokens_decoder", {}).items():
        if added.get("content") == token:
            return int(id_text)
    if token is not None and (folder / "tokenizer.json").is_file():
        tokenizer = read_json(folder / "tokenizer.json")
        for added in tokenizer.get("added_tokens", []):
            if added["content"] == token:
                return int(added["id"])
    if (configured := text.get("pad_token_id")) is not None:
        return int(configured)
    raise ModelError(
        f"{folder}: no pad token found in tokenizer_config.json, tokenizer.json or config.json's text_config."
    )
