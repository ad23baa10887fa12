"""An encoder's int8 towers: made once of its fp32 graphs, judged by the gate, chosen when the encoder is loaded.

Transformers become int8 row by row (`products`), convolutional towers with fixed ranges (`quantise.quantise_static`).
Where a tower fails, its layers that suffer most go back to fp32, twice as many each time, until it passes or too little
would be left.
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

from sightline.core.models.base import Encoder, ModelCard
from sightline.core.models.encoders import encoder_graphs
from sightline.core.models.gate import EncoderGate, compare_vectors, gate_sentences
from sightline.core.models.hashes import compute_hash, hash_file
from sightline.core.models.layout import TORCH_ADVICE, find_graphs
from sightline.core.models.onnx_encoder import OnnxEncoder
from sightline.core.models.onnx_session import available_providers
from sightline.core.models.precision import Verdict, int8_path, quantised_folder, read_verdict, write_verdict
from sightline.core.models.resolve import resolve_folder
from sightline.core.models.tokenizing import Tokenizer
from sightline.errors import InputError, ModelError
from sightline.kit import config
from sightline.kit.config import PrecisionChoice

Measure = Callable[[OnnxEncoder], dict[str, float]]
"""What an encoder with one tower in int8 reaches against the one in fp32."""

Tell = Callable[[str], None]
"""Takes a line for the person."""

_LOG = logging.getLogger(__name__)
_CALIBRATION_IMAGES = 128
_RANKING_TEXTS = 32
_BATCH = 8


def choose_graphs(graphs: Mapping[str, Path], precision: PrecisionChoice | None = None) -> dict[str, Path]:
    """The graphs that run: those given, or for each tower its int8 twin.

    A twin runs where the gate has passed it; never with `fp32`, with `auto` only on the CPU, and `int8` insists on that
    of the image tower. None is `config.precision()`. Raises ModelError where fp32 is asked of graphs that come in int8
    only, such as the starter's, or int8 where the gate hasn't passed it.
    """
    wanted = precision or config.precision()
    if only_int8(graphs):
        refuse_fp32(graphs, wanted)
        return dict(graphs)
    if wanted == "fp32" or (wanted == "auto" and not _on_cpu()):
        return dict(graphs)
    verdicts = read_verdicts(graphs)
    if wanted == "int8" and not ("image" in verdicts and verdicts["image"].passed):
        said = verdicts["image"].describe() if "image" in verdicts else "it has not been asked yet"
        raise ModelError(
            f"The gate has not passed int8 of {graphs['image']}: {said}. Use the precision auto or fp32, or let it "
            f"judge by {EncoderGate().min_images} or more of your pictures: sightline models quantise NAME --images DIR"
        )
    folder = quantised_folder(graphs)
    passed = {name: int8_path(folder, name) for name, verdict in verdicts.items() if verdict.passed}
    return {**graphs, **passed}


def only_int8(graphs: Mapping[str, Path]) -> bool:
    """Whether a model comes in int8 only."""
    return any(".int8." in path.name for path in graphs.values())


def refuse_fp32(graphs: Mapping[str, Path], wanted: PrecisionChoice) -> None:
    """Raise ModelError where fp32 is wanted of graphs that come in int8 only."""
    if wanted == "fp32":
        folder = next(iter(graphs.values())).parent
        raise ModelError(
            f"The precision fp32 was asked for, but {folder} holds int8 graphs only. Use the precision auto or int8 "
            "(--precision, SIGHTLINE_PRECISION), or a model with weights in fp32: sightline models list"
        )


def read_verdicts(graphs: Mapping[str, Path], gate: EncoderGate | None = None) -> dict[str, Verdict]:
    """What the gate has said of each tower; nothing where a graph that it passed is missing or damaged."""
    folder = quantised_folder(graphs)
    required = (gate or EncoderGate()).required
    verdicts = {name: read_verdict(folder, name, required=required) for name in graphs}
    return {
        name: verdict
        for name, verdict in verdicts.items()
        if verdict is not None and (not verdict.passed or _is_whole(int8_path(folder, name), verdict))
    }


def needs_gate(encoder: Encoder) -> bool:
    """Whether asking the gate could make an encoder faster: it runs fp32 graphs on the CPU that were never judged."""
    if config.precision() != "auto" or not _on_cpu() or find_spec("onnx") is None:
        return False
    if not isinstance(encoder, OnnxEncoder) or encoder.precision == "int8":
        return False
    graphs = find_graphs(encoder.folder, encoder.card)  # its own may be mixed: a tower each
    return graphs is not None and "image" not in read_verdicts(graphs)


def quantise_encoder(
    card: ModelCard,
    pixels_BSS3: NDArray[np.uint8],
    *,
    sample: str = "images",
    gate: EncoderGate | None = None,
    tell: Tell | None = None,
) -> dict[str, Verdict]:
    """Make a model's int8 towers, let the gate judge them on these pictures, keep both; the verdicts by tower.

    `pixels_BSS3` are what the card's `preprocessing.resize` makes of at least `gate.min_images` pictures; more are not
    looked at. Raises InputError where they are fewer, ModelError where the model has no fp32 graphs or `onnx` is
    missing.
    """
    gate = gate or EncoderGate()
    if len(pixels_BSS3) < gate.min_images:
        raise InputError(f"The gate needs {gate.min_images} pictures that can be read; these are {len(pixels_BSS3)}.")
    _require_onnx()
    card, folder, graphs = _fp32_graphs(card)
    if graphs is None:
        raise ModelError(f"{card.name} comes in int8 only; there is nothing to quantise.")
    job = _Job(
        card=card,
        folder=folder,
        graphs=graphs,
        pixels_BSS3=pixels_BSS3[: gate.min_images],
        gate=gate,
        tell=tell or _LOG.warning,
    )
    return job.run(sample)


@dataclass(kw_only=True)
class _Job:
    """One model on its way through the gate."""

    card: ModelCard
    folder: Path
    graphs: Mapping[str, Path]
    pixels_BSS3: NDArray[np.uint8]
    gate: EncoderGate
    tell: Tell

    def run(self, sample: str) -> dict[str, Verdict]:
        """Both towers, the image tower first: words are compared by the pictures they find."""
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

    def _judge(self, name: str, measure: Measure, *, n_samples: int, sample: str) -> Verdict:
        started = time.monotonic()
        folder = quantised_folder(self.graphs)
        target = int8_path(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        verdict = Verdict(
            passed=False,
            measured={},
            required=self.gate.required,
            n_samples=n_samples,
            sample=sample,
            runtime=f"onnxruntime {ort.__version__}",
        )
        with tempfile.TemporaryDirectory(dir=target.parent) as partial:
            path = Path(partial) / target.name
            try:
                verdict = self._try(name, path, measure, verdict)
            except (
                Exception
            ) as error:  # of whatever class onnx's tools raise: the model runs in fp32, and this says why
                verdict = replace(verdict, problem=f"{type(error).__name__}: {error}".splitlines()[0])
            if verdict.passed:
                verdict = replace(verdict, files={f"onnx/{target.name}": compute_hash(path)})
                path.replace(target)
        verdict = replace(verdict, took_s=round(time.monotonic() - started, 1))
        write_verdict(folder, name, verdict)
        self.tell(f"{self.card.name}, {name} tower: int8 {verdict.describe()} ({verdict.took_s:.0f} s)")
        return verdict

    def _try(self, name: str, path: Path, measure: Measure, verdict: Verdict) -> Verdict:
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
        from sightline.core.models.quantised_tower import open_tower

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
        """What calibrates and ranks: inputs of the graph, for a part of the pictures or sentences."""
        if name == "text":
            tokenizer = Tokenizer.load(self.folder, self.card.text)
            ids_TL = tokenizer.encode(gate_sentences()[:: len(gate_sentences()) // _RANKING_TEXTS])
            return [{"input_ids": ids_TL, "attention_mask": np.ones_like(ids_TL)}]
        pixels_BSS3 = self.pixels_BSS3[:_CALIBRATION_IMAGES]
        parts = (pixels_BSS3[start : start + _BATCH] for start in range(0, len(pixels_BSS3), _BATCH))
        return [{"pixel_values": self.card.preprocessing.normalise(part)} for part in parts]

    def _encoder(self, graphs: Mapping[str, Path]) -> OnnxEncoder:
        return OnnxEncoder(self.card, self.folder, weights_hash="unused", graphs=graphs)


def _fp32_graphs(card: ModelCard) -> tuple[ModelCard, Path, dict[str, Path] | None]:
    """A card's fp32 graphs with its card and folder; None where it comes in int8 only."""
    card, folder, graphs = encoder_graphs(card, resolve_folder(card))
    return card, folder, None if only_int8(graphs) else graphs


def _on_cpu() -> bool:
    return available_providers()[0] == "CPUExecutionProvider"


def _is_whole(path: Path, verdict: Verdict) -> bool:
    return path.is_file() and hash_file(path) == verdict.files.get(f"onnx/{path.name}")


def _require_onnx() -> None:
    if find_spec("onnx") is None:
        raise ModelError(f"Making int8 graphs needs the package onnx; {TORCH_ADVICE}.")
