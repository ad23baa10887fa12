"""How right the probabilities are of queries that are no plain words: with images, taught words, marks, minus parts.

python benchmarks/relevance_kinds.py --data ../shared/data [--model NAME] [--fit] [--quick]

Relevant is, on Tiny ImageNet, each picture of the class that an image or the examples of a word are of, or whose name
was asked before the first hits were marked; on Flickr8k each picture one of whose captions says what a caption of the
query's picture says, or that says the noun that is wanted and, in no caption, the one that isn't (`relevance.py`). For
half of the queries all relevant pictures are taken out of the library. `--fit` writes a calibration for each kind into
the model's card, fitted on pictures that no training saw and other classes than are judged.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from fitting import Examples
from relevance import Aimed, Asked, Measure, Photos, Said, judge, keep, nouns_of
from report import Row, show

from sightline.core.models.bank import load_bank
from sightline.core.models.loading import load_encoder
from sightline.core.search.background import Background
from sightline.core.search.engine import aim, combine, correct
from sightline.core.search.relevance import Calibration
from sightline.core.search.teaching import aim_alone

KINDS = ("images", "taught", "marks", "minus")
MARKS = 5
_SAME = 0.9999
"""From this cosine on a picture is the query's own, which is no result."""
_SYLLABLES = ("ba", "ko", "ri", "zu", "mel", "tra", "fo", "ni", "gex", "wob")


class Kinds:
    """Queries of each kind to the pictures that no training saw."""

    def __init__(self, photos: Photos, rng: np.random.Generator) -> None:
        self.photos, self.measure, self.rng = photos, photos.measure, rng

    def of_classes(self, use: str, kind: str) -> tuple[np.ndarray, list[Asked]]:
        """Vectors of Tiny ImageNet, and a query of a kind for each class of one half."""
        images_ND, asked = self.photos.classes(use)
        shown_ND, label_N, names = self.photos.tiny(f"examples to {use}")
        queries = []
        for number, one in enumerate(asked):
            own_ED = self.rng.permutation(shown_ND[label_N == names.index(one.text)])
            how = {
                "images": partial(self._like, own_ED[0], one.text if number % 2 else None),
                "taught": partial(self._taught, own_ED[: self.rng.choice([1, 3, 5, 10])]),
                "marks": partial(self._marked, one.text),
            }[kind]
            queries.append(Asked(text=one.text, kind=kind, relevant_N=one.relevant_N, aim=how))
        return images_ND, queries

    def of_captions(self, name: str, kind: str, count: int) -> tuple[np.ndarray, list[Asked]]:
        """Vectors of Flickr8k, and queries: pictures of its last thousand, or two nouns of captions, one unwanted."""
        images_ND, said = self.photos.vectors(name), self.photos.said[name]
        ask = self._pictures if kind == "images" else self._pairs
        return images_ND, list(ask(images_ND, said, count))

    def _pictures(self, images_ND: np.ndarray, said: Said, count: int) -> Iterator[Asked]:
        for row in self.rng.integers(max(0, len(images_ND) - 1000), len(images_ND), count):
            shown = [found for text in said.captions[row] if (found := said.relevant(text)) is not None]
            relevant_N = np.any(shown, axis=0) if shown else np.zeros(len(images_ND), dtype=bool)
            relevant_N[row] = False
            yield Asked(text="", kind="images", relevant_N=relevant_N, aim=partial(self._like, images_ND[row], None))

    def _pairs(self, images_ND: np.ndarray, said: Said, count: int) -> Iterator[Asked]:
        """The unwanted noun is of a picture that shows the wanted one for half of the queries, else of any."""
        shown: dict[str, np.ndarray | None] = {}
        while count:
            wanted, away = self._noun(said, None), ""
            wanted_N = shown.setdefault(wanted, said.relevant(wanted))
            if wanted_N is None:
                continue
            away = self._noun(said, wanted_N if self.rng.random() < 0.5 else None)
            away_N = shown.setdefault(away, said.relevant(away))
            if away_N is None or not (wanted_N & ~away_N).any():
                continue
            count -= 1
            text = f"a {wanted}" if self.rng.random() < 0.5 else wanted
            relevant_N = wanted_N & ~away_N
            yield Asked(text=text, kind="minus", relevant_N=relevant_N, aim=partial(self._without, text, away))

    def _noun(self, said: Said, among_N: np.ndarray | None) -> str:
        last = range(max(0, len(said.captions) - 1000), len(said.captions))
        row = self.rng.choice(last if among_N is None else np.flatnonzero(among_N))
        return str(self.rng.choice(nouns_of(str(self.rng.choice(said.captions[row]))) or ["dog"]))

    def _like(
        self, image_D: np.ndarray, name: str | None, _: Background, images_MD: np.ndarray, relevant_M: np.ndarray
    ) -> Aimed:
        parts = np.stack([image_D] if name is None else [image_D, self.measure.encode(name)]).astype(np.float64)
        return Aimed(
            query_D=combine(parts, np.ones(len(parts))),
            tokens=0 if name is None else self.measure.tokens(name),
            words_share=0.0 if name is None else 0.5,
            shown_R=np.flatnonzero(images_MD @ image_D > _SAME),
        )

    def _taught(self, own_ED: np.ndarray, background: Background, *_: object) -> Aimed:
        nonsense = "".join(self.rng.choice(_SYLLABLES, 3))
        aimed_D = aim_alone(background, own_ED, self.measure.encode(nonsense).astype(np.float64))
        return Aimed(query_D=_unit(aim(background, aimed_D[None], np.ones(1))), tokens=self.measure.tokens(nonsense))

    def _marked(self, name: str, background: Background, images_MD: np.ndarray, relevant_M: np.ndarray) -> Aimed:
        name_D = self.measure.encode(name).astype(np.float64)
        first = np.argsort(-(images_MD @ name_D))[:MARKS]
        marked_D = correct(background, background.scale(name_D), images_MD[first].astype(float), relevant_M[first])
        return Aimed(query_D=marked_D, tokens=self.measure.tokens(name), shown_R=first)

    def _without(self, wanted: str, away: str, background: Background, *_: object) -> Aimed:
        parts = [background.scale(self.measure.encode(text).astype(np.float64)) for text in (wanted, away)]
        query_D = _unit(aim(background, np.stack(parts), np.array([1.0, -1.0])))
        return Aimed(query_D=query_D, tokens=self.measure.tokens(wanted) + self.measure.tokens(away))


def _unit(direction_D: np.ndarray) -> np.ndarray:
    unit_D: np.ndarray = (direction_D / np.linalg.norm(direction_D)).astype(np.float32)
    return unit_D


def fit_kind(photos: Photos, kind: str, *, count: int) -> None:
    """Fit a calibration for a kind of queries and write it into the model's card."""
    rng, examples = np.random.default_rng(5), Examples()
    queries = Kinds(photos, rng)
    if kind in ("images", "minus"):
        images_ND, asked = queries.of_captions("held", kind, count)
        for size in (50, 100, 250, len(images_ND)):
            photos.measure.run(images_ND, asked, size=size, rng=rng, into=examples)
    if kind != "minus":
        for size in (100, 500, 1000, 2000):
            images_ND, asked = queries.of_classes("fit", kind)
            photos.measure.run(images_ND, asked, size=size, rng=rng, into=examples)
    keep(photos.measure, examples, kind)


def judge_kind(photos: Photos, kind: str, *, count: int, quick: bool) -> list[Row]:
    """The rows of a kind of queries, by library."""
    card, rows = photos.measure.encoder.card, []
    calibration = Calibration.from_card(card.relevance, model=card.name, kind=kind)
    libraries = [] if kind == "minus" else [("Tiny ImageNet val", (100, 1000, 2000))]
    if kind in ("images", "minus"):
        libraries += [("val", (100, 1000))] if quick else [("val", (100, 1000)), ("all", (700, 7000))]
    for name, sizes in libraries:
        rng = np.random.default_rng(6)
        queries = Kinds(photos, rng)
        is_tiny = name.startswith("Tiny")
        images_ND, asked = queries.of_classes("judge", kind) if is_tiny else queries.of_captions(name, kind, count)
        for size in sizes:
            asked_of = photos.measure.run(images_ND, asked, size=size, rng=rng, into=(examples := Examples()))
            label = f"{kind}: {name if is_tiny else f'Flickr8k {name}'}, {size:,} images"
            rows += judge(calibration, examples, asked_of, label)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with flickr8k and the others")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--fit", action="store_true", help="fit the calibrations and write them into the model's card")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sightline-relevance")
    parser.add_argument("--quick", action="store_true", help="fewer queries: a smoke run")
    asked = parser.parse_args()
    encoder = load_encoder(asked.model)
    photos = Photos(Measure(encoder, load_bank(encoder), asked.cache), asked.data)
    rows, count = [], 60 if asked.quick else 300
    for kind in KINDS:
        if asked.fit:
            fit_kind(photos, kind, count=count)
        rows += judge_kind(photos, kind, count=count, quick=asked.quick)
    show(f"relevance_kinds{'-quick' if asked.quick else ''}", rows)


if __name__ == "__main__":
    main()
