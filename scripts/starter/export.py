"""From trained folders to those that ship: graphs in int8, tokenizer, config, and a card with what was measured."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from corpus import CONTEXT_LENGTH, Corpus
from folders import LICENCE
from numpy.typing import NDArray
from pixels import MEAN, STD, as_images, cached_pixels, normalise
from torch import from_numpy

from sightline.data.addressing import load_dataset
from sightline.data.base import Dataset
from sightline.evaluation.captions.evaluator import CaptionEvaluator
from sightline.evaluation.retrieval import RetrievalEvaluator
from sightline.evaluation.zeroshot import ZeroshotEvaluator
from sightline.images.preprocess import Preprocessing
from sightline.models.base import Encoder, ModelCard
from sightline.models.captioner_export import export_captioner
from sightline.models.captioners import load_captioner
from sightline.models.cards import read_card, write_card
from sightline.models.convolutional import ConvCaptioner
from sightline.models.encoders import load_encoder
from sightline.models.export import export_encoder
from sightline.models.hashes import compute_hash
from sightline.models.quantise import quantise_dynamic, quantise_static
from sightline.training.vocabulary import text_spec

N_CALIBRATION = 400
SHOWN = ("image_retrieval_recall@{}", "text_retrieval_recall@{}")


def export_clip(student: Path, corpus: Corpus, coco: Path) -> Path:
    """Write `export/clip` as it ships; the same in fp32 lies beside it in `export/fp32/clip`."""
    fp32, folder = corpus.folder / "export" / "fp32" / "clip", corpus.folder / "export" / "clip"
    card = replace(read_card(student), licence=LICENCE, source="package")
    card = export_encoder(card, student, fp32)
    shutil.copyfile(student / "config.json", fp32 / "config.json")
    shutil.copyfile(student / "model.safetensors", fp32 / "model.safetensors")
    _quantise(fp32, folder, card, corpus, static="image", dynamic="text")
    sets = {"flickr8k_val": corpus.val, "coco_mini": load_dataset(f"coco:{coco}", split="train")}
    names = load_dataset(corpus.tiny, split="val")
    figures = {
        precision: _clip_figures(load_encoder(f"dir:{path}"), sets, names)
        for precision, path in (("int8", folder), ("fp32", fp32))
    }
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
    _quantise(fp32, folder, card, corpus, static="image", dynamic="decoder")
    figures: dict[str, Any] = {"measured_on": f"Flickr8k val, {len(corpus.val)} images, beam 3"}
    for precision, path in (("int8", folder), ("fp32", fp32)):
        started = time.perf_counter()
        result = CaptionEvaluator().run(load_captioner(f"dir:{path}"), corpus.val)
        seconds = time.perf_counter() - started
        figures[precision] = {name: round(result.metrics[name], 4) for name in ("CIDEr", "Bleu_4", "ROUGE_L")}
        figures[precision]["captions_per_s"] = round(len(corpus.val) / seconds, 1)
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


def _quantise(fp32: Path, folder: Path, card: ModelCard, corpus: Corpus, *, static: str, dynamic: str) -> None:
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    size_px = card.preprocessing.size_px
    calibration = _calibration(corpus, size_px)
    quantise_static(fp32 / "onnx" / f"{static}.onnx", folder / "onnx" / f"{static}.int8.onnx", calibration)
    quantise_dynamic(fp32 / "onnx" / f"{dynamic}.onnx", folder / "onnx" / f"{dynamic}.int8.onnx")
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(fp32 / name, folder / name)
    _write(folder, replace(card, weights_hash=None))


def _calibration(corpus: Corpus, size_px: int) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Training pictures, evenly spread over the split."""
    pixels_NSS3 = cached_pixels(corpus.train, size_px)
    chosen = pixels_NSS3[:: max(1, len(pixels_NSS3) // N_CALIBRATION)][:N_CALIBRATION]
    for start in range(0, len(chosen), 20):
        yield {"pixel_values": normalise(as_images(from_numpy(chosen[start : start + 20]))).contiguous().numpy()}


def _clip_figures(encoder: Encoder, sets: dict[str, Dataset], names: Dataset) -> dict[str, Any]:
    """Recall both ways, naming of Tiny ImageNet's held-out rows, and images a second without decoding."""
    figures: dict[str, Any] = {}
    for name, dataset in sets.items():
        metrics = RetrievalEvaluator().run(encoder, dataset).metrics
        figures[name] = {metric.format(k): round(metrics[metric.format(k)], 4) for k in (1, 5, 10) for metric in SHOWN}
    accuracy = ZeroshotEvaluator().run(encoder, names).metrics
    figures["tiny_imagenet_val"] = {name: round(accuracy[name], 4) for name in ("acc1", "acc5")}
    figures["images_per_s"] = _images_per_s(
        encoder, cached_pixels(sets["flickr8k_val"], encoder.card.preprocessing.size_px)
    )
    return figures


def _images_per_s(encoder: Encoder, pixels_NSS3: NDArray[np.uint8]) -> float:
    """The rate of the fastest tenth of batches of 32: what the machine can do where nothing else runs."""
    rates = []
    for start in range(0, len(pixels_NSS3), 32):
        batch = np.ascontiguousarray(pixels_NSS3[start : start + 32])
        started = time.perf_counter()
        encoder.encode_images(batch)
        rates.append(len(batch) / (time.perf_counter() - started))
    return round(float(np.quantile(rates, 0.9)), 1)


def _write(folder: Path, card: ModelCard) -> None:
    """Write the card with everyone's hash."""
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "sightline.json"
    )
    write_card(folder, replace(card, files={name: compute_hash(folder / name) for name in names}))
