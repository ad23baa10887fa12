"""Captions measured: those that a captioner writes now, or those of one of COCO's result files.

A result file is a JSON list of `{"image_id": 42, "caption": "..."}`, read for any data set. Shape suffixes: N images, T
references, D dimension of the joint space, B images of a batch.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Captioner, Encoder, GenerationConfig
from sightline.errors import InputError
from sightline.kit.files import explained, write_text
from sightline.lab.data.base import Dataset
from sightline.lab.data.captioned_files import list_some, read_json
from sightline.lab.evaluation.captions.metrics import (
    CLIP_METRICS,
    METRICS,
    PROMPT,
    WORD_METRICS,
    check_metrics,
    clip_score,
    ref_clip_score,
    score_words,
)
from sightline.lab.evaluation.embedding import (
    CountProgress,
    EmbeddedImages,
    EvalConfig,
    embed_images,
    embed_texts,
    read_ahead,
)
from sightline.lab.evaluation.results import EvalResult, Figures, Problem, summarise

_NUMBER = re.compile(r"(?:^|_)0*(\d+)$")
"""COCO's number of an image in its file name: `COCO_val2014_000000000042.jpg`."""
_EXPECTED = 'a list of {"image_id": ..., "caption": "..."} was expected'


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(EvalConfig):
    """Settings of writing and measuring captions."""

    metrics: tuple[str, ...] | None = None
    """Names of `METRICS`; None measures all that can be: CLIPScore needs an encoder."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Raises InputError for settings that can't be met, and for METEOR and SPICE with what to use instead."""
        super().__post_init__()
        if self.metrics is not None:
            check_metrics(self.metrics)

    def choose_metrics(self, encoder: Encoder | None) -> tuple[str, ...]:
        """The metrics to measure. Raises InputError where one was asked for that lacks its encoder."""
        names = check_metrics(self.metrics or (METRICS if encoder is not None else WORD_METRICS))
        if encoder is None and (needs := [name for name in names if name in CLIP_METRICS]):
            raise InputError(
                f"{' and '.join(needs)} compare captions with images in the space of an encoder; name one, such as "
                "ViT-B-32/openai, which published figures are of."
            )
        return names


class CaptionEvaluator:
    """The captions that a model writes for a data set, against its references."""

    def __init__(self, config: CaptionConfig | None = None) -> None:
        self.config = config or CaptionConfig()

    def run(
        self,
        captioner: Captioner,
        dataset: Dataset,
        *,
        encoder: Encoder | None = None,
        output: Path | None = None,
        progress: CountProgress | None = None,
    ) -> EvalResult:
        """Write a caption for each image, keep them in a new COCO result file `output`, and measure them.

        Raises InputError for pairs without captions, a metric that lacks its encoder, an `output` that exists or can't
        be written, and where no image can be read.
        """
        started = time.perf_counter()
        config = self.config
        names = config.choose_metrics(encoder)
        _check_references(dataset, names)
        if output is not None:
            check_writable(output)
        written = generate_captions(
            captioner, dataset, config.generation, batch_size=config.batch_size, progress=progress
        )
        if output is not None:
            ids = (pair.id for pair in written.dataset)
            write_results(output, dict(zip(ids, written.captions, strict=True)), dataset)
        measured = _measure(written.captions, written.dataset, names, encoder=encoder, config=config)
        measured["details"] = {
            "runtime": captioner.runtime, "generation": asdict(config.generation), **measured["details"]
        }  # fmt: skip
        measured["problems"] = written.problems + measured["problems"]
        return EvalResult(model=captioner.card.name, took_s=time.perf_counter() - started, **measured)


def evaluate_results_file(
    path: Path,
    dataset: Dataset,
    *,
    encoder: Encoder | None = None,
    config: CaptionConfig | None = None,
    progress: CountProgress | None = None,
) -> EvalResult:
    """Measure the captions of a COCO result file, `[{"image_id": 42, "caption": "..."}, ...]`; `model` is its path.

    The file must hold one caption for each image of the data set and no other. Raises InputError where it doesn't,
    for pairs without captions, and for a metric that lacks its encoder.
    """
    started = time.perf_counter()
    config = config or CaptionConfig()
    names = config.choose_metrics(encoder)
    _check_references(dataset, names)
    captions = read_results(path, dataset)
    measured = _measure(captions, dataset, names, encoder=encoder, config=config, progress=progress)
    return EvalResult(model=str(path), took_s=time.perf_counter() - started, **measured)


def _check_references(dataset: Dataset, names: Sequence[str]) -> None:
    without = [pair.id for pair in dataset if not pair.captions]
    if without and set(names) != {"CLIPScore"}:
        raise InputError(
            f"{len(without)} of the {len(dataset)} pictures of {dataset.name} have no captions to compare with, "
            f"such as {without[0]}; only CLIPScore needs none."
        )


def _measure(
    captions: Sequence[str],
    dataset: Dataset,
    names: Sequence[str],
    *,
    encoder: Encoder | None,
    config: CaptionConfig,
    progress: CountProgress | None = None,
) -> dict[str, Any]:
    """Fields of the EvalResult of one caption for each pair."""
    details: dict[str, Any] = {}
    problems: tuple[Problem, ...] = ()
    parts: list[Figures] = []
    if set(names) & set(WORD_METRICS):
        parts.append(score_words(captions, [pair.captions for pair in dataset]))
    if encoder is not None and set(names) & set(CLIP_METRICS):
        images = embed_images(encoder, dataset, batch_size=config.batch_size, progress=progress)
        parts.append(Figures.means(_score_by_clip(encoder, captions, dataset, images)))
        details = {"clipscore_model": encoder.card.name, "clipscore_images": len(images.image_BD)}
        problems = images.problems
    metrics, intervals = summarise(parts, config.bootstrap)
    return {
        "data": dataset.name,
        "split": dataset.split,
        "n_images": len(dataset),
        "n_texts": dataset.n_captions,
        "metrics": {name: metrics[name] for name in names if name in metrics},
        "intervals": {name: intervals[name] for name in names if name in intervals},
        "details": details,
        "problems": problems,
    }


def _score_by_clip(
    encoder: Encoder, captions: Sequence[str], dataset: Dataset, images: EmbeddedImages
) -> dict[str, NDArray[np.float64]]:
    """CLIPScore and, where all pairs have references, RefCLIPScore, of the images that could be read (N,)."""
    caption_ND = embed_texts(encoder, [PROMPT + captions[row] for row in images.row_B])
    scores = {"CLIPScore": clip_score(images.image_BD, caption_ND)}
    references = [dataset[row].captions for row in images.row_B]
    if all(references):
        owner_T = np.repeat(np.arange(len(references)), [len(texts) for texts in references])
        reference_TD = embed_texts(encoder, [PROMPT + text for texts in references for text in texts])
        scores["RefCLIPScore"] = ref_clip_score(scores["CLIPScore"], caption_ND, reference_TD, owner_T)
    return scores


@dataclass(frozen=True, kw_only=True)
class CaptionedDataset:
    """The images that could be read, each with the caption that a model wrote."""

    dataset: Dataset
    """The pairs of those images, in order."""
    captions: tuple[str, ...]
    problems: tuple[Problem, ...] = ()


def generate_captions(
    captioner: Captioner,
    dataset: Dataset,
    config: GenerationConfig,
    *,
    batch_size: int = 16,
    progress: CountProgress | None = None,
) -> CaptionedDataset:
    """Let a captioner write its best caption for each image; images that can't be read are left out, and named.

    Raises InputError where no image can be read.
    """
    if not len(dataset):
        raise InputError(f"{dataset.name} has no pictures in its split {dataset.split}.")
    rows: list[int] = []
    captions: list[str] = []
    problems: list[Problem] = []
    done = 0
    images = read_ahead(dataset, captioner.card.preprocessing, ahead=2 * batch_size)
    while batch := list(islice(images, batch_size)):
        problems += [image for image in batch if isinstance(image, Problem)]
        readable = {row: image for row, image in enumerate(batch, start=done) if not isinstance(image, Problem)}
        if readable:
            written = captioner.generate(np.stack(list(readable.values())), config)
            captions += [candidates[0].text if candidates else "" for candidates in written]
            rows += readable
        done += len(batch)
        if progress is not None:
            progress(done, len(dataset))
    if not rows:
        raise InputError(f"None of the {len(dataset)} pictures of {dataset.name} can be read: {problems[0].reason}.")
    readable_part = dataset.take(rows, why="readable") if problems else dataset
    return CaptionedDataset(dataset=readable_part, captions=tuple(captions), problems=tuple(problems))


def read_results(path: Path, dataset: Dataset) -> list[str]:
    """The caption of each image, in the order of the data set.

    An `image_id` is a pair's id, its file name, that without its ending, or the number at its end. Raises InputError
    for another structure, ids that the data set doesn't have or has several times, images that have no caption in
    the file, or several; each with its count.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else f"a JSON {type(content).__name__}"
        raise InputError(f"{path} holds {found}; {_EXPECTED}, one for each picture.")
    entries = [_check_entry(entry, where=f"{path}: entry {number}") for number, entry in enumerate(content)]
    rows = _find_rows([key for key, _ in entries], dataset, path=path)
    captions = dict(zip(rows, (caption for _, caption in entries), strict=True))
    if twice := [dataset[row].id for row, count in Counter(rows).items() if count > 1]:
        raise InputError(f"{path}: {_count(twice)} with several captions: {list_some(twice)}. Keep one for each.")
    if missing := [pair.id for row, pair in enumerate(dataset) if row not in captions]:
        raise InputError(
            f"{path} has no caption for {_count(missing)} of {dataset.name}'s {len(dataset)} ({dataset.split}): "
            f"{list_some(missing)}. Caption them too, or take the part of the data set that the file is of."
        )
    return [captions[row] for row in range(len(dataset))]


def write_results(path: Path, captions: Mapping[str, str], dataset: Dataset) -> None:
    """Write captions by pair id, in the order of the data set, whole or not at all.

    An `image_id` is the number at the end of the file's name where all images have one of their own, as COCO's tools
    take it, and the pair's id otherwise. Raises InputError where the file can't be written.
    """
    numbers = [_number(pair.id) for pair in dataset]
    numbered = None not in numbers and len(set(numbers)) == len(numbers)
    entries = [
        {"image_id": int(number) if number is not None and numbered else pair.id, "caption": captions[pair.id]}
        for number, pair in zip(numbers, dataset, strict=True)
        if pair.id in captions
    ]
    with explained(f"{path}, a file of captions,", "Name another file.", error=InputError):
        write_text(path, json.dumps(entries, ensure_ascii=False, indent=0) + "\n")


def check_writable(path: Path) -> None:
    """Known before the first caption is made. Raises InputError where the file exists or its folder can't be used."""
    if path.exists():
        raise InputError(f"{path} exists. Name another file for the captions, or delete it.")
    with explained(f"{path}, a file of captions,", "Name another file.", error=InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.unlink()


def _check_entry(entry: Any, *, where: str) -> tuple[str, str]:
    """Id as text, and caption."""
    key = entry.get("image_id") if isinstance(entry, dict) else None
    caption = entry.get("caption") if isinstance(entry, dict) else None
    if not isinstance(key, int | str) or isinstance(key, bool) or not isinstance(caption, str):
        raise InputError(f"{where} is {json.dumps(entry)[:80]}; {_EXPECTED}.")
    return str(key), caption


def _find_rows(keys: Sequence[str], dataset: Dataset, *, path: Path) -> list[int]:
    """The row that each id means. Raises InputError for ids that mean none, or several."""
    indexes: list[defaultdict[str | None, list[int]]] = [defaultdict(list) for _ in range(4)]
    for row, pair in enumerate(dataset):
        place = PurePosixPath(pair.id)
        for index, name in zip(indexes, (pair.id, place.name, place.stem, _number(pair.id)), strict=True):
            index[name].append(row)
    found = [next((index[key] for index in indexes if key in index), []) for key in keys]
    if unknown := [key for key, rows in zip(keys, found, strict=True) if not rows]:
        raise InputError(
            f"{path}: {_count(unknown)} that {dataset.name} ({dataset.split}) doesn't have: ids {list_some(unknown)}. "
            f"Its ids look like {dataset[0].id!r}; is this another split, or only a part of it?"
        )
    if unclear := [key for key, rows in zip(keys, found, strict=True) if len(rows) > 1]:
        raise InputError(f"{path}: {_count(unclear)} whose id fits several of {dataset.name}: {list_some(unclear)}.")
    return [rows[0] for rows in found]


def _number(id_: str) -> str | None:
    match = _NUMBER.search(PurePosixPath(id_).stem)
    return match[1] if match else None


def _count(ids: Sequence[str]) -> str:
    return "1 picture" if len(ids) == 1 else f"{len(ids)} pictures"
