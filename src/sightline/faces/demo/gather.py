"""Copy the demo's photographs out of the libraries that carry them, without importing those libraries."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import InputError, install_advice
from sightline.faces.demo.photos import DemoPhoto

MIN_PHOTOS = 10
"""With fewer, a search has too little to choose from to show anything."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What was found."""

    folder: Path
    photos: tuple[DemoPhoto, ...]
    """Those that now lie in the folder."""
    missing: tuple[DemoPhoto, ...]
    """Those that the installed versions don't carry."""


def gather_photos(photos: Sequence[DemoPhoto], folder: Path) -> Gathered:
    """Copy photos into a folder, byte for byte; what lies there unchanged is left alone.

    Raises InputError where fewer than `MIN_PHOTOS` are found: the extra `demo` is not installed.
    """
    sources = {photo: source for photo in photos if (source := find_photo(photo)) is not None}
    missing = tuple(photo for photo in photos if photo not in sources)
    if len(sources) < MIN_PHOTOS:
        libraries = ", ".join(sorted({photo.library for photo in missing}))
        raise InputError(
            f"Only {len(sources)} of the demo's {len(photos)} photos are here; it needs {MIN_PHOTOS}. "
            f"They come with {libraries}: {install_advice('demo')}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for photo, source in sources.items():
        _copy_if_changed(source, folder / photo.file)
    return Gathered(folder=folder, photos=tuple(sources), missing=missing)


def find_photo(photo: DemoPhoto) -> Path | None:
    """The photo's file inside the installed package; None where package or file is not here."""
    spec = importlib.util.find_spec(photo.package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        source = Path(location, photo.inside)
        if source.is_file():
            return source
    return None


def _copy_if_changed(source: Path, target: Path) -> None:
    """`copy2` keeps size and time, so that equal ones mean an unchanged file, as in indexing."""
    wanted = source.stat()
    if target.is_file():
        found = target.stat()
        if (found.st_size, found.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return
    shutil.copy2(source, target)
