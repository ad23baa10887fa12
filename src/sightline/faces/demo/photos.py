"""The demo's photographs: what is known of them, their files in the libraries that carry them, the page of credits."""

from __future__ import annotations

import importlib.util
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from sightline.errors import InputError, install_advice

MIN_PHOTOS = 10
"""With fewer, a search has too little to choose from to show anything."""

REDISTRIBUTABLE_LICENCES: Mapping[str, str | None] = {
    "public domain": None,
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC BY 2.0": "https://creativecommons.org/licenses/by/2.0/",
}
"""Licence -> its text. Only photos under one of these may be shown in anything that is committed."""


@dataclass(frozen=True, kw_only=True)
class DemoPhoto:
    """One photograph of `photos.toml`."""

    file: str
    """Its name in the demo's folder."""
    library: str
    """The library that carries it, as it is named on PyPI."""
    package: str
    """That library's import name."""
    inside: str
    """Path below the package, with `/`."""
    shows: str
    author: str
    licence: str
    link: str
    redistributable: bool
    queries: tuple[str, ...]
    """Words that a person may type to find it; written before any model was judged by them."""
    note: str | None = None

    @property
    def credit(self) -> str:
        """One line: who made it, under which licence, where it was taken from."""
        return f"Author: {self.author}. Licence: {self.licence}. From {self.library}."


def load_photos() -> tuple[DemoPhoto, ...]:
    """The photographs of `photos.toml`, in its order. Raises InputError where an entry is wrong."""
    text = (resources.files("sightline.faces.demo") / "photos.toml").read_text(encoding="utf-8")
    return parse_photos(text)


def parse_photos(text: str) -> tuple[DemoPhoto, ...]:
    """`photos.toml` as text -> its entries. Raises InputError that names the entry and what is wrong with it."""
    return tuple(_parse_entry(entry) for entry in tomllib.loads(text)["photo"])


def _parse_entry(entry: dict[str, Any]) -> DemoPhoto:
    name = entry.get("file", "an entry without `file`")
    allowed = {field.name for field in fields(DemoPhoto)}
    missing = allowed - {"note"} - entry.keys()
    unknown = entry.keys() - allowed
    if missing or unknown:
        raise InputError(
            f"photos.toml, {name}: missing {sorted(missing)}, unknown {sorted(unknown)}. Allowed: {sorted(allowed)}."
        )
    if entry["redistributable"] and entry["licence"] not in REDISTRIBUTABLE_LICENCES:
        raise InputError(
            f"photos.toml, {name}: licence {entry['licence']!r} isn't redistributable. "
            f"Only these are: {', '.join(REDISTRIBUTABLE_LICENCES)}."
        )
    return DemoPhoto(**{**entry, "queries": tuple(entry["queries"])})


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The photos that were copied, and those that weren't there."""

    folder: Path
    photos: tuple[DemoPhoto, ...]
    """Those that now lie in the folder."""
    missing: tuple[DemoPhoto, ...]
    """Those that the installed versions don't carry."""


def gather_photos(photos: Sequence[DemoPhoto], folder: Path) -> Gathered:
    """Copy photos out of the libraries, which are not imported; what lies in the folder unchanged is left alone.

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


def format_credits(photos: Sequence[DemoPhoto]) -> str:
    """`docs/credits.md`: where each photograph comes from and what may be done with it."""
    shown = [photo for photo in photos if photo.redistributable]
    others = [photo for photo in photos if not photo.redistributable]
    lines = [
        "# Credits",
        "",
        "<!-- Generated from src/sightline/faces/demo/photos.toml by `make docs`. -->",
        "",
        "The demo's photographs lie inside the packages of other libraries, which `make demo` installs. None is",
        "part of Sightline. What is said here of author and licence is what the carrying library says.",
        "",
        "## Shown in this repository's pictures",
        "",
        "Public domain, CC0 or CC BY. Scaled down to at most 320 pixels; otherwise unchanged.",
        "",
        *_format_table(shown),
        "",
    ]
    if others:
        lines += [
            "## Used when the demo runs, never committed",
            "",
            "Licence unknown, disputed, or not one of the above.",
            "",
            *_format_table(others),
            "",
        ]
    return "\n".join(lines)


def _format_table(photos: Sequence[DemoPhoto]) -> list[str]:
    rows = [
        f"| `{photo.file}` | {photo.shows} | {photo.author} | {_format_licence(photo.licence)} "
        f"| [{photo.library}, `{photo.inside}`]({photo.link}) | {photo.note or ''} |"
        for photo in photos
    ]
    return ["| photo | shows | author | licence | source | note |", "|---|---|---|---|---|---|", *rows]


def _format_licence(licence: str) -> str:
    address = REDISTRIBUTABLE_LICENCES.get(licence)
    return f"[{licence}]({address})" if address else licence
