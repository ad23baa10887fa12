from __future__ import annotations

import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.demo.sheet import Sheet, SheetCredit, SheetPhoto, SheetSearch, write_contact_sheet
from sightline.errors import InputError
from sightline.search.query import Part
from sightline.types import Caption, Hit, ImageInfo, ImageRecord

HOSTILE = "<script>alert('x')</script> & \"more\""


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of the style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.fromarray(np.full((200, 900, 3), (200, 30, 30), np.uint8)).save(path)
    return path


def make_hit(path: Path, similarity: float) -> Hit:
    info = ImageInfo(width=900, height=200, format="PNG")
    image = ImageRecord(
        root=path.parent, relative=path.name, size_bytes=1, mtime_ns=1, content_hash="hash", info=info, id=1
    )
    return Hit(image=image, similarity=similarity, caption="a red field")


def write(tmp_path: Path, **fields) -> Page:
    sheet = Sheet(**{"title": "Sheet", "lead": "Lead", "photos": (), **fields})
    return Page(write_contact_sheet(tmp_path / "out" / "sheet.html", sheet).read_text(encoding="utf-8"))


def full_sheet(photo: Path) -> dict:
    captions = (
        Caption(text="a red field", source="clip", similarity=0.31, log_prob=-2.5),
        Caption(text=HOSTILE, source="blip", similarity=0.4, log_prob=-1.25, best=True),
    )
    parts = (Part(image=photo), Part(text="blue", weight=-1), Part(text=HOSTILE, weight=2))
    return {
        "photos": [SheetPhoto(path=photo, captions=captions)],
        "searches": [SheetSearch(title="Combined", parts=parts, hits=[make_hit(photo, 0.5), make_hit(photo, -0.25)])],
        "facts": [HOSTILE],
        "next_step": ("The real one:", "sightline models pull ViT-B-32/openai"),
        "credits": [SheetCredit(name="red.png", credit=HOSTILE, link="https://example.org/?a=1&b=2")],
    }


def test_the_page_asks_for_nothing_beside_itself(photo: Path, tmp_path: Path) -> None:
    page = write(tmp_path, **full_sheet(photo))
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"} == set()
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.named("img"))
    assert not re.search(r"url\(|@import", "".join(page.texts))
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.named("meta"))
    assert page.named("a") == [{"href": "https://example.org/?a=1&b=2"}]


def test_what_came_from_outside_is_shown_as_text(photo: Path, tmp_path: Path) -> None:
    page = write(tmp_path, title=HOSTILE, lead=HOSTILE, **full_sheet(photo))
    shown = [text for text in page.texts if HOSTILE in text]
    assert len(shown) == 7  # title, heading, lead, caption, part, fact, credit
    assert HOSTILE in [image["alt"] for image in page.named("img")]


def test_every_picture_has_an_alternative_text(photo: Path, tmp_path: Path) -> None:
    images = write(tmp_path, **full_sheet(photo)).named("img")
    assert [image["alt"] for image in images] == [HOSTILE, "", "a red field", "a red field"]


def test_both_captions_are_shown_with_their_figures_and_the_chosen_one_is_marked(photo: Path, tmp_path: Path) -> None:
    page = write(tmp_path, **full_sheet(photo))
    text = "|".join(page.texts)
    assert "Ranked by CLIP|a red field|similarity 0.310|log p −2.50" in text
    assert f"Generated|chosen|{HOSTILE}|similarity 0.400|log p −1.25" in text
    assert text.count("chosen") == 1


def test_a_query_shows_its_picture_signs_and_weights(photo: Path, tmp_path: Path) -> None:
    text = "|".join(write(tmp_path, **full_sheet(photo)).texts)
    assert f"red.png|−|blue|+|2 ×|{HOSTILE}" in text


def test_a_bar_stays_inside_its_track(photo: Path, tmp_path: Path) -> None:
    bars = [bar["style"] for bar in write(tmp_path, **full_sheet(photo)).named("i")]
    assert bars == ["width:50.0%", "width:0.0%"]


def test_a_thumbnail_keeps_its_aspect_ratio_and_its_limit(photo: Path, tmp_path: Path) -> None:
    import base64
    import io

    page = write(tmp_path, photos=[SheetPhoto(path=photo)], photo_px=90)
    (image,) = page.named("img")
    data = base64.b64decode(image["src"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (90, 20)
    assert image["alt"] == "red.png"


def test_a_photo_that_can_not_be_read_is_named_with_its_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    page = write(tmp_path, photos=[SheetPhoto(path=broken, problem="not captioned")])
    text = "|".join(page.texts)
    assert page.named("img") == []
    assert re.search(r"can’t be read: \w+", text)
    assert "broken.jpg|not captioned" in text


def test_a_search_without_hits_says_so(tmp_path: Path) -> None:
    page = write(tmp_path, searches=[SheetSearch(title="By words", parts=[Part(text="snow")], hits=[])])
    assert "Nothing was found." in page.texts


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    page = write(tmp_path)
    assert page.named("section") == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_written(photo: Path, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"caf\xe9\nat night.png")
    photo.rename(strange)
    page = write(tmp_path, photos=[SheetPhoto(path=strange)])
    assert "caf\ufffd\ufffdat night.png" in page.texts


def test_a_target_that_can_not_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written to"):
        write_contact_sheet(tmp_path / "file" / "sheet.html", Sheet(title="t", lead="l", photos=()))
