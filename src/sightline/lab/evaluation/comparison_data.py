"""Data that models are compared on, and what others measured of well-known models, with the source of each figure.

Images are a data set with captions or classes, or somebody's own with some queries. Published figures are never mixed
with what we measure.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from sightline.core.images.files import walk_images
from sightline.errors import InputError
from sightline.kit.config import expand
from sightline.lab.data.addressing import find_reader, known_kinds, load_measured
from sightline.lab.data.base import Dataset, FileImage, Pair, choose_subset, fingerprint_of_pairs
from sightline.lab.data.captioned_files import read_lines
from sightline.lab.evaluation.classification import default_templates, fill
from sightline.lab.evaluation.labelled import LABELLED_KINDS, load_labelled
from sightline.lab.evaluation.results import Problem

IMAGES = "pictures"
"""The kind before the colon of a folder that is taken as images without captions, whatever else it holds."""
OWN_LIMIT = 1000
"""Images taken of a folder without captions, unless told otherwise: rankings show their agreement on these."""
QUERIES_AT_MOST = 1000
DEFAULT_QUERIES = tuple(
    resources.files("sightline.lab.evaluation").joinpath("queries.txt").read_text(encoding="utf-8").splitlines()
)
"""Asked of images that have no captions, where no file of queries is given."""


@dataclass(frozen=True, kw_only=True)
class ComparisonData:
    """Images, and the texts that are asked for."""

    dataset: Dataset
    queries: tuple[str, ...]
    """Texts that rankings are compared on and text queries are timed with."""
    split: str | None = None
    """None where the images come without one."""
    problems: tuple[Problem, ...] = ()
    """Files that were found but can't be images here."""

    @property
    def captioned(self) -> bool:
        """True where every image has a caption of its own: retrieval can be measured.

        Where there are classes captions are made of their names, so those of one image fit many others.
        """
        return self.dataset.class_names is None and all(pair.captions for pair in self.dataset)

    @property
    def labelled(self) -> bool:
        """True where every image has a class: zero-shot classification can be measured."""
        return self.dataset.class_names is not None and all(pair.label is not None for pair in self.dataset)


def load_benchmark(
    address: str, *, split: str | None, limit: int | None = None, seed: int = 0, classes: Path | None = None
) -> ComparisonData:
    """The images at an address, with captions as `load_measured` takes it, or with classes as `load_labelled` does.

    Their queries are captions, one of each image, or the names of the classes in a prompt. Raises InputError as the
    two do, and for images that have neither captions nor classes.
    """
    if classes is not None or address.partition(":")[0] in LABELLED_KINDS:
        dataset = load_labelled(address, split=split, limit=limit, seed=seed, classes=classes)
    else:
        dataset = load_measured(address, split=split, limit=limit, seed=seed)
    if not len(dataset):
        raise InputError(f"{dataset.name} has no pictures in its split {dataset.split}.")
    return ComparisonData(dataset=dataset, queries=_own_queries(dataset, seed=seed), split=dataset.split)


def is_own_images(address: str) -> bool:
    """True where an address is `pictures:FOLDER`, or a bare folder that no format of data sets recognises.

    A folder of folders of images is an album here, not a data set with classes; `classes:FOLDER` says so.
    """
    if address.startswith(f"{IMAGES}:"):
        return True
    folder = expand(address)
    if not folder.is_dir():
        return False
    kinds = (kind for kind in known_kinds() if kind != "scenes")
    return not any(find_reader(kind).recognises(folder) for kind in kinds)


def gather_images(
    address: str, *, queries: Sequence[str] = DEFAULT_QUERIES, limit: int | None = OWN_LIMIT, seed: int = 0
) -> ComparisonData:
    """The images below a folder, `limit` of them by `seed`. Raises InputError for a folder without any."""
    folder = expand(address.removeprefix(f"{IMAGES}:"))
    problems: list[Problem] = []

    def note(path: Path, reason: str) -> None:
        problems.append(Problem(id=str(path), reason=reason))

    found = [(file.relative, file.path) for file in walk_images(folder, on_problem=note)]
    if not found:
        raise InputError(f"{folder} holds no pictures; give a folder of pictures, or a data set as KIND:PATH.")
    data = _of_files(f"{IMAGES}:{folder}", found, limit=limit, seed=seed)
    return replace(data, queries=tuple(dict.fromkeys(queries)), problems=tuple(problems))


def take_images(name: str, paths: Iterable[Path], *, limit: int | None = OWN_LIMIT, seed: int = 0) -> ComparisonData:
    """Images that are known, as those of a library called `name`. Raises InputError where there are none."""
    files = [(str(path), path) for path in paths]
    if not files:
        raise InputError(f"{name} holds no pictures; index some first: sightline index FOLDER")
    return _of_files(name, files, limit=limit, seed=seed)


def read_queries(path: Path) -> tuple[str, ...]:
    """The queries of a file, one a line; empty lines and those from `#` are passed over. Raises InputError for none."""
    lines = (line.strip() for _, line in read_lines(path))
    queries = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not queries:
        raise InputError(f"{path} has no query; write one on each line, such as: a dog on the beach")
    return queries


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
    note: str = ""
    """A caution for comparing."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "title": self.title,
            "source": self.source,
            "n_images": self.n_images,
            "metrics": {model: dict(figures) for model, figures in self.metrics.items()},
            "note": self.note,
            "repeat": self.command(),
        }

    @property
    def names(self) -> list[str]:
        """The metrics that were published."""
        return list(next(iter(self.metrics.values())))

    @property
    def headlines(self) -> list[str]:
        """The strictest metric of each kind: recall@1 of each direction, acc1."""
        kinds = {name.rstrip("0123456789"): name for name in reversed(self.names)}
        return [name for name in self.names if name in kinds.values()]

    def command(self, data: str = "") -> str:
        """The command that measures the same with the real weights, once they are pulled; on `data` where it fits."""
        own = data.partition(":")[0] == self.data.partition(":")[0]
        words = ("sightline compare --models", ",".join(self.metrics), "--split", self.split)
        return " ".join((*words, "--data", shlex.quote(data) if own else self.data))


@cache
def load_published() -> tuple[PublishedTable, ...]:
    """The tables of `published.toml`."""
    text = resources.files("sightline.lab.evaluation").joinpath("published.toml").read_text(encoding="utf-8")
    tables = []
    for key, table in tomllib.loads(text).items():
        names, rows = table.pop("columns"), table.pop("models")
        metrics = {model: dict(zip(names, figures, strict=True)) for model, figures in rows.items()}
        tables.append(PublishedTable(key=key, metrics=metrics, **table))
    return tuple(tables)


def pull_commands(tables: Sequence[PublishedTable]) -> list[str]:
    """Commands that fetch the weights of all models of the tables, once each."""
    models = dict.fromkeys(model for table in tables for model in table.metrics)
    return [f"sightline models pull {model}" for model in models]


def _of_files(name: str, files: Iterable[tuple[str, Path]], *, limit: int | None, seed: int) -> ComparisonData:
    """Images by id and file, with the everyday queries."""
    pairs = [Pair(id=id_, image=FileImage(path=path), captions=()) for id_, path in files]
    dataset = Dataset(name=name, split="train", pairs=pairs, fingerprint=fingerprint_of_pairs(pairs))
    chosen = dataset if limit is None else choose_subset(dataset, limit=limit, seed=seed)
    return ComparisonData(dataset=chosen, queries=DEFAULT_QUERIES)


def _own_queries(dataset: Dataset, *, seed: int) -> tuple[str, ...]:
    """A sentence for each class, else one caption of each of some images."""
    if dataset.class_names:
        template = default_templates()[0]
        sentences = dict.fromkeys(fill(template, names[0]) for names in dataset.class_names if names)
        return tuple(sentences)[:QUERIES_AT_MOST]
    captions = [pair.captions[0] for pair in choose_subset(dataset, limit=QUERIES_AT_MOST, seed=seed) if pair.captions]
    if captions:
        return tuple(dict.fromkeys(captions))
    raise InputError(
        f"{dataset.name} has neither captions nor classes. To compare models on pictures alone write {IMAGES}:FOLDER."
    )
