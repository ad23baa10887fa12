"""A data set in figures, and a page that shows them with samples and with what a check found."""

from __future__ import annotations

import random
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.errors import ImageError, InputError
from sightline.kit.pages import render_page
from sightline.lab.data.base import Dataset, Pair
from sightline.lab.data.checks import Case, CheckReport

SAMPLES = 24
"""Images shown of each split."""
CASES = 12
"""Cases shown of each finding."""
_THUMBNAIL_PX = 320
_IMAGES_OF_CASE = 2
SAMPLE_IMAGES = 200
"""Whose sizes are looked at."""
_LONGEST = 60
"""Words: longer captions are counted together."""
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The range of some numbers."""

    min: float
    median: float
    max: float

    def __str__(self) -> str:
        """`5 to 38, median 11`."""
        return f"{self.min:g} to {self.max:g}, median {self.median:g}"


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One split in figures."""

    split: str
    pictures: int
    captions: int
    captions_per_picture: Spread
    words_per_caption: Spread | None
    """None where there are no captions."""
    vocabulary: int
    """Different words, upper and lower case alike."""
    caption_lengths: dict[int, int]
    """Words -> captions of so many; the last key stands for all longer ones too."""
    sampled: int
    """Images of the sample that could be read."""
    unreadable: dict[str, int]
    """Reason -> images of the sample."""
    width_px: Spread | None
    height_px: Spread | None
    classes: int
    hard_negatives: dict[str, int]
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def rows(self) -> dict[str, str]:
        """What people read of it, by name."""
        return {
            "pictures": f"{self.pictures:,}",
            "captions": f"{self.captions:,}",
            "captions a picture": str(self.captions_per_picture),
            "words a caption": str(self.words_per_caption or "-"),
            "vocabulary": f"{self.vocabulary:,}",
            "classes": f"{self.classes:,}" if self.classes else "-",
            "hard negatives": _join_counts(self.hard_negatives),
            "pictures looked at": f"{self.sampled:,}",
            "  unreadable": _join_counts(self.unreadable),
            "  width, pixels": str(self.width_px or "-"),
            "  height, pixels": str(self.height_px or "-"),
            "fingerprint": self.fingerprint,
        }


def _join_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "-"


def tabulate_facts(facts: Sequence[SplitFacts]) -> list[list[str]]:
    """Rows of a name and the figure of each split."""
    columns = [one.rows() for one in facts]
    return [[name, *(column[name] for column in columns)] for name in columns[0]] if columns else []


def describe_split(dataset: Dataset, *, sample: int = SAMPLE_IMAGES, seed: int = 0) -> SplitFacts:
    """Figures of one split, sizes from a sample of images. Raises InputError for a split without images."""
    if not len(dataset):
        raise InputError(f"{dataset.name} has no pictures in {dataset.split}; there is nothing to describe.")
    lengths: Counter[int] = Counter()
    vocabulary: set[str] = set()
    for pair in dataset:
        for words in map(split_words, pair.captions):
            lengths[len(words)] += 1
            vocabulary.update(words)
    gathered: Counter[int] = Counter()
    for n_words, captions in lengths.items():
        gathered[min(n_words, _LONGEST)] += captions
    widths, heights, unreadable = _measure(choose_sample(dataset, count=sample, seed=seed))
    return SplitFacts(
        split=dataset.split,
        pictures=len(dataset),
        captions=lengths.total(),
        captions_per_picture=_spread([len(pair.captions) for pair in dataset]),
        words_per_caption=_spread(list(lengths.elements())) if lengths else None,
        vocabulary=len(vocabulary),
        caption_lengths=dict(sorted(gathered.items())),
        sampled=len(widths),
        unreadable=unreadable,
        width_px=_spread(widths) if widths else None,
        height_px=_spread(heights) if heights else None,
        classes=len(dataset.class_names or ()),
        hard_negatives=dict(Counter(negative.kind for pair in dataset for negative in pair.negatives)),
        fingerprint=dataset.fingerprint,
    )


def choose_sample(dataset: Dataset, *, count: int, seed: int = 0) -> list[Pair]:
    """Some pairs at random, in the data set's order; the same for the same seed."""
    rows = random.Random(seed).sample(range(len(dataset)), min(count, len(dataset)))
    return [dataset[row] for row in sorted(rows)]


def split_words(caption: str) -> list[str]:
    """The words of a caption in lower case, without punctuation."""
    return _WORD.findall(caption.lower())


def _measure(pairs: Sequence[Pair]) -> tuple[list[int], list[int], dict[str, int]]:
    widths: list[int] = []
    heights: list[int] = []
    unreadable: Counter[str] = Counter()
    for pair in pairs:
        try:
            height, width, _ = pair.image.read().shape
        except ImageError as error:
            unreadable[error.reason] += 1
            continue
        widths.append(width)
        heights.append(height)
    return widths, heights, dict(unreadable.most_common())


def _spread(values: Sequence[int]) -> Spread:
    return Spread(min=min(values), median=statistics.median(values), max=max(values))


def format_page(
    title: str,
    datasets: Sequence[Dataset],
    *,
    facts: Sequence[SplitFacts] = (),
    report: CheckReport | None = None,
    seed: int = 0,
) -> str:
    """A page as HTML: figures, what a check found, and samples that `seed` chooses, with their captions."""
    total = sum(len(dataset) for dataset in datasets)
    return render_page(
        "lab/data/samples.html",
        title=title,
        lead=f"{total:,} pictures in {', '.join(dataset.split for dataset in datasets)}",
        facts=facts,
        rows=tabulate_facts(facts),
        checked=report is not None,
        findings=list(_findings(datasets, report)) if report is not None else [],
        samples=[(dataset.split, _samples(dataset, seed)) for dataset in datasets],
    )


def _findings(datasets: Sequence[Dataset], report: CheckReport) -> Iterator[dict[str, Any]]:
    cases = [case for finding in report.findings for case in finding.cases[:CASES]]
    shown = {place for case in cases for place in case.places[:_IMAGES_OF_CASE]}
    pairs = {
        place: pair for dataset in datasets for pair in dataset if (place := f"{dataset.split}/{pair.id}") in shown
    }
    for finding in report.findings:
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
