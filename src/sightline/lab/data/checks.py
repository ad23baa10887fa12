"""Problems of a data set: images that can't be read, captions that say nothing, images in several splits.

Near duplicates are found by a perceptual hash, the difference hash (N. Krawetz, "Kind of Like That", 2013): 64 bits,
each whether a cell of a 9 x 8 grey thumbnail is darker than its right neighbour. Flat images share it, so that a tiny
colour thumbnail decides. Shape suffixes: N M images, P pairs, T values of a thumbnail.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.core.images.decode import read_image
from sightline.core.images.files import hash_bytes
from sightline.errors import ImageError
from sightline.kit.work import Progress, map_ahead, usable_cpus
from sightline.lab.data.base import Dataset, EncodedImage, ImageSource, Pair

MAX_DISTANCE = 4
"""Bits in which the perceptual hashes of near duplicates may differ."""
MAX_DIFFERENCE = 16
"""By which no value of near duplicates' thumbnails may differ, in levels of 255. Measured on 300 images of Flickr8k,
each against itself at JPEG quality 40, or at half size and quality 75: the most is 11, and 97% of the hashes differ in
at most 4 bits. Rendered scenes whose hashes are equal differ by 42 and more."""

_THUMBNAIL_PX = 8
_PAIRS_AT_ONCE = 8_000_000
Place = str
"""One image of the checked data: split and id, as `val/123.jpg`."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One instance of a problem."""

    places: tuple[Place, ...]
    detail: str = ""
    """The reason why an image can't be read, or the caption in question."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """All cases of one kind of problem."""

    kind: str
    title: str
    cases: tuple[Case, ...]
    serious: bool
    """True where training or figures suffer; otherwise it is worth knowing."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All that was found."""

    pictures: int
    captions: int
    findings: tuple[Finding, ...]
    """Kinds without a case are left out."""

    @property
    def has_problems(self) -> bool:
        """True where anything serious was found."""
        return any(finding.serious for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; of images of one case the first 20: thousands may share a caption."""
        return {
            "pictures": self.pictures,
            "captions": self.captions,
            "problems": self.has_problems,
            "findings": [
                {
                    "kind": finding.kind,
                    "title": finding.title,
                    "serious": finding.serious,
                    "count": len(finding.cases),
                    "cases": [
                        {"n_pictures": len(case.places), "pictures": list(case.places[:20]), "detail": case.detail}
                        for case in finding.cases
                    ],
                }
                for finding in self.findings
            ],
        }


@dataclass(frozen=True, slots=True)
class ImageHash:
    """One image, as far as comparing needs it."""

    content: str
    """Hash of the encoded file, else of the pixels."""
    perceptual: int
    thumbnail: bytes


_Hashed = dict[str, list[tuple[Place, ImageHash]]]
"""Split -> its readable images."""


def check_datasets(datasets: Sequence[Dataset], *, on_progress: Progress | None = None) -> CheckReport:
    """Read all images and captions of some splits of one source. Never raises for what is wrong with them."""
    hashed, unreadable = _read_all(datasets, on_progress)
    findings = [
        _finding("unreadable", "pictures that can't be read", unreadable, serious=True),
        *_check_captions(datasets),
        *_check_doubles(hashed),
    ]
    return CheckReport(
        pictures=sum(map(len, datasets)),
        captions=sum(dataset.n_captions for dataset in datasets),
        findings=tuple(finding for finding in findings if finding.cases),
    )


def _finding(kind: str, title: str, cases: Sequence[Case], *, serious: bool = False) -> Finding:
    return Finding(kind=kind, title=title, cases=tuple(cases), serious=serious)


def _read_all(datasets: Sequence[Dataset], on_progress: Progress | None) -> tuple[_Hashed, list[Case]]:
    total = sum(map(len, datasets))
    hashed: _Hashed = {dataset.split: [] for dataset in datasets}
    unreadable: list[Case] = []
    pairs = ((dataset.split, pair) for dataset in datasets for pair in dataset)
    results = map_ahead(_try_to_hash, pairs, threads=usable_cpus(), ahead=512)
    for done, (split, place, outcome) in enumerate(results, start=1):
        if isinstance(outcome, ImageHash):
            hashed[split].append((place, outcome))
        else:
            unreadable.append(Case(places=(place,), detail=outcome))
        if on_progress is not None:
            on_progress(done, total, f"{len(unreadable):,} unreadable")
    return hashed, unreadable


def _try_to_hash(split_and_pair: tuple[str, Pair]) -> tuple[str, Place, ImageHash | str]:
    """Split, place, and the image's hash, or the reason why it can't be read."""
    split, pair = split_and_pair
    try:
        return split, f"{split}/{pair.id}", hash_image(pair.image)
    except ImageError as error:
        return split, f"{split}/{pair.id}", error.reason


def _check_captions(datasets: Sequence[Dataset]) -> Iterator[Finding]:
    without: list[Case] = []
    empty: list[Case] = []
    twice: list[Case] = []
    used: dict[str, list[Place]] = defaultdict(list)
    for dataset in datasets:
        for pair in dataset:
            place = f"{dataset.split}/{pair.id}"
            known: set[str] = set()
            if not pair.captions and pair.label is None:
                without.append(Case(places=(place,)))
            for caption in pair.captions:
                plain = " ".join(caption.lower().split()).rstrip(" .!")
                if not plain:
                    empty.append(Case(places=(place,)))
                elif plain in known:
                    twice.append(Case(places=(place,), detail=caption))
                elif pair.label is None:  # class names are shared by all images of the class
                    used[plain].append(place)
                known.add(plain)
    # At least ten images, in small sets at least three and 1%.
    many = min(10, max(3, sum(map(len, datasets)) // 100))
    most_used = sorted(used.items(), key=lambda entry: -len(entry[1]))
    shared = [Case(places=tuple(places), detail=caption) for caption, places in most_used if len(places) >= many]
    yield _finding("no_caption", "pictures without a caption", without, serious=True)
    yield _finding("empty_caption", "captions that are empty", empty, serious=True)
    yield _finding("caption_twice", "pictures with the same caption twice", twice)
    yield _finding("caption_of_many", "captions that many pictures share", shared)


def _check_doubles(hashed: _Hashed) -> Iterator[Finding]:
    by_content: dict[str, list[Place]] = defaultdict(list)
    for images in hashed.values():
        for place, image in images:
            by_content[image.content].append(place)
    across: list[Case] = []
    within: list[Case] = []
    for places in by_content.values():
        splits = {place.partition("/")[0] for place in places}
        if len(places) > 1:
            (across if len(splits) > 1 else within).append(Case(places=tuple(places)))
    near = [
        Case(places=(hashed[first][row][0], hashed[second][other][0]))
        for first, second in combinations(hashed, 2)
        for row, other in find_near([one for _, one in hashed[first]], [one for _, one in hashed[second]])
    ]
    yield _finding("same_in_two_splits", "pictures that are in several splits", across, serious=True)
    yield _finding("near_in_two_splits", "near duplicates in several splits", near, serious=True)
    yield _finding("same_in_split", "pictures twice in one split", within)


def hash_image(source: ImageSource) -> ImageHash:
    """Read an image and hash it. Raises ImageError where it can't be read."""
    data = source.read_bytes() if isinstance(source, EncodedImage) else None
    rgb_HW3 = source.read() if data is None else read_image(data, min_side_px=64).rgb
    content = hash_bytes(data if data is not None else f"{rgb_HW3.shape}".encode() + rgb_HW3.tobytes())
    image = Image.fromarray(rgb_HW3)
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    perceptual = int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes(), "big")
    return ImageHash(content, perceptual, image.resize((_THUMBNAIL_PX,) * 2, Image.Resampling.BOX).tobytes())


def find_near(first: Sequence[ImageHash], second: Sequence[ImageHash]) -> list[tuple[int, int]]:
    """Pairs of rows, one of each sequence, that look nearly the same; equal content is left out. Sorted."""
    if not first or not second:
        return []
    hashes_N, thumbnails_NT = _stack(first)
    hashes_M, thumbnails_MT = _stack(second)
    found: list[tuple[int, int]] = []
    step = max(1, _PAIRS_AT_ONCE // len(second))
    for start in range(0, len(first), step):
        bits_NM = np.bitwise_count(hashes_N[start : start + step, None] ^ hashes_M)
        rows_P, others_P = np.nonzero(bits_NM <= MAX_DISTANCE)
        rows_P += start
        alike_P = np.abs(thumbnails_NT[rows_P] - thumbnails_MT[others_P]).max(axis=1, initial=0) <= MAX_DIFFERENCE
        found += zip(rows_P[alike_P].tolist(), others_P[alike_P].tolist(), strict=True)
    return [(row, other) for row, other in found if first[row].content != second[other].content]


def _stack(images: Sequence[ImageHash]) -> tuple[NDArray[np.uint64], NDArray[np.int16]]:
    hashes_N = np.array([image.perceptual for image in images], dtype=np.uint64)
    joined = b"".join(image.thumbnail for image in images)
    return hashes_N, np.frombuffer(joined, dtype=np.uint8).reshape(len(images), -1).astype(np.int16)
