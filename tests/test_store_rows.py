import pytest

from sightline.core.store.rows import match_expression, name_words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("beach.jpg", "beach"),
        ("beachDay_2024-05.jpg", "beachDay 2024 05 beach Day"),
        ("IMG20240501.JPEG", "IMG20240501 IMG 20240501"),
        ("no_extension", "no extension"),
        (".hidden", "hidden"),
        ("a.tar.gz", "a tar"),
        ("odd\udcff.jpg", "odd udcff"),
        ("ñandúGrande.png", "ñandúGrande"),
        ("___.jpg", ""),
    ],
)
def test_file_names_are_split_into_words(name, words):
    assert name_words(name) == words


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("two dogs", '"two" OR "dogs"*'),
        ('say "hi" AND (x)', '"say" OR "hi" OR "AND" OR "x"*'),
        ("IMG_2024", '"IMG" OR "2024"*'),
        ("*", ""),
        ("", ""),
    ],
)
def test_user_text_becomes_quoted_words(text, expression):
    assert match_expression(text) == expression
