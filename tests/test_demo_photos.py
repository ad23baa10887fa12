from __future__ import annotations

from pathlib import Path

import pytest

from sightline.errors import InputError
from sightline.faces.demo.photos import MIN_PHOTOS, DemoPhoto, format_credits, load_photos, parse_photos

REPOSITORY = Path(__file__).parents[1]

ENTRY = """
[[photo]]
file = "a.png"
library = "lib-a"
package = "lib_a"
inside = "data/a.png"
shows = "an apple"
author = "Ann"
licence = "CC0"
link = "https://example.org/a"
redistributable = true
queries = ["an apple"]
"""


def test_there_are_fifteen_photos_with_names_of_their_own() -> None:
    photos = load_photos()
    assert len(photos) == 15
    assert len({photo.file for photo in photos}) == 15
    assert len({(photo.package, photo.inside) for photo in photos}) == 15


def test_each_photo_has_three_queries_and_no_query_stands_twice() -> None:
    photos = load_photos()
    assert {len(photo.queries) for photo in photos} == {3}
    assert len({query for photo in photos for query in photo.queries}) == 45


def test_enough_photos_are_redistributable_to_make_the_committed_image() -> None:
    assert sum(photo.redistributable for photo in load_photos()) >= MIN_PHOTOS


def test_every_photo_says_where_it_comes_from() -> None:
    for photo in load_photos():
        assert photo.link.startswith(("https://", "http://"))
        assert photo.author
        assert photo.licence
        if not photo.redistributable:
            assert photo.note, f"{photo.file}: say why it may not be committed"


def test_credits_page_is_current() -> None:
    page = (REPOSITORY / "docs" / "credits.md").read_text(encoding="utf-8")
    assert page == format_credits(load_photos()), "run: make docs"


def test_credits_keep_the_shown_apart_from_the_others() -> None:
    free = ENTRY.replace("a.png", "free.png")
    unclear = ENTRY.replace("a.png", "unclear.png").replace("CC0", "unknown").replace("= true", "= false")
    shown, others = format_credits(parse_photos(free + unclear)).split("never committed")
    assert "`free.png`" in shown
    assert "`free.png`" not in others
    assert "`unclear.png`" in others
    assert "`unclear.png`" not in shown
    assert "never committed" not in format_credits(parse_photos(free))


def test_an_entry_is_read() -> None:
    (photo,) = parse_photos(ENTRY)
    assert isinstance(photo, DemoPhoto)
    assert photo.queries == ("an apple",)
    assert photo.credit == "Author: Ann. Licence: CC0. From lib-a."


def test_a_missing_and_an_unknown_key_are_named() -> None:
    with pytest.raises(InputError, match=r"a\.png: missing \['author'\], unknown \['auther'\]"):
        parse_photos(ENTRY.replace("author", "auther"))


def test_an_unclear_licence_can_not_be_redistributable() -> None:
    with pytest.raises(InputError, match=r"a\.png: licence 'unknown' isn't redistributable"):
        parse_photos(ENTRY.replace("CC0", "unknown"))
