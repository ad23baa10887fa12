"""Model names -> cards: the models in `cards.toml`, those in the package, `hf:org/name` and `dir:path`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sightline.core.models.base import ModelCard, OnnxExport
from sightline.core.models.cards import CARD_FILE, card_from_json, read_card
from sightline.core.models.layout import METADATA_PATTERNS
from sightline.core.models.resolve import PACKAGE_FOLDERS
from sightline.errors import ModelError

CARDS_FILE = Path(__file__).with_name("cards.toml")

ENDPOINT_PREFIX = "endpoint:"
STARTER = "starter"
STARTER_CAPTIONER = "starter-captioner"
_PACKAGE_NAMES = {STARTER: PACKAGE_FOLDERS["encoder"], STARTER_CAPTIONER: PACKAGE_FOLDERS["captioner"]}


def known_cards() -> dict[str, ModelCard]:
    """Name -> card of every model known by a bare name, those of the package first."""
    package = {name: _package_card(name) for name, folder in _PACKAGE_NAMES.items() if (folder / CARD_FILE).is_file()}
    return {**package, **_hub_cards()}


def find_card(name: str, *, fetch: bool = True) -> ModelCard:
    """The card of a model name.

    `hf:` looks into the cache first and else fetches the repository's configuration files, never its weights;
    `endpoint:` asks the address. Without `fetch` neither happens. Raises ModelError for a bare name that isn't known
    (with the nearest ones), a folder without a model, or a repository that isn't there.
    """
    if name.startswith("dir:"):
        return _folder_card(name)
    if name.startswith("hf:"):
        return _repository_card(name, fetch=fetch)
    if name.startswith(ENDPOINT_PREFIX):
        if not fetch:
            raise ModelError("An endpoint is opened at the command line, with --model endpoint:URL, and not from here.")
        return _endpoint_card(name)
    if name in _PACKAGE_NAMES:
        return _package_card(name)
    cards = _hub_cards()
    if name in cards:
        return cards[name]
    names = [*_PACKAGE_NAMES, *cards]
    suggestions = _close_names(name, names)
    hint = f"Did you mean {', '.join(suggestions)}? " if suggestions else ""
    raise ModelError(
        f"There is no model {name!r}. {hint}Known models: {', '.join(names)}. "
        "Others: hf:ORG/NAME for a repository on the Hugging Face hub, dir:PATH for a model folder, "
        "endpoint:URL for one that computes elsewhere."
    )


def resolve_name(name: str, *, kind: Literal["encoder", "captioner"]) -> str:
    """The full name of a model, under which libraries keep its vectors: a relative `dir:` becomes absolute.

    Raises ModelError for a name that isn't known, or that is a model of another kind.
    """
    card = find_card(name)
    if card.kind != kind:
        article = "an" if card.kind == "encoder" else "a"
        raise ModelError(f"{name} is {article} {card.kind}, and this needs {kind}s, such as {STARTER!r}.")
    return card.name


def _close_names(name: str, names: Sequence[str]) -> list[str]:
    """Known names that start like the one asked for, then those spelt nearly so."""
    wanted = name.lower()
    starting = [known for known in names if wanted and known.lower().startswith(wanted)]
    near = difflib.get_close_matches(wanted, [known.lower() for known in names], n=3, cutoff=0.5)
    return [*starting, *(known for known in names if known.lower() in near and known not in starting)]


@cache
def _hub_cards() -> dict[str, ModelCard]:
    tables = tomllib.loads(CARDS_FILE.read_text(encoding="utf-8"))
    return {name: _card_from_table(name, table) for name, table in tables.items()}


def _card_from_table(name: str, table: dict[str, Any]) -> ModelCard:
    export = table.pop("onnx", None)
    card = card_from_json({"name": name, **table}, origin=f"{CARDS_FILE.name}: {name}")
    return card if export is None else replace(card, onnx=OnnxExport(**export))


def _package_card(name: str) -> ModelCard:
    folder = _PACKAGE_NAMES[name]
    if not (folder / CARD_FILE).is_file():
        raise ModelError(f"This installation lacks the model {name!r} ({folder}); install sightline again.")
    return replace(read_card(folder), name=name, source="package")


def _folder_card(name: str) -> ModelCard:
    path = Path(name.removeprefix("dir:")).expanduser().resolve()
    return replace(read_card(path), name=f"dir:{path}", source=str(path))


def _endpoint_card(name: str) -> ModelCard:
    """The card that an endpoint tells, of its encoder where it has one."""
    from sightline.core.models.endpoint_client import Endpoint

    endpoint = Endpoint(name)
    try:
        return endpoint.card("encoder" if endpoint.serves("encoder") else "captioner")
    finally:
        endpoint.close()


def _repository_card(name: str, *, fetch: bool) -> ModelCard:
    from sightline.core.models import hub  # only these names need huggingface_hub, which is slow to import

    repo, _, revision = name.removeprefix("hf:").partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ModelError(f"{name!r} is no repository name; write hf:ORG/NAME or hf:ORG/NAME@REVISION.")
    revision = revision or "main"
    folder = hub.cached_snapshot(repo, revision=revision, patterns=METADATA_PATTERNS)
    if folder is None or not (folder / "config.json").is_file():
        if not fetch:
            raise ModelError(f"The files of {name} are not on this machine. Fetch them: sightline models pull {name}")
        folder = hub.download_snapshot(repo, revision=revision, patterns=METADATA_PATTERNS)
    return replace(read_card(folder), name=name, source=repo, revision=revision)
