"""Which pictures of a library still lack captions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightline.core.store.base import Store

_CHUNK_ROWS = 500


def find_uncaptioned(store: Store, *, encoder: str, captioner: str | None, root: Path | None = None) -> Iterator[Path]:
    """Pictures without captions that these two models ranked and wrote, by folder and path; captioner None: ranked.

    So captioning can go on where it stopped, and another captioner writes its own for all pictures.
    """
    records = iter(store.scan(root=root))
    while chunk := list(islice(records, _CHUNK_ROWS)):
        captions = store.captions([record.id for record in chunk if record.id is not None])
        for record in chunk:
            known = {(c.source, c.model) for c in captions.get(record.id or 0, [])}
            if ("clip", encoder) not in known or (captioner is not None and ("generated", captioner) not in known):
                yield record.path
