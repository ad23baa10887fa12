import numpy as np
import pytest

from captioning_fakes import paint
from sightline.errors import InputError
from sightline.lab.evaluation.classic_sets import CLASSIC_SETS, read_imagenet
from sightline.lab.evaluation.classification import load_prompts
from sightline.lab.evaluation.labelled import load_labelled


def rows(dataset):
    return [(pair.id, dataset.class_names[pair.label][0]) for pair in dataset]


def test_openais_templates_and_names_are_all_there():
    content = read_imagenet()
    assert len(set(content["templates"])) == len(load_prompts("imagenet")) == 80
    assert load_prompts("imagenet")[0] == "a bad photo of a {}."
    classes = content["classes"]
    assert len(classes) == 1000
    assert list(classes) == sorted(classes)
    assert (classes["n01440764"], classes["n02113186"]) == ("tench", "Cardigan Welsh Corgi")


def test_folders_of_imagenet_get_their_names(tmp_path):
    paint(tmp_path / "val" / "n02113186" / "ILSVRC2012_val_1.JPEG", "red")
    paint(tmp_path / "val" / "n01440764" / "ILSVRC2012_val_2.JPEG", "red")
    found = load_labelled(f"imagenet:{tmp_path}", split=None)
    assert found.split == "val"
    assert [name for _, name in rows(found)] == ["tench", "Cardigan Welsh Corgi"]
    paint(tmp_path / "val" / "dog" / "1.jpg", "red")
    with pytest.raises(InputError, match=r"no classes of ImageNet: dog. val/n01440764"):
        load_labelled(f"imagenet:{tmp_path}", split="val")


@pytest.mark.parametrize(("kind", "label_bytes"), [("cifar10", 1), ("cifar100", 2)])
def test_cifars_binary_files_are_read(tmp_path, kind, label_bytes):
    one = CLASSIC_SETS[kind]
    folder = tmp_path / one.folder
    folder.mkdir()
    (folder / one.name_list).write_text("airplane\nbig_cat\n\n")
    planes = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    labels = [bytes([9] * (label_bytes - 1) + [label]) for label in (1, 0)]
    (folder / one.lists["test"][0]).write_bytes(b"".join(a + b.tobytes() for a, b in zip(labels, planes, strict=True)))
    found = load_labelled(f"{kind}:{tmp_path}", split=None)
    assert (found.split, [name for _, name in rows(found)]) == ("test", ["big cat", "airplane"])
    assert np.array_equal(found[1].image.read(), planes[1].transpose(1, 2, 0))
    (folder / one.lists["test"][0]).write_bytes(b"short")
    with pytest.raises(InputError, match="is it cut off"):
        load_labelled(f"{kind}:{folder}", split="test")


def test_lists_of_images_decide_splits_and_classes(tmp_path):
    for folder, file, line in (
        ("food-101", "meta/train.txt", "apple_pie/1"),
        ("food-101", "meta/test.txt", "sushi/2"),
        ("dtd", "labels/train1.txt", "banded/banded_1.jpg"),
        ("dtd", "labels/test1.txt", "dotted/dotted_2.jpg"),
    ):
        path = tmp_path / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{line}\n")
    food = load_labelled(f"food101:{tmp_path}", split=None)
    assert (food.split, rows(food)) == ("test", [("sushi/2.jpg", "sushi")])
    assert food.class_names == (("apple pie",), ("sushi",))
    assert food[0].image.path == tmp_path / "food-101" / "images" / "sushi" / "2.jpg"  # type: ignore[attr-defined]
    assert rows(load_labelled(f"dtd:{tmp_path / 'dtd'}", split="train")) == [("banded/banded_1.jpg", "banded")]


def test_pets_are_of_the_breed_in_their_name(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "trainval.txt").write_text("# comment\namerican_bulldog_100 2 2 1\npug_3 3 2 2\n")
    found = load_labelled(f"pets:{tmp_path}", split=None)
    assert rows(found) == [("american_bulldog_100.jpg", "american bulldog"), ("pug_3.jpg", "pug")]
    (tmp_path / "annotations" / "trainval.txt").write_text("pug\n")
    with pytest.raises(InputError, match=r"trainval.txt:1: 'pug'; a line like 'pug_1 25 2 18' was expected"):
        load_labelled(f"pets:{tmp_path}", split="train")


def test_a_folder_without_the_set_names_its_files(tmp_path):
    with pytest.raises(InputError, match=r"has none of meta/train.txt, meta/test.txt, nor food-101/ with them"):
        load_labelled(f"food101:{tmp_path}", split=None)
