"""A val split for sets that have none: some of their train images, the same ones each time.

An image is held out by the hash of its id, so a choice is the same on every machine, and what is added to a set makes
no train image a val image. Equal files are held out together, whatever their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from sightline.errors import ImageError, InputError
from sightline.lab.data.base import Dataset, FileImage, FilePart, ImageSource, Pair, Split

MOST_HELD_OUT = 5_000
"""As many images as the usual val splits of the field have; of sets that would give more, a smaller share is taken."""
FEWEST_HELD_OUT = 10
"""Images that are held out of small sets: among one or two, every search finds its image."""
_TAIL_BYTES = 4096


def held_out_share(n_images: int) -> float:
    """The share of images that is held out: a tenth, or that divided by 10 until it is at most 5,000 images.

    Of fewer than 100 it is as much as gives about ten, at most a third. It never rises with the number of images, so
    an image that was held out may become a train image when others are added, but never the other way round.
    """
    share = max(0.1, min(1 / 3, FEWEST_HELD_OUT / max(1, n_images)))
    while n_images * share > MOST_HELD_OUT:
        share /= 10
    return share


def hold_out(whole: Dataset, *, split: Split) -> Dataset:
    """The `val` or `train` part of a set whose images are all `train`, in its order.

    A set without two different images has no val: its `train` is all of it, its `val` an InputError.
    """
    ranks = [_rank(pair) for pair in whole]
    least = min(ranks, default=0.0)
    for limit in (max(held_out_share(len(whole)), least), least):
        held = {row for row, rank in enumerate(ranks) if rank <= limit}
        held |= set(_equal_rows(whole, held))
        if len(held) < len(whole):
            break  # else of a few images all were below the share
    if len(held) >= len(whole) and split != "val":
        return whole
    if len(held) >= len(whole):
        raise InputError(
            f"{whole.name} has no val split, and not two different images of which one could be held out. Add images, "
            "or measure on other pairs: --set val_data=KIND:PATH."
        )
    rows = [row for row in range(len(whole)) if (row in held) == (split == "val")]
    return replace(whole.take(rows, why=f"held out, {split}"), split=split)


def _rank(pair: Pair) -> float:
    """A number in [0, 1) that the id alone decides."""
    digest = hashlib.blake2b(f"val:{pair.id}".encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _equal_rows(whole: Dataset, held: set[int]) -> Iterator[int]:
    """The rows whose files equal one that is held out; only files of its size are opened."""
    sizes = {_size_of(whole[row].image) for row in held}
    contents = {_content_of(whole[row].image) for row in held} - {None}
    for row, pair in enumerate(whole):
        if row not in held and _size_of(pair.image) in sizes and _content_of(pair.image) in contents:
            yield row


def _size_of(image: ImageSource) -> int | None:
    """Bytes of an image's file; None where only reading it would tell."""
    if isinstance(image, FilePart):
        return image.size_bytes
    try:
        return image.path.stat().st_size if isinstance(image, FileImage) else None
    except OSError:
        return None


def _content_of(image: ImageSource) -> tuple[int, bytes] | None:
    """Size of an image's file, and its end: equal files have equal ones, others hardly ever. None without a file."""
    size_bytes = _size_of(image)
    if size_bytes is None or not isinstance(image, FileImage | FilePart):
        return None
    tail_bytes = min(size_bytes, _TAIL_BYTES)
    start = image.offset if isinstance(image, FilePart) else 0
    tail = FilePart(path=image.path, offset=start + size_bytes - tail_bytes, size_bytes=tail_bytes)
    try:
        return size_bytes, hashlib.blake2b(tail.read_bytes(), digest_size=8).digest()
    except ImageError:
        return None
