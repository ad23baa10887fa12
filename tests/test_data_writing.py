"""Data sets written in other formats and read back."""

import errno
import io
import json
import tarfile
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED_DATA
from sightline.errors import ImageError, InputError, SightlineError
from sightline.lab.data import writing
from sightline.lab.data.addressing import available_splits, load_dataset
from sightline.lab.data.base import Dataset, FileImage, HardNegative, Pair
from sightline.lab.data.writing import convert_datasets, safe_place

KINDS = ["folder", "csv", "coco", "webdataset"]


@dataclass(frozen=True)
class Rendered:
    seed: int

    def read(self, *, min_side_px=None):
        return np.random.default_rng(self.seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Broken:
    def read(self, *, min_side_px=None):
        raise ImageError("damaged PNG")


@pytest.fixture
def source(tmp_path):
    """Two splits: files with names of their own, rendered pictures with ids only."""
    (tmp_path / "source" / "deep").mkdir(parents=True)
    files = []
    for name, seed in (("one.jpg", 1), ("deep/two.png", 2)):
        Image.fromarray(Rendered(seed).read()).save(tmp_path / "source" / name)
        files.append(FileImage(path=tmp_path / "source" / name))
    train = [
        Pair(id="one.jpg", image=files[0], captions=('a dog, "quoted"', "ein Hündchen läuft")),
        Pair(id="deep/two.png", image=files[1], captions=("a cat",)),
    ]
    val = [Pair(id="v/3", image=Rendered(3), captions=("three\tbirds", "=1+1"))]
    return [
        Dataset(name="fake:x", split="train", pairs=train, fingerprint="1"),
        Dataset(name="fake:x", split="val", pairs=val, fingerprint="2"),
    ]


def read_back(kind, target, split):
    return load_dataset(f"{kind}:{target}", split=split, hold_out=False)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_reads_back_with_the_same_captions_and_pixels(source, tmp_path, kind):
    report = convert_datasets(source, tmp_path / "out", to=kind)
    assert (report.pictures, report.captions, report.skipped) == ({"train": 2, "val": 1}, 5, ())
    assert set(available_splits(f"{kind}:{tmp_path / 'out'}")) == {"train", "val"}
    for dataset in source:
        back = read_back(kind, tmp_path / "out", dataset.split)
        texts = [tuple(" ".join(text.split()) for text in pair.captions) for pair in back]
        assert texts == [tuple(" ".join(text.split()) for text in pair.captions) for pair in dataset]
        for pair, original in zip(back, dataset, strict=True):
            assert np.array_equal(pair.image.read(), original.image.read())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["folder", "csv", "coco"])
def test_ids_survive_where_they_are_file_names(source, tmp_path, kind):
    convert_datasets(source, tmp_path / "out", to=kind)
    assert [pair.id for pair in read_back(kind, tmp_path / "out", "train")] == ["one.jpg", "deep/two.png"]
    assert [pair.id for pair in read_back(kind, tmp_path / "out", "val")] == ["v/3.png"]


def test_ids_of_shards_are_keys_made_of_them_and_the_original_is_kept(source, tmp_path):
    convert_datasets(source, tmp_path / "out", to="webdataset")
    assert [pair.id for pair in read_back("webdataset", tmp_path / "out", "train")] == [
        "train/00000/one",
        "train/00000/deep_two",
    ]
    with tarfile.open(tmp_path / "out" / "train" / "00000.tar") as tar:
        facts = json.load(tar.extractfile("deep_two.json"))
    assert (facts["id"], facts["width"], facts["height"]) == ("deep/two.png", 30, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_files_are_kept(source, tmp_path, kind):
    convert_datasets(source, tmp_path / "out", to=kind)
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    original = source[0][0].image.path.read_bytes()
    assert any(original in content for content in written)


def test_converting_twice_gives_the_same_again(source, tmp_path):
    convert_datasets(source, tmp_path / "a", to="webdataset")
    datasets = [read_back("webdataset", tmp_path / "a", split) for split in ("train", "val")]
    convert_datasets(datasets, tmp_path / "b", to="coco")
    assert [pair.captions for pair in read_back("coco", tmp_path / "b", "train")] == [
        pair.captions for pair in source[0]
    ]
    assert [pair.id for pair in read_back("coco", tmp_path / "b", "train")] == [
        "train/00000/one.jpg",
        "train/00000/deep_two.png",
    ]


def test_shards_end_after_a_number_of_images(source, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_SIZE", 1)
    convert_datasets(source, tmp_path / "out", to="webdataset")
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.tar"))
    assert found == ["train/00000.tar", "train/00001.tar", "val/00000.tar"]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_would_share_a_file_get_numbers(tmp_path, kind):
    pairs = [Pair(id=name, image=Rendered(n), captions=(f"c{n}",)) for n, name in enumerate(["a:b", "a?b", "A_B"])]
    dataset = Dataset(name="fake:x", split="train", pairs=pairs, fingerprint="1")
    convert_datasets([dataset], tmp_path / "out", to=kind)
    back = read_back(kind, tmp_path / "out", "train")
    assert [pair.captions[0] for pair in back] == ["c0", "c1", "c2"]
    assert len({pair.id.casefold() for pair in back}) == 3


@pytest.mark.parametrize(
    ("identity", "place"),
    [
        ("a.jpg", "a.jpg"),
        ("x/y/a.JPEG", "x/y/a.JPEG"),
        ("../../etc/passwd", "etc/passwd.png"),
        ("/absolute/a.jpg", "absolute/a.jpg"),
        ("C:\\photos\\a.jpg", "C_/photos/a.jpg"),
        ("~/a", "a.png"),
        ("...", "picture.png"),
        ("", "picture.png"),
        ("a\nb\udcff", "a_b_.png"),
    ],
)
def test_ids_become_places_below_the_folder(identity, place):
    assert safe_place(identity, "png") == place


def test_pairs_that_cannot_be_written_are_reported_and_the_rest_is(source, tmp_path):
    absent = FileImage(path=tmp_path / "absent.jpg")
    pairs = [
        *source[0],
        Pair(id="broken", image=Broken(), captions=("x",)),
        Pair(id="absent", image=absent, captions=("x",)),
        Pair(id="mute", image=Rendered(9), captions=()),
    ]
    dataset = Dataset(name="fake:x", split="train", pairs=pairs, fingerprint="1")
    report = convert_datasets([dataset], tmp_path / "out", to="csv")
    assert {(pair.id, pair.reason) for pair in report.skipped} == {
        ("broken", "damaged PNG"),
        ("absent", "no such file"),
        ("mute", "no caption"),
    }
    assert len(read_back("csv", tmp_path / "out", "train")) == 2


def test_nothing_to_write_is_an_error_and_leaves_nothing(tmp_path):
    dataset = Dataset(
        name="fake:x", split="train", pairs=[Pair(id="b", image=Broken(), captions=("x",))], fingerprint="1"
    )
    with pytest.raises(InputError, match=r"None of 1 pairs.*damaged PNG"):
        convert_datasets([dataset], tmp_path / "out", to="folder")
    assert list(tmp_path.iterdir()) == []


def test_classes_become_captions_and_what_is_lost_is_said(tmp_path):
    negatives = (HardNegative(caption="a", negative="b", kind="count"),)
    pairs = [
        Pair(id="a", image=Rendered(1), captions=(), label=1),
        Pair(id="b", image=Rendered(2), captions=("x",), negatives=negatives),
    ]
    dataset = Dataset(
        name="fake:x", split="train", pairs=pairs, fingerprint="1", class_names=(("cat",), ("dog", "hound"))
    )
    report = convert_datasets([dataset], tmp_path / "out", to="folder")
    assert report.lost == ("hard negatives", "classes")
    assert read_back("folder", tmp_path / "out", "train")[0].captions == ("dog",)


def test_a_target_that_holds_something_is_refused_and_an_empty_one_is_not(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    (tmp_path / "file").write_text("x")
    for target in ("mine", "file"):
        with pytest.raises(InputError, match="no empty folder"):
            convert_datasets(source, tmp_path / target, to="folder")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["diary.txt"]
    (tmp_path / "empty").mkdir()
    convert_datasets(source, tmp_path / "empty", to="folder")
    assert (tmp_path / "empty" / "metadata.jsonl").is_file()


def test_what_a_killed_run_left_is_replaced(source, tmp_path):
    (tmp_path / ".out.converting" / "old").mkdir(parents=True)
    convert_datasets(source, tmp_path / "out", to="folder")
    assert not (tmp_path / "out" / "old").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_an_error_and_leaves_nothing_that_looks_complete(source, tmp_path, monkeypatch, kind):
    add = writing.WRITERS[kind].add
    calls = []

    def fail_later(self, sample):
        calls.append(sample)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, sample)

    monkeypatch.setattr(writing.WRITERS[kind], "add", fail_later)
    with pytest.raises(SightlineError, match="No space left on device") as failure:
        convert_datasets(source, tmp_path / "out", to=kind)
    assert "choose another folder" in str(failure.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_ctrl_c_leaves_nothing_that_looks_complete(source, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_datasets(source, tmp_path / "out", to="csv", on_progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_unknown_format_is_refused(source, tmp_path):
    with pytest.raises(InputError, match="there are folder, csv, coco, webdataset"):
        convert_datasets(source, tmp_path / "out", to="zip")


def test_half_characters_do_not_stop_the_run(tmp_path):
    pairs = [Pair(id="a", image=Rendered(1), captions=("half \ud83d of a smile",))]
    dataset = Dataset(name="fake:x", split="train", pairs=pairs, fingerprint="1")
    convert_datasets([dataset], tmp_path / "out", to="folder")
    assert read_back("folder", tmp_path / "out", "train")[0].captions == ("half \ufffd of a smile",)


def test_a_jpeg_without_an_extension_gets_one(tmp_path):
    file = io.BytesIO()
    Image.fromarray(Rendered(1).read()).save(file, "JPEG")
    (tmp_path / "plain").write_bytes(file.getvalue())
    pairs = [Pair(id="plain", image=FileImage(path=tmp_path / "plain"), captions=("x",))]
    dataset = Dataset(name="fake:x", split="train", pairs=pairs, fingerprint="1")
    convert_datasets([dataset], tmp_path / "out", to="folder")
    assert (tmp_path / "out" / "plain.jpg").read_bytes() == file.getvalue()


@pytest.mark.shared
@pytest.mark.parametrize("kind", KINDS)
def test_real_sets_survive_the_round_trip(tmp_path, kind):
    original = load_dataset(f"coco:{SHARED_DATA / 'coco-mini'}", limit=30, hold_out=False)
    convert_datasets([original], tmp_path / "out", to=kind)
    back = read_back(kind, tmp_path / "out", "train")
    if kind == "webdataset":
        assert [pair.id.rpartition("/")[2] for pair in back] == [pair.id.removesuffix(".jpg") for pair in original]
        assert [pair.captions for pair in back] == [
            tuple(" ".join(text.split()) for text in pair.captions) for pair in original
        ]
    else:
        assert [(pair.id, pair.captions) for pair in back] == [(pair.id, pair.captions) for pair in original]
