import csv
import io
import tarfile

import pytest

from conftest import SHARED_DATA
from sightline.errors import InputError
from sightline.lab.data.conceptual import READER, UrlList

ROW = "a dog on a beach\thttp://example.com/1.jpg\n"


def write_shard(path, *captions):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for number, caption in enumerate(captions):
            for extension, data in (("jpg", b"x"), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{number:05d}.{extension}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))


def read(path, split="train"):
    return [pair.captions[0] for pair in READER.load(path, split=split)]


@pytest.mark.parametrize("list_name", ["Train_GCC-training.tsv", None])
def test_shards_are_read_with_and_without_their_list(tmp_path, list_name):
    write_shard(tmp_path / "00000.tar", "one", "two")
    write_shard(tmp_path / "00001.tar", "three")
    if list_name:
        (tmp_path / list_name).write_text(ROW)
        assert read(tmp_path / list_name) == ["one", "two", "three"]
    dataset = READER.load(tmp_path, split="train")
    assert [pair.captions for pair in dataset] == [("one",), ("two",), ("three",)]
    assert dataset.name == f"cc:{tmp_path}"
    assert READER.splits(tmp_path) == ("train",)


def test_folders_named_after_splits_are_splits(tmp_path):
    write_shard(tmp_path / "train" / "00000.tar", "one")
    write_shard(tmp_path / "val" / "00000.tar", "two")
    assert READER.splits(tmp_path) == ("train", "val")
    assert read(tmp_path, "val") == ["two"]


@pytest.mark.parametrize(
    ("list_name", "row", "name"),
    [("Train_GCC-training.tsv", ROW, "cc3m"), ("cc12m.tsv", "https://example.com/1.jpg\ta dog\n", "cc12m")],
)
def test_a_list_without_shards_tells_the_command(tmp_path, list_name, row, name):
    path = tmp_path / list_name
    path.write_text(row * 1_200)
    command = (
        rf"lists 1,200 images by URL, and none is downloaded: .*: sightline data get {name} {tmp_path} --list {path}$"
    )
    for address in (tmp_path, path):
        with pytest.raises(InputError, match=command):
            read(address)
        with pytest.raises(InputError, match=command):
            READER.splits(address)


@pytest.mark.parametrize("row", ["one column\n", "a\tb\n", "a\thttp://x/1.jpg\tc\n"])
def test_a_list_with_wrong_columns_is_refused_unless_there_are_shards(tmp_path, row):
    (tmp_path / "list.tsv").write_text(row)
    with pytest.raises(InputError, match=r"list.tsv, line 1: no column of addresses and one of captions"):
        read(tmp_path)
    write_shard(tmp_path / "00000.tar", "one")
    assert len(read(tmp_path)) == 1


def test_an_empty_list_is_refused(tmp_path):
    (tmp_path / "list.tsv").write_text("")
    with pytest.raises(InputError, match=r"list.tsv is empty"):
        read(tmp_path)


def test_a_folder_with_neither_says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"holds neither shards .* nor a list .* sightline data get cc3m FOLDER"):
        read(tmp_path)


def test_recognises_lists_by_their_first_row(tmp_path):
    rows = {"a.tsv": ROW, "b.tsv": "url\tcaption\n", "c.tsv": "filepath\ttitle\n", "d.txt": ROW, "e.tsv": "x\ty\tz\n"}
    for name, row in rows.items():
        (tmp_path / name).write_text(row)
    assert [name for name in rows if READER.recognises(tmp_path / name)] == ["a.tsv", "b.tsv"]
    assert READER.recognises(tmp_path)
    assert not READER.recognises(tmp_path / "absent")


@pytest.mark.shared
def test_a_real_shard_of_cc12m():
    dataset = READER.load(SHARED_DATA / "webdataset", split="train")
    assert len(dataset) == 32
    assert dataset[0].image.read().ndim == 3


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("cc3m.tsv", "a dog\thttp://a.example/1.jpg\n", (1, 0, 1)),
        ("cc12m.tsv", 'http://a.example/1.jpg\ta "dog\n', (0, 1, 1)),
        ("heading.tsv", "id\tcaption\turl\n1\ta dog\thttp://a.example/1.jpg\n", (2, 1, 1)),
        ("bom.tsv", "\ufeffhttp://a.example/1.jpg\ta dog\n", (0, 1, 1)),
        ("a.csv", 'URL,TEXT\nhttp://a.example/1.jpg,"a dog, two\nlines"\n', (0, 1, 1)),
        ("windows.tsv", "http://a.example/1.jpg\ta dog\r\nhttp://a.example/2.jpg\ta cat\r\n", (0, 1, 2)),
    ],
)
def test_columns_are_found_by_names_or_by_content(tmp_path, name, content, columns):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    found = UrlList(tmp_path / name)
    assert (found.url_column, found.caption_column, found.n_rows) == columns
    first = next(iter(found))
    assert first.url == "http://a.example/1.jpg"
    assert first.caption in ("a dog", 'a "dog', "a dog, two lines")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("three.tsv", "a\tb\thttp://a.example/1.jpg\n", "line 1: no column of addresses"),
        ("none.tsv", "a dog\ta cat\n", "line 1: no column of addresses"),
        ("commas.tsv", "a dog,http://a.example/1.jpg\n", "1 columns separated by tabs"),
        ("both.tsv", "http://a.example/1.jpg\thttp://a.example/2.jpg\n", "line 1"),
        ("empty.tsv", "", "is empty"),
        ("open.csv", 'url,caption\nhttp://a.example/1.jpg,"never closed', "no valid CSV"),
    ],
)
def test_lists_with_other_columns_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        UrlList(tmp_path / name)


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        UrlList(tmp_path / "none.tsv")


def test_a_csv_that_python_wrote_reads_back(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["url", "caption"], ["http://a.example/1.jpg", 'say "hi", then go']])
    assert [row.caption for row in UrlList(tmp_path / "a.csv")] == ['say "hi", then go']
