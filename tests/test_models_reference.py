"""The table in docs/models.md is the one that cards.toml gives."""

from pathlib import Path

from sightline.models.reference import models_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"


def test_the_documented_table_is_current():
    text = PAGE.read_text(encoding="utf-8")
    generated = text.split("sightline.models.reference -->\n")[1].split("\n<!-- end generated -->")[0]
    assert generated == models_table(), "run: python -m sightline.models.reference, and paste it into docs/models.md"


def test_every_row_has_a_cell_for_each_column():
    rows = models_table().splitlines()
    assert len(rows) >= 12
    assert {row.count(" | ") for row in rows if not row.startswith("|---")} == {6}
