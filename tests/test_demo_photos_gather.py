from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sightline.errors import InputError
from sightline.faces.demo.photos import MIN_PHOTOS, DemoPhoto, find_photo, gather_photos, load_photos


def make_photo(number: int) -> DemoPhoto:
    return DemoPhoto(
        file=f"{number}.png",
        library="lib-of-photos",
        package="lib_of_photos",
        inside=f"data/{number}.png",
        shows="something",
        author="Ann",
        licence="CC0",
        link="https://example.org",
        redistributable=True,
        queries=("something",),
    )


@pytest.fixture
def library_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library that carries 12 photos, and that must not be imported."""
    package = tmp_path / "site" / "lib_of_photos"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    for number in range(12):
        (package / "data" / f"{number}.png").write_bytes(b"photo %d" % number)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return package / "data"


def test_photos_are_copied_without_importing_their_library(library_data: Path, tmp_path: Path) -> None:
    gathered = gather_photos([make_photo(number) for number in range(12)], tmp_path / "out" / "photos")
    assert len(gathered.photos) == 12
    assert gathered.missing == ()
    assert (tmp_path / "out" / "photos" / "7.png").read_bytes() == b"photo 7"


def test_a_photo_that_a_version_lacks_is_passed_over_and_named(library_data: Path, tmp_path: Path) -> None:
    gathered = gather_photos([make_photo(number) for number in range(13)], tmp_path / "photos")
    assert [photo.file for photo in gathered.missing] == ["12.png"]
    assert not (tmp_path / "photos" / "12.png").exists()


def test_too_few_photos_name_the_way_to_install_them(library_data: Path, tmp_path: Path) -> None:
    (library_data / "3.png").unlink()
    with pytest.raises(InputError, match=r"Only 9 of .* lib-of-photos: pip install 'sightline-images\[demo\]'"):
        gather_photos([make_photo(number) for number in range(MIN_PHOTOS)], tmp_path / "photos")
    assert not (tmp_path / "photos").exists()


def test_a_library_that_is_not_installed_has_no_photo() -> None:
    photo = make_photo(0)
    assert find_photo(photo) is None


def test_a_second_run_copies_only_what_changed(library_data: Path, tmp_path: Path) -> None:
    photos = [make_photo(number) for number in range(12)]
    gather_photos(photos, tmp_path / "photos")
    untouched = (tmp_path / "photos" / "1.png").stat()
    (library_data / "2.png").write_bytes(b"a newer photo 2")
    gather_photos(photos, tmp_path / "photos")
    assert (tmp_path / "photos" / "2.png").read_bytes() == b"a newer photo 2"
    assert (tmp_path / "photos" / "1.png").stat().st_ctime_ns == untouched.st_ctime_ns


def test_the_extra_carries_all_photos_and_its_libraries_stay_unloaded(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from sightline.faces.demo.photos import gather_photos; "
        "from sightline.faces.demo.photos import load_photos; "
        "gathered = gather_photos(load_photos(), Path(sys.argv[1])); "
        "print(len(gathered.photos), {'skimage', 'sklearn', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["15", "set()\n"]
    assert len(list(tmp_path.iterdir())) == len(load_photos())
