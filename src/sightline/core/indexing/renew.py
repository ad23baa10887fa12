"""What an older Sightline read otherwise, read anew before a run: the headers of known files, each once.

Facts stand in the header, so they are written at once. Where pixels are read otherwise than before, which the header
tells as well, the run embeds the image anew (`Plan.repainted`); of all others nothing but the mark changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sightline.core.images.decode import PIXELS_VERSION, read_info
from sightline.core.images.facts import FACTS_VERSION, read_sidecar
from sightline.core.images.files import file_stamp
from sightline.core.store.base import Entry
from sightline.errors import ImageError
from sightline.kit.work import map_ahead, uninterrupted

if TYPE_CHECKING:
    from sightline.core.indexing.plan import Plan
    from sightline.core.store.base import Store
    from sightline.core.types import ImageInfo, ImageRecord

_ROWS_AT_ONCE = 500
_AHEAD = 64
_SETTING = "pixels_version"
_MENDED = frozenset({"truncated JPEG", "damaged TIFF"})
"""Reasons of failures that other rules for pixels may undo."""


def renew(store: Store, plan: Plan, *, threads: int, on_look: Callable[[], None]) -> None:
    """Bring old rows up to date and note which images have other pixels now. Raises StoreError.

    Rows whose file changed wait for the run, those whose file can't be reached for a later one.
    """
    _forget_mended(store)
    entries: list[Entry] = []
    for record, info in map_ahead(
        _look, store.outdated(facts=FACTS_VERSION, pixels=PIXELS_VERSION), threads=threads, ahead=_AHEAD
    ):
        on_look()
        if info is None:
            continue
        entries.append(Entry(image=replace(record, info=info)))
        if info.pixels_version < PIXELS_VERSION and record.id is not None:
            plan.repainted.add(record.id)
        if len(entries) >= _ROWS_AT_ONCE:
            _write(store, entries)
    _write(store, entries)


def _look(record: ImageRecord) -> tuple[ImageRecord, ImageInfo | None]:
    """What a file's header tells now; None for one that changed or can't be read."""
    try:
        if file_stamp(record.path.stat()) != (record.size_bytes, record.mtime_ns):
            return record, None
        return record, read_info(record.path, sidecar=read_sidecar(record.path))
    except (OSError, ImageError):
        return record, None


def _write(store: Store, entries: list[Entry]) -> None:
    with uninterrupted():
        store.upsert(entries)
        entries.clear()


def _forget_mended(store: Store) -> None:
    """Let files be tried again that failed by older rules; once."""
    if int(store.setting(_SETTING) or 0) >= PIXELS_VERSION:
        return
    for failure in store.failures():
        if failure.reason in _MENDED:
            store.forget_failures(failure.root, [failure.relative])
    store.set_setting(_SETTING, str(PIXELS_VERSION))
