"""The table in docs/models.md is the one that cards.toml gives."""

from pathlib import Path

import pytest

from sightline.core.models.reference import models_table, write_tables
from sightline.errors import InputError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"


def test_the_documented_table_is_current(tmp_path):
    copy = tmp_path / "models.md"
    copy.write_text(PAGE.read_text("utf-8"), "utf-8")
    write_tables(copy)
    assert copy.read_text("utf-8") == PAGE.read_text("utf-8"), "run: make docs"


def test_a_page_without_the_marks_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(InputError, match="lacks the lines"):
        write_tables(tmp_path / "page.md")


def test_every_row_has_a_cell_for_each_column():
    rows = models_table().splitlines()
    assert len(rows) >= 12
    assert {row.count(" | ") for row in rows if not row.startswith("|---")} == {6}
