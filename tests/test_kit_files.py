import os

import pytest

from sightline.kit.files import replacing, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_half(target, text):
    with replacing(target) as partial:
        partial.write_text(text)
        raise ValueError("half written")


def make_half(target):
    with replacing(target) as partial:
        partial.mkdir()
        raise OSError("no room")


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "out.npy"
    target.write_text("old")
    with replacing(target, durable=True) as partial:
        partial.write_text("new")
        assert partial.suffix == ".npy"
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["out.npy"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "out.txt"
    write_text(target, "old\n")
    with pytest.raises(ValueError, match="half"):
        write_half(target, "ne")
    assert target.read_bytes() == b"old\n"
    assert names(tmp_path) == ["out.txt"]


def test_a_folder_takes_the_place_of_the_one_before(tmp_path):
    target = tmp_path / "model"
    for name in ("first", "second"):
        with replacing(target) as partial:
            partial.mkdir()
            (partial / name).write_text(name)
    assert names(target) == ["second"]
    with pytest.raises(OSError, match="no room"):
        make_half(target)
    assert names(target) == ["second"]
    assert names(tmp_path) == ["model"]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    target = tmp_path / "model"
    left = tmp_path / f".model.{os.getpid()}.partial"
    (left / "deep").mkdir(parents=True)
    with replacing(target) as partial:
        assert partial == left
        partial.mkdir()
    assert names(tmp_path) == ["model"]


def test_json_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"ä": [1, 2]}, indent=1)
    assert (tmp_path / "a.json").read_bytes() == b'{\n "\\u00e4": [\n  1,\n  2\n ]\n}\n'
