from __future__ import annotations

from pathlib import Path

import pytest

from sightline.faces.demo import photos
from sightline.faces.demo.__main__ import main
from sightline.faces.demo.photos import format_credits, load_photos


def test_credits_are_printed_as_the_page_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--credits"]) == 0
    assert capsys.readouterr().out == format_credits(load_photos())


def test_a_missing_extra_is_one_line_on_stderr_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(photos, "find_photo", lambda photo: None)
    assert main(["--out", str(tmp_path)]) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("error: Only 0 of the demo's 15 photos are here")
    assert "pip install 'sightline-images[demo]'" in streams.err
