"""Fetching a model for later use without network, after saying what will be fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sightline.core.models.registry import find_card
from sightline.core.models.resolve import best_choice, find_local_folder, is_available, resolve_folder


def pull(name: str, *, progress: Callable[[str], None]) -> Path:
    """Fetch what a model name needs to run here, and give the folder; a no-op where it can run already.

    `progress` gets one line before anything large is fetched: which files, for which runtime, how many megabytes.
    Raises ModelError where the model is unknown, the hub can't be reached, or PyTorch is needed and missing.
    """
    card = find_card(name)
    folder = find_local_folder(card)
    if folder is not None and is_available(card):
        progress(f"{card.name} is on this machine already: {folder}")
        return folder
    choice = best_choice(card)
    from sightline.core.models import hub

    size_bytes = hub.download_size(choice.repo, revision=choice.revision, patterns=choice.patterns)
    progress(f"{card.name}: {choice.described}; fetching {size_bytes / 1e6:.0f} MB from {choice.repo}")
    return resolve_folder(card, download=True)
