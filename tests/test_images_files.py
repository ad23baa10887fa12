import hashlib

import pytest

from sightline.core.images import files
from sightline.core.images.files import (
    describe_content,
    format_of,
    hash_bytes,
    hash_file,
    is_image_name,
    missing_support,
)
from sightline.errors import ImageError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", "JPEG"),
        ("A.JPEG", "JPEG"),
        ("x.y.jfif", "JPEG"),
        ("a.jpe", "JPEG"),
        ("a.PNG", "PNG"),
        ("a.webp", "WEBP"),
        ("a.gif", "GIF"),
        ("a.bmp", "BMP"),
        ("a.tif", "TIFF"),
        ("a.jp2", "JPEG2000"),
        ("a.j2k", "JPEG2000"),
        ("a.jpx", "JPEG2000"),
        ("a.pgm", "PPM"),
        ("a.avif", "AVIF"),
        ("IMG_1.HEIC", "HEIF"),
        ("a\udcff\n.heif", "HEIF"),
        ("jpg", None),
        ("a.jpg.txt", None),
        ("a.svg", None),
        ("a.psd", None),
    ],
)
def test_the_extension_tells_the_format(name, expected):
    assert format_of(name) == expected
    assert is_image_name(name) == (expected is not None)


def test_what_is_missing_for_a_format_is_named(monkeypatch):
    monkeypatch.setattr(files, "heif_available", lambda: False)
    monkeypatch.setattr(files, "_avif_available", lambda: False)
    assert missing_support("a.heic") == "HEIC needs the extra: pip install 'sightline-images[heif]'"
    assert "Pillow" in missing_support("a.avif")
    assert missing_support("a.jpg") is None
    assert missing_support("notes.txt") is None
    assert describe_content(b"\0\0\0\x18ftypheic") == files.HEIF_MISSING
    assert describe_content(b"\0\0\0\x18ftypavif") == files.AVIF_MISSING


def test_nothing_is_missing_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(files, "heif_available", lambda: True)
    monkeypatch.setattr(files, "_avif_available", lambda: True)
    assert missing_support("a.heic") is None
    assert missing_support("a.avif") is None
    assert describe_content(b"\0\0\0\x18ftypheic") == "damaged HEIF"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "empty file"),
        (b"\0" * 100, "not an image (it holds only zero bytes)"),
        (b"<html>not found</html>", "not an image (its content is text)"),
        ("é".encode() * 20 + b"\xc3", "not an image (its content is text)"),
        (b"caf\xe9 and more of another encoding", "not an image (unknown content)"),
        (b"%PDF-1.7\n", "not an image (its content is a PDF)"),
        (b"PK\x03\x04\x14", "not an image (its content is a zip archive)"),
        (b"\0\0\0\x20ftypisom", "not an image (its content is a video)"),
        (b"8BPS\0\x01", "unsupported format: Photoshop"),
        (b"\0\0\0\x18ftypcrx ", "unsupported format: Canon raw"),
        (b"\x93\x01\x02\x03", "not an image (unknown content)"),
    ],
)
def test_what_is_no_image_is_described(head, reason):
    assert describe_content(head) == reason


def test_the_hash_of_a_file_is_that_of_its_bytes_whatever_its_name(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b c.png").write_bytes(data)
    assert hash_file(tmp_path / "a.jpg") == hash_file(tmp_path / "b c.png") == hash_bytes(data)
    assert hash_bytes(data) == hashlib.blake2b(data, digest_size=16).hexdigest()
    assert hash_bytes(data[:-1]) != hash_bytes(data)


def test_an_empty_file_has_a_hash_too(tmp_path):
    (tmp_path / "empty").touch()
    assert hash_file(tmp_path / "empty") == hash_bytes(b"")


def test_a_missing_file_is_an_image_error_without_its_path(tmp_path):
    with pytest.raises(ImageError) as caught:
        hash_file(tmp_path / "gone.jpg")
    assert caught.value.reason == "no such file"
