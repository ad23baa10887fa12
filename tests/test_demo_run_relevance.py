from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sightline.core.types import Hit, ImageInfo, ImageRecord
from sightline.faces.demo.photos import DemoPhoto
from sightline.faces.demo.run import measure_relevance


def make_photo(file: str, *queries: str) -> DemoPhoto:
    return DemoPhoto(
        file=file,
        library="lib",
        package="lib",
        inside=file,
        shows="something",
        author="Ann",
        licence="CC0",
        link="https://example.org",
        redistributable=True,
        queries=queries,
    )


def make_hit(name: str) -> Hit:
    info = ImageInfo(width=1, height=1, format="PNG")
    image = ImageRecord(root=Path("/photos"), relative=name, size_bytes=1, mtime_ns=1, content_hash="x", info=info)
    return Hit(image=image, similarity=0.5)


class AnsweringLibrary:
    """Finds the photos in the order that a test wrote down for a query."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers = answers

    def search(self, query: str, *, top: int, match: str) -> list[Hit]:
        assert match == "pictures"  # by what they show: their names would give them away
        return [make_hit(name) for name in self.answers[query][:top]]


def test_a_query_counts_where_its_photo_is_among_the_first_three() -> None:
    photos = [make_photo("a.png", "first", "third"), make_photo("b.png", "fourth"), make_photo("c.png", "nothing")]
    library: Any = AnsweringLibrary(
        {
            "first": ["a.png", "b.png", "c.png"],
            "third": ["x.png", "y.png", "a.png"],
            "fourth": ["x.png", "y.png", "z.png", "b.png"],
            "nothing": [],
        }
    )
    relevance = measure_relevance(library, photos)
    assert (relevance.answered, relevance.asked, relevance.photos) == (2, 4, 3)
    assert relevance.share == pytest.approx(0.5)
    assert relevance.missed == (("b.png", "fourth"), ("c.png", "nothing"))


def test_the_summary_names_chance() -> None:
    photos = [make_photo(f"{number}.png", "query") for number in range(15)]
    library: Any = AnsweringLibrary({"query": ["0.png", "1.png", "2.png"]})
    summary = measure_relevance(library, photos).summary()
    assert summary.startswith("3 of 15 queries (20%)")
    assert "chance would give 20%" in summary
