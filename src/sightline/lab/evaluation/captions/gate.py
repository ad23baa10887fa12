"""The gate of a captioner's int8 graphs, which may replace its fp32 ones: their greedy captions are compared."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.decode import read_image
from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import find_card
from sightline.core.models.files import only_int8, resolve_folder
from sightline.core.models.loading import fp32_graphs
from sightline.core.models.onnx_runtime import OnnxCaptioner
from sightline.core.models.precision import (
    VERDICT_NAME,
    CaptionerGate,
    Verdict,
    make_int8,
    quantised_folder,
    write_verdict,
)
from sightline.errors import ImageError, InputError, ModelError
from sightline.lab.evaluation.captions.metrics import cider
from sightline.lab.evaluation.captions.tokenizing import tokenize_caption

_GREEDY = GenerationConfig(beams=1)


def gate_captioner(model: str, images: Iterable[Path], *, thresholds: CaptionerGate | None = None) -> Verdict:
    """Compare a captioner's int8 graphs with its fp32 ones on images, and keep the verdict with the graphs.

    From then on `load_captioner` runs int8 where they passed. The graphs are made where they are missing. Images that
    can't be read are passed over. Raises InputError for fewer readable images than the thresholds ask for, ModelError
    where the model can't run or comes in int8 only.
    """
    started = time.monotonic()
    thresholds = thresholds or CaptionerGate()
    card = find_card(model)
    card, folder, graphs = fp32_graphs(card, resolve_folder(card))
    if only_int8(graphs):
        raise ModelError(f"{card.name} comes in int8 only: there is nothing to compare it with.")
    fp32, int8 = OnnxCaptioner(card, folder, graphs=graphs), OnnxCaptioner(card, folder, graphs=make_int8(graphs))
    texts: tuple[list[str], list[str]] = ([], [])
    for batch_BSS3 in _batches(images, card.preprocessing):
        for captioner, written in zip((fp32, int8), texts, strict=True):
            captions = captioner.generate(batch_BSS3, _GREEDY)
            written += [several[0].text if several else "" for several in captions]
    if len(texts[0]) < thresholds.min_images:
        raise InputError(
            f"int8 of {card.name} is judged by at least {thresholds.min_images} pictures; {len(texts[0])} can be read."
        )
    verdict = judge(*texts, thresholds=thresholds)
    verdict = replace(verdict, took_s=time.monotonic() - started, runtime=int8.runtime)
    write_verdict(quantised_folder(graphs), VERDICT_NAME, verdict)
    return verdict


def judge(fp32: Sequence[str], int8: Sequence[str], *, thresholds: CaptionerGate) -> Verdict:
    """The verdict on two precisions by the two captions that they wrote of each image."""
    identical = sum(a == b for a, b in zip(fp32, int8, strict=True)) / len(fp32)
    references = [[tokenize_caption(text)] for text in fp32]
    own, other = (float(cider([tokenize_caption(text) for text in texts], references).mean()) for texts in (fp32, int8))
    # Captions that are all alike have no n-gram that tells images apart: CIDEr then says nothing.
    ratio = other / own if own > 0 else 0.0
    return Verdict(
        passed=identical >= thresholds.identical or ratio >= thresholds.cider_ratio,
        measured={"identical": identical, "cider_ratio": ratio},
        required=thresholds.required,
        n_samples=len(fp32),
        sample="pictures",
    )


def _batches(images: Iterable[Path], preprocessing: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    """Resized pixels of what can be read, some at a time."""
    readable = (pixels for path in images if (pixels := _read(path, preprocessing)) is not None)
    while batch := list(islice(readable, 16)):
        yield np.stack(batch)


def _read(path: Path, preprocessing: Preprocessing) -> NDArray[np.uint8] | None:
    try:
        return preprocessing.resize(read_image(path, min_side_px=preprocessing.size_px).rgb)
    except ImageError:
        return None
