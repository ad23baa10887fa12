from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from PIL import Image

from sightline.captioning.dual import CaptionFailure, DualCaption
from sightline.demo.__main__ import main
from sightline.demo.gather import Gathered
from sightline.demo.photos import load_photos
from sightline.demo.run import caption_photos, run_demo, run_search
from sightline.types import Caption


class CaptioningLibrary:
    """Gives the captions that a test wrote down."""

    def __init__(self, results) -> None:
        self.results = results

    def caption(self, paths, *, captioner):
        self.asked = (list(paths), captioner)
        return iter(self.results)


class RecordingLibrary:
    def search(self, *query, top):
        self.asked = (query, top)
        return []


def test_of_each_way_the_chosen_caption_is_shown_else_its_first(tmp_path: Path) -> None:
    ranked = tuple(Caption(text=f"ranked {place}", source="clip") for place in range(3))
    written = tuple(Caption(text=f"written {place}", source="blip", best=place == 1) for place in range(2))
    results = [
        DualCaption(path=tmp_path / "a.png", clip=ranked, generated=written, best=written[1]),
        DualCaption(path=tmp_path / "b.png", clip=ranked, generated=(), best=ranked[0]),
        CaptionFailure(path=tmp_path / "c.png", reason="truncated"),
    ]
    library = CaptioningLibrary(results)
    photos = caption_photos(library, Gathered(folder=tmp_path, photos=load_photos()[:2], missing=()))
    assert library.asked == ([tmp_path / "astronaut.png", tmp_path / "chelsea.png"], "starter-captioner")
    assert [[caption.text for caption in photo.captions] for photo in photos] == [
        ["ranked 0", "written 1"],
        ["ranked 0"],
        [],
    ]
    assert photos[2].problem == "truncated"


def test_a_search_names_photos_in_a_folder_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "my demo"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    library = RecordingLibrary()
    search = run_search(library, folder, "Combined", ("{a.png}", "- snow"))
    assert library.asked == ((f"{folder}/a.png", "- snow"), 5)
    assert [(part.weight, part.image, part.text) for part in search.parts] == [
        (1.0, folder / "a.png", None),
        (-1.0, None, "snow"),
    ]


def test_the_demo_from_start_to_end_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo-out"
    assert main(["--out", str(out)]) == 0
    check_output(capsys.readouterr().out, out)
    check_page((out / "contact-sheet.html").read_text(encoding="utf-8"))
    assert main(["--out", str(out)]) == 0
    again = capsys.readouterr().out
    check_output(again, out)
    assert "15 unchanged" in again


def check_output(output: str, out: Path) -> None:
    """Tables of at most 100 columns, the relevance figure, and the page's path last."""
    lines = output.splitlines()
    assert lines[-1] == str(out / "contact-sheet.html")
    assert max(len(line) for line in lines if str(out) not in line) <= 100
    assert sum(bool(re.search(r"^\w+\.(png|jpg) +\*? +(clip|blip) +-?\d\.\d{3}", line)) for line in lines) == 15
    assert any(
        re.match(r"\d+ of 45 queries \(\d+%\) found their photo among the first 3 of 15", line) for line in lines
    )


def check_page(page: str) -> None:
    """Every photo with both captions, one of them chosen, three searches, and what the models are."""
    assert page.count('<article class="photo">') == 15
    assert page.count("Ranked by CLIP") == 15
    assert page.count("<span>Generated</span>") == 15
    assert page.count('<span class="badge">chosen</span>') == 15
    assert page.count('<div class="search">') == 3
    assert page.count('<div class="bar">') == 15
    assert "can’t be read" not in page
    assert re.search(r"Vectors: starter \(int8, .* text to image R@10 \d+\.\d%", page)
    assert re.search(r"Sentences: starter-captioner\. On .*: CIDEr \d\.\d\d", page)
    assert "sightline models pull ViT-B-32/openai" in page


def test_what_may_be_committed_shows_only_redistributable_photos_of_at_most_320_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import base64
    import io

    *free, last = load_photos()
    photos = (*free, dataclasses.replace(last, redistributable=False))
    monkeypatch.setattr("sightline.demo.run.load_photos", lambda: photos)
    page = run_demo(tmp_path, only_redistributable=True).sheet.read_text(encoding="utf-8")
    shown = {photo.file for photo in free}
    assert set(re.findall(r"<h3>([\w.]+)</h3>", page)) == shown
    assert {path.name for path in (tmp_path / "photos").iterdir()} == shown
    thumbnails = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert max(max(Image.open(io.BytesIO(base64.b64decode(data))).size) for data in thumbnails) <= 320
