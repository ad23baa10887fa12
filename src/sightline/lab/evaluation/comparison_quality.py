"""Figures of a comparison that follow from vectors: quality, how sure differences are, how far rankings agree.

Shape suffixes: B images, T texts, Q queries, C candidates, N results or what is shown, D and E dimensions of joint
spaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.lab.evaluation.classification import rank_classes
from sightline.lab.evaluation.comparison_data import ComparisonData
from sightline.lab.evaluation.compose import MEAN, compare_sentences
from sightline.lab.evaluation.embedding import CountProgress, EmbeddedImages
from sightline.lab.evaluation.labelled import labels_of
from sightline.lab.evaluation.measured_model import MeasuredModel, ModelProcess
from sightline.lab.evaluation.results import TIE_TOLERANCE, Bootstrap, Figures, Interval, summarise
from sightline.lab.evaluation.retrieval import rank_retrieval

Spaces = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]

PREFERRED = ("image_retrieval_recall@5", "acc1", MEAN)
"""Metrics that stand for quality where nothing else is asked for: the first that was measured."""
SHOWN = 6
_QUERIES_TRIED = 64
_CHUNK_CELLS = 4_000_000
_QUERIES_AT_MOST = 1000


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Figures by CLIP_benchmark's names, as fractions."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    parts: Sequence[Figures] = ()
    """What these were computed from, for comparing models image by image."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Vectors that one model made of the images and texts of a comparison."""

    images: EmbeddedImages
    query_QD: NDArray[np.float32]
    text_TD: NDArray[np.float32]
    """Captions of the images that could be read, in order; none where images have none."""
    class_CD: NDArray[np.float32] | None
    true_ND: NDArray[np.float32]
    """True sentences of hard negatives, of the images that could be read, in order."""
    false_ND: NDArray[np.float32]


def embed_comparison(
    model: MeasuredModel | ModelProcess,
    data: ComparisonData,
    *,
    templates: Sequence[str],
    batch_size: int,
    progress: CountProgress | None,
) -> Vectors:
    """All vectors that a comparison needs of one model; equal texts are embedded once."""
    images = model.embed_images(data.dataset, batch_size=batch_size, progress=progress)
    pairs = [data.dataset[row] for row in images.row_B]
    captions = [caption for pair in pairs for caption in pair.captions] if data.captioned else []
    swaps = [negative for pair in pairs for negative in pair.negatives]
    parts = [data.queries, captions, [s.caption for s in swaps], [s.negative for s in swaps]]
    vectors_TD = model.embed_texts([text for part in parts for text in part])
    query_QD, text_TD, true_ND, false_ND = np.split(vectors_TD, np.cumsum([len(part) for part in parts])[:-1])
    class_CD = model.embed_classes(data.dataset.class_names or (), templates) if data.labelled else None
    return Vectors(
        images=images, query_QD=query_QD, text_TD=text_TD, class_CD=class_CD, true_ND=true_ND, false_ND=false_ND
    )


def measure_quality(data: ComparisonData, vectors: Vectors, *, bootstrap: Bootstrap) -> Quality:
    """Retrieval where there are captions, `acc1` where there are classes, `compose_...` where hard negatives."""
    images = vectors.images
    pairs = [data.dataset[row] for row in images.row_B]
    parts = []
    if data.captioned:
        owner_T = np.repeat(np.arange(len(pairs)), [len(pair.captions) for pair in pairs])
        parts.append(rank_retrieval(images.image_BD, vectors.text_TD, owner_T).figures())
    if vectors.class_CD is not None:
        parts.append(rank_classes(images.image_BD, vectors.class_CD, labels_of(data.dataset, images)))
    if len(vectors.true_ND):
        image_N = np.repeat(np.arange(len(pairs)), [len(pair.negatives) for pair in pairs])
        kinds = [swap.kind for pair in pairs for swap in pair.negatives]
        true_ND, false_ND = vectors.true_ND, vectors.false_ND
        parts.append(compare_sentences(images.image_BD[image_N], true_ND, false_ND, image_N=image_N, kinds=kinds))
    metrics, intervals = summarise(parts, bootstrap)
    return Quality(metrics=metrics, intervals=intervals, parts=parts)


def choose_metric(measured: Sequence[str], wanted: str | None) -> str | None:
    """The metric that stands for quality; None where nothing was measured. Raises InputError for one that wasn't."""
    if wanted is not None and wanted not in measured:
        known = ", ".join(measured) or "none: the pictures have neither captions nor classes"
        raise InputError(f"{wanted!r} was not measured; the metrics are {known}.")
    return wanted or next((name for name in PREFERRED if name in measured), None)


def interval_of_difference(one: Quality, other: Quality, metric: str, *, bootstrap: Bootstrap) -> Interval | None:
    """The interval of `one` minus `other` in a metric, from the same resamples: far narrower than two intervals are.

    None where the bootstrap makes none. Both must be measured on the same images.
    """
    first, second = (next(part for part in quality.parts if metric in part.statistics) for quality in (one, other))

    def difference(counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        return first.statistics[metric](counts_SG) - second.statistics[metric](counts_SG)

    figures = Figures(statistics={metric: difference}, n_groups=first.n_groups)
    return figures.intervals(bootstrap).get(metric)


@dataclass(frozen=True, kw_only=True)
class SimilarityTable:
    """Cosines of texts (rows) and images (columns); the diagonal holds what all models together find best."""

    texts: tuple[str, ...]
    ids: tuple[str, ...]
    """Ids of the images."""
    models: Mapping[str, tuple[tuple[float, ...], ...]]
    """Cosines of one model don't compare with those of another; their order does."""


def choose_corners(spaces: Spaces, *, shown: int = SHOWN) -> list[tuple[int, int]]:
    """Queries spread over the list, each with the image that all models together rank highest among those left.

    `spaces` are, for each model, its vectors of queries (Q, D) and of images (B, D). A model's similarities are
    standardised for each query, so that no model counts more than another. The answers are (query, image).
    """
    n_queries, n_images = (len(vectors) for vectors in next(iter(spaces.values())))
    shown = min(shown, n_queries, n_images)
    rows = np.unique(np.linspace(0, min(n_queries, _QUERIES_TRIED) - 1, shown).astype(int))
    agreed_QB = sum(_standardise(query_QD[rows] @ image_BD.T) for query_QD, image_BD in spaces.values())
    assert isinstance(agreed_QB, np.ndarray)  # there is at least one model
    corners = []
    for place, query in enumerate(rows):
        image = int(agreed_QB[place].argmax())
        corners.append((int(query), image))
        agreed_QB[:, image] = -np.inf
    return corners


def tabulate_corners(data: ComparisonData, vectors: Mapping[str, Vectors]) -> SimilarityTable:
    """The cosines of some queries and images, see `choose_corners`, under each model."""
    spaces = {name: (one.query_QD, one.images.image_BD) for name, one in vectors.items()}
    queries, columns = map(list, zip(*choose_corners(spaces), strict=True))
    rows_B = next(iter(vectors.values())).images.row_B
    return SimilarityTable(
        texts=tuple(data.queries[query] for query in queries),
        ids=tuple(data.dataset[rows_B[column]].id for column in columns),
        models={
            name: tuple(map(tuple, (query_QD[queries] @ image_BD[columns].T).tolist()))
            for name, (query_QD, image_BD) in spaces.items()
        },
    )


def _standardise(similarity_QB: NDArray[np.float32]) -> NDArray[np.float64]:
    centred_QB = similarity_QB - similarity_QB.mean(axis=1, keepdims=True, dtype=np.float64)
    return np.asarray(centred_QB / np.maximum(centred_QB.std(axis=1, keepdims=True), 1e-9))


def measure_agreement(
    queries: tuple[NDArray[np.float32], NDArray[np.float32]],
    candidates: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    k: int,
) -> tuple[float, float]:
    """Agreement of two models' rankings of the same candidates, as means over the same queries: overlap, correlation.

    The overlap is the share of the first `k` candidates that both have there; at random k / candidates. The correlation
    is Spearman's (1904, ties by average ranks), of the similarities to all candidates; at random 0.
    `queries` are (Q, D) of one model and (Q, E) of the other, `candidates` (C, D) and (C, E). Tied candidates share
    their places, so models whose vectors collapsed agree as much as chance does. Computed in chunks of queries.
    """
    rows = max(1, _CHUNK_CELLS // len(candidates[0]))
    overlap, correlation = 0.0, 0.0
    for start in range(0, len(queries[0]), rows):
        first_QC, second_QC = (
            query[start : start + rows] @ candidate.T for query, candidate in zip(queries, candidates, strict=True)
        )
        overlap += float((_places_taken(first_QC, k) * _places_taken(second_QC, k)).sum()) / k
        correlation += float(_correlate_ranks(first_QC, second_QC).sum())
    return overlap / len(queries[0]), correlation / len(queries[0])


@dataclass(frozen=True, kw_only=True)
class AgreementMatrix:
    """Agreement of each two models' rankings; both matrices are symmetric, with ones on the diagonal."""

    models: tuple[str, ...]
    k: int
    chance: float
    n_queries: int
    n_candidates: int
    overlap: tuple[tuple[float, ...], ...]
    """Share of the first k places that two models fill alike."""
    correlation: tuple[tuple[float, ...], ...]
    """Mean Spearman correlation of the rankings."""


def measure_agreements(
    queries: Mapping[str, NDArray[np.float32]], images: Mapping[str, NDArray[np.float32]], *, k: int
) -> dict[str, AgreementMatrix]:
    """Model -> vectors of the same queries (Q, D) and images (B, D); nothing for fewer than two models.

    `text_to_image` ranks all images for each query, `image_to_image` one half of the images for some of the other
    half, so that no image finds itself.
    """
    if len(images) < 2:
        return {}
    found = {"text_to_image": _fill_matrix({name: (queries[name], images[name]) for name in images}, k=k)}
    n_images = len(next(iter(images.values())))
    if n_images > 1:
        step = 2 * max(1, n_images // (2 * _QUERIES_AT_MOST))
        by_image = {name: (all_BD[::step], all_BD[1::2]) for name, all_BD in images.items()}
        found["image_to_image"] = _fill_matrix(by_image, k=k)
    return found


def _places_taken(similarity_QC: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """Each candidate's part of the first k places (Q, C): 0 or 1, and equal parts where tied at the k-th."""
    last_Q1 = np.partition(similarity_QC, -k, axis=1)[:, -k, None]
    above_QC = similarity_QC > last_Q1 + TIE_TOLERANCE
    tied_QC = np.abs(similarity_QC - last_Q1) <= TIE_TOLERANCE
    left_Q1 = k - above_QC.sum(axis=1, keepdims=True)
    places_QC: NDArray[np.float64] = above_QC + tied_QC * (left_Q1 / tied_QC.sum(axis=1, keepdims=True))
    return places_QC


def _correlate_ranks(first_QC: NDArray[np.float32], second_QC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Spearman's correlation of each row (Q,); 0 where all similarities of a row are tied, which rank nothing."""
    centred = [_average_ranks(values_QC) - (values_QC.shape[1] + 1) / 2 for values_QC in (first_QC, second_QC)]
    covariance_Q = (centred[0] * centred[1]).sum(axis=1)
    norm_Q = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    correlation_Q = np.zeros(len(norm_Q))
    np.divide(covariance_Q, norm_Q, out=correlation_Q, where=norm_Q > 0)
    return correlation_Q


def _average_ranks(values_QC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ranks of each row from 1 for its least value; equal ones share their mean rank."""
    ranks_QC = np.empty(values_QC.shape)
    for row, values_C in enumerate(values_QC.round(6)):  # by a grid, not by distance: many would chain into one tie
        _, place_C, count_U = np.unique(values_C, return_inverse=True, return_counts=True)
        ranks_QC[row] = (np.cumsum(count_U) - (count_U - 1) / 2)[place_C]
    return ranks_QC


def _fill_matrix(spaces: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]], *, k: int) -> AgreementMatrix:
    names = tuple(spaces)
    n_queries, n_candidates = map(len, spaces[names[0]])
    k = min(k, n_candidates)
    overlap_MM, correlation_MM = np.eye(len(names)), np.eye(len(names))
    for row, one in enumerate(names):
        for column, other in enumerate(names[:row]):
            queries, candidates = zip(spaces[one], spaces[other], strict=True)
            overlap, correlation = measure_agreement(queries, candidates, k=k)
            overlap_MM[[row, column], [column, row]] = overlap
            correlation_MM[[row, column], [column, row]] = correlation
    return AgreementMatrix(
        models=names,
        k=k,
        chance=k / n_candidates,
        n_queries=n_queries,
        n_candidates=n_candidates,
        overlap=tuple(map(tuple, overlap_MM.tolist())),
        correlation=tuple(map(tuple, correlation_MM.tolist())),
    )
