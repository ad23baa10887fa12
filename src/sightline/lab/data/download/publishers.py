"""The data sets that `data get` knows, from `publishers.toml`: what their publishers offer, and under which terms."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from sightline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One zip file of a publisher."""

    part: str
    """What it is asked for by."""
    path: str
    """Below the publisher's site."""
    members: str
    """Pattern of what is unpacked."""
    size_bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """A data set and how it can be had: as archives, as a list of addresses, or by hand."""

    name: str
    title: str
    page: str
    licence: str
    site: str = ""
    archives: tuple[Archive, ...] = ()
    list_path: str | None = None
    """Of the list of addresses, below the site."""
    by_hand: str | None = None
    """What a person must do, where no program may."""

    def choose(self, parts: tuple[str, ...]) -> tuple[Archive, ...]:
        """The archives of some parts; all without any. Raises InputError for an unknown part."""
        known = [archive.part for archive in self.archives]
        for part in parts:
            if part not in known:
                raise InputError(f"{self.name} has no part {part!r}; its parts are {', '.join(known)}.")
        return tuple(archive for archive in self.archives if not parts or archive.part in parts)

    def explain_by_hand(self) -> str:
        """What to fetch, from where, and how to lay it out."""
        return f"{self.title} can't be fetched by a program.\nFrom: {self.page} ({self.licence})\n{self.by_hand}"


def find_publisher(name: str) -> Publisher | None:
    """A publisher by the data set's name."""
    return load_publishers().get(name)


def explain_unknown(name: str) -> InputError:
    """The error for a name that no publisher has, where no list was given either."""
    known = sorted(load_publishers())
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return InputError(
        f"There is no data set {name!r} to get; known: {', '.join(known)}.{hint} "
        "Pictures of any other list of addresses: sightline data get NAME --list FILE.tsv"
    )


@cache
def load_publishers() -> dict[str, Publisher]:
    """All publishers of `publishers.toml` by name."""
    text = (resources.files("sightline.lab.data.download") / "publishers.toml").read_text(encoding="utf-8")
    return {name: _parse(name, entry) for name, entry in tomllib.loads(text).items()}


def _parse(name: str, entry: dict[str, Any]) -> Publisher:
    archives = tuple(Archive(**archive) for archive in entry.pop("archives", ()))
    return Publisher(name=name, archives=archives, **entry)
