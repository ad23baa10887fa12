from pathlib import Path

from sightline.faces.cli.reference import render_reference


def test_the_reference_is_current():
    written = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text("utf-8")
    assert written == render_reference(), "run: python -m sightline.faces.cli.reference > docs/cli.md"
