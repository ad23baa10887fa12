"""One box: what is shown fused with what is written, beside each of them alone.

python benchmarks/one_box.py --data ../shared/data [--cache DIR] [--quick]

Names: 1,000 images of Tiny ImageNet val (5 of each class) in files named by class, and 40 everyday queries; right is an
image of a class that the query is a word for. Captions: the images of Flickr8k val, one of their five captions in the
library and another one asked; right is the image, and for the calibration each of which a caption says the same. Text
alone is FTS5's BM25 over the same tokens. For the calibration, half of the queries are asked of the library without
their right images. The starter encodes each set once; libraries are kept in `--cache`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fitting import calibration_error
from PIL import Image
from relevance import Said
from report import Row, show

from sightline.core.library import Library
from sightline.core.types import Caption
from sightline.lab.data.addressing import load_dataset

SHOWN = 20
QUERIES = {
    "cat": ("Egyptian cat", "tabby", "Persian cat"), "volleyball": ("volleyball",), "chairs": ("rocking chair",),
    "lemons": ("lemon",), "bullfrog": ("bullfrog",), "a bus": ("school bus", "trolleybus"), "pizza": ("pizza",),
    "bear": ("brown bear",), "guinea pig": ("guinea pig",), "umbrella": ("umbrella",), "goldfish": ("goldfish",),
    "ice cream": ("ice cream",), "snail": ("snail",), "coral": ("coral reef", "brain coral"),
    "spider web": ("spider web",), "backpacks": ("backpack",), "penguin": ("king penguin",), "banana": ("banana",),
    "butterfly": ("sulphur butterfly",), "a goose": ("goose",), "koala": ("koala",), "teapot": ("teapot",),
    "tractor": ("tractor",), "candles": ("candle",), "desk": ("desk",), "frying pan": ("frying pan",), "bee": ("bee",),
    "jellyfish": ("jellyfish",), "mushrooms": ("mushroom",), "sports car": ("sports car",), "bridge": (
    "suspension bridge", "steel arch bridge"), "refrigerator": ("refrigerator",), "barn": ("barn",),
    "fountain": ("fountain",), "orange": ("orange",), "lobster": ("American lobster", "spiny lobster"),
    "lion": ("lion",), "elephant": ("African elephant",), "gas mask": ("gasmask",), "gazelle": ("gazelle",),
}  # fmt: skip
"""What people type, and the classes that are right."""
STYLES = ("{wnid}_{snake}.JPEG", "{camel}{n}.JPEG", "{snake}-{n}.JPEG", "IMG_{n}_{snake}.JPEG", "{spaced} {n}.JPEG")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Answers to the queries of one way to search: whether each hit is right (Q lists), and its probability."""

    right: list[np.ndarray]
    probability: list[np.ndarray]

    def within(self, k: int) -> int:
        """Number of queries with something right among the first k."""
        return sum(bool(one[:k].any()) for one in self.right)


def named_library(data: Path, cache: Path) -> Library:
    """Images of Tiny ImageNet in files that hold their class."""
    library = Library.open(cache / "named-library", model="starter")
    if not library.store.stats().images:
        tiny = load_dataset(f"tiny-imagenet:{data / 'tiny-imagenet'}", split="val")
        folder, taken, labels = cache / "named", dict.fromkeys(range(200), 0), {}
        folder.mkdir(parents=True, exist_ok=True)
        for pair in tiny:
            taken[pair.label] += 1
            if (n := taken[pair.label]) <= len(STYLES):
                name = pair.captions[0]
                camel = name[0].lower() + name.title().replace(" ", "")[1:]
                style = STYLES[(n + pair.label) % len(STYLES)]
                file = style.format(
                    wnid=f"n{pair.label:08}",
                    snake=name.replace(" ", "_"),
                    camel=camel,
                    spaced=name,
                    n=100 * pair.label + n,
                )
                Image.fromarray(pair.image.read()).save(folder / file, "JPEG", quality=95)
                labels[file] = name
        (cache / "named.json").write_text(json.dumps(labels), encoding="utf-8")
        library.index(folder)
    return library


def captioned_library(data: Path, cache: Path) -> tuple[Library, dict[str, list[str]]]:
    """Images of Flickr8k val with the first caption of each, and all captions by file name."""
    library = Library.open(cache / "captioned-library", model="starter")
    pairs = load_dataset(f"flickr8k:{data / 'flickr8k'}", split="val")
    captions = {f"{number:04}.jpg": list(pair.captions) for number, pair in enumerate(pairs)}
    if not library.store.stats().images:
        folder = cache / "captioned"
        folder.mkdir(parents=True, exist_ok=True)
        for name, pair in zip(captions, pairs, strict=True):
            Image.fromarray(pair.image.read(min_side_px=224)).save(folder / name, "JPEG", quality=95)
        library.index(folder)
        for record in library.store.scan():
            caption = Caption(text=captions[record.path.name][0], source="user", best=True)
            library.store.put_captions({record.id: [caption]})
    return library, captions


Ask = Callable[[str, str | None], Iterator[tuple[str, float]]]


def by_search(library: Library, match: str) -> Ask:
    """Names of hits and their probabilities."""

    def ask(text: str, where: str | None) -> Iterator[tuple[str, float]]:
        for hit in library.search(text, match=match, top=SHOWN, where=where):
            yield hit.image.path.name, hit.probability or 0.0

    return ask


def by_full_text(library: Library) -> Ask:
    def ask(text: str, where: str | None) -> Iterator[tuple[str, float]]:
        found = library.store.match(text, SHOWN, where=where)
        for record in library.store.get([row for row, _ in found]):
            yield record.path.name, 0.0

    return ask


def run(ask: Ask, asked: Sequence[tuple[str, set[str]]], *, without: bool = False) -> Ranked:
    """All queries, each of them `without` its right images, if asked so."""
    right, probability = [], []
    for text, names in asked:
        listed = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(names))
        hits = list(ask(text, f"not name in ({listed})" if without else None))
        right.append(np.array([name in names for name, _ in hits], dtype=bool))
        probability.append(np.array([one for _, one in hits]))
    return Ranked(right=right, probability=probability)


def calibration(ask: Ask, asked: Sequence[tuple[str, set[str]]]) -> tuple[float, float, float]:
    """Calibration error of the first hits, half of the queries without an answer; mean probability and truth."""
    there, gone = run(ask, asked[::2]), run(ask, asked[1::2], without=True)
    truth, rated = (
        np.concatenate([*a, *b]) for a, b in ((there.right, gone.right), (there.probability, gone.probability))
    )
    return calibration_error(rated, truth), float(rated.mean()), float(truth.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sightline-one-box")
    parser.add_argument("--quick", action="store_true", help="a fifth of the captions: a smoke run")
    arguments = parser.parse_args()
    rows = []
    named = named_library(arguments.data, arguments.cache)
    labels = json.loads((arguments.cache / "named.json").read_text(encoding="utf-8"))
    files = sorted(labels)
    asked = [(text, {file for file in files if labels[file] in names}) for text, names in QUERIES.items()]
    ways = {
        "fused": by_search(named, "both"),
        "pictures alone": by_search(named, "pictures"),
        "text alone": by_full_text(named),
    }
    found = {way: run(ask, asked) for way, ask in ways.items()}
    for k, goal in ((1, 34), (5, 39)):
        rows += _beside(
            f"names: of 40 queries, right among the first {k}",
            "",
            {way: one.within(k) for way, one in found.items()},
            goal,
        )
    for way in ("fused", "pictures alone"):
        rows.append(_calibrated(f"names, {way}", *calibration(ways[way], asked)))
    captioned, captions = captioned_library(arguments.data, arguments.cache)
    asked = [(texts[1 + number % 4], {name}) for number, (name, texts) in enumerate(captions.items())]
    asked = asked[:: 5 if arguments.quick else 1]
    ways = {
        "fused": by_search(captioned, "both"),
        "pictures alone": by_search(captioned, "pictures"),
        "text alone": by_full_text(captioned),
    }
    found = {way: run(ask, asked) for way, ask in ways.items()}
    for k in (1, 5, 10):
        shares = {way: round(100 * one.within(k) / len(asked), 1) for way, one in found.items()}
        rows += _beside(
            f"captions: R@{k}", "%", shares, None if k < 10 else max(shares["pictures alone"], shares["text alone"])
        )
    said = Said(list(captions.values()))
    shown = [(text, names | _relevant(said, text, list(captions))) for text, names in asked]
    for way in ("fused", "pictures alone"):
        rows.append(_calibrated(f"captions, {way}", *calibration(ways[way], shown)))
    show("one_box-quick" if arguments.quick else "one_box", rows)


def _relevant(said: Said, text: str, names: Sequence[str]) -> set[str]:
    """Images one of whose captions says what a query does (`relevance.py`)."""
    relevant_N = said.relevant(text)
    return set() if relevant_N is None else {names[row] for row in np.flatnonzero(relevant_N)}


def _beside(journey: str, unit: str, values: dict[str, float], goal: float | None) -> list[Row]:
    ours = values.pop("fused")
    reached = {} if goal is None else {"goal": f">= {goal:g}", "reached": ours >= goal}
    return [
        Row(journey=journey, unit=unit, ours=ours, other=other, alternative=way, ratio=ours / max(other, 1), **reached)
        for way, other in values.items()
    ]


def _calibrated(label: str, error: float, rated: float, truth: float) -> Row:
    print(f"{label}: mean probability {rated:.3f}, right {truth:.3f}")
    journey = f"{label}: calibration error of the first {SHOWN} hits"
    return Row(journey=journey, unit="%", ours=round(100 * error, 1), goal="<= 5%", reached=error <= 0.05)


if __name__ == "__main__":
    main()
