"""An encoder run by ONNX Runtime, from our own graphs or a published export. Needs no torch.

Shape suffixes: B images, T texts, L length in tokens, S side in pixels, H W height and width, D joint space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import ModelCard
from sightline.core.models.layout import find_graphs
from sightline.core.models.onnx_session import OnnxGraph, available_providers, open_session
from sightline.core.models.tokenizing import Tokenizer
from sightline.core.types import ModelIdentity, Precision
from sightline.errors import ModelError
from sightline.kit.work import usable_cpus

IMAGES_PER_RUN = 32
CPU_IMAGES_PER_RUN = 8
"""Images given to the runtime at once. On CPUs a larger batch no longer fits into the caches: ViT-B/32 in int8 is a
seventh slower with 32, in fp32 a twentieth, and no choice between 4 and 16 is better by more than that."""

TEXTS_PER_RUN = 64
"""Texts given to the runtime at once; they are short."""

CPU = "CPUExecutionProvider"
_IMAGE_OUTPUTS = ("image_embeds", "pooler_output")
_TEXT_OUTPUTS = ("text_embeds", "pooler_output")
_MAP_OUTPUT = "feature_map"


@dataclass(frozen=True, kw_only=True)
class _Tower:
    """An open graph and the name of the output that holds its vectors."""

    graph: OnnxGraph
    output: str


class OnnxEncoder:
    """A CLIP-like encoder behind two ONNX graphs; see `models.base.Encoder` for the contract."""

    def __init__(
        self,
        card: ModelCard,
        folder: Path,
        *,
        weights_hash: str,
        threads: int | None = None,
        graphs: Mapping[str, Path] | None = None,
    ) -> None:
        """Take the graphs of a model folder, or `graphs` in their place, and its tokenizer.

        Each graph opens when it is first used, so words need no image tower. Raises ModelError where one is missing;
        then, on first use, where it is broken or not of this card.
        """
        graphs = graphs or find_graphs(folder, card)
        if graphs is None:
            raise ModelError(f"{folder} has no ONNX graphs for {card.name}: onnx/image.onnx and onnx/text.onnx.")
        self.card = card
        self.folder = folder
        self.precision: Precision = "int8" if ".int8." in graphs["image"].name else "fp32"
        if card.dim is None:
            raise ModelError(f"The card of {card.name} doesn't say how many dimensions its vectors have: `dim`.")
        self.dim = card.dim
        self.graphs: Mapping[str, Path] = graphs
        self._threads = threads
        self._image_towers: dict[bool, _Tower] = {}
        self._tokenizer = Tokenizer.load(folder, card.text)
        self._weights_hash = weights_hash

    @cached_property
    def _text_tower(self) -> _Tower:
        return _open_tower(self.graphs["text"], _TEXT_OUTPUTS, card=self.card, threads=self._threads)

    @property
    def runtime(self) -> str:
        """ONNX Runtime and the execution provider that runs the image tower."""
        tower = next(iter(self._image_towers.values()), None) or self._image_tower(1)
        return f"onnx:{tower.graph.provider}"

    @property
    def identity(self) -> ModelIdentity:
        """Name, weights, preprocessing and dimension: what a store compares."""
        return self.card.make_identity(self._weights_hash)

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized RGB pixels (B, S, S, 3) uint8 -> (B, D) float32, rows L2-normalised."""
        tower = self._image_tower(len(pixels_BHW3))
        return normalise_rows(self._run_images(tower, pixels_BHW3, tower.output))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts, truncated to the context length -> (T, D) float32, rows L2-normalised."""
        tower = self._text_tower
        # Dynamic int8 scales activations by the largest of a run: alone, a text's vector depends on nothing else.
        alone = ".int8." in tower.graph.path.name and not tower.graph.rows_independent
        per_run = 1 if alone else TEXTS_PER_RUN
        return encode_sorted(self._tokenizer, texts, encode=self._run_texts, dim=self.dim, per_run=per_run)

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """The last feature map in the joint space (B, H, W, D), not normalised; None where the graph has none."""
        tower = self._image_tower(len(pixels_BHW3))
        if _MAP_OUTPUT not in tower.graph.outputs:
            return None
        return self._run_images(tower, pixels_BHW3, _MAP_OUTPUT)

    def _image_tower(self, count: int) -> _Tower:
        """The image tower for so many images: many keep each CPU busy by itself, few are shared by all CPUs.

        Runs side by side never wait for each other within a picture, which threads of one run do after every layer.
        """
        cpus = usable_cpus()
        many = count >= 2 * cpus > 2 and self._threads is None and available_providers()[0] == CPU
        side_by_side = many or True in self._image_towers  # a second copy of the weights isn't worth its memory
        if side_by_side not in self._image_towers:
            threads = 1 if side_by_side else self._threads
            tower = _open_tower(self.graphs["image"], _IMAGE_OUTPUTS, card=self.card, threads=threads)
            self._image_towers[side_by_side] = tower
        return self._image_towers[side_by_side]

    def _run_images(self, tower: _Tower, pixels_BHW3: NDArray[np.uint8], output: str) -> NDArray[np.float32]:
        graph = tower.graph
        name = graph.inputs[0]
        takes_pixels = graph.dtype(name) is np.uint8  # normalisation is part of the graph
        per_run = CPU_IMAGES_PER_RUN if graph.provider == CPU else IMAGES_PER_RUN

        def run(batch_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
            batch = batch_BHW3 if takes_pixels else self.card.preprocessing.normalise(batch_BHW3)
            result: NDArray[np.float32] = graph.run({name: batch}, [output])[output]
            return result

        if tower is self._image_towers.get(True):
            per_run = min(per_run, max(1, math.ceil(len(pixels_BHW3) / usable_cpus())))
            parts = list(self._cpus.map(run, pixel_batches(self.card, pixels_BHW3, per_run=per_run)))
        else:
            parts = [run(batch) for batch in pixel_batches(self.card, pixels_BHW3, per_run=per_run)]
        return np.concatenate(parts)[: len(pixels_BHW3)]

    @cached_property
    def _cpus(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(usable_cpus(), thread_name_prefix="image-tower")

    def _run_texts(self, ids_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        # A mask of ones is right for all families: CLIP is causal, and SigLIP was trained to read its padding.
        feeds = {"input_ids": ids_TL, "attention_mask": np.ones_like(ids_TL)}
        tower = self._text_tower
        embeds_TD: NDArray[np.float32] = tower.graph.run(feeds, [tower.output])[tower.output]
        return embeds_TD


def pixel_batches(
    card: ModelCard, pixels_BHW3: NDArray[np.uint8], *, per_run: int = IMAGES_PER_RUN
) -> Iterator[NDArray[np.uint8]]:
    """Pixels (B, S, S, 3) uint8 -> batches (b, S, S, 3) of a bounded size.

    No images give a batch of one black image, whose result the caller cuts off: empty batches fail in some published
    graphs. Raises ModelError unless the pixels are what the card's `preprocessing.resize` makes.
    """
    side = card.preprocessing.size_px
    if pixels_BHW3.ndim != 4 or pixels_BHW3.shape[1:] != (side, side, 3) or pixels_BHW3.dtype != np.uint8:
        raise ModelError(
            f"{card.name} takes uint8 pixels of shape (B, {side}, {side}, 3); got {pixels_BHW3.dtype} "
            f"{pixels_BHW3.shape}. Use card.preprocessing.resize on each image."
        )
    if len(pixels_BHW3) == 0:
        pixels_BHW3 = np.zeros((1, side, side, 3), np.uint8)
    for start in range(0, len(pixels_BHW3), per_run):
        yield pixels_BHW3[start : start + per_run]


def normalised_batches(
    card: ModelCard, pixels_BHW3: NDArray[np.uint8], *, per_run: int = IMAGES_PER_RUN
) -> Iterator[NDArray[np.float32]]:
    """As `pixel_batches`, normalised and with channels first: (b, 3, S, S) float32."""
    return map(card.preprocessing.normalise, pixel_batches(card, pixels_BHW3, per_run=per_run))


def encode_sorted(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    encode: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    dim: int,
    per_run: int = TEXTS_PER_RUN,
) -> NDArray[np.float32]:
    """Texts -> L2-normalised rows (T, D) in the order given, computed in batches of texts of like length.

    A batch is padded to its longest text, so sorting by length first saves most of the padding.
    """
    embeds_TD = np.zeros((len(texts), dim), np.float32)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), per_run):
        chosen = order[start : start + per_run]
        embeds_TD[chosen] = encode(tokenizer.encode([texts[index] for index in chosen]))
    return normalise_rows(embeds_TD)


def normalise_rows(x_BD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; a row of zeros stays one."""
    norm_B1 = np.linalg.norm(x_BD, axis=1, keepdims=True)
    unit_BD: NDArray[np.float32] = (x_BD / np.maximum(norm_B1, 1e-12)).astype(np.float32, copy=False)
    return unit_BD


def _open_tower(path: Path, names: Sequence[str], *, card: ModelCard, threads: int | None) -> _Tower:
    graph = open_session(path, threads=threads)
    output = next((name for name in names if name in graph.outputs), None)
    if output is None:
        raise ModelError(
            f"{graph.path} has the outputs {', '.join(graph.outputs)}; expected one of {', '.join(names)}."
        )
    declared = graph.shape(output)[-1]
    if isinstance(declared, int) and declared != card.dim:
        raise ModelError(f"{graph.path} gives {declared} dimensions, the card of {card.name} says {card.dim}.")
    return _Tower(graph=graph, output=output)
