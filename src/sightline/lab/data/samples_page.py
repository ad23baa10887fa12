"""A page of samples: thumbnails, captions, figures and what a check found, in one HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.errors import ImageError
from sightline.kit.pages import render_page, write_page
from sightline.lab.data.base import Dataset, Pair
from sightline.lab.data.checks import Case, CheckReport
from sightline.lab.data.facts import SplitFacts, choose_sample

SAMPLES = 24
"""Images shown of each split."""
CASES = 12
"""Cases shown of each finding."""
_THUMBNAIL_PX = 320
_IMAGES_OF_CASE = 2


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """Content of a page."""

    title: str
    datasets: Sequence[Dataset]
    facts: Sequence[SplitFacts] = ()
    report: CheckReport | None = None
    seed: int = 0
    """Seed of the choice of samples."""


def write_samples_page(target: Path, content: PageContent) -> None:
    """Write the page. Raises InputError where it can't be written."""
    write_page(target, format_page(content))


def format_page(content: PageContent) -> str:
    """The page as HTML."""
    total = sum(len(dataset) for dataset in content.datasets)
    return render_page(
        "lab/data/samples.html",
        title=content.title,
        lead=f"{total:,} pictures in {', '.join(dataset.split for dataset in content.datasets)}",
        facts=content.facts,
        rows=_rows(content.facts),
        checked=content.report is not None,
        findings=list(_findings(content)),
        samples=[(dataset.split, _samples(dataset, content.seed)) for dataset in content.datasets],
    )


def _rows(facts: Sequence[SplitFacts]) -> Mapping[str, Sequence[object]]:
    if not facts:
        return {}
    return {
        "pictures": [f"{one.pictures:,}" for one in facts],
        "captions": [f"{one.captions:,}" for one in facts],
        "captions a picture": [one.captions_per_picture for one in facts],
        "words a caption": [one.words_per_caption or "-" for one in facts],
        "vocabulary": [f"{one.vocabulary:,}" for one in facts],
        "width, pixels": [one.width_px or "-" for one in facts],
        "height, pixels": [one.height_px or "-" for one in facts],
        "fingerprint": [one.fingerprint for one in facts],
    }


def _findings(content: PageContent) -> Iterator[dict[str, Any]]:
    findings = content.report.findings if content.report is not None else ()
    cases = [case for finding in findings for case in finding.cases[:CASES]]
    shown = {place for case in cases for place in case.places[:_IMAGES_OF_CASE]}
    pairs = {
        place: pair
        for dataset in content.datasets
        for pair in dataset
        if (place := f"{dataset.split}/{pair.id}") in shown
    }
    for finding in findings:
        yield {
            "title": f"{len(finding.cases):,} {finding.title}",
            "serious": finding.serious,
            "cards": [_case(case, pairs) for case in finding.cases[:CASES]],
            "more": len(finding.cases[CASES:]),
        }


def _case(case: Case, pairs: Mapping[str, Pair]) -> dict[str, Any]:
    names = case.places[:_IMAGES_OF_CASE]
    more = len(case.places) - len(names)
    heading = ", ".join(names) + (f" and {more:,} more" if more else "")
    images = [_image(pairs[name]) for name in names]
    return {"images": images, "heading": heading, "texts": [case.detail] if case.detail else []}


def _samples(dataset: Dataset, seed: int) -> Iterator[dict[str, Any]]:
    for pair in choose_sample(dataset, count=SAMPLES, seed=seed):
        names = dataset.class_names[pair.label] if dataset.class_names and pair.label is not None else ()
        yield {"images": [_image(pair)], "heading": pair.id, "texts": pair.captions or names[:1]}


def _image(pair: Pair) -> dict[str, str]:
    try:
        rgb = pair.image.read(min_side_px=_THUMBNAIL_PX)
    except ImageError as error:
        return {"reason": error.reason}
    source = data_uri(make_thumbnail(rgb, size_px=_THUMBNAIL_PX), "JPEG")
    return {"reason": "", "source": source, "alt": pair.captions[0] if pair.captions else pair.id}
