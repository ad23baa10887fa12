"""What lies where in a model folder, and whether this machine can run it. Nothing here loads a model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sightline.core.models.base import ModelCard
from sightline.errors import install_advice

WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
METADATA_PATTERNS = ("*.json", "*.txt")
"""Configuration and tokenizer files, a few megabytes at most."""

SOURCE_PATTERNS = (*METADATA_PATTERNS, "model.safetensors", "model-*.safetensors")
"""What a PyTorch model needs."""

GRAPHS_OF_KIND = {"encoder": ("image", "text"), "captioner": ("image", "decoder")}
TORCH_ADVICE = f"install it: {install_advice('torch')}"


def find_graphs(folder: Path, card: ModelCard) -> dict[str, Path] | None:
    """Paths of the graphs that the card's kind needs, keyed `image`, `text`, `decoder`; None where one is missing.

    Takes our own layout (`onnx/image.onnx`, or `onnx/image.int8.onnx` where that is all there is), else the published
    layout that the card names.
    """
    names = GRAPHS_OF_KIND[card.kind]
    own = {name: _first_file(folder / "onnx", name) for name in names}
    if all(own.values()):
        return {name: path for name, path in own.items() if path is not None}
    if card.kind == "captioner":
        return None
    image, text = published_graph_names(card)
    published = {"image": folder / image, "text": folder / text}
    return published if all(path.is_file() for path in published.values()) else None


def published_graph_names(card: ModelCard) -> tuple[str, str]:
    """Relative paths of an encoder's image and text graph in a published ONNX export."""
    if card.onnx is not None:
        return card.onnx.image, card.onnx.text
    return "onnx/vision_model.onnx", "onnx/text_model.onnx"


def find_weights(folder: Path) -> list[Path]:
    """Safetensors files of a folder, sorted; never pickles."""
    whole = folder / WEIGHTS_FILE
    return [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds one of the sets of tokenizer files that we read."""
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return True
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.txt").is_file()


def torch_installed() -> bool:
    """Whether the extra `torch` is there, found without importing it."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def _first_file(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}{suffix}" for suffix in (".onnx", ".int8.onnx"))
    return next((path for path in candidates if path.is_file()), None)
