"""The generated tables in docs are those that the cards give (`scripts/model_tables.py`)."""

import importlib.util
from pathlib import Path

import pytest

from sightline.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SPEC = importlib.util.spec_from_file_location("model_tables", ROOT / "scripts" / "model_tables.py")
tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tables)


@pytest.mark.parametrize("name", ["models", "compare", "evaluation", "caption-metrics"])
def test_the_documented_tables_are_current(tmp_path, name):
    page, copy = DOCS / f"{name}.md", tmp_path / f"{name}.md"
    copy.write_text(page.read_text("utf-8"), "utf-8")
    tables.write_tables(copy)
    assert copy.read_text("utf-8") == page.read_text("utf-8"), "run: make docs"


def test_a_page_without_the_marks_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(InputError, match="lacks the lines"):
        tables.write_tables(tmp_path / "page.md")
    (tmp_path / "page.md").write_text("<!-- begin generated captions: make docs -->")
    with pytest.raises(InputError, match="lacks the line that ends"):
        tables.write_tables(tmp_path / "page.md")


def test_every_row_has_a_cell_for_each_column():
    rows = tables.models_table().splitlines()
    assert len(rows) >= 12
    assert {row.count(" | ") for row in rows if not row.startswith("|---")} == {6}
