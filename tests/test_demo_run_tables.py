from __future__ import annotations

from sightline.faces.demo.run import format_table


def test_columns_are_aligned_and_numbers_stand_right() -> None:
    table = format_table(("photo", "similarity"), [("cat.png", 0.5), ("a.png", -0.25)])
    assert table.splitlines() == [
        "photo    similarity",
        "-------  ----------",
        "cat.png       0.500",
        "a.png        -0.250",
    ]


def test_a_number_missing_in_one_row_leaves_the_column_right_aligned() -> None:
    lines = format_table(("log p",), [("",), (-1.5,)]).splitlines()
    assert lines[2:] == ["", "-1.500"]


def test_the_widest_column_is_wrapped_until_the_table_fits() -> None:
    table = format_table(("photo", "caption", "by"), [("cat.png", "a cat on a mat by a hat", "clip")], width=26)
    assert table.splitlines() == [
        "photo    caption      by",
        "-------  -----------  ----",
        "cat.png  a cat on a   clip",
        "         mat by a",
        "         hat",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert format_table(("photo", "caption"), []) == "photo  caption\n-----  -------"
