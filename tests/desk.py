"""A home in which the names that documents and recipes use stand for something small."""

import csv
import io
import json
import tarfile

import numpy as np
from PIL import Image

import sightline as sl
from language_models import tiny_language_model
from model_folders import write_clip

SPLITS = ("train", "val", "test")
COLOURS = {"red": (200, 40, 40), "green": (40, 170, 60), "blue": (40, 60, 200), "white": (235, 235, 235)}
PER_SPLIT = 12


def image(number, side=64):
    """A square of one colour on noise, no two alike, and two captions of it."""
    name, colour = list(COLOURS.items())[number % len(COLOURS)]
    pixels = np.random.default_rng(number).integers(60, 200, (side, side + 16, 3)).astype(np.uint8)
    left = 4 + number % 24
    pixels[left : left + 32, left : left + 32] = colour
    return Image.fromarray(pixels), [f"a {name} square, number {number}", f"number {number} is {name}"]


def make_photos(home):
    """`photo.jpg`, `beach.jpg`, `photos/` and `Pictures/`: one taken on a holiday of 2024, one saved twice."""
    for number, path in enumerate(("photo.jpg", "beach.jpg", "photos/a.jpg", "photos/b.jpg", "Pictures/a.jpg")):
        _save(image(number)[0], home / path)
    image(4)[0].save(home / "Pictures" / "again.jpg", quality=60)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:07:14 12:00:00"
    (home / "Pictures" / "holiday").mkdir()
    image(5)[0].save(home / "Pictures" / "holiday" / "harbour.jpg", exif=exif)


def make_sets(folder):
    """A set of each kind that the pages and recipes name, in the layouts that docs/data.md gives."""
    pairs = [(split, number) for split in SPLITS for number in range(PER_SPLIT)]
    made = {(split, n): image(SPLITS.index(split) * PER_SPLIT + n) for split, n in pairs}
    _write_flickr8k(folder / "flickr8k", made)
    _write_coco(folder / "coco", made)
    _write_cc(folder / "cc", made)
    _write_folder(folder / "folder", made)
    _write_classes(folder / "classes", made)
    _write_imagenet(folder / "imagenet", made)
    _write_tiny_imagenet(folder / "tiny-imagenet", made)


def _save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _write_flickr8k(folder, made):
    images = []
    for (split, n), (image, captions) in made.items():
        _save(image, folder / "Images" / f"{split}{n}.jpg")
        sentences = [{"raw": caption} for caption in captions]
        images.append({"filename": f"{split}{n}.jpg", "split": split, "sentences": sentences})
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images}), encoding="utf-8")


def _write_coco(folder, made):
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        images, annotations = [], []
        for n in range(PER_SPLIT):
            image, captions = made[split, n]
            _save(image, folder / f"{split}2017" / f"{n:012}.jpg")
            images.append({"id": n, "file_name": f"{n:012}.jpg"})
            annotations += [{"id": 2 * n + i, "image_id": n, "caption": text} for i, text in enumerate(captions)]
        path = folder / "annotations" / f"captions_{split}2017.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")


def _write_cc(folder, made):
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        with tarfile.open(folder / split / "00000.tar", "w") as shard:
            for n in range(PER_SPLIT):
                image, captions = made[split, n]
                data = io.BytesIO()
                image.save(data, "JPEG")
                for suffix, content in (("jpg", data.getvalue()), ("txt", captions[0].encode())):
                    info = tarfile.TarInfo(f"{n:08}.{suffix}")
                    info.size = len(content)
                    shard.addfile(info, io.BytesIO(content))


def _write_folder(folder, made):
    """One without splits."""
    lines = []
    for (split, n), (image, captions) in made.items():
        _save(image, folder / f"{split}{n}.jpg")
        lines.append(json.dumps({"file_name": f"{split}{n}.jpg", "text": captions}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_classes(folder, made):
    for (split, n), (image, captions) in made.items():
        _save(image, folder / split / captions[0].split()[1] / f"{n}.jpg")


def _write_imagenet(folder, made):
    for n in range(PER_SPLIT):
        _save(made["val", n][0], folder / "val" / ("n01440764", "n01443537")[n % 2] / f"ILSVRC2012_val_{n:08}.JPEG")


def _write_tiny_imagenet(folder, made):
    ids = {name: f"n0{number}" for number, name in enumerate(COLOURS)}
    for n in range(PER_SPLIT):
        image, captions = made["train", n]
        key = ids[captions[0].split()[1]]
        _save(image.resize((64, 64)), folder / "train" / key / "images" / f"{key}_{n}.JPEG")
    with (folder / "words.txt").open("w", encoding="utf-8") as words:
        csv.writer(words, delimiter="\t").writerows((key, name) for name, key in ids.items())
    (folder / "wnids.txt").write_text("\n".join(ids.values()) + "\n", encoding="utf-8")
    (folder / "val").mkdir()
    with (folder / "val" / "val_annotations.txt").open("w", encoding="utf-8") as annotations:
        for n in range(PER_SPLIT):
            image, captions = made["val", n]
            _save(image.resize((64, 64)), folder / "val" / "images" / f"val_{n}.JPEG")
            annotations.write(f"val_{n}.JPEG\t{ids[captions[0].split()[1]]}\t0\t0\t62\t62\n")


def make_models(folder):
    """A CLIP of the true layout, `clip`, and a language model, `writer`."""
    write_clip(folder / "clip")
    (folder / "writer").symlink_to(tiny_language_model(), target_is_directory=True)


def make_library(home, folder):
    """A library of `Pictures/` with the starter."""
    with sl.Library.open(folder) as library:
        library.index(home / "Pictures")
