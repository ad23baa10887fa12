import hashlib

import pytest

from sightline.errors import ImageError
from sightline.images.hashing import hash_bytes, hash_file


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
