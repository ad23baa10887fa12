import pytest

from sightline.errors import InputError
from sightline.store.paths import join_relative, path_from_sql, path_to_sql, split_relative, storable_text


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("a/b c.jpg", "a/b c.jpg"),
        ("雪.jpg", "雪.jpg"),
        ("line\nbreak", "line\nbreak"),
        ("odd\udcff.jpg", b"odd\xff.jpg"),
        ("雪\udce9", "雪".encode() + b"\xe9"),
        ("", ""),
    ],
)
def test_paths_become_text_or_bytes_and_come_back(path, stored):
    assert path_to_sql(path) == stored
    assert path_from_sql(stored) == path


def test_free_text_spells_out_what_is_no_unicode():
    assert storable_text("odd \udcff, ñ, 雪") == "odd \\udcff, ñ, 雪"


def test_relative_paths_are_split_joined_and_checked():
    assert split_relative("a/b/c.jpg") == ("a/b", "c.jpg")
    assert split_relative("..c.jpg") == ("", "..c.jpg")
    assert join_relative("a", "b/c") == "a/b/c"
    assert join_relative("", "b") == join_relative("b", "") == "b"
    with pytest.raises(InputError, match="not a file's path"):
        split_relative("a/../b.jpg")
