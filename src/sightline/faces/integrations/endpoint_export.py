"""A model -> the repository of a Hugging Face inference endpoint: handler, requirements, model card, code, weights.

The repository carries the modules of Sightline that it runs: so it computes what was computed here, whatever is
released later, and installs nothing under our name from a registry.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, resources
from pathlib import Path
from string import Template

import sightline
from sightline.core.models.cards import ModelCard, find_card, read_card, write_card
from sightline.core.models.files import (
    CARD_FILE,
    PACKAGE_FOLDERS,
    TOKENIZER_FILES,
    compute_hash,
    find_graphs,
    resolve_folder,
    weights_hash,
)
from sightline.core.models.loading import cached_export
from sightline.errors import InputError, ModelError
from sightline.faces.integrations.endpoint_handler import CAPTIONER_FOLDER, ENCODER_FOLDER
from sightline.kit.files import replacing

HANDLER_FILE = "handler.py"
_ENTRY = "sightline.faces.integrations.endpoint_local"
"""The module that reaches all others that an endpoint runs: it imports the handler."""
_PACKAGES = ("numpy", "onnxruntime", "pillow", "simplejpeg", "tokenizers")
_PACKAGE_ROOT = Path(sightline.__file__).parent


@dataclass(frozen=True, kw_only=True)
class ExportedEndpoint:
    """A folder that was written, and the models in it."""

    folder: Path
    models: tuple[ModelCard, ...]
    size_bytes: int


def export_endpoint(model: str, folder: Path, *, captioner: str | None = None) -> ExportedEndpoint:
    """Write an endpoint's repository of an encoder, with a captioner beside it where one is named, or of a captioner.

    `folder` must be new, empty, or an endpoint exported before; it appears complete or not at all. Raises InputError
    for any other folder and for two models of one kind, ModelError for a model that isn't on this machine or can't run
    without torch.
    """
    folder = folder.absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder)):
        raise InputError(f"{folder} holds something else; name a new or an empty folder.")
    cards = [find_card(name) for name in (model, captioner) if name is not None]
    if len({card.kind for card in cards}) < len(cards) or (captioner is not None and cards[-1].kind != "captioner"):
        raise InputError(f"An endpoint takes one encoder and one captioner; {model} and {captioner} are no such pair.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as partial:
        partial.mkdir()
        written = [_write_model(card, partial) for card in cards]
        for path in _needed_modules():
            target = partial / "sightline" / path.relative_to(_PACKAGE_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        _write_texts(partial, written)
    size_bytes = sum(path.stat().st_size for path in _files_below(folder))
    return ExportedEndpoint(folder=folder, models=tuple(written), size_bytes=size_bytes)


def _is_ours(folder: Path) -> bool:
    models = (folder / name / CARD_FILE for name in (ENCODER_FOLDER, CAPTIONER_FOLDER))
    return (folder / HANDLER_FILE).is_file() and any(path.is_file() for path in models)


def _write_model(card: ModelCard, folder: Path) -> ModelCard:
    """Graphs, tokenizer and card in the layout of a model folder; the card as it is there."""
    source = resolve_folder(card)
    if find_graphs(source, card) is None:
        made, source = cached_export(card, source)
        card = replace(card, temperature=made.temperature or card.temperature, weights_hash=made.weights_hash)
    graphs = find_graphs(source, card)
    if graphs is None:
        raise ModelError(f"{source} has no ONNX graphs of {card.name}, and none could be made.")
    target = folder / (ENCODER_FOLDER if card.kind == "encoder" else CAPTIONER_FOLDER)
    (target / "onnx").mkdir(parents=True)
    for name, path in graphs.items():
        suffix = ".int8.onnx" if ".int8." in path.name else ".onnx"
        shutil.copyfile(path, target / "onnx" / f"{name}{suffix}")
    for name in ("config.json", *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    files = {path.relative_to(target).as_posix(): compute_hash(path) for path in _files_below(target)}
    known_hash = card.weights_hash or weights_hash(card, source)
    told = replace(card, name=_public_name(card), weights_hash=known_hash, onnx=None, files=files)
    told = replace(told, source=told.name) if told.name != card.name else told
    write_card(target, told)
    return told


def _public_name(card: ModelCard) -> str:
    """The name that the endpoint tells: not where the folder lies on this machine."""
    if not card.name.startswith("dir:"):
        return card.name
    own = read_card(Path(card.source)).name
    return Path(card.source).name if own.startswith(("dir:", "/")) else own


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _needed_modules() -> list[Path]:
    """The source files that an endpoint can import, with the packages above them."""
    needed: dict[str, Path] = {}
    waiting = [_ENTRY]
    while waiting:
        name = waiting.pop()
        if name in needed or (path := _source_of(name)) is None:
            continue
        needed[name] = path
        waiting += _imports_of(path)
        waiting += [name.rpartition(".")[0]] if "." in name else []
    return sorted(needed.values())


def _source_of(name: str) -> Path | None:
    base = _PACKAGE_ROOT.joinpath(*name.split(".")[1:])
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports_of(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, but for those that only type checkers see.

    The package's own `__init__` names what loads on demand, none of which an endpoint asks for.
    """
    if path == _PACKAGE_ROOT / "__init__.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {id(inner) for node in ast.walk(tree) if _is_for_type_checkers(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "sightline":
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "sightline")


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _write_texts(folder: Path, cards: Sequence[ModelCard]) -> None:
    templates = resources.files("sightline.faces.integrations") / "endpoint_files"
    for name in (HANDLER_FILE, "README.md"):
        text = (templates / f"{name}.template").read_text(encoding="utf-8")
        (folder / name).write_text(Template(text).substitute(_facts(cards)), encoding="utf-8")
    pins = "".join(f"{name}=={metadata.version(name)}\n" for name in _PACKAGES)
    (folder / "requirements.txt").write_text(pins, encoding="utf-8")
    for card in cards:
        notice = PACKAGE_FOLDERS[card.kind].parent / "LICENSE"
        if card.source == "package" and notice.is_file():
            shutil.copyfile(notice, folder / "LICENSE")


def _facts(cards: Sequence[ModelCard]) -> dict[str, str]:
    """Facts of the models for the texts. A card's words come from a file of the user's: each stays on its line."""
    encoder = next((card for card in cards if card.kind == "encoder"), None)
    lines = [f"| {_cell(c.name)} | {c.kind} | {c.preprocessing.size_px} | {_cell(c.licence)} |" for c in cards]
    return {
        "title": " + ".join(_cell(card.name) for card in cards),
        "pipeline_tag": "image-to-text" if encoder is None else "zero-shot-image-classification",
        "models": "\n".join(lines),
        "version": sightline.__version__,
    }


def _cell(text: str) -> str:
    """Words in a table of Markdown, on one line."""
    return " ".join(text.split()).replace("|", "/").replace("`", "'").replace("<", "‹").replace("$", "﹩")
