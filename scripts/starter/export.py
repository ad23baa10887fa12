"""From trained folders to those that ship: graphs in int8, tokenizer, config, and a card with what was measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from corpus import CONTEXT_LENGTH, Corpus
from figures import caption_figures, clip_figures, demo_figures, images_per_s, subject_figures
from folders import LICENCE
from numpy.typing import NDArray
from pixels import MEAN, STD, as_images, cached_pixels, normalise
from shrinking import shrink
from torch import from_numpy

from sightline.data.addressing import load_dataset
from sightline.images.preprocess import Preprocessing
from sightline.models.base import ModelCard
from sightline.models.captioner_export import export_captioner
from sightline.models.captioner_precision import write_int8
from sightline.models.captioners import load_captioner
from sightline.models.cards import read_card, write_card
from sightline.models.convolutional import ConvCaptioner, ConvClip
from sightline.models.encoders import load_encoder
from sightline.models.export import export_encoder
from sightline.models.hashes import compute_hash
from sightline.models.quantise import quantise_dynamic, quantise_static
from sightline.training.vocabulary import text_spec

N_CALIBRATION = 400
USED_PX = 128
"""Trained on crops at 112, in which things are larger than in whole pictures; so these are shown larger
(Touvron et al. 2019, arXiv:1906.06423)."""


def export_clip(student: Path, corpus: Corpus, coco: Path) -> Path:
    """Write `export/clip` as it ships; the same in fp32 lies beside it in `export/fp32/clip`."""
    fp32, folder = corpus.folder / "export" / "fp32" / "clip", corpus.folder / "export" / "clip"
    card = replace(read_card(student), licence=LICENCE, source="package")
    card = replace(card, preprocessing=replace(card.preprocessing, size_px=USED_PX))
    card = export_encoder(card, student, fp32)
    config = ConvClip.from_pretrained(student).config
    shown = json.dumps(replace(config, size_px=USED_PX).to_dict(), indent=2)
    (fp32 / "config.json").write_text(shown + "\n", encoding="utf-8")
    shutil.copyfile(student / "model.safetensors", fp32 / "model.safetensors")
    _quantise_image(fp32, folder, card, corpus)
    quantise_dynamic(fp32 / "onnx" / "text.onnx", folder / "onnx" / "text.int8.onnx")
    _write(folder, replace(card, weights_hash=None))
    sets = {"flickr8k_val": corpus.val, "coco_mini": load_dataset(f"coco:{coco}", split="train")}
    names = load_dataset(corpus.tiny, split="val")
    figures: dict[str, Any] = {}
    for precision, path in (("int8", folder), ("fp32", fp32)):
        encoder = load_encoder(f"dir:{path}")
        figures[precision] = clip_figures(encoder, sets, names) | {"images_per_s": images_per_s(encoder, corpus.val)}
    shipped = load_encoder(f"dir:{folder}")
    figures |= {"subjects": subject_figures(shipped, corpus.val), "demo": demo_figures(f"dir:{folder}")}
    _write(folder, replace(card, name="starter", figures=figures, weights_hash=None))
    return folder


def write_captioner(model: ConvCaptioner, corpus: Corpus) -> Path:
    """The trained captioner as a model folder."""
    folder = corpus.folder / "captioner"
    model.save_pretrained(folder)
    shutil.copyfile(corpus.tokenizer_folder / "tokenizer.json", folder / "tokenizer.json")
    card = ModelCard(
        name="starter-captioner",
        kind="captioner",
        family="sightline-captioner",
        source="package",
        preprocessing=Preprocessing(size_px=model.config.size_px, resize_mode="squash", mean=MEAN, std=STD),
        text=text_spec(CONTEXT_LENGTH),
        licence=LICENCE,
    )
    write_card(folder, card)
    return folder


def export_captions(trained: Path, corpus: Corpus) -> Path:
    """Write `export/captioner` as it ships, and its captions of the val pictures beside it."""
    fp32, folder = corpus.folder / "export" / "fp32" / "captioner", corpus.folder / "export" / "captioner"
    card = export_captioner(read_card(trained), trained, fp32)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(trained / name, fp32 / name)
    _quantise_image(fp32, folder, card, corpus)
    write_int8(fp32 / "onnx" / "decoder.onnx", folder / "onnx" / "decoder.int8.onnx")
    shrink(folder / "onnx" / "decoder.int8.onnx")
    _write(folder, replace(card, weights_hash=None))
    figures = {
        precision: caption_figures(load_captioner(f"dir:{path}"), corpus.val)
        for precision, path in (("int8", folder), ("fp32", fp32))
    }
    _write(folder, replace(card, figures=figures, weights_hash=None))
    return folder


def install(folder: Path, package_folder: Path) -> None:
    """Put a finished folder where it ships, each file replaced at once; the card, which holds the hashes, last."""
    files = sorted(
        (file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name == "sightline.json"
    )
    for file in files:
        target = package_folder / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(file, partial)
        partial.replace(target)


def _quantise_image(fp32: Path, folder: Path, card: ModelCard, corpus: Corpus) -> None:
    """The image graph in int8, with what stands beside it in either precision."""
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    calibration = _calibration(corpus, card.preprocessing.size_px)
    quantise_static(fp32 / "onnx" / "image.onnx", folder / "onnx" / "image.int8.onnx", calibration)
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(fp32 / name, folder / name)


def _calibration(corpus: Corpus, size_px: int) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Training pictures, evenly spread over the split."""
    pixels_NSS3 = cached_pixels(corpus.train, size_px)
    chosen = pixels_NSS3[:: max(1, len(pixels_NSS3) // N_CALIBRATION)][:N_CALIBRATION]
    for start in range(0, len(chosen), 20):
        yield {
            "pixel_values": normalise(as_images(from_numpy(np.array(chosen[start : start + 20])))).contiguous().numpy()
        }


def _write(folder: Path, card: ModelCard) -> None:
    """Write the card with everyone's hash."""
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "sightline.json"
    )
    write_card(folder, replace(card, files={name: compute_hash(folder / name) for name in names}))
