"""A second look: what is found, and how long it takes, without it and with it, by how many hits are read again.

python benchmarks/rerank.py --data DIR [--fit] [--limit N] [--reranker NAME]

DIR holds `flickr8k/`, `tiny-imagenet/` and `coco-mini/`. Three sets: Flickr8k val, where each image gives one of its
captions as a query; 1,000 images of Tiny ImageNet val, asked for by the names of the 200 classes; coco-mini's train
split by all captions. R@k is the share of queries with what was asked for among the first k; intervals are 95% of the
paired bootstrap over queries.

`--fit` compares weights of the matcher, on the 500 images of Flickr8k train that no training of the starter models saw
and on the latter two, which are unlike what the captioner learned from. The one to take for
`core.search.rerank.CAPTIONER_WEIGHT` is the largest that costs nothing on any of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from report import machine, seconds

from sightline.core.library import Library
from sightline.core.search.engine import SearchConfig, prepare, rank
from sightline.core.search.query import Part
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.base import Pair

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "starter"))
from corpus import held_out_rows

DEPTH = 50
READ_AGAIN = (10, 20, 50)
KS = (1, 5, 10)
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 3.0)
OF_CLASS = 5
TIMED = 20


@dataclass(frozen=True, kw_only=True)
class Task:
    """Images, and queries with the numbers of the images that show what they ask for."""

    name: str
    images: list[Pair]
    queries: list[tuple[str, set[int]]]


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Of Q queries the first N hits: cosines, the matcher's nats, and which of them show what was asked."""

    cosine_QN: NDArray[np.float64]
    match_QN: NDArray[np.float64]
    shows_QN: NDArray[np.bool_]
    temperature: float

    def found(self, *, weight: float, read_again: int = DEPTH) -> NDArray[np.float64]:
        """Whether one that shows it is among the first k (Q, K), with so many of the first read again."""
        fused_QN = self.temperature * self.cosine_QN + weight * self.match_QN
        fused_QN[:, read_again:] = -1e9 - np.arange(max(0, fused_QN.shape[1] - read_again))
        order_QN = np.argsort(-fused_QN, axis=1, kind="stable")
        shows_QN = np.take_along_axis(self.shows_QN, order_QN, axis=1)
        return np.stack([shows_QN[:, :k].any(axis=1) for k in KS], axis=1).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the three data sets")
    parser.add_argument("--fit", action="store_true", help="compare weights")
    parser.add_argument("--limit", type=int, help="take so many images of Flickr8k")
    parser.add_argument("--reranker", help="a matcher or captioner by name")
    given = parser.parse_args()
    print(machine())
    for task in make_tasks(given.data, held_out=given.fit, limit=given.limit):
        with tempfile.TemporaryDirectory() as scratch, make_library(task, Path(scratch)) as library:
            look = library.second_look(given.reranker)
            print(f"\n{task.name}: {len(task.images)} images, {len(task.queries)} queries, {look.matcher.card.name}")
            if not given.fit:
                show_times(library, task, given.reranker)
            lists = read_lists(library, task, given.reranker)
        if given.fit:
            show_weights(lists)
        else:
            show_recall(lists, look.weight)


def make_tasks(data: Path, *, held_out: bool, limit: int | None) -> Iterator[Task]:
    flickr = load_dataset(f"flickr8k:{data / 'flickr8k'}", split="train" if held_out else "val")
    chosen = held_out_rows([pair.id for pair in flickr]) if held_out else range(len(flickr))
    pairs = [flickr[row] for row in chosen][:limit]
    queries = [(pair.captions[row % len(pair.captions)], {row}) for row, pair in enumerate(pairs)]
    yield Task(name=f"Flickr8k {'train, held out' if held_out else 'val'}", images=pairs, queries=queries)

    tiny = load_dataset(f"tiny-imagenet:{data / 'tiny-imagenet'}", split="val")
    rows_of: dict[int, list[int]] = {}
    for row, pair in enumerate(tiny):
        rows_of.setdefault(pair.label or 0, []).append(row)
    pairs = [tiny[row] for label in sorted(rows_of) for row in rows_of[label][:OF_CLASS]]
    names = [own[0].lower() for own in tiny.class_names or ()]
    queries = [
        (names[label], {row for row, pair in enumerate(pairs) if (pair.label or 0) == label})
        for label in sorted(rows_of)
    ]
    yield Task(name="Tiny ImageNet val by class names", images=pairs, queries=queries)

    pairs = [*load_dataset(f"coco:{data / 'coco-mini'}", split="train")]
    queries = [(caption, {row}) for row, pair in enumerate(pairs) for caption in pair.captions]
    yield Task(name="COCO by captions", images=pairs, queries=queries)


def make_library(task: Task, scratch: Path) -> Library:
    """A library of the images, as files named by their numbers."""
    folder = scratch / "images"
    folder.mkdir()
    for number, pair in enumerate(task.images):
        Image.fromarray(pair.image.read()).save(folder / f"{number}.png", compress_level=1)
    library = Library.open(scratch / "library", model="starter")
    library.index(folder)
    return library


def read_lists(library: Library, task: Task, reranker: str | None) -> Lists:
    look, store = library.second_look(reranker), library.store
    cosines, matches, shows = [], [], []
    for words, wanted in task.queries:
        query = prepare(store, library.encoder, [Part(text=words)])
        found = rank(store, library.model, query, config=SearchConfig(top=DEPTH))
        ids = [row for row, _ in found]
        records = dict(zip(ids, store.get(ids), strict=True))
        nats = look.match(records, query.text_parts)
        cosines.append([cosine for _, cosine in found])
        matches.append([nats[row] for row in ids])
        shows.append([int(records[row].path.stem) in wanted for row in ids])
    return Lists(
        cosine_QN=np.array(cosines),
        match_QN=np.array(matches),
        shows_QN=np.array(shows),
        temperature=library.encoder.card.nats_per_cosine,
    )


def show_times(library: Library, task: Task, reranker: str | None) -> None:
    """From words to hits, the models loaded: without, reading files, and with what was kept of these images."""

    def time_ms(read_again: int) -> float:
        queries = [words for words, _ in task.queries[:TIMED]]
        timed = [
            seconds(lambda words=words: library.search(words, rerank=read_again, reranker=reranker))
            for words in queries
        ]
        return 1000 * statistics.median(timed)

    library.search("warm", rerank=2, reranker=reranker)
    print(f"  words to hits: {time_ms(0):.1f} ms")
    words, _ = task.queries[0]
    first_s = seconds(lambda: library.search(words, rerank=DEPTH, reranker=reranker))
    print(f"  the first {DEPTH} read again, from files: {1000 * first_s:.0f} ms")
    time_ms(DEPTH)
    kept = "  ".join(f"{read_again}: {time_ms(read_again):.1f} ms" for read_again in READ_AGAIN)
    print(f"  ... from what was kept of them: {kept}")


def show_recall(lists: Lists, weight: float) -> None:
    without_QK = lists.found(weight=0.0)
    print(f"  again  {'  '.join(f'R@{k:<20}' for k in KS)}")
    print(f"      0  {'  '.join(f'{100 * value:<22.1f}' for value in without_QK.mean(axis=0))}")
    rng = np.random.default_rng(0)
    drawn_SQ = rng.integers(len(without_QK), size=(2000, len(without_QK)))
    for read_again in READ_AGAIN:
        with_QK = lists.found(weight=weight, read_again=read_again)
        low_K, high_K = np.quantile((with_QK - without_QK)[drawn_SQ].mean(axis=1), (0.025, 0.975), axis=0)
        cells = [
            f"{100 * mean:.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            for mean, low, high in zip(with_QK.mean(axis=0), low_K, high_K, strict=True)
        ]
        print(f"     {read_again:2}  {'  '.join(f'{cell:22}' for cell in cells)}")


def show_weights(lists: Lists) -> None:
    for weight in WEIGHTS:
        recall_K = 100 * lists.found(weight=weight, read_again=20).mean(axis=0)
        print(f"  weight {weight:<5g} {'  '.join(f'R@{k} {value:.1f}' for k, value in zip(KS, recall_K, strict=True))}")


if __name__ == "__main__":
    main()
