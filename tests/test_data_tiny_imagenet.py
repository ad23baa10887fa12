import io
import json
import pickle
import sys
import threading
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED_DATA
from sightline.errors import ImageError, InputError
from sightline.lab.data import tiny_imagenet
from sightline.lab.data.tiny_imagenet import READER, ParquetImage, split_synonyms

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TINY = SHARED_DATA / "tiny-imagenet"
CLASSES = [
    {"label": 1, "wnid": "n2", "names": "cliff, drop, drop-off"},
    {"label": 0, "wnid": "n1", "names": "Egyptian cat"},
]


def webp(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def no_kept_columns():
    tiny_imagenet._read_group.cache_clear()
    tiny_imagenet._starts_of_groups.cache_clear()


def write_shards(folder, labels, *, shards=2, classes=CLASSES):
    """Row i of all is of shade i."""
    folder.mkdir(exist_ok=True)
    (folder / "classes.json").write_text(json.dumps(classes))
    for number, part in enumerate(np.array_split(np.arange(len(labels)), shards)):
        table = {
            "image": pa.array([webp(int(i)) for i in part], pa.binary()),
            "label": pa.array([labels[i] for i in part], pa.int16()),
            "name": ["x"] * len(part),
        }
        pq.write_table(pa.table(table), folder / f"train-{number:04d}.parquet", row_group_size=16)
    return folder


def load(folder, split="train"):
    return READER.load(folder, split=split)


@pytest.mark.shared
def test_the_last_forty_of_each_class_of_the_real_shards_are_val():
    train, val = load(TINY), load(TINY, "val")
    assert (len(train), len(val)) == (52_000, 8_000)
    assert set(Counter(pair.label for pair in train).values()) == {260}
    assert set(Counter(pair.label for pair in val).values()) == {40}
    assert not {pair.id for pair in train} & {pair.id for pair in val}
    by_class = {}
    for number, name in enumerate(sorted(TINY.glob("*.parquet"))):
        for row, label in enumerate(pq.read_table(name, columns=["label"]).column("label").to_pylist()):
            by_class.setdefault(label, []).append((number, f"train-{number:04d}/{row}"))
    expected = {id_ for rows in by_class.values() for _, id_ in rows[-40:]}
    assert {pair.id for pair in val} == expected
    assert len(train.class_names) == 200
    assert train.class_names == val.class_names
    assert ("rocking chair", "rocker") in train.class_names
    assert train[0].captions[0] == "monarch"
    assert train[0].image.read().shape == (64, 64, 3)
    assert train.fingerprint != val.fingerprint


def test_val_is_the_end_of_each_class_in_file_order(tmp_path):
    labels = [0, 1] * 45
    train, val = load(write_shards(tmp_path / "t", labels)), load(tmp_path / "t", "val")
    assert [pair.label for pair in train] == [0, 1] * 5
    assert [pair.image.read()[0, 0, 0] for pair in train] == list(range(10))
    assert [pair.image.read()[0, 0, 0] for pair in val] == list(range(10, 90))
    assert [pair.id for pair in train][:2] == ["train-0000/0", "train-0000/1"]
    assert val[-1].id == "train-0001/44"


def test_captions_are_the_synonyms_of_the_class(tmp_path):
    train = load(write_shards(tmp_path / "t", [0, 1] * 41))
    assert train.class_names == (("Egyptian cat",), ("cliff", "drop", "drop-off"))
    assert train[1].captions == ("cliff", "drop", "drop-off")
    assert train.name == f"tiny-imagenet:{tmp_path / 't'}"


def test_synonyms_are_split_at_commas_once_each():
    assert split_synonyms("cliff, drop , Cliff,drop-off,,") == ("cliff", "drop", "drop-off")
    assert split_synonyms(" ") == ()


def test_there_is_no_test_split(tmp_path):
    write_shards(tmp_path / "t", [0, 1] * 41)
    assert READER.splits(tmp_path / "t") == ("train", "val")
    with pytest.raises(InputError, match="no split test; it has: train, val"):
        load(write_shards(tmp_path / "t", [0, 1] * 41), "test")


def test_too_few_rows_of_a_class_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"40 rows of class 1 \(cliff\); more than 40"):
        load(write_shards(tmp_path / "t", [0] * 41 + [1] * 40))


@pytest.mark.parametrize("label", [2, -1, None])
def test_a_label_without_a_class_names_shard_and_row(tmp_path, label):
    with pytest.raises(InputError, match=rf"train-0001\.parquet: row 40 has label {label}.*classes 0 to 1"):
        load(write_shards(tmp_path / "t", [0] * 82 + [label]))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "must be a list"),
        ({"0": "cat"}, "must be a list"),
        (["cat"], "must be a list"),
        ([{"label": 0, "names": " , "}], "entry 1 .* no names"),
        ([{"label": "0", "names": "cat"}], "entry 1"),
        ([{"label": 0, "names": "cat"}, {"label": 0, "names": "dog"}], "entry 2"),
        ([{"label": 1, "names": "cat"}], "labels 0 to 0"),
    ],
)
def test_a_wrong_class_file_says_what_is_expected(tmp_path, classes, message):
    with pytest.raises(InputError, match=rf"classes\.json.*{message}"):
        load(write_shards(tmp_path / "t", [0, 1] * 41, classes=classes))


def test_a_shard_without_the_columns_lists_those_it_has(tmp_path):
    write_shards(tmp_path / "t", [0, 1] * 41)
    pq.write_table(pa.table({"img": [b""], "label": [0]}), tmp_path / "t" / "train-0001.parquet")
    with pytest.raises(InputError, match=r"train-0001\.parquet has no column image; its columns are img, label"):
        load(tmp_path / "t")


def test_a_damaged_shard_is_named(tmp_path):
    write_shards(tmp_path / "t", [0, 1] * 41)
    whole = (tmp_path / "t" / "train-0001.parquet").read_bytes()
    (tmp_path / "t" / "train-0001.parquet").write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"train-0001\.parquet can't be read as parquet"):
        load(tmp_path / "t")


def test_a_folder_of_something_else_is_refused(tmp_path):
    assert not READER.recognises(tmp_path)
    with pytest.raises(InputError, match="is not Tiny ImageNet"):
        load(tmp_path)
    assert READER.recognises(write_shards(tmp_path / "t", [0]))


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    write_shards(tmp_path / "t", [0, 1] * 41)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.delattr(sys.modules["pyarrow"], "parquet")
    with pytest.raises(InputError, match=r"sightline-images\[train\]"):
        load(tmp_path / "t")


def test_images_are_read_a_row_group_at_a_time(tmp_path):
    train = load(write_shards(tmp_path / "t", [0, 1] * 60))
    before = tiny_imagenet._read_group.cache_info().misses
    for pair in train:
        pair.image.read()
    assert tiny_imagenet._read_group.cache_info().misses == before + 3  # rows 0 to 39 in groups of 16


def test_threads_read_the_same_images(tmp_path):
    val = load(write_shards(tmp_path / "t", [0, 1] * 45), "val")
    seen = [None] * 4

    def read(number):
        seen[number] = [int(pair.image.read()[0, 0, 0]) for pair in val]  # type: ignore[misc]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [list(range(10, 90))] * 4


def test_rows_without_an_image_are_image_errors(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": pa.array([None, b"no picture", b""], pa.binary())}), path)
    for row, reason in ((0, "holds no picture"), (1, "not an image"), (2, "empty"), (3, "fewer rows"), (-1, "fewer")):
        with pytest.raises(ImageError, match=reason):
            ParquetImage(path=path, row=row).read()
    with pytest.raises(ImageError, match="damaged parquet"):
        ParquetImage(path=path, row=0, column="other").read()
    with pytest.raises(ImageError, match="no such file"):
        ParquetImage(path=tmp_path / "no.parquet", row=0).read()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ImageError, match="damaged parquet"):
        ParquetImage(path=tmp_path / "bad.parquet", row=0).read()
    image = ParquetImage(path=path, row=1)
    assert pickle.loads(pickle.dumps(image)) == image


def write_folders(root, *, val_lines=("v0.JPEG\tn2\t0\t0\t62\t57",)):
    for wnid in ("n1", "n2"):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (64, 64), "red").save(images / f"{wnid}_{number}.JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    (root / "val" / "images").mkdir(parents=True)
    Image.new("RGB", (64, 64), "blue").save(root / "val" / "images" / "v0.JPEG")
    (root / "val" / "val_annotations.txt").write_text("\n".join(val_lines))
    (root / "wnids.txt").write_text("n2\nn1\n")
    (root / "words.txt").write_text("n1\tEgyptian cat\nn2\tcliff, drop\nn3\tunused\n")
    return root


def test_the_publishers_folders_have_a_val_of_their_own(tmp_path):
    root = write_folders(tmp_path)
    assert READER.recognises(root)
    train, val = load(root), load(root, "val")
    assert train.class_names == (("cliff", "drop"), ("Egyptian cat",))
    assert [(pair.id, pair.label) for pair in train] == [
        ("train/n2/images/n2_0.JPEG", 0),
        ("train/n2/images/n2_1.JPEG", 0),
        ("train/n1/images/n1_0.JPEG", 1),
        ("train/n1/images/n1_1.JPEG", 1),
    ]
    assert [(pair.id, pair.label, pair.captions) for pair in val] == [("val/images/v0.JPEG", 0, ("cliff", "drop"))]
    assert val[0].image.read().shape == (64, 64, 3)
    with pytest.raises(InputError, match="no split test"):
        load(root, "test")


@pytest.mark.parametrize("line", ["v0.JPEG\tn9", "v9.JPEG\tn1", "v0.JPEG"])
def test_a_wrong_line_of_the_annotations_is_named(tmp_path, line):
    root = write_folders(tmp_path, val_lines=("v0.JPEG\tn1", line))
    with pytest.raises(InputError, match=r"val_annotations\.txt:2: .* expected"):
        load(root, "val")


def test_gaps_in_the_publishers_folders_are_errors(tmp_path):
    root = write_folders(tmp_path)
    (root / "words.txt").write_text("n1\tcat\n")
    with pytest.raises(InputError, match="no names for n2"):
        load(root)
    (root / "words.txt").write_text("n1\tcat\nn2\tcliff\n")
    for folder in sorted((root / "train").iterdir()):
        for file in (folder / "images").iterdir():
            file.unlink()
    with pytest.raises(InputError, match="no pictures in its folder train"):
        load(root)
    (root / "train" / "n1" / "images").rmdir()
    with pytest.raises(InputError, match="n1/images is missing"):
        load(root)
