"""Folders of images with captions beside them.

Covers: sightline.lab.data.captioned_files.
"""

import errno
import json
import os

import pytest

from sightline.core.captioning.dual import DualCaption
from sightline.core.captioning.writers import open_writer
from sightline.core.types import Caption
from sightline.errors import InputError
from sightline.lab.data.folder import READERS

READER, _ = READERS


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def write_metadata(folder, *records):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    (folder / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def record(name, text, **more):
    return {"file_name": name, "text": text, **more}


def read(folder, split="train"):
    return {pair.id: list(pair.captions) for pair in READER.load(folder, split=split)}


def test_metadata_gives_captions_in_its_order_and_leaves_other_images_out(tmp_path):
    fill(tmp_path, "b.jpg", "a.jpg", "sub/c.png", "unnamed.jpg")
    write_metadata(tmp_path, record("b.jpg", "ein Hund läuft"), record("sub/c.png", "a cat"), record("a.jpg", "x"))
    dataset = READER.load(tmp_path, split="train")
    assert [(pair.id, pair.captions) for pair in dataset] == [
        ("b.jpg", ("ein Hund läuft",)),
        ("sub/c.png", ("a cat",)),
        ("a.jpg", ("x",)),
    ]
    assert dataset[1].image.path == tmp_path / "sub" / "c.png"  # type: ignore[attr-defined]
    assert (dataset.name, dataset.split, dataset.n_captions) == (f"folder:{tmp_path}", "train", 3)


def test_several_lines_and_lists_add_captions_to_one_image(tmp_path):
    fill(tmp_path, "a.jpg")
    write_metadata(tmp_path, record("a.jpg", ["one", " two "]), record("./a.jpg", "three"), record("a.jpg", ""))
    assert read(tmp_path) == {"a.jpg": ["one", "two", "three"]}


def test_a_byte_order_mark_and_windows_line_ends_and_odd_spaces_are_fine(tmp_path):
    fill(tmp_path, "a.jpg")
    text = '\ufeff{"file_name": "a.jpg", "text": "a\u2028b"}\r\n\r\n'
    (tmp_path / "metadata.jsonl").write_bytes(text.encode())
    assert read(tmp_path) == {"a.jpg": ["a\u2028b"]}


def test_folders_named_after_splits_are_splits(tmp_path):
    fill(tmp_path, "train/a.jpg", "validation/a.jpg", "validation/b.jpg", "stray.jpg")
    write_metadata(tmp_path / "train", record("a.jpg", "one"))
    write_metadata(tmp_path / "validation", record("a.jpg", "two"), record("b.jpg", "three", split="odd"))
    assert READER.splits(tmp_path) == ("train", "val")
    assert read(tmp_path) == {"train/a.jpg": ["one"]}
    assert read(tmp_path, "val") == {"validation/a.jpg": ["two"], "validation/b.jpg": ["three"]}


def test_metadata_at_the_top_decides_splits_by_field_then_by_folder(tmp_path):
    fill(tmp_path, "train/a.jpg", "test/b.jpg", "c.jpg", "test/d.jpg")
    records = record("train/a.jpg", "1"), record("test/b.jpg", "2"), record("c.jpg", "3")
    write_metadata(tmp_path, *records, record("test/d.jpg", "4", split="dev"))
    assert read(tmp_path) == {"train/a.jpg": ["1"], "c.jpg": ["3"]}
    assert read(tmp_path, "test") == {"test/b.jpg": ["2"]}
    assert read(tmp_path, "val") == {"test/d.jpg": ["4"]}
    assert READER.splits(tmp_path) == ("train", "val", "test")


def test_a_missing_split_names_those_that_are_there(tmp_path):
    fill(tmp_path, "train/a.jpg", "test/a.jpg")
    write_metadata(tmp_path / "train", record("a.jpg", "one"))
    write_metadata(tmp_path / "test", record("a.jpg", "two"))
    with pytest.raises(InputError, match="has no split val; it has: train, test"):
        read(tmp_path, "val")
    write_metadata(tmp_path, record("train/a.jpg", "one"))
    with pytest.raises(InputError, match=r"metadata.jsonl has no split test; it has: train\."):
        read(tmp_path, "test")


def test_two_folders_for_one_split_are_refused(tmp_path):
    fill(tmp_path, "val/a.jpg", "dev/a.jpg")
    with pytest.raises(InputError, match=r"dev and .*val both stand for val"):
        read(tmp_path, "val")


def test_one_image_in_two_splits_names_both_lines(tmp_path):
    fill(tmp_path, "a.jpg")
    write_metadata(tmp_path, record("a.jpg", "one", split="train"), record("a.jpg", "two", split="val"))
    with pytest.raises(InputError, match=r"metadata.jsonl:2: a.jpg is in split val, but in train at .*jsonl:1\."):
        read(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "a.jpg", "te', r":2: .*One JSON object a line was expected; is the file cut off\?"),
        ('{"file_name": "a.jpg", "words": "x"}', ":2: found file_name, words; file_name and text were expected"),
        ("[1]", ":2: found list; file_name and text"),
        ("{}", ":2: found nothing; file_name and text"),
        ('{"file_name": 3, "text": "x"}', ":2: 3 is no file name"),
        ('{"file_name": "", "text": "x"}', ":2: '' is no file name"),
        ('{"file_name": "a\\u0000.jpg", "text": "x"}', ":2: .* is no file name"),
        ('{"file_name": "a.jpg", "text": 3}', ":2: text is 3; a text or a list of texts"),
        ('{"file_name": "a.jpg", "text": ["x", 3]}', ":2: text is .*; a text or a list of texts"),
        ('{"file_name": "a.jpg", "text": "x", "split": "holdout"}', ":2: 'holdout' is no split; write one of train"),
        ("[" * 100_000, ":2: "),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    fill(tmp_path, "a.jpg")
    write_metadata(tmp_path, record("a.jpg", "fine"), line)
    with pytest.raises(InputError, match=f"metadata.jsonl{message}"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name", ["../a.jpg", "sub/../../a.jpg", "/etc/passwd", "..\\a.jpg", "C:\\a.jpg", "\\\\host\\share\\a.jpg", ".."]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    fill(tmp_path, "a.jpg")
    write_metadata(tmp_path / "set", record(name, "x"))
    with pytest.raises(InputError, match=r"metadata.jsonl:1: .* leads out of its folder"):
        read(tmp_path / "set")


def test_absent_images_are_left_out_counted_and_three_are_named(tmp_path, caplog):
    fill(tmp_path, "a.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    names = ["a.jpg", "b.jpg", "folder.jpg", "loop.jpg", "sub/c.jpg"]
    write_metadata(tmp_path, *(record(name, "x") for name in names))
    assert list(read(tmp_path)) == ["a.jpg"]
    assert "4 of 5 images that" in caplog.text
    assert "are left out: b.jpg, folder.jpg, loop.jpg, ..." in caplog.text


def test_an_image_without_a_caption_that_is_not_empty_is_named(tmp_path):
    fill(tmp_path, "a.jpg", "b.jpg")
    write_metadata(tmp_path, record("a.jpg", "x"), record("b.jpg", ["", "  "]))
    with pytest.raises(InputError, match=r"metadata.jsonl:2: b.jpg has no caption that isn't empty"):
        read(tmp_path)


def test_text_that_is_not_utf8_is_named_by_line(tmp_path):
    fill(tmp_path, "a.jpg")
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a.jpg", "text": "x"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"metadata.jsonl:2: byte 0xe9 is not UTF-8"):
        read(tmp_path)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_metadata_file_is_refused(tmp_path, content):
    fill(tmp_path, "a.jpg")
    (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"metadata.jsonl is empty"):
        read(tmp_path)


def write_sidecars(folder, **texts):
    for stem, text in texts.items():
        fill(folder, f"{stem}.jpg")
        (folder / f"{stem}.txt").write_text(text, encoding="utf-8")


def test_sidecars_give_a_caption_a_line_in_every_folder(tmp_path):
    write_sidecars(tmp_path, b="one\n\n two \n", a="three")
    write_sidecars(tmp_path / "deep" / "er", c="four")
    fill(tmp_path, "uncaptioned.jpg", "README.txt", ".hidden/x.txt", ".x.txt")
    assert list(read(tmp_path).items()) == [
        ("a.jpg", ["three"]),
        ("b.jpg", ["one", "two"]),
        ("deep/er/c.jpg", ["four"]),
    ]


def test_images_that_share_a_stem_have_texts_of_their_own(tmp_path):
    fill(tmp_path, "a.jpg", "a.png")
    (tmp_path / "a.jpg.txt").write_text("photo")
    (tmp_path / "a.png.txt").write_text("drawing")
    assert read(tmp_path) == {"a.jpg": ["photo"], "a.png": ["drawing"]}


def test_sidecars_in_folders_of_splits(tmp_path):
    write_sidecars(tmp_path / "train", a="one")
    write_sidecars(tmp_path / "val" / "dogs", b="two")
    assert read(tmp_path, "val") == {"val/dogs/b.jpg": ["two"]}
    assert READER.splits(tmp_path) == ("train", "val")


def test_texts_without_an_image_are_refused(tmp_path):
    write_sidecars(tmp_path, a="one")
    fill(tmp_path, "b.txt", "c.txt")
    with pytest.raises(InputError, match=r"2 text files of .* have no image beside them: b.txt, c.txt\."):
        read(tmp_path)


def test_an_empty_sidecar_is_refused(tmp_path):
    write_sidecars(tmp_path, a="one", b="\n")
    with pytest.raises(InputError, match=r"b.txt is empty"):
        read(tmp_path)


def test_a_folder_without_captions_says_what_was_expected(tmp_path):
    fill(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(InputError, match=r"has 2 images and no caption\. A metadata.jsonl .* or a photo.txt"):
        read(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    fill(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="is no folder"):
        read(tmp_path / "a.jpg")


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write_sidecars(tmp_path, a="one")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="closed can't be read: permission denied"):
        read(tmp_path)
    write_metadata(tmp_path, record("closed/a.jpg", "x"))
    with pytest.raises(InputError, match="closed can't be read: permission denied"):
        read(tmp_path)


def test_recognises_both_layouts_and_nothing_else(tmp_path):
    write_sidecars(tmp_path / "texts", a="one")
    write_sidecars(tmp_path / "split" / "val", a="one")
    write_metadata(tmp_path / "meta", record("a.jpg", "x"))
    fill(tmp_path, "plain/a.jpg", "plain/notes.txt")
    recognised = {name: READER.recognises(tmp_path / name) for name in ("texts", "split", "meta", "plain", "absent")}
    assert recognised == {"texts": True, "split": True, "meta": True, "plain": False, "absent": False}
    assert not READER.recognises(tmp_path / "plain" / "a.jpg")


def test_the_fingerprint_follows_captions_and_names(tmp_path):
    fill(tmp_path, "a.jpg", "b.jpg")
    prints = set()
    for name, text in (("a.jpg", "x"), ("a.jpg", "y"), ("b.jpg", "x")):
        write_metadata(tmp_path, record(name, text))
        prints.add(READER.load(tmp_path, split="train").fingerprint)
    assert len(prints) == 3
    assert READER.load(tmp_path, split="train").fingerprint in prints


def test_looking_for_thousands_of_images_lists_each_folder_once(tmp_path, monkeypatch):
    names = [f"{number % 4}/{number}.jpg" for number in range(2_000)]
    fill(tmp_path, *names)
    write_metadata(tmp_path, *(record(name, "x") for name in names))
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(
        "sightline.lab.data.captioned_files.os.scandir", lambda path: listed.append(path) or scandir(path)
    )
    assert len(READER.load(tmp_path, split="train")) == 2_000
    assert sorted(path.name for path in listed) == ["0", "1", "2", "3"]


def test_hugging_faces_table_is_read_and_its_split_folders_too(tmp_path):
    fill(tmp_path, "train/a.jpg", "train/b c.jpg", "test/a.jpg")
    (tmp_path / "train" / "metadata.csv").write_text('file_name,label,text\na.jpg,0,"one, two"\nb c.jpg,1,three\n')
    (tmp_path / "test" / "metadata.csv").write_text("file_name,text\na.jpg,four\n")
    assert READER.recognises(tmp_path)
    assert READER.splits(tmp_path) == ("train", "test")
    assert read(tmp_path) == {"train/a.jpg": ["one, two"], "train/b c.jpg": ["three"]}
    assert read(tmp_path, "test") == {"test/a.jpg": ["four"]}


@pytest.mark.parametrize("format_", ["txt", "jsonl", "csv"])
def test_what_caption_writes_is_read(tmp_path, format_):
    photos = [tmp_path / name for name in ("a.jpg", "a.png", "sub/ü, b.jpg")]
    fill(tmp_path, *(path.relative_to(tmp_path).as_posix() for path in photos))
    output = None if format_ == "txt" else tmp_path / f"captions.{format_}"
    with open_writer(format_, output, roots=[tmp_path]) as writer:
        for number, path in enumerate(photos):
            best = Caption(text=f"caption {number}", source="clip", model="m", similarity=0.5)
            writer.write(DualCaption(path=path, best=best, clip=(best,), generated=()))
    expected = {path.relative_to(tmp_path).as_posix(): [f"caption {n}"] for n, path in enumerate(photos)}
    assert read(tmp_path) == expected
    if output is not None:
        assert read(output) == expected
        assert READER.recognises(tmp_path) == (format_ == "jsonl")
        (tmp_path / "more.csv").write_text("filepath,title\na.jpg,x\n")
        with pytest.raises(InputError, match=r"has 2 files of captions: .*more.csv.*folder:"):
            read(tmp_path)


def test_a_file_of_captions_is_read_after_its_folder_has_moved(tmp_path, caplog):
    fill(tmp_path, "new/one/a.jpg", "new/two/a.jpg")
    lines = [{"path": f"/home/ann/photos/{name}/a.jpg", "best": {"text": name}} for name in ("one", "two")]
    lines.append({"path": "/home/ann/photos/three/a.jpg", "best": {"text": "gone"}})
    (tmp_path / "new" / "captions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = READER.load(tmp_path / "new", split="train")
    assert [pair.captions for pair in found] == [("one",), ("two",)]
    assert [pair.image.path for pair in found] == [tmp_path / "new" / name / "a.jpg" for name in ("one", "two")]  # type: ignore[attr-defined]
    assert "What lies in /home/ann/photos is read from" in caplog.text
    assert "1 of 3 images" in caplog.text


def test_sidecars_may_be_upper_case_and_one_of_a_full_name_goes_first(tmp_path):
    fill(tmp_path, "A.JPG", "b.jpg", "b.png")
    for name, text in (("A.TXT", "upper"), ("b.txt", "the first"), ("b.png.txt", "the second")):
        (tmp_path / name).write_text(text)
    assert READER.recognises(tmp_path)
    assert read(tmp_path) == {"A.JPG": ["upper"], "b.jpg": ["the first"], "b.png": ["the second"]}
    (tmp_path / "b.jpg.txt").write_text("the first, anew")  # as caption --skip-existing leaves b.txt behind
    assert read(tmp_path)["b.jpg"] == ["the first, anew"]


def test_a_text_that_could_be_of_two_images_is_refused(tmp_path):
    fill(tmp_path, "a.jpg", "a.png")
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(InputError, match=r"a.txt could be of a.jpg or a.png. Name it after one of them: a.jpg.txt"):
        read(tmp_path)
