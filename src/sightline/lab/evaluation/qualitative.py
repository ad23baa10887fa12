"""A closer look than figures give: best and worst retrievals, neighbours, a map of the joint space, the modality gap.

Plain records with ids and numbers, and one HTML file that shows them all. Shape suffixes: B images, T texts, V vectors
of any kind, C candidates, N similarities, D dimension of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.kit.pages import render_page
from sightline.lab.data.base import Dataset
from sightline.lab.evaluation.embedding import EmbeddedDataset
from sightline.lab.evaluation.pages import Thumbnails, draw_dots, draw_histograms
from sightline.lab.evaluation.results import EvalResult
from sightline.lab.evaluation.retrieval import Direction, RetrievalRanks, check_owners, rank_retrieval

_CASES = 8
_SHOWN = 4
"""Results of each case."""
_PAIRS_AT_MOST = 50_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """Something that was found: an image's id, or a text."""

    item: str
    similarity: float
    right: bool = False
    """True where it belongs to the query."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalCase:
    """One query and what it found."""

    query: str
    """A text, or an image's id."""
    rank: float
    """Expected rank of the first right answer, from 1."""
    answer: Match
    """The right answer that ranks first."""
    found: tuple[Match, ...]
    """The first candidates, best first."""


@dataclass(frozen=True, kw_only=True)
class RetrievalCases:
    """The queries that did best and worst, at most one of an image so that the list is not of one image."""

    best: tuple[RetrievalCase, ...]
    """Right at once, with the greatest lead over the next candidate first."""
    worst: tuple[RetrievalCase, ...]
    """Furthest from the right answer first."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """Both modalities in the two directions in which they spread most."""

    image_B2: NDArray[np.float32]
    text_T2: NDArray[np.float32]
    explained: tuple[float, float]
    """Share of the variance along each of the two."""


@dataclass(frozen=True, kw_only=True)
class ModalityGap:
    """The distance of images and texts as a whole (Liang et al. 2022, arXiv:2203.02053)."""

    distance: float
    """Euclidean distance of the centroids of the normalised vectors, in [0, 2]."""
    matched_similarity: float
    """Mean cosine of images with their own texts."""
    other_similarity: float
    """Mean cosine of images with the texts of others; equals the above where there is one image only."""


def find_cases(
    embedded: EmbeddedDataset,
    ranks: RetrievalRanks,
    *,
    direction: Direction = "image_retrieval",
    n: int = 20,
    shown: int = 5,
) -> RetrievalCases:
    """The `n` best and worst queries of one direction, each with its `shown` first results.

    `ranks` are those of `rank_retrieval` for the same vectors.
    """
    images = _Side(embedded.ids, embedded.image_BD, np.arange(len(embedded.ids)))
    texts = _Side(embedded.texts, embedded.text_TD, embedded.owner_T)
    asked, candidate = (texts, images) if direction == "image_retrieval" else (images, texts)

    def compare(query: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        right_C: NDArray[np.bool_] = candidate.image_N == asked.image_N[query]
        return candidate.vectors_ND @ asked.vectors_ND[query], right_C

    def lead(query: int) -> float:
        """The lead in similarity of the best right answer over the best wrong one."""
        similarity_C, right_C = compare(query)
        return float(similarity_C[right_C].max()) - float(similarity_C[~right_C].max(initial=-1.0))

    def case(query: int) -> RetrievalCase:
        similarity_C, right_C = compare(query)
        order = np.argsort(-similarity_C, kind="stable")
        answer, *found = (
            Match(item=candidate.names[row], similarity=float(similarity_C[row]), right=bool(right_C[row]))
            for row in (order[right_C[order].argmax()], *order[:shown])
        )
        return RetrievalCase(query=asked.names[query], rank=float(rank_Q[query]), answer=answer, found=tuple(found))

    rank_Q = getattr(ranks, direction).expected_ranks
    first = np.flatnonzero(rank_Q == 1)
    surest_first = first[np.argsort([-lead(int(query)) for query in first], kind="stable")]
    best = _one_an_image(surest_first, asked.image_N, n)
    worst = _one_an_image(np.argsort(-rank_Q, kind="stable"), asked.image_N, n)
    return RetrievalCases(best=tuple(map(case, best)), worst=tuple(map(case, worst)))


def find_neighbours(
    vectors_VD: NDArray[np.float32], names: Sequence[str], *, rows: Sequence[int], k: int = 5
) -> dict[str, tuple[Match, ...]]:
    """For each of some rows, the `k` others that are nearest by cosine: name -> matches, best first."""
    neighbours = {}
    for row in rows:
        similarity_V = vectors_VD @ vectors_VD[row]
        order = [int(other) for other in np.argsort(-similarity_V, kind="stable") if other != row]
        neighbours[names[row]] = tuple(Match(item=names[o], similarity=float(similarity_V[o])) for o in order[:k])
    return neighbours


def map_embeddings(image_BD: NDArray[np.float32], text_TD: NDArray[np.float32]) -> EmbeddingMap:
    """Principal components of images and texts together (Pearson 1901), each modality counting the same.

    With equal weights five captions an image don't turn the map. Signs are fixed, so that equal data gives an equal
    map. Raises InputError for fewer than two dimensions.
    """
    if image_BD.shape[1] < 2:
        raise InputError(f"A map needs a space of 2 dimensions or more; these have {image_BD.shape[1]}.")
    centre_D = (image_BD.mean(axis=0, dtype=np.float64) + text_TD.mean(axis=0, dtype=np.float64)) / 2
    image_BD, text_TD = image_BD - centre_D, text_TD - centre_D
    covariance_DD = (image_BD.T @ image_BD / len(image_BD) + text_TD.T @ text_TD / len(text_TD)) / 2
    variance_D, direction_DD = np.linalg.eigh(covariance_DD)
    axis_D2 = direction_DD[:, ::-1][:, :2]
    axis_D2 = axis_D2 * np.sign(axis_D2[np.abs(axis_D2).argmax(axis=0), [0, 1]])
    total = float(variance_D.sum()) or 1.0
    return EmbeddingMap(
        image_B2=(image_BD @ axis_D2).astype(np.float32),
        text_T2=(text_TD @ axis_D2).astype(np.float32),
        explained=(float(variance_D[-1]) / total, float(variance_D[-2]) / total),
    )


def measure_gap(image_BD: NDArray[np.float32], text_TD: NDArray[np.float32], owner_T: NDArray[np.int64]) -> ModalityGap:
    """The modality gap of normalised vectors; `owner_T` is each text's image. Raises InputError as retrieval does."""
    owner_T = check_owners(image_BD, text_TD, owner_T)
    image_mean_D, text_mean_D = image_BD.mean(axis=0, dtype=np.float64), text_TD.mean(axis=0, dtype=np.float64)
    matched_T = np.einsum("td,td->t", image_BD[owner_T], text_TD, dtype=np.float64)
    n_all, n_matched = len(image_BD) * len(text_TD), len(text_TD)
    # the mean over all pairs is the product of the means: no similarity has to be computed for it
    others = (float(image_mean_D @ text_mean_D) * n_all - matched_T.sum()) / max(1, n_all - n_matched)
    matched = float(matched_T.mean())
    return ModalityGap(
        distance=float(np.linalg.norm(image_mean_D - text_mean_D)),
        matched_similarity=matched,
        other_similarity=float(others) if n_all > n_matched else matched,
    )


def format_retrieval(dataset: Dataset, *, embedded: EmbeddedDataset, result: EvalResult) -> str:
    """The page as HTML; some hundred thumbnails at most, so about one megabyte."""
    ranks = rank_retrieval(embedded.image_BD, embedded.text_TD, embedded.owner_T)
    rows = np.unique(np.linspace(0, len(embedded.ids) - 1, 6).astype(int))  # images whose neighbours are shown
    return render_page(
        "lab/evaluation/retrieval.html",
        title="Retrieval, seen closely",
        lead=f"{result.model} on {result.data}, {result.split}: {result.n_images:,} images, {result.n_texts:,} texts.",
        figures=result.rows(),
        searches=find_cases(embedded, ranks, direction="image_retrieval", n=_CASES, shown=_SHOWN),
        captionings=find_cases(embedded, ranks, direction="text_retrieval", n=_CASES, shown=_SHOWN),
        neighbours=find_neighbours(embedded.image_BD, embedded.ids, rows=[int(row) for row in rows], k=_SHOWN),
        n_images=len(embedded.ids),
        n_texts=len(embedded.texts),
        well=Thumbnails.of(dataset).well,
        **_space(embedded),
    )


def sample_similarities(
    image_BD: NDArray[np.float32], text_TD: NDArray[np.float32], owner_T: NDArray[np.int64], *, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines of texts with their own images, and with others drawn at random; at most 50,000 of each (N,).

    Of one image there is no other: both are the same then.
    """
    rng = np.random.default_rng(seed)
    text_N = (
        np.arange(len(text_TD)) if len(text_TD) <= _PAIRS_AT_MOST else rng.integers(len(text_TD), size=_PAIRS_AT_MOST)
    )
    matched_N = np.einsum("nd,nd->n", image_BD[owner_T[text_N]], text_TD[text_N])
    if len(image_BD) == 1:
        return matched_N, matched_N
    shift_N = rng.integers(1, len(image_BD), size=len(text_N))  # never back to the text's own image
    other_N = np.einsum("nd,nd->n", image_BD[(owner_T[text_N] + shift_N) % len(image_BD)], text_TD[text_N])
    return matched_N, other_N


class _Side(NamedTuple):
    """Queries or candidates, with the image that each belongs to."""

    names: tuple[str, ...]
    vectors_ND: NDArray[np.float32]
    image_N: NDArray[np.int64]


def _one_an_image(order: NDArray[np.intp], query_image_Q: NDArray[np.int64], n: int) -> list[int]:
    """The first `n` queries of an order, leaving out those of an image that is there already."""
    chosen: dict[int, int] = {}
    for query in order:
        chosen.setdefault(int(query_image_Q[query]), int(query))
        if len(chosen) == n:
            break
    return list(chosen.values())


def _space(embedded: EmbeddedDataset) -> dict[str, Any]:
    vectors = embedded.image_BD, embedded.text_TD
    matched_N, other_N = sample_similarities(*vectors, embedded.owner_T)
    plane = map_embeddings(*vectors)
    return {
        "gap": measure_gap(*vectors, embedded.owner_T),
        "explained": [f"{share:.0%}" for share in plane.explained],
        "dots": draw_dots(plane.image_B2, plane.text_T2),
        "histograms": draw_histograms(matched_N, other_N, x_label="cosine"),
    }
