"""What the starter's card says of it: measured with the package's evaluators on pictures that it never saw."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from features import cached_pixels
from nouns import agreement
from numpy.typing import NDArray

from sightline.core.library import Library
from sightline.core.models.base import Captioner, Encoder, GenerationConfig
from sightline.core.types import Caption
from sightline.faces.demo.photos import gather_photos, load_photos
from sightline.faces.demo.run import measure_relevance
from sightline.lab.data.base import Dataset
from sightline.lab.evaluation.captions.metrics import score_words
from sightline.lab.evaluation.classification import ZeroshotEvaluator
from sightline.lab.evaluation.retrieval import RetrievalEvaluator, rank_retrieval

SHOWN = ("image_retrieval_recall@{}", "text_retrieval_recall@{}")
SUBJECTS: Mapping[str, str] = MappingProxyType(
    {
        "dogs": r"dogs?|pupp(y|ies)",
        "children": r"child(ren)?|kids?|boys?|girls?|bab(y|ies)|toddlers?",
        "men and women": r"m[ae]n|wom[ae]n|lad(y|ies)|guys?",
        "ball games": r"balls?|soccer|football|basketball|baseball|tennis|rugby|volleyball",
        "water": r"water|ocean|sea|beach|lake|river|pool|surf\w*|swim\w*|waves?",
        "snow": r"snow\w*|ski\w*|sled\w*",
        "wheels": r"bikes?|bicycles?|bicyclists?|motorcycles?|skateboard\w*|cars?|scooters?",
        "rocks and climbing": r"climb\w*|rocks?|cliffs?|mountains?",
        "food and drink": r"eat\w*|food|drink\w*|cake|table",
    }
)
"""Words of a caption, by what it is about."""


def clip_figures(encoder: Encoder, sets: dict[str, Dataset], names: Dataset) -> dict[str, Any]:
    """Recall both ways, naming of Tiny ImageNet's held-out rows, and images a second without decoding."""
    figures: dict[str, Any] = {}
    for name, dataset in sets.items():
        metrics = RetrievalEvaluator().run(encoder, dataset).metrics
        figures[name] = {metric.format(k): round(metrics[metric.format(k)], 4) for k in (1, 5, 10) for metric in SHOWN}
    accuracy = ZeroshotEvaluator().run(encoder, names).metrics
    figures["tiny_imagenet_val"] = {name: round(accuracy[name], 4) for name in ("acc1", "acc5")}
    return figures


def subject_figures(encoder: Encoder, dataset: Dataset) -> dict[str, Any]:
    """Text-to-image recall@10 of the captions that name a subject, among all pictures of the set."""
    embedded = RetrievalEvaluator().embed(encoder, dataset)
    ranks = rank_retrieval(embedded.image_BD, embedded.text_TD, embedded.owner_T)
    found_T = ranks.image_retrieval.found_at(10)
    figures = {}
    for subject, words in SUBJECTS.items():
        named_T = np.array([bool(re.search(rf"\b({words})\b", text.lower())) for text in embedded.texts])
        figures[subject] = {"captions": int(named_T.sum()), "recall@10": round(float(found_T[named_T].mean()), 4)}
    return figures


def demo_figures(model: str) -> dict[str, int]:
    """How many of the demo's queries find their photo among the first three."""
    with tempfile.TemporaryDirectory() as folder:
        gathered = gather_photos(load_photos(), Path(folder) / "photos")
        with Library.open(Path(folder) / "library", model=model) as library:
            library.index(gathered.folder)
            relevance = measure_relevance(library, gathered.photos)
    return {"answered": relevance.answered, "asked": relevance.asked, "photos": relevance.photos}


def caption_figures(captioner: Captioner, sets: dict[str, Dataset]) -> dict[str, Any]:
    """Agreement with people's captions, beam 3, beside that of the constant caption "a man", and captions a second."""
    figures: dict[str, Any] = {}
    rates = []
    for name, dataset in sets.items():
        started = time.perf_counter()
        captions = [best.text for best, *_ in _captions(captioner, dataset)]
        seconds = time.perf_counter() - started
        references = [pair.captions for pair in dataset]
        metrics = score_words(captions, references).metrics()
        found = {metric: metrics[metric] for metric in ("CIDEr", "Bleu_4", "ROUGE_L")} | agreement(captions, references)
        constant = agreement(["a man"] * len(captions), references)
        found["head_noun_constant"] = constant["head_noun"]
        figures[name] = {metric: round(value, 4) for metric, value in found.items()}
        rates.append(len(dataset) / seconds)
    return figures | {"captions_per_s": round(rates[0], 1)}


def _captions(captioner: Captioner, dataset: Dataset) -> Iterator[list[Caption]]:
    pixels_NSS3 = cached_pixels(dataset, captioner.card.preprocessing.size_px)
    for start in range(0, len(dataset), 16):
        yield from captioner.generate(np.ascontiguousarray(pixels_NSS3[start : start + 16]), GenerationConfig())


def images_per_s(encoder: Encoder, dataset: Dataset) -> float:
    """The rate of the fastest tenth of batches of 32: what the machine can do where nothing else runs."""
    pixels_NSS3: NDArray[np.uint8] = cached_pixels(dataset, encoder.card.preprocessing.size_px)
    rates = []
    for start in range(0, len(pixels_NSS3), 32):
        batch = np.ascontiguousarray(pixels_NSS3[start : start + 32])
        started = time.perf_counter()
        encoder.encode_images(batch)
        rates.append(len(batch) / (time.perf_counter() - started))
    return round(float(np.quantile(rates, 0.9)), 1)
