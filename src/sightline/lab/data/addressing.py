"""From an address, `scenes:0` or `coco:PATH`, to a dataset."""

from __future__ import annotations

import difflib
import logging
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from sightline.errors import InputError
from sightline.kit.config import expand
from sightline.lab.data.base import SPLITS, Dataset, DatasetReader, Split, check_limit, check_split, choose_subset

SCENES = "scenes"
ALL = "all"
"""The split of `load_measured` that is all pairs of a source without splits."""

_LOG = logging.getLogger(__name__)

_MODULES = {
    "flickr8k": "flickr",
    "flickr30k": "flickr",
    "coco": "coco",
    "cc": "conceptual",
    "folder": "folder",
    "csv": "folder",
    "webdataset": "webdataset",
    "tiny-imagenet": "tiny_imagenet",
    "hf": "hugging_face",
    "sugarcrepe": "composition",
    "aro": "composition",
    "winoground": "composition",
}
"""Kind -> the module of this room that has its reader; loaded only when needed."""

_MAY_LIE_ELSEWHERE = ("webdataset", "hf")
"""Kinds whose path need not be a file or folder: a name on the hub, a range of tars."""

_KIND = re.compile(r"([A-Za-z][\w-]+):(.*)", re.DOTALL)
"""At least two characters before the colon, so that Windows' drives are paths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """An address taken apart: a kind, and the path or seed after the colon."""

    kind: str
    rest: str

    @property
    def path(self) -> Path:
        """The path after the colon, `~` filled in. Raises InputError where it is empty or must exist and doesn't."""
        if not self.rest or "\0" in self.rest:
            raise InputError(f"{self.kind}: needs a path behind the colon: {self.kind}:PATH")
        path = expand(self.rest)
        if self.kind not in _MAY_LIE_ELSEWHERE and not _exists(self.rest):
            raise InputError(f"{path} doesn't exist. Give the path of a {self.kind} data set: {self.kind}:PATH")
        return path

    @property
    def seed(self) -> int:
        """The seed of scenes, 0 where none is given. Raises InputError for what is no whole number from 0 on."""
        if not self.rest:
            return 0
        if not re.fullmatch(r"[0-9]{1,18}", self.rest):
            raise InputError(f"The seed of {SCENES} is {self.rest!r}; write a whole number: {SCENES}:0")
        return int(self.rest)


def load_dataset(
    address: str, *, split: str = "train", limit: int | None = None, seed: int = 0, hold_out: bool = True
) -> Dataset:
    """The pairs of one split of what an address names: `scenes[:SEED]`, `KIND:PATH`, or a path that one kind fits.

    A source with `train` and without `val` has some of its train images as `val` (`held_out.py`), unless `hold_out` is
    false. With `limit` it is that many pairs: of scenes the first, else some chosen by `seed`, in the order of the
    source. Raises InputError for an unknown kind or split, a split that the source doesn't have, a limit below 1, a
    path that no kind or several fit, and whatever is wrong with the source.
    """
    known_split = check_split(split)
    if limit is not None:
        check_limit(limit)
    parsed = parse_address(address)
    if parsed.kind == SCENES:
        from sightline.lab.data.scenes.dataset import load_scenes

        return load_scenes(parsed.seed, split=known_split, limit=limit)
    reader = find_reader(parsed.kind)
    own = reader.splits(parsed.path) if hold_out and known_split != "test" else ()
    holds_out = "train" in own and "val" not in own
    dataset = reader.load(parsed.path, split="train" if holds_out else known_split)
    if holds_out:
        from sightline.lab.data import held_out

        whole, dataset = len(dataset), held_out.hold_out(dataset, split=known_split)
        if known_split == "val":
            held = f"{len(dataset)} of its {whole} images are val, by a hash of their names"
            _LOG.warning("%s has no val split: %s; the other %d train.", dataset.name, held, whole - len(dataset))
    return dataset if limit is None else choose_subset(dataset, limit=limit, seed=seed)


def load_measured(address: str, *, split: str | None, limit: int | None = None, seed: int = 0) -> Dataset:
    """The pairs of an address that a model is measured on: as `load_dataset`, with two more words for the split.

    None takes val, be it held out, and test where there is nothing else. `all` takes all pairs of a source
    that has one split only, and holds none out; InputError where it has several.
    """
    own = available_splits(address) if split in (None, ALL) else ()
    if split != ALL:
        chosen = split or ("val" if {"train", "val"} & set(own) else own[0])
        return load_dataset(address, split=chosen, limit=limit, seed=seed)
    if len(own) != 1:
        raise InputError(f"{address} has the splits {', '.join(own)}; --split all is for sets without. Name one.")
    return load_dataset(address, split=own[0], limit=limit, seed=seed, hold_out=False)


def available_splits(address: str) -> tuple[Split, ...]:
    """The splits that a source has of its own, in the order train, val, test; a val that is held out is none.

    Raises InputError where it can't be read.
    """
    parsed = parse_address(address)
    if parsed.kind == SCENES:
        return SPLITS
    return find_reader(parsed.kind).splits(parsed.path)


def known_kinds() -> tuple[str, ...]:
    """The words that may stand before the colon."""
    return (SCENES, *_MODULES)


def parse_address(address: str) -> Address:
    """Take an address apart; the kind of a bare path is the one that recognises it.

    Raises InputError for an unknown kind, with those of a similar name, and for a path that no kind or several fit.
    """
    if address == SCENES:
        return Address(kind=SCENES, rest="")
    match = _KIND.fullmatch(address)
    if match and match[1] in known_kinds():
        return Address(kind=match[1], rest=match[2])
    if match and not _exists(address):
        raise InputError(f"There is no kind of data {match[1]!r}. {_suggest(match[1])}")
    return Address(kind=_recognise(address), rest=address)


def find_reader(kind: str) -> DatasetReader:
    """The reader of a kind that has a path. Raises InputError for an unknown kind."""
    if kind not in _MODULES:
        raise InputError(f"There is no kind of data {kind!r}. {_suggest(kind)}")
    module = import_module(f"sightline.lab.data.{_MODULES[kind]}")
    readers: tuple[DatasetReader, ...] = getattr(module, "READERS", None) or (module.READER,)
    return next(reader for reader in readers if reader.kind == kind)


def _recognise(address: str) -> str:
    if not address or "\0" in address:
        raise InputError(f"{address!r} is no address of data. {_list_kinds()}")
    path, exists = expand(address), _exists(address)
    fitting = [kind for kind in (_MODULES if exists else _MAY_LIE_ELSEWHERE) if find_reader(kind).recognises(path)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        choices = " or ".join(f"{kind}:{address}" for kind in fitting)
        raise InputError(f"{address} looks like {len(fitting)} kinds of data: write {choices}.")
    if address in _MODULES:
        raise InputError(f"{address} needs a path: {address}:PATH")
    if not exists:
        raise InputError(f"{address!r} is no path that exists. {_suggest(address)}")
    raise InputError(f"{address} looks like no kind of data that is known. If it is one, name it. {_list_kinds()}")


def _exists(address: str) -> bool:
    try:
        return expand(address).exists()
    except (OSError, ValueError):
        return False


def _suggest(kind: str) -> str:
    near = difflib.get_close_matches(kind.lower(), known_kinds(), n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return hint + _list_kinds()


def _list_kinds() -> str:
    return f"Data is {SCENES}[:SEED] or KIND:PATH with KIND one of {', '.join(_MODULES)}."
