import io
import tarfile

import pytest

from sightline.errors import InputError
from sightline.lab.data.base import Dataset, FileImage, Pair
from sightline.lab.data.held_out import held_out_share, hold_out
from sightline.lab.data.webdataset import READER as WEBDATASET


def make_set(folder, contents):
    """A set without splits of files with these contents, by name."""
    folder.mkdir(exist_ok=True)
    pairs = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        pairs.append(Pair(id=name, image=FileImage(path=folder / name), captions=("a", "b")))
    return Dataset(name="folder:x", split="train", pairs=pairs, fingerprint="f")


def ids(dataset):
    return [pair.id for pair in dataset]


def test_a_tenth_is_held_out_by_name_and_nothing_moves_when_images_are_added(tmp_path):
    contents = {f"{index:03d}.jpg": b"%d" % index for index in range(300)}
    whole = make_set(tmp_path, contents)
    train, val = hold_out(whole, split="train"), hold_out(whole, split="val")
    assert (train.split, val.split) == ("train", "val")
    assert sorted(ids(train) + ids(val)) == ids(whole)
    assert 15 < len(val) < 50
    assert len({whole.fingerprint, train.fingerprint, val.fingerprint}) == 3
    half = make_set(tmp_path, dict(list(contents.items())[:150]))
    assert ids(hold_out(half, split="val")) == [name for name in ids(val) if name < "150"]
    few = make_set(tmp_path, dict(list(contents.items())[:20]))
    assert 2 <= len(hold_out(few, split="val")) <= 12
    assert set(ids(hold_out(few, split="train"))) <= set(ids(train))  # no train image becomes one of val


def test_equal_files_are_on_one_side_whatever_their_names(tmp_path):
    contents = {f"{index:03d}.jpg": b"%d" % (index % 50) * 3000 for index in range(200)}
    contents["unreadable.jpg"] = b"1" * 6000
    whole = make_set(tmp_path, contents)
    (tmp_path / "unreadable.jpg").unlink()
    train, val = (
        {contents[name] for name in ids(hold_out(whole, split=split)) if name != "unreadable.jpg"}
        for split in ("train", "val")
    )
    assert train
    assert val
    assert not train & val


def test_equal_members_of_tars_are_on_one_side(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for index in range(60):
            for name, content in ((f"{index}.jpg", b"x" * 5000 + b"%d" % (index % 6)), (f"{index}.txt", b"words")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    whole = WEBDATASET.load(tmp_path, split="train")
    train, val = ({int(key[2:]) % 6 for key in ids(hold_out(whole, split=s))} for s in ("train", "val"))
    assert val
    assert train | val == set(range(6))
    assert not train & val


def test_two_images_are_one_of_each_and_equal_images_have_no_val(tmp_path):
    for number in range(20):  # of some pairs both names lie below the share
        pair = make_set(tmp_path / "two", {f"a{number}.jpg": b"1", f"b{number}.jpg": b"2"})
        assert len(hold_out(pair, split="val")) == len(hold_out(pair, split="train")) == 1
    equal = make_set(tmp_path / "equal", {"a.jpg": b"1", "b.jpg": b"1"})
    assert hold_out(equal, split="train") is equal
    with pytest.raises(InputError, match="not two different images"):
        hold_out(equal, split="val")


@pytest.mark.parametrize(
    ("n_images", "most"), [(13, 4), (50, 10), (100, 10), (50_000, 5_000), (50_001, 501), (12_000_000, 1_200)]
)
def test_the_share_of_large_sets_is_smaller(n_images, most):
    assert n_images * held_out_share(n_images) == pytest.approx(most, abs=1)
