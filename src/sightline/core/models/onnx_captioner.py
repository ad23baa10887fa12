"""Captioners on ONNX Runtime: an image graph, run once an image, and a decoder graph over its output, once a token.

Decoder graphs that we export take what is kept of earlier tokens as inputs, and compute the new ones alone. Older ones
(and the starter's, which is small) have none and compute all tokens again; the graph's inputs tell.

Shape suffixes: B images, N rows of the decoder, G of them with padding, L tokens, M cells of an image's memory, C its
width, V vocabulary; A images with running rows, R rows of each, K heads, P earlier tokens, F width of a head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.cards import ModelCard
from sightline.core.models.files import find_graphs, hash_file
from sightline.core.models.generation import Decoder
from sightline.core.models.inputs import Tokenizer, normalised_batches
from sightline.core.models.onnx_runtime import OnnxGraph, open_session
from sightline.core.models.sentences import SentenceWriter
from sightline.core.types import Precision
from sightline.errors import ModelError

IMAGES_PER_RUN = 2
"""Images given to the image graph at once: its activations then stay in a CPU's cache."""

ROWS_PER_RUN = 16
"""Rows given to a decoder graph without a cache at once: its logits (N, L, V) are large, and more rows no faster."""

MATCHED_AT_ONCE = 32
"""Images whose memories are read with one text at once: as many rows as `_CachedDecoder` scores in one run."""

SMALL_DECODER_BYTES = 16_000_000
"""An int8 decoder graph up to this size runs on one thread: more are no faster (16 images of the starter's: 54 ms on
one and on two), and how they split the rows changes a sum's last bits, which int8 can round otherwise."""


class OnnxCaptioner(SentenceWriter[NDArray[np.float32]]):
    """A captioner from `onnx/image[.int8].onnx` and `onnx/decoder[.int8].onnx` of a model folder.

    The graphs: `pixel_values` float (B, 3, S, S) -> `encoder_hidden_states` (B, M, C), and the decoder: `input_ids`
    int64 (A, R, L) with `encoder_hidden_states` (A, M, C) and, for each layer, `past_key_I` and `past_value_I`
    (A, R, K, P, F) -> `logits` (A, R, L, V) and `present_key_I`, `present_value_I`. Without cache `input_ids` are
    (N, L) with `encoder_hidden_states` (N, M, C), and `logits` (N, L, V) all there is.
    """

    def __init__(
        self, card: ModelCard, folder: Path, *, graphs: Mapping[str, Path] | None = None, threads: int | None = None
    ) -> None:
        """Open the graphs of a model folder, or others of the same weights: `graphs`, keyed `image` and `decoder`.

        Raises ModelError where one is missing or broken.
        """
        graphs = graphs or find_graphs(folder, card)
        if graphs is None:
            raise ModelError(
                f"{folder} lacks the graphs of a captioner, onnx/image.onnx and onnx/decoder.onnx. Use the runtime "
                "torch, or let the extra `torch` export them."
            )
        super().__init__(card, Tokenizer.load(folder, card.text))
        self.precision: Precision = "int8" if any(".int8." in path.name for path in graphs.values()) else "fp32"
        self._image = open_session(graphs["image"], threads=threads)
        small = ".int8." in graphs["decoder"].name and graphs["decoder"].stat().st_size <= SMALL_DECODER_BYTES
        self._decoder = open_session(graphs["decoder"], threads=1 if small else threads)
        self.runtime = f"onnx:{self._decoder.provider}"

    @cached_property
    def image_side(self) -> str:
        """The image graph's content, and what is done to pixels before it."""
        return hashlib.blake2b(
            f"{hash_file(self._image.path)} {self.card.preprocessing}".encode(), digest_size=16
        ).hexdigest()

    def see(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized RGB pixels (B, S, S, 3) uint8 -> what the decoder reads of each image (B, M, C)."""
        batches = normalised_batches(self.card, pixels_BHW3, per_run=IMAGES_PER_RUN)
        return np.concatenate([self._see(batch) for batch in batches])[: len(pixels_BHW3)]

    def match(self, memory_BMC: NDArray[np.float32], text: str) -> NDArray[np.float32]:
        """Log p(text | image) (B,): the sum over the text's tokens, as far as the model's context reaches, and EOS.

        By Bayes' rule this ranks images as p(image | text) does where all are equally probable beforehand: the
        probability of the text without an image is the same for each of them.
        """
        n_tokens = min(len(self._tokenizer.ids(text, add_special=False)), self.card.text.context_length - 1) + 1
        means: list[float] = []
        for first in range(0, len(memory_BMC), MATCHED_AT_ONCE):
            part = memory_BMC[first : first + MATCHED_AT_ONCE]
            means += [scores[0] for scores in self._score(self._describe(part), [[text]] * len(part))]
        return np.array(means, np.float32) * n_tokens

    def _see(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        starts = range(0, len(pixel_values), IMAGES_PER_RUN)
        parts = [self._image.run({"pixel_values": pixel_values[first : first + IMAGES_PER_RUN]}) for first in starts]
        return np.concatenate([part["encoder_hidden_states"] for part in parts])

    def _describe(self, memory_BMC: NDArray[np.float32]) -> Decoder:
        kind = _CachedDecoder if "past_key_0" in self._decoder.inputs else _PlainDecoder
        return kind(self._decoder, memory_BMC)


class _CachedDecoder:
    """A decoder graph with a cache, bound to the memory of a batch of images, with the states of its last call.

    Where every row goes on from a row of the last call by one token, as in decoding, only that token is computed; beam
    search thereby reorders the states. Rows never influence each other, in int8 graphs neither: see `products`.
    """

    scored_rows = 32

    def __init__(self, graph: OnnxGraph, memory_BMC: NDArray[np.float32]) -> None:
        self._graph = graph
        self._memory_BMC = memory_BMC
        self._selected = tuple(range(len(memory_BMC))), memory_BMC
        self._past_names = [name for name in graph.inputs if name.startswith("past_")]
        self._present_names = [f"present_{name.removeprefix('past_')}" for name in self._past_names]
        self._states_GKPF: list[NDArray[np.float32]] = []
        self._place_of: dict[tuple[int, ...], int] = {}

    def next_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = [(image, *ids) for image, ids in zip(images_N.tolist(), ids_NL.tolist(), strict=True)]
        grid = _Grid(images_N)
        parents = [self._place_of.get(row[:-1]) for row in rows]
        if None in parents:
            output = self._run(ids_NL, grid, self._no_past(len(grid.rows_G)))
        else:
            output = self._run(ids_NL[:, -1:], grid, self._select(np.array(parents)[grid.rows_G]))
        self._states_GKPF = [output[name].reshape(-1, *output[name].shape[2:]) for name in self._present_names]
        self._place_of = {row: int(place) for row, place in zip(rows, grid.place_N, strict=True)}
        return _rows(output["logits"], grid)[:, -1]

    def all_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        grid = _Grid(images_N)
        return _rows(self._run(ids_NL, grid, self._no_past(len(grid.rows_G)), ["logits"])["logits"], grid)

    def _run(
        self,
        ids_NL: NDArray[np.int64],
        grid: _Grid,
        past_GKPF: Sequence[NDArray[np.float32]],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, NDArray[Any]]:
        shape_AR = (len(grid.images), len(grid.rows_G) // len(grid.images))
        feeds: dict[str, NDArray[Any]] = {
            name: state.reshape(*shape_AR, *state.shape[1:])
            for name, state in zip(self._past_names, past_GKPF, strict=True)
        }
        feeds["input_ids"] = ids_NL[grid.rows_G].reshape(*shape_AR, ids_NL.shape[1])
        if grid.images != self._selected[0]:  # a copy, made only when others are asked for than before
            self._selected = grid.images, self._memory_BMC[list(grid.images)]
        feeds["encoder_hidden_states"] = self._selected[1]
        return self._graph.run(feeds, outputs)

    def _no_past(self, count: int) -> list[NDArray[np.float32]]:
        shapes = [self._graph.shapes[name] for name in self._past_names]
        return [np.zeros((count, int(str(shape[2])), 0, int(str(shape[4]))), np.float32) for shape in shapes]

    def _select(self, places_G: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """The states of these rows of the last call: as they are in greedy search, reordered by beam search."""
        if np.array_equal(places_G, np.arange(len(self._states_GKPF[0]))):
            return self._states_GKPF
        return [state_GKPF[places_G] for state_GKPF in self._states_GKPF]


class _Grid:
    """Rows as images x rows of each: where images have fewer than others, their first row is repeated.

    There are always two or more: for a single row the runtime sums in another order, and its last bits, which int8 can
    round otherwise, would depend on whether there are neighbours.
    """

    def __init__(self, images_N: NDArray[np.int64]) -> None:
        images_A, image_of_N, counts_A = np.unique(images_N, return_inverse=True, return_counts=True)
        order_N = np.argsort(image_of_N, kind="stable")
        first_A = np.cumsum(counts_A) - counts_A
        place_in_image_N = np.arange(len(order_N)) - np.repeat(first_A, counts_A)
        rows_each = max(int(counts_A.max()), 2 if len(images_A) == 1 else 1)
        rows_AR = np.repeat(order_N[first_A, None], rows_each, axis=1)
        rows_AR[image_of_N[order_N], place_in_image_N] = order_N
        self.images: tuple[int, ...] = tuple(images_A.tolist())
        self.rows_G: NDArray[np.int64] = rows_AR.ravel()
        """The row at each place."""
        self.place_N: NDArray[np.int64] = np.empty(len(order_N), np.int64)
        """The place of each row."""
        self.place_N[order_N] = image_of_N[order_N] * rows_AR.shape[1] + place_in_image_N


def _rows(logits_ARLV: NDArray[np.float32], grid: _Grid) -> NDArray[np.float32]:
    """Logits of the real rows (N, L, V)."""
    logits_GLV = logits_ARLV.reshape(-1, *logits_ARLV.shape[2:])
    in_order = np.array_equal(grid.place_N, np.arange(len(logits_GLV)))
    real_NLV: NDArray[np.float32] = logits_GLV if in_order else logits_GLV[grid.place_N]
    return real_NLV


class _PlainDecoder:
    """A decoder graph without a cache, bound to the memory of a batch of images.

    Graphs that were quantised with one scale for all activations of a run scale by the extremes of all its rows. So
    that an image's captions don't depend on its neighbours, rows of different images then never share a run, nor do
    texts that are scored.
    """

    def __init__(self, graph: OnnxGraph, memory_BMC: NDArray[np.float32]) -> None:
        self._graph = graph
        self._memory_BMC = memory_BMC
        self.scored_rows = 1 if graph.rows_interact else ROWS_PER_RUN

    def next_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        if self._graph.rows_interact:
            starts = [0, *(np.flatnonzero(np.diff(images_N)) + 1)]
        else:
            starts = list(range(0, len(ids_NL), ROWS_PER_RUN))
        runs = [slice(first, end) for first, end in pairwise([*starts, len(ids_NL)])]
        return np.concatenate([self.all_logits(ids_NL[rows], images_N[rows])[:, -1] for rows in runs])

    def all_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        feeds: dict[str, NDArray[Any]] = {"input_ids": ids_NL, "encoder_hidden_states": self._memory_BMC[images_N]}
        logits_NLV: NDArray[np.float32] = self._graph.run(feeds)["logits"]
        return logits_NLV
