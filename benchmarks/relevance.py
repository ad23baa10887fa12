"""How right the probability of a hit and the verdict on a query are; and fitting them for a model.

python benchmarks/relevance.py --data ../shared/data [--model NAME] [--scenes RUN] [--fit] [--quick]

Relevant is what shows what was asked, not the one picture that a sentence was written for: on Flickr8k each picture one
of whose captions has every noun of the query or a synonym (`scripts/starter/nouns.py`, WordNet), and the sentence's
own; on Tiny ImageNet each picture of the class; on rendered scenes each that the sentence is true of. For half of the
queries all relevant pictures are taken out of the library. `--fit` writes the calibration into the model's card: of the
starter on what no training saw, 500 pictures of Flickr8k train and others of Tiny ImageNet val with the names of other
classes; of a run on scenes (`--scenes`) on scenes of another seed. An album is a filter that keeps the images most like
one of them. Vectors are kept in `--cache`. `relevance_kinds.py` is for queries that are no plain words.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from fitting import Examples, calibration_error
from report import Row, show
from sklearn.metrics import roc_auc_score

from sightline.core.models.bank import Bank, hub_weight, load_bank
from sightline.core.models.base import Encoder
from sightline.core.models.cards import read_card, write_card
from sightline.core.models.inputs import read_text
from sightline.core.models.loading import load_encoder
from sightline.core.search.background import SAMPLED_ROWS as LIBRARY_ROWS
from sightline.core.search.background import Background
from sightline.core.search.relevance import FITTED, SAMPLED_ROWS, Calibration, Context, Judge, Kind
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.base import Dataset
from sightline.lab.data.scenes.dataset import SceneImage, load_scenes
from sightline.lab.data.scenes.grammar import Chance, may_be_true
from sightline.lab.data.scenes.sentences import compose_captions
from sightline.lab.evaluation.embedding import embed_images

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "starter"))
from classes import load_classes
from corpus import held_out_rows
from nouns import nouns_of, synonyms

SHOWN = 20
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))
_PLAIN = tuple(name for name in FITTED if not name.startswith("background"))


@dataclass(frozen=True, kw_only=True)
class Aimed:
    """Where a query points (D,), its word pieces, how much of it is words, and rows (R,) that are no results."""

    query_D: np.ndarray
    tokens: int = 0
    words_share: float = 0.0
    shown_R: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.intp))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A query, what kind it is, and which images of a library are relevant (N,)."""

    text: str
    kind: str
    relevant_N: np.ndarray
    aim: Callable[[Background, np.ndarray, np.ndarray], Aimed] | None = None
    """Where a query points that is no plain words, in a library of images (M, D) of which some are relevant (M,)."""


class Said:
    """Nouns of captions, with their synonyms: which pictures have a caption that says all of a query's."""

    def __init__(self, captions: Sequence[Sequence[str]]) -> None:
        self.captions = captions
        self._owner_T = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
        self.places: dict[str, list[int]] = {}
        for place, text in enumerate(text for own in captions for text in own):
            for word in {other for noun in nouns_of(text) for other in synonyms(noun)}:
                self.places.setdefault(word, []).append(place)

    def relevant(self, query: str) -> np.ndarray | None:
        """True for the pictures (N,) that show it; None where it has no noun."""
        nouns = set(nouns_of(query))
        says_T = np.ones(len(self._owner_T), dtype=bool)
        for noun in nouns:
            has_T = np.zeros(len(self._owner_T), dtype=bool)
            for word in synonyms(noun):
                has_T[self.places.get(word, [])] = True
            says_T &= has_T
        return np.bincount(self._owner_T[says_T], minlength=len(self.captions)) > 0 if nouns else None

    def queries(self, rng: np.random.Generator, *, rows: Sequence[int], count: int) -> Iterator[Asked]:
        """Half of them whole captions, half what people type: a noun, `a` noun, some words of a caption."""
        for number in range(count):
            row = int(rng.choice(rows))
            text = str(rng.choice(self.captions[row]))
            own_N = np.arange(len(self.captions)) == row
            if number % 2:
                words = text.lower().strip(" .").split()
                start = int(rng.integers(0, max(1, len(words) - 4)))
                nouns = nouns_of(text) or ["dog"]
                short = (str(rng.choice(nouns)), f"a {rng.choice(nouns)}", " ".join(words[start : start + 4]))
                text, own_N = short[int(rng.integers(3))], np.zeros(len(own_N), dtype=bool)
            if (relevant_N := self.relevant(text)) is not None:
                yield Asked(text=text, kind="words" if number % 2 else "captions", relevant_N=relevant_N | own_N)


class Measure:
    """One model: libraries of vectors, and what it says of queries to parts of them."""

    def __init__(self, encoder: Encoder, bank: Bank | None, cache: Path) -> None:
        self.encoder, self.bank, self.cache = encoder, bank, cache
        self._texts: dict[str, np.ndarray] = {}

    def embed(self, name: str, dataset: Dataset) -> np.ndarray:
        """Vectors of a data set's images (N, D), kept between runs."""
        path = self.cache / f"{name}-{dataset.fingerprint[:16]}-{self.encoder.identity.weights_hash[:8]}.npy"
        if not path.is_file():
            self.cache.mkdir(parents=True, exist_ok=True)
            np.save(path, embed_images(self.encoder, dataset).image_BD)
        return np.load(path)

    def run(
        self,
        images_ND: np.ndarray,
        asked: Sequence[Asked],
        *,
        size: int,
        rng: np.random.Generator,
        into: Examples,
        album: bool = False,
    ) -> list[str]:
        """Ask each query of `size` images, for every second one without those that are relevant; the queries' kinds.

        The images are chosen at random or, as an `album`, as those most like one of them.
        """
        hubness_N = np.zeros(len(images_ND)) if self.bank is None else self.bank.measure(images_ND)
        sample_S = np.linspace(0, len(images_ND) - 1, min(size, LIBRARY_ROWS)).astype(int)
        background, kinds = Background.of(images_ND[sample_S]), []
        for number, one in enumerate(asked):
            kept_M = rng.permutation(len(images_ND))
            if album:
                kept_M = np.argsort(-(images_ND @ images_ND[kept_M[0]]))
            kept_M = kept_M[:size]
            if number % 4 < 2:
                kept_M = kept_M[~one.relevant_N[kept_M]]
            elif one.relevant_N.any() and not one.relevant_N[kept_M].any():
                kept_M[0] = rng.choice(np.flatnonzero(one.relevant_N))
            if not len(kept_M):  # an album of nothing but what was asked
                continue
            if one.aim is None:
                aimed = Aimed(query_D=self.encode(one.text), tokens=self.tokens(one.text), words_share=1.0)
            else:
                aimed = one.aim(background, images_ND[kept_M], one.relevant_N[kept_M])
                kept_M = np.delete(kept_M, aimed.shown_R)
            query_D, tokens = aimed.query_D, aimed.tokens
            weight = 0.0 if self.bank is None else aimed.words_share * hub_weight(tokens)
            cosine_M = images_ND[kept_M] @ query_D
            score_M = cosine_M - weight * hubness_N[kept_M]
            best_H = np.argsort(-score_M)[:SHOWN]
            context = Context.make(
                query_D,
                score_M[:: max(1, len(score_M) // SAMPLED_ROWS)][:SAMPLED_ROWS],
                images=len(kept_M),
                tokens=tokens,
                bank=self.bank,
                hub_weight=weight,
            )
            relevant_M = one.relevant_N[kept_M]
            into.add(context, score_M[best_H].astype(float), relevant_M[best_H], present=bool(relevant_M.any()))
            into.queries[-1] = {**into.queries[-1], "cosine": cosine_M.max()}
            kinds.append(one.kind)
        return kinds

    def encode(self, text: str) -> np.ndarray:
        """The vector (D,) of a text, kept."""
        if text not in self._texts:
            self._texts[text] = self.encoder.encode_texts([text])[0]
        return self._texts[text]

    def tokens(self, text: str) -> int:
        """Its word pieces."""
        reading = read_text(self.encoder, text)
        return len(text.split()) if reading is None else reading.read


def off_topic(said: Said) -> list[str]:
    """Names of ImageNet's classes of which, and of whose kinds, no caption says anything."""
    classes = load_classes()
    kinds = {row: [kind for kind, rows in classes.kinds.items() if row in rows] for row in range(len(classes.names))}
    words = {row: {w for name in (*names, *kinds[row]) for w in (name.lower(), *name.lower().split())}
             for row, names in enumerate(classes.names)}  # fmt: skip
    return [names[0] for row, names in enumerate(classes.names) if not words[row] & said.places.keys()]


def absent(names: Sequence[str], count: int, rng: np.random.Generator, n_images: int) -> list[Asked]:
    """Off-topic names and as much gibberish, of which no image is relevant."""
    none_N = np.zeros(n_images, dtype=bool)
    nonsense = [
        " ".join("".join(rng.choice(_LETTERS, rng.integers(4, 9))) for _ in range(rng.integers(1, 4)))
        for _ in range(count)
    ]
    chosen = [str(name) for name in rng.permutation(names)[:count]]
    return [Asked(text=text, kind="names", relevant_N=none_N) for text in chosen] + [
        Asked(text=text, kind="gibberish", relevant_N=none_N) for text in nonsense
    ]


def judge(calibration: Calibration, examples: Examples, kinds: Sequence[str], label: str) -> list[Row]:
    """Rows of the table for one library: present or absent, captions against what is off topic, calibration."""
    queries, present = _rate(calibration, examples)
    hits, truth = np.concatenate(queries), np.concatenate(examples.hits_truth)
    raw = np.array([float(one["cosine"]) for one in examples.queries])
    kind = np.array(kinds)
    rows = [_row(f"{label}: calibration error of the first 20 hits", calibration_error(hits, truth), "<= 5%", low=True)]
    if not calibration.query:
        return rows
    verdicts = np.array([_verdict(calibration, one) for one in examples.queries])
    rows.append(_curve(f"{label}: AUROC present/absent", verdicts, raw, present, ~present))
    if (off := np.isin(kind, ("names", "gibberish"))).any():
        for name, goal in (("captions", ">= 97%"), ("words", "")):
            is_kind = (kind == name) & present
            rows.append(
                _curve(f"{label}: AUROC {name}/off topic and gibberish", verdicts, raw, is_kind, off, goal=goal)
            )
    return rows


def _rate(calibration: Calibration, examples: Examples) -> tuple[list[np.ndarray], np.ndarray]:
    judges = [Judge(model="", calibration=calibration, context=_Given(one)) for one in examples.hits]  # type: ignore[arg-type]
    rated = [np.array(one.rate(features["score"])) for one, features in zip(judges, examples.hits, strict=True)]
    return rated, np.array(examples.queries_truth)


def _verdict(calibration: Calibration, features: dict[str, np.ndarray]) -> float:
    given = _Given(features)
    verdict = Judge(model="", calibration=calibration, context=given).conclude(float(features["score"][0]))  # type: ignore[arg-type]
    assert verdict.present is not None
    return verdict.present


@dataclass(frozen=True)
class _Given:
    """A context whose features were computed before."""

    values: dict[str, np.ndarray]

    def features(self, _: object) -> dict[str, np.ndarray]:
        return self.values


def _row(journey: str, ours: float, goal: str, *, low: bool = False, other: float | None = None) -> Row:
    limit = float(goal.split()[-1].rstrip("%")) / 100 if goal else None
    reached = None if limit is None else (ours <= limit if low else ours >= limit)
    against = {} if other is None else {"other": 100 * other, "alternative": "raw top cosine", "ratio": ours / other}
    return Row(journey=journey, unit="%", ours=round(100 * ours, 2), goal=goal, reached=reached, **against)


def _curve(
    journey: str, ours_Q: np.ndarray, raw_Q: np.ndarray, yes_Q: np.ndarray, no_Q: np.ndarray, *, goal: str = ""
) -> Row:
    asked_Q = yes_Q | no_Q
    ours, other = (float(roc_auc_score(yes_Q[asked_Q], score_Q[asked_Q])) for score_Q in (ours_Q, raw_Q))
    return _row(journey, ours, goal, other=other)


class Photos:
    """Flickr8k and Tiny ImageNet: parts that no training saw, and all of them."""

    def __init__(self, measure: Measure, data: Path) -> None:
        self.measure, self.data = measure, data
        sets = {split: load_dataset(f"flickr8k:{data / 'flickr8k'}", split=split) for split in ("train", "val")}
        held = held_out_rows([pair.id for pair in sets["train"]])
        rest = [row for row in range(len(sets["train"])) if row not in set(held)]
        sets |= {"held": sets["train"].take(held, why="held"), "train": sets["train"].take(rest, why="not held")}
        self._sets = sets
        self.said = {name: Said([pair.captions for pair in dataset]) for name, dataset in sets.items()}
        self.said["all"] = Said([pair.captions for name in ("train", "held", "val") for pair in sets[name]])

    def vectors(self, name: str) -> np.ndarray:
        """Of `held`, `val` or `all`, in which val stands last."""
        if name == "all":
            return np.concatenate([self.vectors(one) for one in ("train", "held", "val")])
        return self.measure.embed(name, self._sets[name])

    def tiny(self, use: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """A fourth of Tiny ImageNet val for each use: vectors, labels, and the names of classes by label."""
        first = {"judge": 0, "examples to judge": 1, "fit": 2, "examples to fit": 3}[use]
        tiny = load_dataset(f"tiny-imagenet:{self.data / 'tiny-imagenet'}", split="val")
        tiny = tiny.take(range(first, len(tiny), 4), why=use)
        names = [own[0] for own in tiny.class_names or ()]
        return self.measure.embed(f"tiny-{use}", tiny), np.array([pair.label for pair in tiny]), names

    def classes(self, use: str) -> tuple[np.ndarray, list[Asked]]:
        """Vectors, and half of the classes by name: others for fitting than for judging."""
        images_ND, label_N, names = self.tiny(use)
        chosen = list(enumerate(names))[int(use == "judge") :: 2]
        return images_ND, [
            Asked(text=name, kind="names of classes", relevant_N=label_N == label) for label, name in chosen
        ]


def photos(measure: Measure, data: Path, *, fit: bool, quick: bool) -> list[Row]:
    """Flickr8k val and all of it, Tiny ImageNet val; with `fit` the calibration of the model is fitted before."""
    library = Photos(measure, data)
    names = off_topic(library.said["all"])
    count = 60 if quick else 400
    if fit:
        examples, images_ND, rng = Examples(), library.vectors("held"), np.random.default_rng(1)
        for size in (50, 100, 250, len(images_ND)):
            asked = [*library.said["held"].queries(rng, rows=range(len(images_ND)), count=count)]
            asked += absent(names[::2], 60, rng, len(images_ND))
            measure.run(images_ND, asked, size=size, rng=rng, into=examples)
        images_ND, asked = library.classes("fit")
        for size in (100, 500, 1000, len(images_ND)):
            measure.run(images_ND, asked, size=size, rng=rng, into=examples)
        keep(measure, examples)
    calibration = Calibration.from_card(measure.encoder.card.relevance, model=measure.encoder.card.name)
    rows = []
    for name, sizes in ({"val": (100, 1000)} if quick else {"val": (100, 1000), "all": (70, 700, 7000)}).items():
        images_ND = library.vectors(name)
        filters = [(size, False) for size in sizes] + [(size, True) for size in sizes if size < len(images_ND)]
        for size, album in filters:
            rng = np.random.default_rng(7)
            own = range(len(images_ND) - 1000, len(images_ND))
            asked = [*library.said[name].queries(rng, rows=own, count=count)]
            asked += absent(names[1::2], 60, rng, len(images_ND))
            kinds = measure.run(images_ND, asked, size=size, rng=rng, into=(examples := Examples()), album=album)
            rows += judge(calibration, examples, kinds, f"Flickr8k {name}, {'album of ' * album}{size:,} images")
    images_ND, asked = library.classes("judge")
    for size, album in ((100, False), (100, True), (1000, False), (len(images_ND), False)):
        rng = np.random.default_rng(8)
        kinds = measure.run(images_ND, asked, size=size, rng=rng, into=(examples := Examples()), album=album)
        rows += judge(calibration, examples, kinds, f"Tiny ImageNet val, {'album of ' * album}{size:,} images")
    return rows


def keep(measure: Measure, examples: Examples, kind: Kind = "words") -> None:
    """Fit a calibration and write it into the model's card."""
    fitted = examples.fit(FITTED if measure.bank is not None else _PLAIN)
    if kind == "marks":  # whether anything matches the user has said
        fitted["query"] = {}
    known = measure.encoder.card.relevance
    card = replace(measure.encoder.card, relevance={**known, **(fitted if kind == "words" else {kind: fitted})})
    measure.encoder.card = card
    folder = getattr(measure.encoder, "folder", None)
    source = Path(card.source) if card.name.startswith("dir:") else folder
    write_card(source, replace(read_card(source), relevance=card.relevance))
    print(f"Kept in {source}: {card.relevance}")


def scenes(measure: Measure, *, fit: bool, quick: bool) -> list[Row]:
    """Rendered scenes: each sentence asked of scenes of which it is true of some, or of none."""
    if fit:
        examples, rng = Examples(), np.random.default_rng(1)
        images_ND, asked = _scene_library(measure, seed=3, count=200 if quick else 1000)
        for size in (50, 250, len(images_ND)):
            measure.run(images_ND, asked, size=size, rng=rng, into=examples)
        keep(measure, examples)
    calibration = Calibration.from_card(measure.encoder.card.relevance, model=measure.encoder.card.name)
    rows = []
    images_ND, asked = _scene_library(measure, seed=0, count=200 if quick else 1000)
    for size in (100, len(images_ND)):
        rng = np.random.default_rng(9)
        kinds = measure.run(images_ND, asked, size=size, rng=rng, into=(examples := Examples()))
        found = judge(calibration, examples, kinds, f"scenes, {size:,} images")
        rows += [
            replace(row, goal=">= 95%", reached=row.ours >= 95) if "AUROC" in row.journey else row for row in found
        ]
    return rows


def _scene_library(measure: Measure, *, seed: int, count: int) -> tuple[np.ndarray, list[Asked]]:
    dataset = load_scenes(seed, split="test", limit=count)
    images = [pair.image for pair in dataset]
    shown = [image.scene() for image in images if isinstance(image, SceneImage)]
    asked = []
    for number, scene in enumerate(shown[: count // 2]):
        composed = compose_captions(scene, Chance(seed, "test", number, "relevance")) or []
        for caption in composed[number % 5 : number % 5 + 1]:
            relevant_N = np.array([may_be_true(caption.statement, other) for other in shown])
            asked.append(Asked(text=caption.text, kind="sentences", relevant_N=relevant_N))
    return measure.embed(f"scenes{seed}", dataset), asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with flickr8k and the others")
    parser.add_argument("--model", default="starter", help="the encoder that photos are judged with")
    parser.add_argument("--scenes", type=Path, help="a run of scenes-scratch: judge it on scenes, and nothing else")
    parser.add_argument("--fit", action="store_true", help="fit the calibration and write it into the model's card")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sightline-relevance")
    parser.add_argument("--quick", action="store_true", help="a tenth of the queries: a smoke run")
    arguments = parser.parse_args()
    encoder = load_encoder(f"dir:{arguments.scenes}" if arguments.scenes else arguments.model)
    measure = Measure(encoder, load_bank(encoder), arguments.cache)
    if arguments.scenes:
        rows = scenes(measure, fit=arguments.fit, quick=arguments.quick)
    else:
        rows = photos(measure, arguments.data, fit=arguments.fit, quick=arguments.quick)
    show(f"relevance{'-scenes' if arguments.scenes else ''}{'-quick' if arguments.quick else ''}", rows)


if __name__ == "__main__":
    main()
