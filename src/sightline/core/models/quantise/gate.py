"""The gate: an encoder's int8 towers, made once of its fp32 graphs, may stand in for them where vectors stay the same.

Transformers become int8 row by row (`products`), convolutional towers with fixed ranges (`towers.quantise_static`).
Where a tower fails, its layers that suffer most go back to fp32, twice as many each time, until it passes or too little
would be left.

Shape suffixes: B rows of one tower, N rows among which neighbours are looked for, S side in pixels, D joint space.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from sightline.core.models import precision
from sightline.core.models.base import Encoder
from sightline.core.models.cards import ModelCard
from sightline.core.models.files import TORCH_ADVICE, compute_hash, find_graphs, only_int8, resolve_folder
from sightline.core.models.inputs import Tokenizer
from sightline.core.models.loading import fp32_graphs
from sightline.core.models.onnx_runtime import OnnxEncoder
from sightline.errors import InputError, ModelError
from sightline.kit import config
from sightline.kit.work import Notice

Measure = Callable[[OnnxEncoder], dict[str, float]]
"""Gives the figures of an encoder with one tower in int8 against the one in fp32."""
_LOG = logging.getLogger(__name__)
_CALIBRATION_IMAGES = 128
_RANKING_TEXTS = 32
_BATCH = 8
_SUBJECTS = (
    "a dog; two children; an old woman with a red umbrella; a white cat; three men in suits; a bicycle; a birthday "
    "cake with candles; a black horse; a group of friends; a small boat; a bride and groom; a yellow car; birds; a "
    "boy with a ball; flowers in a vase; a train"
)
_PLACES = (
    "; in the snow; on a beach at sunset; in a crowded street at night; next to a wooden table; in front of a "
    "mountain lake; in a kitchen; under a tree in autumn; on a football field; in black and white; in the rain, "
    "seen through a window; at a party; near an old stone bridge; in tall grass; on a white background; in a museum"
)


def needs_gate(encoder: Encoder) -> bool:
    """True where asking the gate could make an encoder faster: it runs fp32 on the CPU, never judged."""
    if not isinstance(encoder, OnnxEncoder) or encoder.precision == "int8":
        return False
    if config.precision() != "auto" or not precision.runs_on_cpu() or find_spec("onnx") is None:
        return False
    graphs = find_graphs(encoder.folder, encoder.card)  # its own may be mixed: a tower each
    return graphs is not None and "image" not in precision.read_verdicts(graphs)


def quantise_encoder(
    card: ModelCard,
    pixels_BSS3: NDArray[np.uint8],
    *,
    sample: str = "images",
    gate: precision.EncoderGate | None = None,
    tell: Notice | None = None,
) -> dict[str, precision.Verdict]:
    """Make a model's int8 towers, let the gate judge them on these images, keep both; the verdicts by tower.

    `pixels_BSS3` are what the card's `preprocessing.resize` makes of at least `gate.min_images` images; more are not
    looked at. Raises InputError where they are fewer, ModelError where the model has no fp32 graphs or `onnx` is
    missing.
    """
    gate = gate or precision.EncoderGate()
    if len(pixels_BSS3) < gate.min_images:
        raise InputError(f"The gate needs {gate.min_images} pictures that can be read; these are {len(pixels_BSS3)}.")
    if find_spec("onnx") is None:
        raise ModelError(f"Making int8 graphs needs the package onnx; {TORCH_ADVICE}.")
    card, folder, graphs = fp32_graphs(card, resolve_folder(card))
    if only_int8(graphs):
        raise ModelError(f"{card.name} comes in int8 only; there is nothing to quantise.")
    pixels_BSS3, tell = pixels_BSS3[: gate.min_images], tell or _LOG.warning
    return _Job(card=card, folder=folder, graphs=graphs, pixels_BSS3=pixels_BSS3, gate=gate, tell=tell).run(sample)


@dataclass(kw_only=True)
class _Job:
    """One model on its way through the gate."""

    card: ModelCard
    folder: Path
    graphs: Mapping[str, Path]
    pixels_BSS3: NDArray[np.uint8]
    gate: precision.EncoderGate
    tell: Notice

    def run(self, sample: str) -> dict[str, precision.Verdict]:
        """Both towers, the image tower first: words are compared by the images they find."""
        self.tell(f"Making int8 graphs of {self.card.name} and comparing them with fp32; this is done once.")
        fp32 = self._encoder(self.graphs)
        images_BD = fp32.encode_images(self.pixels_BSS3)
        sentences = gate_sentences()
        texts_TD = fp32.encode_texts(sentences)
        del fp32

        def judge_images(encoder: OnnxEncoder) -> dict[str, float]:
            return compare_vectors(encoder.encode_images(self.pixels_BSS3), images_BD, gate=self.gate)

        def judge_texts(encoder: OnnxEncoder) -> dict[str, float]:
            return compare_vectors(encoder.encode_texts(sentences), texts_TD, gate=self.gate, among_ND=images_BD)

        return {
            "image": self._judge("image", judge_images, n_samples=len(images_BD), sample=sample),
            "text": self._judge("text", judge_texts, n_samples=len(sentences), sample="sentences"),
        }

    def _judge(self, name: str, measure: Measure, *, n_samples: int, sample: str) -> precision.Verdict:
        started = time.monotonic()
        folder = precision.quantised_folder(self.graphs)
        target = precision.int8_path(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        runtime, required = f"onnxruntime {ort.__version__}", self.gate.required
        verdict = precision.Verdict(
            passed=False, measured={}, required=required, n_samples=n_samples, sample=sample, runtime=runtime
        )
        with tempfile.TemporaryDirectory(dir=target.parent) as partial:
            path = Path(partial) / target.name
            try:
                verdict = self._try(name, path, measure, verdict)
            except Exception as error:  # of whatever class onnx's tools raise: it runs in fp32, and this says why
                verdict = replace(verdict, problem=f"{type(error).__name__}: {error}".splitlines()[0])
            if verdict.passed:
                verdict = replace(verdict, files={f"onnx/{target.name}": compute_hash(path)})
                path.replace(target)
        verdict = replace(verdict, took_s=round(time.monotonic() - started, 1))
        precision.write_verdict(folder, name, verdict)
        self.tell(f"{self.card.name}, {name} tower: int8 {verdict.describe()} ({verdict.took_s:.0f} s)")
        return verdict

    def _try(self, name: str, path: Path, measure: Measure, verdict: precision.Verdict) -> precision.Verdict:
        """Measure one attempt after the other, until one passes: the last one's verdict, its graph at `path`."""
        for keep, share in self._attempts(name, path):
            measured = measure(self._encoder({**self.graphs, name: path}))
            verdict = replace(
                verdict,
                passed=self.gate.passes(measured),
                measured={key: round(value, 6) for key, value in measured.items()},
                int8_share=round(share, 4),
                kept_fp32=keep,
            )
            if verdict.passed:
                break
        return verdict

    def _attempts(self, name: str, path: Path) -> Iterator[tuple[tuple[str, ...], float]]:
        """Graphs written to `path` in turn, with ever more layers left in fp32: those layers' names, int8's share."""
        from sightline.core.models.quantise.towers import open_tower

        preprocessing = self.card.preprocessing if name == "image" else None
        tower = open_tower(self.graphs[name], self._batches(name), preprocessing=preprocessing)
        yield (), tower.write(path, keep=())
        self.tell(f"{self.card.name}, {name} tower: not close enough yet; looking for the layers to leave in fp32.")
        ranked = tower.layers()
        count = 1
        while count < len(ranked):
            keep = tuple(layer for group in ranked[:count] for layer in group)
            if (share := tower.write(path, keep=keep)) < self.gate.min_int8_share:
                return
            yield keep, share
            count *= 2

    def _batches(self, name: str) -> list[dict[str, NDArray[Any]]]:
        """Inputs of the graph to calibrate and rank with, for a part of the images or sentences."""
        if name == "text":
            tokenizer = Tokenizer.load(self.folder, self.card.text)
            ids_TL = tokenizer.encode(gate_sentences()[:: len(gate_sentences()) // _RANKING_TEXTS])
            return [{"input_ids": ids_TL, "attention_mask": np.ones_like(ids_TL)}]
        pixels_BSS3 = self.pixels_BSS3[:_CALIBRATION_IMAGES]
        parts = (pixels_BSS3[start : start + _BATCH] for start in range(0, len(pixels_BSS3), _BATCH))
        return [{"pixel_values": self.card.preprocessing.normalise(part)} for part in parts]

    def _encoder(self, graphs: Mapping[str, Path]) -> OnnxEncoder:
        return OnnxEncoder(self.card, self.folder, weights_hash="unused", graphs=graphs)


def compare_vectors(
    int8_BD: NDArray[np.float32],
    fp32_BD: NDArray[np.float32],
    *,
    gate: precision.EncoderGate,
    among_ND: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Cosines of unit rows to their originals, and the overlap of their nearest neighbours.

    Neighbours are looked for among the rows of `among_ND`, for both; without it each row's among the others of its own
    kind, the row itself left out.
    """
    cosine_B = (int8_BD * fp32_BD).sum(axis=1)
    nearest = [_nearest(rows_BD, among_ND, gate.neighbours) for rows_BD in (int8_BD, fp32_BD)]
    shared = [len(np.intersect1d(*pair)) for pair in zip(*nearest, strict=True)]
    return {
        "cosine_mean": float(cosine_B.mean()),
        "cosine_low": float(np.percentile(cosine_B, gate.low_percentile)),
        "neighbour_overlap": float(np.mean(shared)) / gate.neighbours,
    }


def _nearest(rows_BD: NDArray[np.float32], among_ND: NDArray[np.float32] | None, count: int) -> NDArray[np.intp]:
    similarity_BN = rows_BD @ (rows_BD if among_ND is None else among_ND).T
    if among_ND is None:
        np.fill_diagonal(similarity_BN, -np.inf)
    nearest: NDArray[np.intp] = np.argpartition(-similarity_BN, count, axis=1)[:, :count]
    return nearest


def gate_sentences() -> list[str]:
    """256 sentences of two to fourteen words, on which text towers are compared: their users' own aren't known yet."""
    return [f"{subject} {place}".strip() for subject in _SUBJECTS.split("; ") for place in _PLACES.split("; ")]
