"""A page of samples: thumbnails, captions, figures and what a check found, in one HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.errors import ImageError
from sightline.kit.pages import escape, format_frame, write_page
from sightline.lab.data.base import Dataset, Pair
from sightline.lab.data.checks import Case, CheckReport, Finding
from sightline.lab.data.facts import SplitFacts, choose_sample

SAMPLES = 24
"""Pictures shown of each split."""
CASES = 12
"""Cases shown of each finding."""
_THUMBNAIL_PX = 320
_PICTURES_OF_CASE = 2


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """What a page shows."""

    title: str
    datasets: Sequence[Dataset]
    facts: Sequence[SplitFacts] = ()
    report: CheckReport | None = None
    seed: int = 0
    """Of the choice of samples."""


def write_samples_page(target: Path, content: PageContent) -> None:
    """Write the page. Raises InputError where it can't be written."""
    write_page(target, format_page(content))


def format_page(content: PageContent) -> str:
    """The page as HTML."""
    total = sum(len(dataset) for dataset in content.datasets)
    lead = f"{total:,} pictures in {', '.join(dataset.split for dataset in content.datasets)}"
    sections = [
        _format_facts(content.facts),
        *(_format_lengths(facts) for facts in content.facts),
        *_format_findings(content),
        *(_format_samples(dataset, content.seed) for dataset in content.datasets),
    ]
    style = resources.files("sightline.lab.data") / "samples.css"
    return format_frame(content.title, lead=lead, sections=sections, style=style)


def _section(title: str, body: str, *, serious: bool = False) -> str:
    return f"\n<section{' class=serious' if serious else ''}><h2>{escape(title)}</h2>{body}</section>"


def _format_facts(facts: Sequence[SplitFacts]) -> str:
    if not facts:
        return ""
    rows: Mapping[str, Sequence[object]] = {
        "pictures": [f"{one.pictures:,}" for one in facts],
        "captions": [f"{one.captions:,}" for one in facts],
        "captions a picture": [one.captions_per_picture for one in facts],
        "words a caption": [one.words_per_caption or "-" for one in facts],
        "vocabulary": [f"{one.vocabulary:,}" for one in facts],
        "width, pixels": [one.width_px or "-" for one in facts],
        "height, pixels": [one.height_px or "-" for one in facts],
        "fingerprint": [one.fingerprint for one in facts],
    }
    head = "".join(f"<th>{escape(one.split)}</th>" for one in facts)
    body = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return _section("Figures", f'<div class="scroll"><table><tr><th></th>{head}</tr>{body}</table></div>')


def _format_lengths(facts: SplitFacts) -> str:
    """Bars of how many captions have so many words."""
    if not facts.caption_lengths:
        return ""
    first, last = min(facts.caption_lengths), max(facts.caption_lengths)
    highest = max(facts.caption_lengths.values())
    bars = "".join(
        f'<i style="height:{100 * count / highest:.1f}%" title="{words} words: {count:,} captions"></i>'
        for words in range(first, last + 1)
        for count in (facts.caption_lengths.get(words, 0),)
    )
    axis = f'<div class="axis"><span>{first} words</span><span>{last} words</span></div>'
    return _section(f"Lengths of captions, {facts.split}", f'<div class="bars">{bars}</div>{axis}')


def _format_findings(content: PageContent) -> Iterable[str]:
    if content.report is None:
        return
    if not content.report.findings:
        yield _section("Check", '<p class="soft">Nothing was found.</p>')
        return
    shown = {
        str(place)
        for finding in content.report.findings
        for case in finding.cases[:CASES]
        for place in case.places[:_PICTURES_OF_CASE]
    }
    pairs = {
        place: pair
        for dataset in content.datasets
        for pair in dataset
        if (place := f"{dataset.split}/{pair.id}") in shown
    }
    for finding in content.report.findings:
        yield _format_finding(finding, pairs)


def _format_finding(finding: Finding, pairs: Mapping[str, Pair]) -> str:
    cards = [_format_case(case, pairs) for case in finding.cases[:CASES]]
    more = len(finding.cases) - len(cards)
    rest = f'<p class="soft">and {more:,} more</p>' if more else ""
    title = f"{len(finding.cases):,} {finding.title}"
    return _section(title, _cards(cards) + rest, serious=finding.serious)


def _format_case(case: Case, pairs: Mapping[str, Pair]) -> str:
    names = [str(place) for place in case.places[:_PICTURES_OF_CASE]]
    wells = "".join(_format_well(pairs[name], size_px=_THUMBNAIL_PX) for name in names)
    more = len(case.places) - len(names)
    heading = ", ".join(names) + (f" and {more:,} more" if more else "")
    return _card(wells, heading, [case.detail] if case.detail else [])


def _format_samples(dataset: Dataset, seed: int) -> str:
    cards = []
    for pair in choose_sample(dataset, count=SAMPLES, seed=seed):
        names = dataset.class_names[pair.label] if dataset.class_names and pair.label is not None else ()
        texts = pair.captions or names[:1]
        cards.append(_card(_format_well(pair, size_px=_THUMBNAIL_PX), pair.id, texts))
    return _section(f"Samples, {dataset.split}", _cards(cards))


def _cards(cards: Sequence[str]) -> str:
    return '<ul class="cards">' + "".join(f"\n<li>{card}</li>" for card in cards) + "</ul>"


def _card(wells: str, heading: str, texts: Sequence[str]) -> str:
    lines = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<div class="wells">{wells}</div><div class="about"><h3>{escape(heading)}</h3><ul>{lines}</ul></div>'


def _format_well(pair: Pair, *, size_px: int) -> str:
    try:
        thumbnail = make_thumbnail(pair.image.read(min_side_px=size_px), size_px=size_px)
    except ImageError as error:
        return f'<div class="well"><p>can’t be read: {escape(error.reason)}</p></div>'
    alt = escape(pair.captions[0] if pair.captions else pair.id)
    return f'<div class="well"><img src="{data_uri(thumbnail, "JPEG")}" alt="{alt}" loading="lazy"></div>'
