"""What others measured of well-known models, with the source of each figure; never mixed with what we measure."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """The figures of one source on one data set."""

    key: str
    title: str
    source: str
    """Repository, file and commit that the figures were read from."""
    n_images: int
    metrics: Mapping[str, Mapping[str, float]]
    """Model -> metric, by CLIP_benchmark's name -> fraction in [0, 1]."""
    data: str
    """Address that repeats it: `flickr8k:PATH`."""
    split: str
    options: str = ""
    """What the command needs besides."""
    note: str = ""
    """What to mind when comparing."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "title": self.title,
            "source": self.source,
            "n_images": self.n_images,
            "metrics": {model: dict(figures) for model, figures in self.metrics.items()},
            "note": self.note,
            "repeat": self.command,
        }

    @property
    def headlines(self) -> list[str]:
        """The strictest metric of each kind: recall@1 of each direction, acc1."""
        names = list(next(iter(self.metrics.values())))
        kinds = {name.rstrip("0123456789"): name for name in reversed(names)}
        return [name for name in names if name in kinds.values()]

    @property
    def command(self) -> str:
        """What measures the same with the real weights, once they are pulled."""
        words = ("sightline compare --models", ",".join(self.metrics), "--data", self.data, "--split", self.split)
        return " ".join((*words, *([self.options] if self.options else [])))


@cache
def load_published() -> tuple[PublishedTable, ...]:
    """The tables of `published.toml`."""
    text = resources.files("sightline.evaluation").joinpath("published.toml").read_text(encoding="utf-8")
    return tuple(_read_table(key, table) for key, table in tomllib.loads(text).items())


def pull_commands(tables: Sequence[PublishedTable]) -> list[str]:
    """What fetches the weights of all models of the tables, once each."""
    models = dict.fromkeys(model for table in tables for model in table.metrics)
    return [f"sightline models pull {model}" for model in models]


def _read_table(key: str, table: dict[str, Any]) -> PublishedTable:
    names: list[str] = table.pop("columns")
    rows: dict[str, list[float]] = table.pop("models")
    metrics = {model: dict(zip(names, figures, strict=True)) for model, figures in rows.items()}
    return PublishedTable(key=key, metrics=metrics, **table)
