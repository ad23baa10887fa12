"""What a retrieval result looks like, as one HTML file: best and worst, neighbours, a map, the modality gap.

Shape suffixes: N similarities, B images, T texts, D dimension of the joint space.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sightline.evaluation.charts import draw_dots, draw_histograms
from sightline.evaluation.comparison_report import figure
from sightline.evaluation.pages import Thumbnails, format_page, format_section, format_table
from sightline.evaluation.qualitative import find_cases, find_neighbours, map_embeddings, measure_gap
from sightline.evaluation.retrieval import rank_retrieval
from sightline.pages import escape, write_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sightline.data.base import Dataset
    from sightline.evaluation.embedding import EmbeddedDataset
    from sightline.evaluation.qualitative import Match, RetrievalCase
    from sightline.evaluation.results import EvalResult
    from sightline.evaluation.retrieval import RetrievalRanks

_CASES = 8
_SHOWN = 4
"""Results of each case."""
_ASKED = 6
"""Pictures whose neighbours are shown."""
_PAIRS_AT_MOST = 50_000


def write_retrieval_page(target: Path, dataset: Dataset, *, embedded: EmbeddedDataset, result: EvalResult) -> None:
    """Write the page of a result and the vectors that it was made from. Raises InputError where it can't."""
    write_page(target, format_retrieval(dataset, embedded=embedded, result=result))


def format_retrieval(dataset: Dataset, *, embedded: EmbeddedDataset, result: EvalResult) -> str:
    """The page as HTML; some hundred thumbnails at most, so about one megabyte."""
    thumbnails = Thumbnails.of(dataset)
    ranks = rank_retrieval(embedded.image_BD, embedded.text_TD, embedded.owner_T)
    sections = [
        _format_figures(result),
        *_format_searches(embedded, ranks, thumbnails),
        *_format_captioning(embedded, ranks, thumbnails),
        _format_neighbours(embedded, thumbnails),
        _format_space(embedded),
    ]
    lead = f"{result.model} on {result.data}, {result.split}: {result.n_images:,} images, {result.n_texts:,} texts."
    return format_page("Retrieval, seen closely", lead=lead, sections=sections)


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


def _format_figures(result: EvalResult) -> str:
    rows = []
    for name, value in result.metrics.items():
        low, high = result.intervals.get(name, (None, None))
        between = "" if low is None or high is None else f"{figure(name, low)} to {figure(name, high)}"
        rows.append([name, figure(name, value), between])
    note = "image_retrieval finds images by texts, text_retrieval texts by images."
    return format_section("Figures", format_table(["metric", "value", "95% interval"], rows), note=note)


def _format_searches(embedded: EmbeddedDataset, ranks: RetrievalRanks, thumbnails: Thumbnails) -> list[str]:
    cases = find_cases(embedded, ranks, direction="image_retrieval", n=_CASES, shown=_SHOWN)
    worst = [_format_search(case, len(embedded.ids), thumbnails, with_answer=True) for case in cases.worst]
    best = [_format_search(case, len(embedded.ids), thumbnails, with_answer=False) for case in cases.best]
    return [
        format_section("Images by text: worst", _cases(worst), note="Framed: the right image. Below: the cosine."),
        format_section("Images by text: best", _cases(best), note="Found first, with the greatest lead over the next."),
    ]


def _format_search(case: RetrievalCase, n_images: int, thumbnails: Thumbnails, *, with_answer: bool) -> str:
    found = [_format_found(match, thumbnails) for match in case.found]
    if with_answer:
        found.insert(0, _format_found(case.answer, thumbnails))
    rank = f"the right image comes at {case.rank:,.0f} of {n_images:,}"
    return (
        f'<p class="query">{escape(case.query)}</p><p class="rank">{rank}</p><div class="strip">{"".join(found)}</div>'
    )


def _format_found(match: Match, thumbnails: Thumbnails) -> str:
    kind = ' class="right"' if match.right else ""
    return f"<figure{kind}>{thumbnails.well(match.item)}<figcaption>{match.similarity:.3f}</figcaption></figure>"


def _format_captioning(embedded: EmbeddedDataset, ranks: RetrievalRanks, thumbnails: Thumbnails) -> list[str]:
    cases = find_cases(embedded, ranks, direction="text_retrieval", n=_CASES, shown=_SHOWN)
    sections = []
    for name, several in (("worst", cases.worst), ("best", cases.best)):
        shown = [_format_texts(case, len(embedded.texts), thumbnails) for case in several]
        sections.append(
            format_section(f"Texts by image: {name}", _cases(shown), note="In colour: captions of the image.")
        )
    return sections


def _format_texts(case: RetrievalCase, n_texts: int, thumbnails: Thumbnails) -> str:
    lines = [_format_line(match) for match in case.found]
    if not any(match.right for match in case.found):
        lines.append(_format_line(case.answer, apart=True))
    rank = f"its first own caption comes at {case.rank:,.0f} of {n_texts:,}"
    return (
        f'<p class="rank">{rank}</p><div class="beside">{thumbnails.well(case.query)}'
        f'<ul class="found">{"".join(lines)}</ul></div>'
    )


def _format_line(match: Match, *, apart: bool = False) -> str:
    kinds = " ".join([*(["right"] if match.right else []), *(["apart"] if apart else [])])
    return f'<li class="{kinds}"><span>{escape(match.item)}</span><span>{match.similarity:.3f}</span></li>'


def _format_neighbours(embedded: EmbeddedDataset, thumbnails: Thumbnails) -> str:
    rows = np.unique(np.linspace(0, len(embedded.ids) - 1, _ASKED).astype(int))
    found = find_neighbours(embedded.image_BD, embedded.ids, rows=[int(row) for row in rows], k=_SHOWN)
    shown = []
    for asked, matches in found.items():
        first = f'<figure class="asked">{thumbnails.well(asked)}<figcaption>asked</figcaption></figure>'
        shown.append(
            f'<div class="strip">{first}{"".join(_format_found(match, thumbnails) for match in matches)}</div>'
        )
    return format_section("Nearest images", _cases(shown), note="For some images, those that lie nearest; the cosine.")


def _format_space(embedded: EmbeddedDataset) -> str:
    gap = measure_gap(embedded.image_BD, embedded.text_TD, embedded.owner_T)
    matched_N, other_N = sample_similarities(embedded.image_BD, embedded.text_TD, embedded.owner_T)
    plane = map_embeddings(embedded.image_BD, embedded.text_TD)
    note = (
        f"The centres of images and texts lie {gap.distance:.3f} apart (0 to 2). Mean cosine of images with their own "
        f"texts {gap.matched_similarity:.3f}, with those of others {gap.other_similarity:.3f}: search lives on the "
        "difference of these two."
    )
    first, second = plane.explained
    parts = (
        f"<div><h3>Map: the two directions of most variance ({first:.0%} and {second:.0%})</h3>"
        f"{_key('images', 'texts')}{draw_dots(plane.image_B2, plane.text_T2)}</div>",
        f"<div><h3>Cosines of images and texts</h3>{_key('that belong together', 'that don’t')}"
        f"{draw_histograms(matched_N, other_N, x_label='cosine')}</div>",
    )
    return format_section("The joint space", f'<div class="side">{"".join(parts)}</div>', note=note)


def _key(image: str, text: str) -> str:
    return f'<ul class="key"><li class="image">{escape(image)}</li><li class="text">{escape(text)}</li></ul>'


def _cases(cases: Sequence[str]) -> str:
    return '<ul class="cases">' + "".join(f'<li class="case">{case}</li>' for case in cases) + "</ul>"
