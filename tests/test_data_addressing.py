import json
import subprocess
import sys

import pytest

from conftest import SHARED_DATA
from sightline.errors import InputError
from sightline.lab.data.addressing import (
    available_splits,
    find_reader,
    known_kinds,
    load_dataset,
    load_measured,
    parse_address,
)
from sightline.lab.data.base import SPLITS

KINDS = (
    "scenes",
    "flickr8k",
    "flickr30k",
    "coco",
    "cc",
    "folder",
    "csv",
    "webdataset",
    "tiny-imagenet",
    "hf",
    "sugarcrepe",
    "aro",
    "winoground",
)


@pytest.fixture
def photos(tmp_path):
    """A folder with metadata.jsonl: 20 images to train on, 2 to test."""
    folder = tmp_path / "photos"
    for split, number in (("train", 20), ("test", 2)):
        (folder / split).mkdir(parents=True)
        names = [f"{index:02d}.jpg" for index in range(number)]
        for name in names:
            (folder / split / name).write_bytes(b"x")
        lines = [json.dumps({"file_name": name, "text": f"photo {name}"}) for name in names]
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def ids_of(dataset):
    return [pair.id for pair in dataset]


def test_every_kind_has_a_reader_of_that_kind():
    assert known_kinds() == KINDS
    for kind in KINDS[1:]:
        reader = find_reader(kind)
        assert reader.kind == kind
        assert not reader.recognises(SHARED_DATA / "no" / "such" / "path")


def test_an_address_with_a_kind_and_a_bare_path_are_the_same(photos):
    named, bare = load_dataset(f"folder:{photos}"), load_dataset(str(photos))
    assert (named.name, named.split, len(named)) == (f"folder:{photos}", "train", 20)
    assert bare.fingerprint == named.fingerprint
    assert len(load_dataset(str(photos), split="test")) == 2


def test_a_tilde_is_the_home(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert len(load_dataset("folder:~/photos")) == len(load_dataset("~/photos")) == 20


def test_a_limit_is_a_random_subset_in_the_order_of_the_source(photos):
    subset = load_dataset(str(photos), limit=8, seed=1)
    assert ids_of(subset) == sorted(ids_of(subset))
    assert ids_of(subset) == ids_of(load_dataset(f"folder:{photos}", limit=8, seed=1))
    assert ids_of(subset) != ids_of(load_dataset(str(photos), limit=8, seed=2))
    assert len(load_dataset(str(photos), limit=21)) == 20


@pytest.mark.parametrize("address", ["scenes", "/no/such/path"])
def test_a_limit_below_one_is_refused_before_anything_is_read(address):
    with pytest.raises(InputError, match="The limit is 0; it must be at least 1"):
        load_dataset(address, limit=0)


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="There is no split 'dev'; the splits are train, val, test"):
        load_dataset("scenes", split="dev")


def test_scenes_are_addressed_by_seed():
    default, zero, one = (load_dataset(address, split="val", limit=3) for address in ("scenes", "scenes:0", "scenes:1"))
    assert default.fingerprint == zero.fingerprint != one.fingerprint
    assert (len(default), default.name, one.name) == (3, "scenes:0", "scenes:1")
    assert available_splits("scenes:5") == SPLITS


def test_a_limit_of_scenes_takes_the_first_ones():
    assert ids_of(load_dataset("scenes", limit=2, seed=9)) == ids_of(load_dataset("scenes", limit=4))[:2]


@pytest.mark.parametrize("seed", ["x", "-1", "1.5", " 1", "²", "1" * 19])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(InputError, match=r"The seed of scenes is .*; write a whole number: scenes:0"):
        load_dataset(f"scenes:{seed}")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("flicker8k:data", r"no kind of data 'flicker8k'\. Did you mean flickr8k or .*\? Data is scenes\[:SEED\] or"),
        ("COCO:data", r"no kind of data 'COCO'\. Did you mean coco"),
        ("wxyz:data", r"no kind of data 'wxyz'\. Data is scenes.* one of flickr8k, flickr30k, coco, cc, folder, csv, "),
        ("coco", "coco needs a path: coco:PATH"),
        ("coco:", "coco: needs a path behind the colon: coco:PATH"),
        ("coco:a\0b", "coco: needs a path"),
        ("coco:/no/such/path", r"/no/such/path doesn't exist\. Give the path of a coco data set: coco:PATH"),
        ("coco:" + "x" * 5_000, "doesn't exist"),
        ("/no/such/path", r"'/no/such/path' is no path that exists\. Data is"),
        ("flickr9k", r"'flickr9k' is no path that exists\. Did you mean flickr8k"),
        ("a\0b", "is no address of data"),
        ("x" * 5_000, "is no path that exists"),
        ("", r"'' is no address of data\. Data is scenes"),
        ("hf:", "hf: needs a path"),
        ("webdataset:/no/{0000..0001}.tar", "names 2 shards, of which 2 are missing"),
    ],
)
def test_what_is_wrong_with_an_address_is_said(address, message):
    with pytest.raises(InputError, match=message):
        load_dataset(address)


def test_a_path_that_no_kind_fits_lists_the_kinds(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    for path in (tmp_path, tmp_path / "notes.md"):
        with pytest.raises(
            InputError, match=r"looks like no kind of data that is known\. .* one of flickr8k, .*, winoground\."
        ):
            load_dataset(str(path))


def test_a_path_that_several_kinds_fit_lists_these(photos):
    (photos / "captions.csv").write_text("filepath,title\ntrain/00.jpg,a photo\n")
    with pytest.raises(InputError, match=rf"looks like 2 kinds of data: write folder:{photos} or csv:{photos}\."):
        load_dataset(str(photos))
    assert len(load_dataset(f"csv:{photos}")) == 1
    assert len(load_dataset(f"folder:{photos}")) == 20


def test_a_bare_path_may_hold_a_colon(photos):
    odd = photos.rename(photos.parent / "my:photos")
    assert len(load_dataset(str(odd))) == 20


def test_a_relative_path_that_looks_like_a_kind_is_a_path_where_it_exists(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    photos.rename("wxyz:1")
    assert parse_address("wxyz:1").kind == "folder"
    assert len(load_dataset("wxyz:1")) == 20


def test_images_have_absolute_paths_whatever_the_address(photos, monkeypatch):
    monkeypatch.chdir(photos)
    dataset = load_dataset("../photos")
    assert dataset[0].image.path == photos / "train" / "00.jpg"  # type: ignore[attr-defined]
    assert dataset.fingerprint == load_dataset(str(photos)).fingerprint


def test_splits_that_are_there(photos):
    assert available_splits(f"folder:{photos}") == available_splits(str(photos)) == ("train", "test")
    with pytest.raises(InputError, match=r"has no split val; it has: train, test\."):
        load_dataset(str(photos), split="val", hold_out=False)


def test_without_a_val_split_some_train_images_are_val_and_it_is_said(photos, caplog):
    for index in range(20):
        (photos / "train" / f"{index:02d}.jpg").write_bytes(bytes([index]))
    train, val = (load_dataset(str(photos), split=split) for split in ("train", "val"))
    assert sorted(ids_of(train) + ids_of(val)) == ids_of(load_dataset(str(photos), hold_out=False))
    assert 2 <= len(val) <= 12
    assert f"has no val split: {len(val)} of its 20 images are val" in caplog.text
    assert caplog.text.count("has no val split") == 1
    assert len(load_dataset(str(photos), split="test")) == 2


def test_what_is_measured_is_val_or_else_test_and_all_where_nothing_divides_a_set(photos):
    for index in range(20):
        (photos / "train" / f"{index:02d}.jpg").write_bytes(bytes([index]))
    assert load_measured(str(photos), split=None).split == "val"
    with pytest.raises(InputError, match="has the splits train, test; --split all is for sets without"):
        load_measured(str(photos), split="all")
    assert len(load_measured(f"folder:{photos / 'train'}", split="all")) == 20
    (photos / "train").rename(photos / "val")
    assert load_measured(str(photos), split=None).split == "val"
    (photos / "val").rename(photos.parent / "gone")
    assert load_measured(str(photos), split=None).split == "test"


def test_an_unknown_kind_has_no_reader():
    with pytest.raises(InputError, match=r"no kind of data 'scene'\. Did you mean scenes"):
        find_reader("scene")


def test_addressing_loads_nothing_heavy():
    code = (
        "import sys, sightline.lab.data.addressing as a; a.known_kinds(); print([m for m in sys.modules if m in HEAVY])"
    )
    code = code.replace("HEAVY", repr(("numpy", "torch", "datasets", "pyarrow", "PIL")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "kind", "splits"),
    [
        ("flickr8k", "flickr8k", ("train", "val")),
        ("coco-mini", "coco", ("train",)),
        ("webdataset", "webdataset", ("train",)),
        ("tiny-imagenet", "tiny-imagenet", ("train", "val")),
    ],
)
def test_real_data_is_recognised_from_its_bare_path(folder, kind, splits):
    path = str(SHARED_DATA / folder)
    assert parse_address(path).kind == kind
    if kind != "tiny-imagenet":  # which reads parquet, and is tested on its own
        assert available_splits(path) == splits


@pytest.mark.shared
def test_a_limit_of_real_data():
    subset = load_dataset(f"flickr8k:{SHARED_DATA / 'flickr8k'}", split="val", limit=100)
    assert (len(subset), subset.n_captions) == (100, 500)
    assert len(load_dataset(str(SHARED_DATA / "coco-mini"), limit=1_000, hold_out=False)) == 80
