import csv

import pytest

from sightline.errors import InputError
from sightline.lab.data.folder import READERS

_, READER = READERS


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def read(path, split="train"):
    return {pair.id: list(pair.captions) for pair in READER.load(path, split=split)}


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.tsv", "\t"), ("t.csv", "\t"), ("t.csv", ";")])
def test_a_table_is_read_by_its_header_whatever_its_delimiter_and_other_columns(tmp_path, name, delimiter):
    fill(tmp_path, "a.jpg", "sub/b.jpg")
    rows = [
        ["title", "similarity", "filepath"],
        ["a dog, running; \tfast", "0.3", "a.jpg"],
        ['he said "hi"\nand left', "", "sub/b.jpg"],
        ["again", "", "./a.jpg"],
    ]
    with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    dataset = READER.load(tmp_path / name, split="train")
    assert read(tmp_path / name) == {
        "a.jpg": ["a dog, running; \tfast", "again"],
        "sub/b.jpg": ['he said "hi"\nand left'],
    }
    assert dataset[1].image.path == tmp_path / "sub" / "b.jpg"  # type: ignore[attr-defined]
    assert dataset.name == f"csv:{tmp_path / name}"


def test_quoted_and_spaced_and_marked_headers_are_read(tmp_path):
    fill(tmp_path, "a.jpg")
    write(tmp_path / "t.csv", '\ufeff"filepath", title\r\n"a.jpg","x"\r\n')
    assert read(tmp_path / "t.csv") == {"a.jpg": ["x"]}


def test_absolute_paths_are_allowed_as_captioning_writes_them(tmp_path):
    fill(tmp_path, "photos/a.jpg")
    photo = tmp_path / "photos" / "a.jpg"
    (tmp_path / "lists").mkdir()
    table = write(tmp_path / "lists" / "t.csv", f"filepath,title\n{photo},x\n")
    dataset = READER.load(table, split="train")
    assert dataset[0].image.path == photo  # type: ignore[attr-defined]
    assert dataset[0].id == str(photo)


def test_a_path_upwards_is_refused(tmp_path):
    fill(tmp_path, "a.jpg")
    (tmp_path / "lists").mkdir()
    table = write(tmp_path / "lists" / "t.csv", "filepath,title\n../a.jpg,x\n")
    with pytest.raises(InputError, match=r"t.csv:2: '\.\./a.jpg' leads out of its folder"):
        read(table)


def test_a_split_column_decides(tmp_path):
    fill(tmp_path, "a.jpg", "b.jpg")
    table = write(tmp_path / "t.csv", "filepath,title,split\na.jpg,x,train\nb.jpg,y,validation\nb.jpg,z,VAL\n")
    assert read(table, "val") == {"b.jpg": ["y", "z"]}
    assert READER.splits(table) == ("train", "val")
    with pytest.raises(InputError, match=r"has no split test; it has: train, val\."):
        read(table, "test")


def test_tables_named_after_splits_in_a_folder(tmp_path):
    fill(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "train.csv", "filepath,title\na.jpg,x\n")
    write(tmp_path / "val.tsv", "filepath\ttitle\nb.jpg\ty\n")
    write(tmp_path / "notes.csv", "filepath,title\nb.jpg,y\n")
    assert READER.splits(tmp_path) == ("train", "val")
    assert read(tmp_path, "val") == {"b.jpg": ["y"]}
    assert read(tmp_path / "val.tsv", "val") == {"b.jpg": ["y"]}
    with pytest.raises(InputError, match=r"val.tsv has no split train; it has: val\."):
        read(tmp_path / "val.tsv")


def test_one_image_in_two_tables_is_refused_whichever_split_is_read(tmp_path):
    fill(tmp_path, "a.jpg")
    write(tmp_path / "train.csv", "filepath,title\na.jpg,x\n")
    write(tmp_path / "val.csv", "filepath,title\na.jpg,y\n")
    for split in ("train", "val"):
        with pytest.raises(InputError, match=r"val.csv:2: a.jpg is in split val, but in train at .*train.csv:2\."):
            read(tmp_path, split)


def test_a_folder_with_one_table_is_that_table_and_with_several_asks(tmp_path):
    fill(tmp_path, "a.jpg")
    write(tmp_path / "captions.csv", "filepath,title\na.jpg,x\n")
    write(tmp_path / "sizes.csv", "filepath,width\na.jpg,3\n")
    assert read(tmp_path) == {"a.jpg": ["x"]}
    write(tmp_path / "more.csv", "filepath,title\na.jpg,x\n")
    with pytest.raises(
        InputError, match=r"has 2 tables: captions.csv, more.csv\. Give one of them: csv:.*captions.csv"
    ):
        read(tmp_path)


def test_a_folder_without_such_a_table_names_the_others(tmp_path):
    write(tmp_path / "sizes.csv", "filepath,width\na.jpg,3\n")
    with pytest.raises(InputError, match=r"no CSV or TSV with the columns filepath and title; sizes.csv has other"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,caption\na.jpg,x\n", ":1: the columns are 'path', 'caption'; filepath and title were expected"),
        ("a.jpg\tx\n", ":1: the columns are 'a.jpg', 'x'; filepath and title were expected"),
        ("", " is empty"),
        ("filepath,title\n", "has no split train; it has: none"),
        ("filepath,title\na.jpg,x,y\n", ":2: 3 cells where the header has 2"),
        ("filepath,title\na.jpg,x\na.jpg\n", ":3: 1 cells where the header has 2"),
        ('filepath,title\na.jpg,"x"y\n', ":2: .* Write a quote within a quoted cell twice"),
        ('filepath,title\na.jpg,"x\na.jpg,y\n', ":3: unexpected end of data"),
        ("filepath,title\n,x\n", ":2: '' is no file name"),
        ("filepath,title\na.jpg,  \n", ":2: a.jpg has no caption that isn't empty"),
        ("filepath,title,split\na.jpg,x,\n", ":2: '' is no split"),
        ("filepath,title\nb.jpg,x\nc.jpg,x\n", "2 of 2 images that .*t.csv names are not in .*: b.jpg, c.jpg"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, message):
    fill(tmp_path, "a.jpg")
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "t.csv", text))


def test_text_that_is_not_utf8_is_named_by_line(tmp_path):
    fill(tmp_path, "a.jpg")
    (tmp_path / "t.csv").write_bytes(b"filepath,title\na.jpg,caf\xe9\n")
    with pytest.raises(InputError, match=r"t.csv:2: byte 0xe9 is not UTF-8"):
        read(tmp_path / "t.csv")


def test_a_file_in_utf16_is_not_taken_for_other_columns(tmp_path):
    (tmp_path / "t.csv").write_bytes("filepath,title\na.jpg,x\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"t.csv:1: byte 0xff is not UTF-8"):
        read(tmp_path / "t.csv")


def test_recognises_tables_by_their_columns(tmp_path):
    good = write(tmp_path / "t.csv", "filepath,title\n")
    assert READER.recognises(good)
    assert READER.recognises(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    bad = write(other / "t.csv", "image,caption\n")
    text = write(other / "t.txt", "filepath,title\n")
    assert not any(READER.recognises(path) for path in (bad, other, text, tmp_path / "absent"))


def test_windows_paths_are_read(tmp_path):
    fill(tmp_path, "photos/one/a.jpg", "photos/b.jpg")
    relative = write(tmp_path / "t.csv", "filepath,title\nphotos\\one\\a.jpg,x\nphotos\\b.jpg,y\n")
    paths = [tmp_path / "photos" / "one" / "a.jpg", tmp_path / "photos" / "b.jpg"]
    assert [pair.image.path for pair in READER.load(relative, split="train")] == paths  # type: ignore[attr-defined]
    lines = "".join(f"C:\\Users\\ann\\photos\\{name},x\n" for name in ("one\\a.jpg", "b.jpg"))
    moved = READER.load(write(tmp_path / "photos" / "w.csv", f"filepath,title\n{lines}"), split="train")
    assert [pair.image.path for pair in moved] == paths  # type: ignore[attr-defined]
