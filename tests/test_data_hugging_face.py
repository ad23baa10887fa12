import io
import json
import pickle
import sys
import types

import numpy as np
import pytest
from PIL import Image

from sightline.errors import ImageError, InputError
from sightline.lab.data import hugging_face
from sightline.lab.data.hugging_face import READER, HuggingFaceImage

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet_library(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    forget = hugging_face._open_column.cache_clear
    yield
    forget()
    datasets.enable_progress_bars()


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def make_rows(columns, *, n=3, image="image"):
    features = {image: datasets.Image()} if image else {}
    cells = {image: [png(10 * row) for row in range(n)]} if image else {}
    for name, (feature, values) in columns.items():
        features[name], cells[name] = feature, values
    return datasets.Dataset.from_dict(cells, features=datasets.Features(features))


def texts(*values):
    return datasets.Value("string"), list(values)


def save(tmp_path, rows):
    rows.save_to_disk(str(tmp_path / "set"))
    return tmp_path / "set"


def load(path, split="train"):
    return READER.load(path, split=split)


def test_a_saved_set_gives_images_and_captions(tmp_path):
    folder = save(tmp_path, make_rows({"caption": texts("one", " two \n lines ", "three")}))
    dataset = load(folder)
    assert [(pair.id, pair.captions) for pair in dataset] == [
        ("train/0", ("one",)),
        ("train/1", ("two lines",)),
        ("train/2", ("three",)),
    ]
    assert [pair.image.read()[0, 0].tolist() for pair in dataset] == [[0, 0, 0], [10, 0, 0], [20, 0, 0]]
    assert dataset[0].image.read().dtype == np.uint8
    assert pickle.loads(pickle.dumps(dataset[1].image)).read()[0, 0, 0] == 10
    assert dataset.name == f"hf:{folder}"
    assert load(folder).fingerprint == dataset.fingerprint
    assert READER.recognises(folder)
    assert not READER.recognises(tmp_path)


def test_splits_go_by_their_usual_names(tmp_path):
    rows = {name: make_rows({"text": texts(name)}, n=1) for name in ("train", "validation", "restval")}
    folder = save(tmp_path, datasets.DatasetDict(rows))
    assert READER.recognises(folder)
    assert load(folder, "val")[0].captions == ("validation",)
    assert load(folder, "val")[0].id == "validation/0"
    assert load(folder, "val")[0].image.read().shape == (4, 6, 3)
    assert load(folder)[0].captions == ("train",)
    assert READER.splits(folder) == ("train", "val")
    with pytest.raises(InputError, match="no split test; it has: train, val"):
        load(folder, "test")


def test_a_single_saved_split_keeps_its_name(tmp_path):
    rows = datasets.DatasetDict({"validation": make_rows({"text": texts("a", "b", "c")})})["validation"]
    named = datasets.Dataset(rows.data, info=rows.info, split=datasets.Split.VALIDATION)
    folder = save(tmp_path, named)
    assert len(load(folder, "val")) == 3
    with pytest.raises(InputError, match="no split train; it has: val"):
        load(folder)


@pytest.mark.parametrize(
    ("columns", "captions"),
    [
        ({"captions": (datasets.List(datasets.Value("string")), [["a", "b"]])}, ("a", "b")),
        ({"caption_0": texts("a"), "caption_1": texts("b"), "other": texts("x")}, ("a", "b")),
        ({"text": texts("a"), "caption": texts("b")}, ("a",)),
        ({"sentences": ({"raw": datasets.Value("string")}, [{"raw": "a"}])}, ("a",)),
        ({"sentences": (datasets.List({"raw": datasets.Value("string")}), [[{"raw": "a"}, {"raw": "b"}]])}, ("a", "b")),
    ],
)
def test_captions_may_be_one_or_several(tmp_path, columns, captions):
    assert load(save(tmp_path, make_rows(columns, n=1)))[0].captions == captions


def test_classes_become_labels_and_captions(tmp_path):
    label = datasets.ClassLabel(names=["tabby_cat", "dog"])
    dataset = load(save(tmp_path, make_rows({"label": (label, [1, 0, -1]), "text": texts(None, "a cat", "unknown")})))
    assert dataset.class_names == (("tabby cat",), ("dog",))
    assert [pair.label for pair in dataset] == [1, 0, None]
    assert [pair.captions for pair in dataset] == [("dog",), ("a cat",), ("unknown",)]


def test_rows_without_text_are_left_out_with_a_warning(tmp_path, caplog):
    dataset = load(save(tmp_path, make_rows({"text": texts("a", None, " ")})))
    assert [pair.id for pair in dataset] == ["train/0"]
    assert "2 rows without a text are left out: 1, 2" in caplog.text


def test_a_set_without_any_text_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no row of split train has a text in text"):
        load(save(tmp_path, make_rows({"text": texts("", None, "")})))


def test_missing_columns_list_those_that_are_there(tmp_path):
    with pytest.raises(InputError, match=r"no column of images; its columns are text \(string\)"):
        load(save(tmp_path, make_rows({"text": texts("a")}, image=None)))
    with pytest.raises(InputError, match=r"no column of captions; its columns are image .*, title \(string\)"):
        load(save(tmp_path / "b", make_rows({"title": texts("a")}, n=1)))


def test_another_name_of_the_image_column_is_found(tmp_path):
    assert load(save(tmp_path, make_rows({"text": texts("a")}, n=1, image="jpg")))[0].image.read().shape == (4, 6, 3)


def test_an_image_folder_is_read_from_its_files(tmp_path):
    for split, shade in (("train", 50), ("test", 70)):
        folder = tmp_path / "pictures" / split
        folder.mkdir(parents=True)
        Image.new("RGB", (6, 4), (shade, 0, 0)).save(folder / "a.png")
        (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": f"shade {shade}"}))
    dataset = load(tmp_path / "pictures", "test")
    assert [(pair.captions, pair.image.read()[0, 0, 0]) for pair in dataset] == [(("shade 70",), 70)]


def test_a_folder_of_parquet_files_is_read(tmp_path):
    (tmp_path / "set").mkdir()
    make_rows({"caption": texts("a", "b", "c")}).to_parquet(str(tmp_path / "set" / "train.parquet"))
    dataset = load(tmp_path / "set")
    assert [pair.captions for pair in dataset] == [("a",), ("b",), ("c",)]
    assert dataset[2].image.read()[0, 0, 0] == 20


def test_images_that_are_missing_or_broken_are_image_errors(tmp_path):
    cells = [None, {"bytes": b"no picture", "path": None}]
    folder = save(tmp_path, make_rows({"text": texts("a", "b"), "image": (datasets.Image(), cells)}, image=None))
    dataset = load(folder)
    with pytest.raises(ImageError, match="the row holds no picture"):
        dataset[0].image.read()
    with pytest.raises(ImageError, match="not an image"):
        dataset[1].image.read()


@pytest.mark.parametrize(
    ("path", "reason"),
    [("https://example.org/a.png", "an address, not a file"), ("gone.png", "no such file"), ("", "holds no picture")],
)
def test_images_that_lie_elsewhere_are_only_read_from_files(path, reason, monkeypatch):
    cells = [{"image": {"bytes": None, "path": path}}]
    monkeypatch.setattr(hugging_face, "_open_column", lambda *_: cells)
    with pytest.raises(ImageError, match=reason):
        HuggingFaceImage(source="x", split="train", column="image", row=0).read()


def test_a_folder_or_name_that_cannot_be_opened_says_why(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"hf:.*empty can't be opened: .*Give a folder"):
        load(tmp_path / "empty")
    asked = []

    def fail(*args):
        asked.append(args)
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.chdir(tmp_path)
    for name, expected in (("org/name", ("org/name", None)), ("org/name:small", ("org/name", "small"))):
        with pytest.raises(InputError, match=f"hf:{name} can't be opened: no network Give"):
            load(types.SimpleNamespace(is_dir=lambda: False, as_posix=lambda name=name: name))
        assert asked.pop() == expected


def test_without_the_library_or_with_an_old_one_the_install_is_named(tmp_path, monkeypatch):
    image = HuggingFaceImage(source=str(tmp_path), split="train", column="image", row=0)
    monkeypatch.setattr(datasets, "__version__", "2.20.0")
    with pytest.raises(InputError, match=r"needs datasets 4 or later, this is 2\.20\.0"):
        load(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install 'datasets>=4'"):
        load(tmp_path)
    with pytest.raises(InputError, match="pip install"):
        image.read()
