"""A second look on Flickr8k val: recall and time without and with it, for several numbers of hits that are read again.

python benchmarks/rerank.py --data DIR [--fit] [--limit N] [--reranker NAME]

DIR holds `flickr8k/`. Each image gives one of its five captions as a query. `--fit` compares weights of the matcher
instead, on the 500 pictures of Flickr8k train that no training of the starter models saw: what it says best is
`core.search.rerank.CAPTIONER_WEIGHT`. Intervals are 95% of the paired bootstrap over queries.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from report import machine, seconds

from sightline.core.library import Library
from sightline.core.search.engine import Part, SearchConfig, prepare, rank
from sightline.lab.data.addressing import load_dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "starter"))
from corpus import held_out_rows

DEPTH = 50
READ_AGAIN = (10, 20, 50)
KS = (1, 5, 10)
WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 3.0, 1e6)
TIMED = 20


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Of Q queries the first N hits: cosines, the matcher's nats, and which of them is the query's own image."""

    cosine_QN: NDArray[np.float64]
    match_QN: NDArray[np.float64]
    is_own_QN: NDArray[np.bool_]
    temperature: float

    def found(self, *, weight: float, read_again: int = DEPTH) -> NDArray[np.float64]:
        """Whether the own image is among the first k (Q, K), with so many of the first read again."""
        fused_QN = self.temperature * self.cosine_QN + weight * self.match_QN
        fused_QN[:, read_again:] = -1e9 - np.arange(fused_QN.shape[1] - read_again)
        order_QN = np.argsort(-fused_QN, axis=1, kind="stable")
        own_QN = np.take_along_axis(self.is_own_QN, order_QN, axis=1)
        return np.stack([own_QN[:, :k].any(axis=1) for k in KS], axis=1).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds flickr8k/")
    parser.add_argument("--fit", action="store_true", help="compare weights on the pictures that were held out")
    parser.add_argument("--limit", type=int, help="take so many pictures")
    parser.add_argument("--reranker", help="a matcher or captioner by name")
    given = parser.parse_args()
    dataset = load_dataset(f"flickr8k:{given.data / 'flickr8k'}", split="train" if given.fit else "val")
    chosen = held_out_rows([pair.id for pair in dataset]) if given.fit else list(range(len(dataset)))
    pairs = [dataset[row] for row in chosen[: given.limit]]
    words_of = {pair.id: pair.captions[row % len(pair.captions)] for row, pair in enumerate(pairs)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        for name in words_of:
            (folder / name).symlink_to((given.data / "flickr8k" / "Images" / name).resolve())
        with Library.open(Path(scratch) / "library", model="starter") as library:
            library.index(folder)
            print(f"{len(pairs)} pictures, {library.second_look(given.reranker).matcher.card.name}: {machine()}")
            if not given.fit:
                show_times(library, words_of, given.reranker)
            lists = read_lists(library, words_of, given.reranker)
    if given.fit:
        show_weights(lists)
    else:
        show_recall(lists, library.second_look(given.reranker).weight)


def read_lists(library: Library, words_of: Mapping[str, str], reranker: str | None) -> Lists:
    look, model = library.second_look(reranker), library.model
    cosines, matches, owns = [], [], []
    for name, words in words_of.items():
        query = prepare(library.store, library.encoder, [Part(text=words)])
        found = rank(library.store, model, query, config=SearchConfig(top=DEPTH))
        records = dict(zip([row for row, _ in found], library.store.get([row for row, _ in found]), strict=True))
        nats = look.match(records, query.text_parts)
        cosines.append([cosine for _, cosine in found])
        matches.append([nats[row] for row, _ in found])
        owns.append([records[row].path.name == name for row, _ in found])
    return Lists(
        cosine_QN=np.array(cosines),
        match_QN=np.array(matches),
        is_own_QN=np.array(owns),
        temperature=library.encoder.card.nats_per_cosine,
    )


def show_times(library: Library, words_of: Mapping[str, str], reranker: str | None) -> None:
    """From words to hits, the model loaded: without, reading files, and with what was kept of these images."""
    queries = list(words_of.values())[:TIMED]
    library.search("warm", rerank=2, reranker=reranker)
    plain = [seconds(lambda words=words: library.search(words)) for words in queries]
    print(f"words to hits, without: {1000 * statistics.median(plain):.1f} ms")
    first = [seconds(lambda words=words: library.search(words, rerank=DEPTH, reranker=reranker)) for words in queries]
    print(f"  with, first {DEPTH}, the first query reads all files: {1000 * first[0]:.0f} ms")
    for read_again in READ_AGAIN:
        again = [
            seconds(lambda words=words: library.search(words, rerank=read_again, reranker=reranker))  # noqa: B023
            for words in queries
        ]
        print(f"  with, first {read_again}, seen before: {1000 * statistics.median(again):.1f} ms")


def show_recall(lists: Lists, weight: float) -> None:
    without_QK = lists.found(weight=0.0)
    print(f"\nfirst  {'  '.join(f'R@{k:<20}' for k in KS)}")
    print(f"   0   {'  '.join(f'{100 * value:<22.1f}' for value in without_QK.mean(axis=0))}")
    rng = np.random.default_rng(0)
    drawn_SQ = rng.integers(len(without_QK), size=(2000, len(without_QK)))
    for read_again in READ_AGAIN:
        with_QK = lists.found(weight=weight, read_again=read_again)
        low_K, high_K = np.quantile((with_QK - without_QK)[drawn_SQ].mean(axis=1), (0.025, 0.975), axis=0)
        cells = [
            f"{100 * mean:.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            for mean, low, high in zip(with_QK.mean(axis=0), low_K, high_K, strict=True)
        ]
        print(f"  {read_again:2}   {'  '.join(f'{cell:22}' for cell in cells)}")


def show_weights(lists: Lists) -> None:
    for weight in WEIGHTS:
        recall_K = 100 * lists.found(weight=weight).mean(axis=0)
        print(f"weight {weight:<9g} {'  '.join(f'R@{k} {value:.1f}' for k, value in zip(KS, recall_K, strict=True))}")


if __name__ == "__main__":
    main()
