import json

import pytest

from conftest import SHARED_DATA
from sightline.errors import InputError
from sightline.lab.data.coco import READER


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def write_captions(path, captions, **more):
    """`captions`: file name -> captions; ids of images from 7."""
    images = [{"id": 7 + n, "file_name": name} for n, name in enumerate(captions)]
    texts = [(7 + n, text) for n, name in enumerate(captions) for text in captions[name]]
    annotations = [{"id": n, "image_id": key, "caption": text} for n, (key, text) in enumerate(texts)]
    write_json(path, {"info": {}, "images": images, "annotations": annotations, **more})


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_karpathy(path, *images):
    entries = [
        {"filepath": folder, "filename": name, "split": split, "sentences": [{"raw": text} for text in texts]}
        for folder, name, split, *texts in images
    ]
    write_json(path, {"dataset": "coco", "images": entries})


def read(path, split="train"):
    return {pair.id: list(pair.captions) for pair in READER.load(path, split=split)}


@pytest.fixture
def coco(tmp_path):
    """The publisher's layout."""
    fill(tmp_path / "train2017", "1.jpg", "2.jpg", "uncaptioned.jpg")
    fill(tmp_path / "val2017", "3.jpg")
    write_captions(tmp_path / "annotations" / "captions_train2017.json", {"2.jpg": ["b", " c\n"], "1.jpg": ["a", ""]})
    write_captions(tmp_path / "annotations" / "captions_val2017.json", {"3.jpg": ["d"]})
    return tmp_path


def test_the_publishers_layout(coco):
    dataset = READER.load(coco, split="train")
    assert [(pair.id, pair.captions) for pair in dataset] == [("2.jpg", ("b", "c")), ("1.jpg", ("a",))]
    assert dataset[0].image.path == coco / "train2017" / "2.jpg"  # type: ignore[attr-defined]
    assert dataset.name == f"coco:{coco}"
    assert read(coco, "val") == {"3.jpg": ["d"]}
    assert READER.splits(coco) == ("train", "val")


def test_the_other_splits_images_need_not_be_there(coco):
    (coco / "val2017" / "3.jpg").unlink()
    (coco / "val2017").rmdir()
    (coco / "annotations" / "captions_val2017.json").write_text("cut")
    assert len(read(coco)) == 2


@pytest.mark.parametrize("folder", ["train2014", "images/train2014", "images"])
def test_images_in_other_usual_places(tmp_path, folder):
    fill(tmp_path / folder, "1.jpg")
    write_captions(tmp_path / "annotations" / "captions_train2014.json", {"1.jpg": ["a"]})
    assert READER.load(tmp_path, split="train")[0].image.path == tmp_path / folder / "1.jpg"  # type: ignore[attr-defined]


def test_the_later_year_is_taken_and_the_file_itself_chooses_the_other(coco):
    fill(coco / "train2014", "old.jpg")
    older = coco / "annotations" / "captions_train2014.json"
    write_captions(older, {"old.jpg": ["x"]})
    assert list(read(coco)) == ["2.jpg", "1.jpg"]
    assert read(older) == {"old.jpg": ["x"]}


def test_a_json_itself_has_the_split_of_its_name(coco):
    val = coco / "annotations" / "captions_val2017.json"
    assert read(val, "val") == {"3.jpg": ["d"]}
    for split in ("train", "test"):
        with pytest.raises(InputError, match=rf"captions_val2017.json has no split {split}; it has: val\."):
            read(val, split)


@pytest.mark.parametrize("folder", ["mine", "images", "."])
def test_any_json_of_the_structure_with_images_beside_it(tmp_path, folder):
    fill(tmp_path / folder, "1.jpg")
    write_captions(tmp_path / "mine.json", {"1.jpg": ["a"]})
    assert read(tmp_path / "mine.json") == {"1.jpg": ["a"]}
    write_captions(tmp_path / "mine_test.json", {"1.jpg": ["a"]})
    if folder != "mine":
        assert read(tmp_path / "mine_test.json", "test") == {"1.jpg": ["a"]}


def test_the_publishers_test_split_has_no_captions(coco):
    with pytest.raises(InputError, match=r"no captions for test\. .* has train, val: take one .*dataset_coco.json"):
        read(coco, "test")


def test_a_missing_split_names_those_that_are_there(coco):
    (coco / "annotations" / "captions_val2017.json").unlink()
    with pytest.raises(InputError, match=r"has no split val; it has: train\."):
        read(coco, "val")


@pytest.mark.parametrize("place", [".", "annotations", "karpathy"])
def test_karpathys_json_alone_decides(coco, place):
    fill(coco / "val2014", "COCO_val2014_1.jpg", "COCO_val2014_2.jpg")
    write_karpathy(
        coco / place / "dataset_coco.json",
        ("val2014", "COCO_val2014_1.jpg", "restval", "a"),
        ("val2014", "COCO_val2014_2.jpg", "test", "b"),
    )
    assert read(coco) == {"val2014/COCO_val2014_1.jpg": ["a"]}
    assert read(coco, "test") == {"val2014/COCO_val2014_2.jpg": ["b"]}
    assert READER.splits(coco) == ("train", "test")
    assert list(read(coco / "annotations" / "captions_val2017.json", "val")) == ["3.jpg"]


def test_karpathys_images_are_found_under_their_names_of_2017(tmp_path):
    fill(tmp_path / "train2017", "000000000001.jpg")
    fill(tmp_path / "val2017", "000000000002.jpg")
    names = [f"COCO_val2014_00000000000{number}.jpg" for number in (1, 2)]
    write_karpathy(tmp_path / "dataset_coco.json", *(("val2014", name, "test", "x") for name in names))
    assert list(read(tmp_path, "test")) == ["train2017/000000000001.jpg", "val2017/000000000002.jpg"]
    (tmp_path / "val2017" / "000000000002.jpg").unlink()
    assert list(read(tmp_path, "test")) == ["train2017/000000000001.jpg"]
    (tmp_path / "train2017" / "000000000001.jpg").unlink()
    with pytest.raises(InputError, match=r"2 of 2 images that .*dataset_coco.json names are not in"):
        read(tmp_path, "test")


def test_absent_images_are_left_out_counted_and_three_are_named(coco, caplog):
    names = [f"{number}.jpg" for number in range(1, 8)]
    write_captions(coco / "annotations" / "captions_train2017.json", {name: ["x"] for name in names})
    assert list(read(coco)) == ["1.jpg", "2.jpg"]
    assert "5 of 7 images that" in caplog.text
    assert "train2017 and are left out: 3.jpg, 4.jpg, 5.jpg, ..." in caplog.text


def test_one_image_in_two_splits_of_one_folder_is_refused(tmp_path):
    fill(tmp_path / "images", "1.jpg", "2.jpg", "3.jpg")
    write_captions(tmp_path / "annotations" / "captions_train2017.json", {"1.jpg": ["a"], "2.jpg": ["b"]})
    write_captions(tmp_path / "annotations" / "captions_val2017.json", {"2.jpg": ["b"], "3.jpg": ["c"]})
    for split in ("train", "val"):
        with pytest.raises(InputError, match=r"1 images of .*images are in .* and in .*: 2.jpg\. Take them out of one"):
            read(tmp_path, split)


def test_the_same_name_in_two_folders_is_two_images(tmp_path):
    for split in ("train", "val"):
        fill(tmp_path / split, "1.jpg")
        write_captions(tmp_path / f"captions_{split}.json", {"1.jpg": [split]})
    assert read(tmp_path, "val") == {"1.jpg": ["val"]}


def test_a_missing_caption_file_names_what_is_there(tmp_path):
    fill(tmp_path / "train2017", "1.jpg")
    write_json(tmp_path / "annotations" / "instances_train2017.json", {})
    with pytest.raises(
        InputError, match=r"has no annotations/captions_train2017.json, .*; instances_train2017.json is"
    ):
        read(tmp_path)


IMAGE = {"id": 7, "file_name": "1.jpg"}
CAPTION = {"id": 0, "image_id": 7, "caption": "a"}


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([IMAGE, {"id": 7, "file_name": "2.jpg"}], [CAPTION], r"images\[1\]: id 7 or file 2.jpg occurs twice"),
        ([IMAGE, {"id": 8, "file_name": "1.jpg"}], [CAPTION], r"images\[1\]: id 8 or file 1.jpg occurs twice"),
        ([IMAGE], [CAPTION, CAPTION], r"annotations\[1\]: the id 0 occurs twice"),
        ([IMAGE], [CAPTION, {"id": 1, "image_id": 9, "caption": "b"}], r"captions of 1 images that .* list: ids 9\."),
        ([IMAGE], [], r"images\[0\]: 1.jpg has no caption that isn't empty"),
        (
            [IMAGE],
            [{"id": 0, "image_id": 7, "bbox": []}],
            r"annotations\[0\] has no caption; found: id, image_id, bbox\. Is",
        ),
        ([IMAGE], [{"id": 0, "image_id": 7, "caption": 3}], r"annotations\[0\]: the caption is no text"),
        ([IMAGE], [{"id": 0, "caption": "a"}], r"annotations\[0\] has no image_id"),
        ([IMAGE], [{"id": [], "image_id": 7, "caption": "a"}], r"annotations\[0\] has no id"),
        ([{"id": 7}], [CAPTION], r"images\[0\] has no file_name; found: id"),
        ([3], [CAPTION], r"images\[0\] has no id; found: int"),
        ([{"id": 7, "file_name": "../1.jpg"}], [CAPTION], r"images\[0\]: '../1.jpg' leads out of its folder"),
        ([{"id": 7, "file_name": "/1.jpg"}], [CAPTION], r"images\[0\]: '/1.jpg' leads out of its folder"),
        ([], [], "lists `images` and `annotations` were expected"),
        ({}, [], "lists `images` and `annotations` were expected"),
    ],
)
def test_what_is_wrong_in_a_json_is_named_by_its_entry(tmp_path, images, annotations, message):
    fill(tmp_path, "1.jpg", "2.jpg")
    write_json(tmp_path / "mine.json", {"images": images, "annotations": annotations})
    with pytest.raises(InputError, match=message):
        read(tmp_path / "mine.json")


def test_a_cut_json_is_named_by_its_line(coco):
    path = coco / "annotations" / "captions_train2017.json"
    path.write_text(path.read_text()[:-30].replace(', "annotations"', ',\n"annotations"'))
    with pytest.raises(InputError, match=r"captions_train2017.json:2: .* the file seems to be cut off"):
        read(coco)


def test_recognises_its_layouts_and_no_other_json(coco):
    (coco / "empty").mkdir()
    write_captions(coco / "mine.json", {"1.jpg": ["a"]})
    write_json(coco / "other.json", {"images": ["a"]})
    write_json(coco / "kar" / "dataset_coco.json", {})
    recognised = ["annotations", "kar", "mine.json", "other.json", "empty", "absent", "absent.json"]
    assert [name for name in recognised if READER.recognises(coco / name)] == ["annotations", "kar", "mine.json"]
    assert READER.recognises(coco)
    assert READER.recognises(coco / "annotations" / "captions_val2017.json")


@pytest.mark.shared
def test_real_coco_has_its_eighty_images():
    folder = SHARED_DATA / "coco-mini"
    dataset = READER.load(folder, split="train")
    assert (len(dataset), dataset.n_captions) == (80, 400)
    assert dataset[0].image.read().shape == (399, 640, 3)
    file = READER.load(folder / "annotations" / "captions_train2017.json", split="train")
    assert file.fingerprint == dataset.fingerprint
