import io
import json
import logging
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED_DATA
from sightline.errors import ImageError, InputError
from sightline.kit.config import cache_dir
from sightline.lab.data import webdataset
from sightline.lab.data.base import FilePart
from sightline.lab.data.webdataset import READER, expand_braces, index_tar

CC12M = SHARED_DATA / "webdataset" / "cc12m-train-0000.tar"


def image(colour, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path, members, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def sample(key, caption="a red thing", colour="red"):
    return [(f"{key}.png", image(colour)), (f"{key}.txt", caption.encode())]


def write_shard(path, *keys):
    return write_tar(path, [member for key in keys for member in sample(key, f"caption of {key}")])


def load(path, split="train"):
    return READER.load(Path(path), split=split)


@pytest.mark.shared
def test_a_real_cc12m_shard_is_read_whole():
    dataset = load(CC12M)
    assert len(dataset) == 32
    first = dataset[0]
    assert first.id == "cc12m-train-0000/000000003"
    assert first.captions == ("Red Square is a city square in Moscow, Russia.",)
    with tarfile.open(CC12M) as tar:
        member = tar.extractfile("000000003.jpg").read()
    assert first.image.read_bytes() == member
    expected = Image.open(io.BytesIO(member)).convert("RGB")
    assert np.abs(first.image.read().astype(int) - np.asarray(expected)).mean() < 1
    assert all(pair.image.read().ndim == 3 for pair in dataset)
    assert load(CC12M.parent).fingerprint == dataset.fingerprint
    assert load(CC12M.parent / "cc12m-train-{0000..0000}.tar").fingerprint == dataset.fingerprint


@pytest.mark.shared
def test_a_cut_copy_of_a_real_shard_says_where_and_how_much_is_whole(tmp_path):
    cut = tmp_path / "cut.tar"
    cut.write_bytes(CC12M.read_bytes()[:1_000_000])
    with pytest.raises(InputError, match=r"cut\.tar is cut off: .*ends at 1,000,000.*there \d+ whole samples"):
        load(cut)


def test_a_sample_is_an_image_and_its_text_read_from_their_place(tmp_path):
    dataset = load(write_tar(tmp_path / "a.tar", [*sample("x/1"), *sample("x/2", " two\n lines ", "blue")]))
    assert [pair.id for pair in dataset] == ["a/x/1", "a/x/2"]
    assert dataset[1].captions == ("two lines",)
    assert dataset[0].image.read()[0, 0].tolist() == [255, 0, 0]
    assert dataset[1].image.read()[0, 0].tolist() == [0, 0, 255]
    assert dataset.name == f"webdataset:{tmp_path / 'a.tar'}"
    copy = pickle.loads(pickle.dumps(dataset[1].image))
    assert copy == dataset[1].image
    assert hash(copy) == hash(dataset[1].image)


def test_the_key_ends_at_the_first_dot_of_the_file_name_and_folders_belong_to_it(tmp_path):
    members = [
        ("./v1.0/a.seg.png", image("white")),
        ("./v1.0/a.PNG", image("red")),
        ("./v1.0/a.txt", b"red"),
        ("v2.0/a.jpeg", image("blue", "JPEG")),
        ("v2.0/a.txt", b"blue"),
    ]
    dataset = load(write_tar(tmp_path / "s.tar", members))
    assert [(pair.id, pair.captions) for pair in dataset] == [("s/v1.0/a", ("red",)), ("s/v2.0/a", ("blue",))]
    assert dataset[0].image.read()[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        ({"caption": "from json"}, ("from json",)),
        ({"text": "from text"}, ("from text",)),
        ({"caption": None, "text": "second"}, ("second",)),
        ({"captions": ["one", "two"]}, ("one", "two")),
    ],
)
def test_without_a_txt_captions_come_from_the_json(tmp_path, content, captions):
    members = [("1.png", image("red")), ("1.json", json.dumps(content).encode())]
    assert load(write_tar(tmp_path / "s.tar", members))[0].captions == captions


def test_the_txt_wins_over_the_json(tmp_path):
    members = [*sample("1", "from txt"), ("1.json", b'{"caption": "from json"}')]
    assert load(write_tar(tmp_path / "s.tar", members))[0].captions == ("from txt",)


def test_samples_without_image_or_text_are_left_out_with_their_names(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(webdataset, "_MAX_TEXT_BYTES", 1000)
    members = [
        *sample("good"),
        ("alone.png", image("red")),
        ("words.txt", b"no picture"),
        ("blank.png", image("red")),
        ("blank.txt", b" \n"),
        ("latin.png", image("red")),
        ("latin.txt", "caf\xe9".encode("latin-1")),
        ("broken.png", image("red")),
        ("broken.json", b'{"caption": '),
        ("long.png", image("red")),
        ("long.txt", b"x" * 1001),
        ("number.png", image("red")),
        ("number.json", b'{"caption": 3}'),
    ]
    write_tar(tmp_path / "s.tar", members)
    for _ in range(2):  # also where the index comes from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert [pair.id for pair in load(tmp_path / "s.tar")] == ["s/good"]
        assert (
            "7 of 8 samples are left out: s/alone (no text), s/words (no picture), s/blank (no usable text), ..."
            in (caplog.text)
        )


def test_a_key_that_occurs_twice_is_left_out_with_its_words(tmp_path, caplog):
    members = [("0.png", image("red")), ("0.txt", b"red"), ("1.png", image("blue")), ("1.txt", b"blue")]
    write_tar(tmp_path / "s.tar", [*members, ("0.png", image("green"))])
    assert [pair.id for pair in load(tmp_path / "s.tar")] == ["s/1"]
    assert "1 of 2 samples are left out: s/0 (a name that occurs twice)" in caplog.text


def test_an_empty_text_leaves_the_word_to_the_json(tmp_path):
    write_tar(tmp_path / "s.tar", [("0.png", image("red")), ("0.txt", b" "), ("0.json", b'{"caption": "red"}')])
    assert [pair.captions for pair in load(tmp_path / "s.tar")] == [("red",)]


def test_nothing_usable_is_an_error(tmp_path):
    write_tar(tmp_path / "s.tar", [("a.png", image("red"))])
    with pytest.raises(InputError, match="no sample with a picture and a text among 1 shards"):
        load(tmp_path / "s.tar")


def test_links_folders_and_hidden_files_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        folder = tarfile.TarInfo("f.png")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        for odd in (folder, link):
            tar.addfile(odd)
        for name, content in [*sample("1"), ("._1.png", b"resource fork"), (".txt", b"x"), ("README", b"x")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    dataset = load(tmp_path / "s.tar")
    assert [pair.id for pair in dataset] == ["s/1"]
    assert dataset[0].image.read().shape == (6, 8, 3)


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_keep_their_place(tmp_path, format_):
    key = "ordner/" + "lang" * 40 + "-größe"
    dataset = load(write_tar(tmp_path / "s.tar", [*sample(key), *sample("next", colour="blue")], format=format_))
    assert dataset[0].id == f"s/{key}"
    assert dataset[0].image.read()[0, 0].tolist() == [255, 0, 0]
    assert dataset[1].image.read()[0, 0].tolist() == [0, 0, 255]


def test_a_later_member_of_one_name_replaces_the_earlier(tmp_path):
    dataset = load(write_tar(tmp_path / "s.tar", [*sample("1", "old"), ("1.txt", b"new")]))
    assert dataset[0].captions == ("new",)


def test_a_header_destroyed_in_the_middle_is_not_taken_for_the_end(tmp_path):
    path = write_shard(tmp_path / "s.tar", "1", "2", "3")
    content = bytearray(path.read_bytes())
    second = content.index(b"2.png")
    content[second : second + 200] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"damaged at byte {second:,} .*there 1 whole sample can"):
        load(path)


def test_a_tar_that_ends_between_members_is_cut_off(tmp_path):
    path = write_shard(tmp_path / "s.tar", "1", "2")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"2.png")])
    with pytest.raises(InputError, match=r"cut off at byte .*there 1 whole sample can"):
        load(path)


def test_a_tar_cut_within_a_header_or_a_member_is_cut_off(tmp_path):
    whole = write_shard(tmp_path / "whole.tar", "1", "2").read_bytes()
    cuts = (whole.index(b"2.png") + 100, whole.index(b"2.png") + 520)
    for number, cut in enumerate(cuts):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="there 1 whole sample can"):
            load(path)


@pytest.mark.parametrize("content", [b"", b"\x00", b"hello", b"\xff" * 2000, b"\x00" * 700])
def test_what_is_no_tar_is_refused(tmp_path, content):
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"s\.tar"):
        load(path)


def test_random_damage_never_ends_in_another_error(tmp_path, rng):
    whole = bytearray(write_shard(tmp_path / "whole.tar", "1", "2", "3").read_bytes())
    path = tmp_path / "s.tar"
    reasons = set()
    for _ in range(150):
        content = bytearray(whole)
        header = 512 * int(rng.integers(0, len(content) // 512))
        for _ in range(int(rng.integers(1, 20))):
            content[header + int(rng.integers(0, 512))] = int(rng.integers(0, 256))
        path.write_bytes(content[: int(rng.integers(header, len(content) + 1))])
        try:
            dataset = load(path)
        except InputError:
            continue
        for pair in dataset:
            try:
                pair.image.read()
            except ImageError as error:
                reasons.add(error.reason)
    assert len(reasons) > 1


def test_compressed_tars_say_what_to_do(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.png"))
    with pytest.raises(InputError, match=r"compressed \(gzip\).*unpack it"):
        load(path)


def test_a_second_load_reads_the_index_and_a_changed_tar_is_read_again(tmp_path, monkeypatch):
    path = write_shard(tmp_path / "s.tar", "1", "2")
    first = load(path)
    read = webdataset._read_tar
    monkeypatch.setattr(webdataset, "_read_tar", lambda path: pytest.fail("the tar was read again"))
    second = load(path)
    assert (second.fingerprint, second.pairs) == (first.fingerprint, first.pairs)
    monkeypatch.setattr(webdataset, "_read_tar", read)
    write_shard(path, "1", "2", "3")
    third = load(path)
    assert len(third) == 3
    assert third.fingerprint != first.fingerprint


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"stamp": 1', "\xff"])
def test_a_damaged_index_is_made_anew(tmp_path, content):
    path = write_shard(tmp_path / "s.tar", "1")
    load(path)
    (kept,) = (cache_dir() / "tar-index").iterdir()
    kept.write_text(content)
    assert len(load(path)) == 1
    assert "1" in kept.read_text()


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "file"))
    assert len(load(write_shard(tmp_path / "s.tar", "1"))) == 1
    assert "can't be kept" in caplog.text


def test_the_fingerprint_is_the_same_wherever_the_shards_lie_and_follows_captions(tmp_path):
    here, there = write_shard(tmp_path / "here/s.tar", "1"), write_shard(tmp_path / "there/s.tar", "1")
    other = write_tar(tmp_path / "other/s.tar", sample("1", "caption of 2"))
    assert load(here).fingerprint == load(there).fingerprint != load(other).fingerprint


def test_an_image_whose_tar_changed_or_went_is_an_image_error(tmp_path):
    path = write_shard(tmp_path / "s.tar", "1")
    image = load(path)[0].image
    path.write_bytes(path.read_bytes()[:520])
    with pytest.raises(ImageError, match="cut off"):
        image.read()
    path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        image.read()


def test_a_scaled_read_is_smaller(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (800, 600)).save(buffer, "JPEG")
    path = write_tar(tmp_path / "s.tar", [("1.jpg", buffer.getvalue()), ("1.txt", b"x")])
    image = load(path)[0].image
    assert isinstance(image, FilePart)
    assert image.read().shape == (600, 800, 3)
    assert 64 <= image.read(min_side_px=64).shape[0] < 600


def test_a_folder_and_a_range_are_read_in_order(tmp_path):
    for number in (2, 0, 1):
        write_shard(tmp_path / f"{number:04d}.tar", "a", "b")
    ids = ["0000/a", "0000/b", "0001/a", "0001/b", "0002/a", "0002/b"]
    assert [pair.id for pair in load(tmp_path)] == ids
    assert [pair.id for pair in load(tmp_path / "{0000..0002}.tar")] == ids
    assert [pair.id for pair in load(tmp_path / "{0001..0002}.tar")] == ids[2:]


def test_a_missing_shard_of_a_range_is_named(tmp_path):
    write_shard(tmp_path / "0000.tar", "a")
    with pytest.raises(InputError, match=r"names 3 shards, of which 2 are missing: .*0001\.tar, .*0002\.tar"):
        load(tmp_path / "{0000..0002}.tar")


def test_braces_expand_as_a_shell_does():
    assert expand_braces("x-{08..11}.tar") == ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand_braces("plain") == ["plain"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{5..3}", "upwards"),
        ("{0..9999999999}", "upwards"),
        ("{x}", "must hold a range"),
        ("{a..c}", "must hold a range"),
        ("{0..99999}{0..99999}", "more than 1,000,000"),
    ],
)
def test_other_braces_are_refused(pattern, message):
    with pytest.raises(InputError, match=message):
        expand_braces(pattern)


def test_splits_are_the_words_in_names_of_shards_and_folders(tmp_path):
    root = tmp_path / "sets"
    for name in ("cc-train-0000", "cc-val-0000", "test/0000", "0007", "contrasting-0000", "trainval-0"):
        write_shard(root / f"{name}.tar", "k")
    assert [p.id for p in load(root)] == ["0007/k", "cc-train-0000/k", "contrasting-0000/k", "trainval-0/k"]
    assert [p.id for p in load(root, "val")] == ["cc-val-0000/k"]
    assert [p.id for p in load(root, "test")] == ["test/0000/k"]
    assert [p.id for p in load(root / "test/{0000..0000}.tar", "test")] == ["0000/k"]


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    write_shard(tmp_path / "sets" / "x-train.tar", "k")
    with pytest.raises(InputError, match="no split val; it has: train"):
        load(tmp_path / "sets", "val")
    write_shard(tmp_path / "sets" / "test" / "x.tar", "k")
    assert READER.splits(tmp_path / "sets") == ("train", "test")


def test_missing_paths_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(InputError, match="doesn't exist"):
        load(tmp_path / "no.tar")
    with pytest.raises(InputError, match=r"holds no \.tar files"):
        load(tmp_path)
    with pytest.raises(InputError, match="can't be read: no such file"):
        index_tar(tmp_path / "no.tar")


def test_a_reader_recognises_tars_folders_of_them_and_ranges(tmp_path):
    assert not READER.recognises(tmp_path)
    assert not READER.recognises(tmp_path / "a.tar")
    write_shard(tmp_path / "deep" / "a.tar", "1")
    assert READER.recognises(tmp_path)
    assert READER.recognises(tmp_path / "deep" / "a.tar")
    assert READER.recognises(tmp_path / "{00..10}.tar")
    assert not READER.recognises(Path("a\0b.tar"))
