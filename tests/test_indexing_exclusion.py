"""Which files a pattern leaves out."""

from pathlib import Path

import pytest

from sightline.indexing.exclusion import Exclusion

FILES = ("raw/a.png", "raw/b.jpg", "trip/raw/deep/c.jpg", "trip/raw.jpg", "trip/drawer/d.jpg", "d[1]/e.jpg")


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("raw", "raw/a.png raw/b.jpg trip/raw/deep/c.jpg"),
        ("raw/", "raw/a.png raw/b.jpg trip/raw/deep/c.jpg"),
        ("*/raw", "raw/a.png raw/b.jpg trip/raw/deep/c.jpg"),
        ("raw/*", "raw/a.png raw/b.jpg trip/raw/deep/c.jpg"),
        ("raw/*.png", "raw/a.png"),
        ("[ab].*", "raw/a.png raw/b.jpg"),
        ("*.png", "raw/a.png"),
        ("trip/raw", "trip/raw/deep/c.jpg"),
        ("/home/raw/[photos]/raw", "raw/a.png raw/b.jpg"),
        ("/raw", ""),
        ("aw", ""),
        ("d[[]1]", "d[1]/e.jpg"),
    ],
)
def test_patterns_meet_files_and_the_folders_above_them(pattern, left_out):
    # the folder's own name is no part of what a relative pattern sees, whatever characters it has
    folder = Path("/home/raw/[photos]") if not pattern.startswith("/home") else Path("/home/raw/p")
    exclusion = Exclusion([pattern.replace("[photos]", "p")], folder)
    assert [file for file in FILES if file in exclusion] == left_out.split()
