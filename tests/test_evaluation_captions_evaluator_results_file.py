import json
import os

import pytest

from evaluation_fakes import dataset, pair
from sightline.errors import InputError
from sightline.lab.evaluation.captions.evaluator import check_writable, read_results, write_results

COCO = dataset(
    pair("val2014/COCO_val2014_000000000042.jpg", "red", "red"),
    pair("val2014/COCO_val2014_000000391895.jpg", "blue", "blue"),
)
NAMES = dataset(
    pair("b/dog_one.jpg", "red", "red"), pair("a/cat.jpg", "blue", "blue"), pair("a/dog_one.jpg", "green", "x")
)


def results(tmp_path, *entries):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": key, "caption": caption} for key, caption in entries]))
    return path


@pytest.mark.parametrize(
    "key",
    [42, "42", "COCO_val2014_000000000042", "COCO_val2014_000000000042.jpg", "val2014/COCO_val2014_000000000042.jpg"],
)
def test_ids_are_numbers_or_names_of_files(tmp_path, key):
    path = results(tmp_path, (391895, "a sea"), (key, "a fire"))
    assert read_results(path, COCO) == ["a fire", "a sea"]


def test_names_of_2017_are_numbers_alone(tmp_path):
    mini = dataset(pair("000000493652.jpg", "red", "red"))
    assert read_results(results(tmp_path, (493652, "a fire")), mini) == ["a fire"]


def test_names_without_numbers_are_ids_too(tmp_path):
    path = results(tmp_path, ("cat", "1"), ("b/dog_one.jpg", "2"), ("a/dog_one.jpg", "3"))
    assert read_results(path, NAMES) == ["2", "1", "3"]


def test_an_id_that_fits_several_images_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"1 picture whose id fits several of fake:colours: dog_one\.jpg"):
        read_results(results(tmp_path, ("cat", "1"), ("dog_one.jpg", "2")), NAMES)


def test_unknown_ids_are_refused_with_their_count(tmp_path):
    path = results(tmp_path, *((key, "x") for key in (1, 2, 3, 4, 42)))
    with pytest.raises(InputError, match=r"4 pictures that fake:colours \(val\) doesn't have: ids 1, 2, 3, \.\.\."):
        read_results(path, COCO)


def test_missing_images_are_refused_with_their_count(tmp_path):
    with pytest.raises(InputError, match=r"no caption for 1 picture of fake:colours's 2 \(val\): val2014/.*391895"):
        read_results(results(tmp_path, (42, "x")), COCO)


def test_an_image_with_two_captions_is_refused(tmp_path):
    path = results(tmp_path, (42, "x"), ("COCO_val2014_000000000042", "y"), (391895, "z"))
    with pytest.raises(InputError, match="1 picture with several captions: val2014/COCO_val2014_000000000042"):
        read_results(path, COCO)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds an empty list"),
        ('{"annotations": []}', "holds a JSON dict"),
        ('[{"image_id": 42}]', "entry 0 is"),
        ('[{"image_id": true, "caption": "x"}]', "entry 0 is"),
        ('[{"image_id": 42, "caption": null}]', "entry 0 is"),
        ("[42]", "entry 0 is 42"),
        ('[{"image_id": 42, "capt', "cut off"),
        ("", "is empty"),
    ],
)
def test_other_content_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as refusal:
        read_results(path, COCO)
    assert str(path) in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.json"):
        read_results(tmp_path / "none.json", COCO)


def test_what_is_written_has_coco_s_numbers_and_reads_back(tmp_path):
    path = tmp_path / "out.json"
    write_results(path, {COCO[1].id: "das Meer, blau: größer", COCO[0].id: "a fire"}, COCO)
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"image_id": 42, "caption": "a fire"},
        {"image_id": 391895, "caption": "das Meer, blau: größer"},
    ]
    assert read_results(path, COCO) == ["a fire", "das Meer, blau: größer"]
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]


def test_images_without_a_number_of_their_own_keep_their_ids(tmp_path):
    path = tmp_path / "out.json"
    write_results(path, {one.id: "x" for one in NAMES}, NAMES)
    assert [entry["image_id"] for entry in json.loads(path.read_text())] == [one.id for one in NAMES]
    twins = dataset(pair("a/1.jpg", "red", "x"), pair("b/1.jpg", "red", "x"))
    write_results(path, {one.id: "x" for one in twins}, twins)
    assert read_results(path, twins) == ["x", "x"]


def test_images_without_a_caption_are_left_out(tmp_path):
    path = tmp_path / "out.json"
    write_results(path, {COCO[1].id: "a sea"}, COCO)
    assert json.loads(path.read_text()) == [{"image_id": 391895, "caption": "a sea"}]


def test_an_existing_file_is_kept(tmp_path):
    path = results(tmp_path, (42, "x"))
    with pytest.raises(InputError, match="exists"):
        check_writable(path)
    assert json.loads(path.read_text())


def test_a_new_folder_is_made_and_nothing_is_left_in_it(tmp_path):
    check_writable(tmp_path / "new" / "out.json")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_place_that_can_t_be_written_is_known_beforehand(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="can't be written"):
        check_writable(tmp_path / "file" / "out.json")


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / "out.json"

    def fail(self, target):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(InputError, match="No space left"):
        write_results(path, {COCO[0].id: "x"}, COCO)
    assert list(tmp_path.iterdir()) == []
