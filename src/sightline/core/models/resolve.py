"""From a card to the local folder with its files: the package, a folder, the hub's cache, or a download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sightline.core.models.base import ModelCard
from sightline.core.models.cards import CARD_FILE
from sightline.core.models.hashes import hash_files, verify_files
from sightline.core.models.layout import (
    SOURCE_PATTERNS,
    TOKENIZER_FILES,
    TORCH_ADVICE,
    find_graphs,
    find_weights,
    has_tokenizer,
    torch_installed,
)
from sightline.errors import ModelError
from sightline.kit.config import cache_dir

PACKAGE_MODELS = Path(__file__).parent / "starter"
"""What ships with Sightline: one folder a model."""

PACKAGE_FOLDERS = {"encoder": PACKAGE_MODELS / "clip", "captioner": PACKAGE_MODELS / "captioner"}

Runtime = Literal["auto", "onnx", "torch"]


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """One way to get a card's model from the hub: a repository and which of its files."""

    repo: str
    revision: str
    patterns: tuple[str, ...]
    usable: Callable[[Path], bool]
    """Whether a snapshot's folder holds all that is needed."""
    described: str


def resolve_folder(card: ModelCard, *, download: bool = False, runtime: Runtime = "auto") -> Path:
    """The folder with the card's files, their hashes checked. The network is used only if `download` is given.

    Raises ModelError where the files are missing, differ from the card's hashes, or can't be fetched.
    """
    folder = _find_folder(card, download=download, runtime=runtime)
    verify_files(folder, card.files)
    return folder


def is_available(card: ModelCard) -> bool:
    """Whether the model can run now, without network: its files are here, and so is a runtime for them."""
    folder = find_local_folder(card)
    return folder is not None and _can_run(folder, card)


def find_local_folder(card: ModelCard, runtime: Runtime = "auto") -> Path | None:
    """The folder with a complete set of the card's files on this machine, or None; hashes are not checked."""
    if (folder := local_source(card)) is not None:
        return folder if _is_runnable(folder, card) else None
    from sightline.core.models import hub  # huggingface_hub takes 0.25 s to import, and local models never need it

    for files in hub_choices(card, runtime):
        snapshot = hub.cached_snapshot(files.repo, revision=files.revision, patterns=files.patterns)
        if snapshot is not None and files.usable(snapshot):
            return snapshot
    return None


def exports_dir(folder: Path) -> Path:
    """Where the ONNX export of a folder's PyTorch weights is kept between runs, once made.

    Named by all that the graphs and the tokens depend on: weights, configuration and tokenizer.
    """
    settings = [folder / name for name in ("config.json", *TOKENIZER_FILES)]
    key = hash_files([*find_weights(folder), *(path for path in settings if path.is_file())])
    return cache_dir() / "exports" / key[:32]


def local_source(card: ModelCard) -> Path | None:
    """Where a card's files lie if they don't come from the hub: in the package or in a folder of the user's."""
    if card.source == "package":
        return PACKAGE_FOLDERS[card.kind]
    if card.name.startswith("dir:"):
        return Path(card.source)
    return None


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
    """Whether a runtime for the folder's files is installed, or they were exported when one was."""
    return find_graphs(folder, card) is not None or torch_installed() or (exports_dir(folder) / CARD_FILE).is_file()


def _is_runnable(folder: Path, card: ModelCard) -> bool:
    return has_tokenizer(folder) and (find_graphs(folder, card) is not None or bool(find_weights(folder)))


def _what_is_missing(folder: Path, card: ModelCard) -> str:
    if card.source == "package":
        return f"This installation lacks the weights of {card.name} ({folder}); install sightline again."
    if not folder.is_dir():
        return f"There is no model folder {folder}; `dir:PATH` must name an existing folder."
    lacking = "tokenizer files" if not has_tokenizer(folder) else "weights: neither model.safetensors nor onnx/*.onnx"
    return f"{folder} lacks {lacking}. Pickled weights (.bin, .pt) are not loaded; convert them to safetensors."
