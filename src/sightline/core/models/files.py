"""Model files on this machine: what lies where in a model folder, hashes, and the folder that has a card's files.

That is a folder of the package, of the user's or of the hub's cache, or a download. Nothing here loads a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sightline.errors import ModelError, install_advice
from sightline.kit.config import cache_dir
from sightline.kit.files import write_json

if TYPE_CHECKING:
    from sightline.core.models.cards import ModelCard

CARD_FILE = "sightline.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("tokenizer_config.json", "special_tokens_map.json"),
)
METADATA_PATTERNS = ("*.json", "*.txt")
"""Configuration and tokenizer files, a few megabytes at most."""
SOURCE_PATTERNS = (*METADATA_PATTERNS, WEIGHTS_FILE, "model-*.safetensors")
"""Files of a PyTorch model."""

_STARTER = Path(__file__).parent / "starter"
PACKAGE_FOLDERS = {"encoder": _STARTER / "clip", "captioner": _STARTER / "captioner"}
"""Models that ship with Sightline."""

TORCH_ADVICE = f"install it: {install_advice('torch')}"
Runtime = Literal["auto", "onnx", "torch"]

_GRAPHS_OF_KIND = {"encoder": ("image", "text"), "captioner": ("image", "decoder"), "matcher": ("image", "match")}
_HASHES_FILE = "file-hashes.json"


def find_graphs(folder: Path, card: ModelCard) -> dict[str, Path] | None:
    """Paths of the graphs that the card's kind needs, keyed `image`, `text`, `decoder`; None where one is missing.

    Takes our own layout (`onnx/image.onnx`, or `onnx/image.int8.onnx` where that is all there is), else the published
    layout that the card names.
    """
    own = {name: _first_file(folder / "onnx", name) for name in _GRAPHS_OF_KIND[card.kind]}
    if all(own.values()):
        return {name: path for name, path in own.items() if path is not None}
    if card.kind != "encoder":
        return None
    image, text = ("onnx/vision_model.onnx", "onnx/text_model.onnx")
    if card.onnx is not None:
        image, text = card.onnx.image, card.onnx.text
    published = {"image": folder / image, "text": folder / text}
    return published if all(path.is_file() for path in published.values()) else None


def only_int8(graphs: Mapping[str, Path]) -> bool:
    """True where a model comes in int8 only."""
    return any(".int8." in path.name for path in graphs.values())


def _first_file(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}{suffix}" for suffix in (".onnx", ".int8.onnx"))
    return next((path for path in candidates if path.is_file()), None)


def find_weights(folder: Path) -> list[Path]:
    """Safetensors files of a folder, sorted; never pickles."""
    whole = folder / WEIGHTS_FILE
    return [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))


def has_tokenizer(folder: Path) -> bool:
    """True where the folder holds one of the sets of tokenizer files that we read."""
    sets = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
    return any(all((folder / name).is_file() for name in names) for names in sets)


def torch_installed() -> bool:
    """True where the extra `torch` is there, found without importing it."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises ModelError where it can't be read or isn't JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} can't be read as JSON: {error}. Restore the file from where the model came."
        ) from error


def hash_file(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits; read again only where its size or modification time changed."""
    return _hash_each([path])[0]


def compute_hash(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits, read now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """One hash over several files: the file's own for a single one, else of the sorted list of theirs."""
    digests = _hash_each(paths)
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(sorted(digests)).encode("ascii")).hexdigest()


def verify_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare the files that are there with the card's hashes. Raises ModelError naming each that differs."""
    there = [relative for relative in expected if (folder / relative).is_file()]
    digests = _hash_each(folder / relative for relative in there)
    changed = [name for name, digest in zip(there, digests, strict=True) if digest != expected[name].lower()]
    if changed:
        raise ModelError(
            f"{folder}: the content of {', '.join(sorted(changed))} is not what the model's card says (SHA-256). "
            "The file is damaged or was replaced; delete it and fetch the model again."
        )


def weights_hash(card: ModelCard, folder: Path) -> str:
    """The identity of the weights: the card's own hash, else that of the safetensors, else of the ONNX graphs."""
    if card.weights_hash is not None:
        return card.weights_hash
    if weights := find_weights(folder):
        return hash_files(weights)
    graphs = find_graphs(folder, card)
    if graphs is None:
        raise ModelError(f"{folder} has neither model.safetensors nor ONNX graphs.")
    return hash_files(graphs.values())


def _hash_each(paths: Iterable[Path]) -> list[str]:
    known, digests = _read_hashes(), []
    for path in paths:
        status = path.stat()
        key, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns]
        entry = known.get(key)
        if entry is None or entry[:2] != stamp:
            entry = [*stamp, compute_hash(path)]
            with contextlib.suppress(OSError):  # without a writable cache every start hashes again, and all still works
                cache_dir().mkdir(parents=True, exist_ok=True)
                write_json(cache_dir() / _HASHES_FILE, {**_read_hashes(), key: entry})
        digests.append(str(entry[2]))
    return digests


def _read_hashes() -> dict[str, list[int | str]]:
    try:
        values = json.loads((cache_dir() / _HASHES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # a cache that is missing or damaged is made anew
    return values if isinstance(values, dict) else {}


def resolve_folder(card: ModelCard, *, download: bool = False, runtime: Runtime = "auto") -> Path:
    """The folder with the card's files, their hashes checked. The network is used only if `download` is given.

    Raises ModelError where the files are missing, differ from the card's hashes, or can't be fetched.
    """
    folder = _find_folder(card, download=download, runtime=runtime)
    verify_files(folder, card.files)
    return folder


def is_available(card: ModelCard) -> bool:
    """True where the model can run now, without network: its files are here, and so is a runtime for them."""
    folder = find_local_folder(card)
    return folder is not None and _can_run(folder, card)


def find_local_folder(card: ModelCard, runtime: Runtime = "auto") -> Path | None:
    """The folder with a complete set of the card's files on this machine, or None; hashes are not checked."""
    if (folder := local_source(card)) is not None:
        complete = has_tokenizer(folder) and (find_graphs(folder, card) is not None or find_weights(folder))
        return folder if complete else None
    from sightline.core.models import hub  # huggingface_hub takes 0.25 s to import, and local models never need it

    for choice in hub_choices(card, runtime):
        snapshot = hub.cached_snapshot(choice.repo, revision=choice.revision, patterns=choice.patterns)
        if snapshot is not None and choice.usable(snapshot):
            return snapshot
    return None


def exports_dir(folder: Path) -> Path:
    """Folder that keeps the ONNX export of a folder's PyTorch weights between runs, once made.

    Named by all that the graphs and the tokens depend on: weights, configuration and tokenizer.
    """
    settings = [folder / name for name in ("config.json", *TOKENIZER_FILES)]
    key = hash_files([*find_weights(folder), *(path for path in settings if path.is_file())])
    return cache_dir() / "exports" / key[:32]


def local_source(card: ModelCard) -> Path | None:
    """Folder of a card that doesn't come from the hub: in the package, or the user's. None for others."""
    if card.source == "package":
        return PACKAGE_FOLDERS[card.kind]
    if card.name.startswith("dir:"):
        return Path(card.source)
    return None


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """One way to get a card's model from the hub: a repository and which of its files."""

    repo: str
    revision: str
    patterns: tuple[str, ...]
    usable: Callable[[Path], bool]
    """True for a snapshot's folder that holds all that is needed."""
    described: str

    def count_bytes(self) -> int:
        """Bytes that a download would fetch now. Raises ModelError as `hub.download_size` does."""
        from sightline.core.models import hub

        return hub.download_size(self.repo, revision=self.revision, patterns=self.patterns)


def hub_choices(card: ModelCard, runtime: Runtime = "auto") -> list[HubFiles]:
    """Ways to get the model from the hub, best first: a published ONNX export, then the PyTorch weights."""
    choices = []
    if card.onnx is not None and runtime != "torch":
        export = card.onnx
        choices.append(
            HubFiles(
                repo=export.repo,
                revision=export.revision,
                patterns=(export.image, export.text, export.tokenizer),
                usable=lambda folder: find_graphs(folder, card) is not None and has_tokenizer(folder),
                described="published ONNX export, which runs without PyTorch",
            )
        )
    weights = HubFiles(
        repo=card.source,
        revision=card.revision,
        patterns=SOURCE_PATTERNS,
        usable=lambda folder: bool(find_weights(folder)) and (folder / "config.json").is_file(),
        described="PyTorch weights, which the extra `torch` runs or exports once",
    )
    return [*choices, weights]


def best_choice(card: ModelCard, runtime: Runtime = "auto") -> HubFiles:
    """The way that a download takes. Raises ModelError where it would need the extra `torch` and that is missing."""
    choice = hub_choices(card, runtime)[0]
    if choice.patterns == SOURCE_PATTERNS and not torch_installed():
        raise ModelError(
            f"{card.name} has no published ONNX export that we know, and PyTorch is not installed to make one; "
            f"{TORCH_ADVICE}. Or use the model `starter`, or `ViT-B-32/openai`."
        )
    return choice


def _find_folder(card: ModelCard, *, download: bool, runtime: Runtime) -> Path:
    folder = find_local_folder(card, runtime)
    if folder is not None and (not download or _can_run(folder, card)):
        return folder
    if (folder := local_source(card)) is not None:
        raise ModelError(_what_is_missing(folder, card))
    if not download:
        raise ModelError(
            f"The files of {card.name} are not on this machine. Fetch them: `sightline models pull {card.name}`; "
            "or use the model `starter`, which ships with Sightline, `dir:PATH` for a model folder, or a cache "
            "filled elsewhere (HF_HOME)."
        )
    from sightline.core.models import hub

    choice = best_choice(card, runtime)
    folder = hub.download_snapshot(choice.repo, revision=choice.revision, patterns=choice.patterns)
    if not choice.usable(folder):
        raise ModelError(
            f"{choice.repo} at revision {choice.revision!r} lacks files that {card.name} needs "
            f"({', '.join(choice.patterns)}); pickled weights (.bin) are not loaded. Name a revision that has "
            f"safetensors: hf:{choice.repo}@refs/pr/NUMBER."
        )
    return folder


def _can_run(folder: Path, card: ModelCard) -> bool:
    """True where a runtime for the folder's files is installed, or they were exported when one was."""
    return find_graphs(folder, card) is not None or torch_installed() or (exports_dir(folder) / CARD_FILE).is_file()


def _what_is_missing(folder: Path, card: ModelCard) -> str:
    if card.source == "package":
        return f"This installation lacks the weights of {card.name} ({folder}); install sightline again."
    if not folder.is_dir():
        return f"There is no model folder {folder}; `dir:PATH` must name an existing folder."
    lacking = "tokenizer files" if not has_tokenizer(folder) else "weights: neither model.safetensors nor onnx/*.onnx"
    return f"{folder} lacks {lacking}. Pickled weights (.bin, .pt) are not loaded; convert them to safetensors."
