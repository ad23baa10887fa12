import json

import numpy as np
import pytest
from PIL import Image

from sightline.errors import InputError
from sightline.lab.data.addressing import load_dataset, load_measured


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def paint(path, *, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint16).reshape(size[1], size[0], 3) % 251
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return pixels.astype(np.uint8)


def cases(dataset):
    return [(p.id, [(n.caption, n.negative, n.kind) for n in p.negatives]) for p in dataset]


def test_sugarcrepe_is_read_from_its_files_of_kinds(tmp_path, caplog):
    paint(tmp_path / "val2017" / "1.jpg")
    entry = {"filename": "1.jpg", "caption": "a red car", "negative_caption": "a blue car"}
    write(tmp_path / "data" / "swap_att.json", {"0": entry})
    gone = {**entry, "filename": "2.jpg"}
    write(tmp_path / "data" / "add_obj.json", {"0": {**entry, "negative_caption": "a red car, a cow"}, "7": gone})
    found = load_dataset(f"sugarcrepe:{tmp_path}", split="test")
    assert cases(found) == [
        ("1.jpg", [("a red car", "a red car, a cow", "add_obj"), ("a red car", "a blue car", "swap_att")])
    ]
    assert found[0].captions == ("a red car",)
    assert "1 of 2 images" in caplog.text
    assert load_measured(f"sugarcrepe:{tmp_path}", split=None).split == "test"


def test_aro_cuts_the_box_out_of_its_image(tmp_path):
    pixels = paint(tmp_path / "images" / "9.png")
    entry = {"image_id": "9", "image_path": "9.png", "bbox_x": 5, "bbox_y": 3, "bbox_w": 20, "bbox_h": 10}
    texts = {"true_caption": "the dog on the bed", "false_caption": "the bed on the dog", "relation_name": "on"}
    write(tmp_path / "visual_genome_relation.json", [{**entry, **texts}])
    write(tmp_path / "visual_genome_attribution.json", [{**entry, **texts, "bbox_x": 900}])
    whole, outside = load_dataset(f"aro:{tmp_path}", split="test")
    assert whole.negatives[0].kind == "relation"
    assert np.array_equal(whole.image.read(), pixels[3:13, 5:25])
    assert outside.negatives[0].kind == "attribution"
    with pytest.raises(Exception, match="lies outside the image"):
        outside.image.read()


def test_winoground_is_two_pairs_a_line(tmp_path):
    for name in ("ex_0_img_0.png", "ex_0_img_1.png"):
        paint(tmp_path / "images" / name)
    line = {"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "a b", "caption_1": "b a"}
    write(tmp_path / "examples.jsonl", json.dumps({**line, "collapsed_tag": "Object"}) + "\n")
    assert cases(load_dataset(str(tmp_path), split="test")) == [
        ("0/0", [("a b", "b a", "object")]),
        ("0/1", [("b a", "a b", "object")]),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("swap_obj.json", [], "an object of numbered entries was expected"),
        ("swap_obj.json", {"0": {"filename": "1.jpg"}}, "0: filename, caption, negative_caption were expected"),
        ("swap_obj.json", {"0": {"filename": "../1", "caption": "a", "negative_caption": "b"}}, "leads out"),
        ("visual_genome_relation.json", {}, "a list of entries"),
        (
            "visual_genome_relation.json",
            [{"image_path": "1.jpg", "true_caption": "a", "false_caption": "b"}],
            r"\[0\]: bbox_x, bbox_y",
        ),
        ("examples.jsonl", '{"id"', ":1: .*is the file cut off"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, content, message):
    paint(tmp_path / "images" / "1.jpg")
    write(tmp_path / name, content)
    with pytest.raises(InputError, match=message):
        load_dataset(str(tmp_path), split="test")


def test_a_folder_without_the_files_names_them(tmp_path):
    with pytest.raises(InputError, match=r"has no add_att.json, ..., swap_obj.json"):
        load_dataset(f"sugarcrepe:{tmp_path}", split="test")
