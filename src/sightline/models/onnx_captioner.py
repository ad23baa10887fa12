"""Captioners on ONNX Runtime: an image graph, run once an image, and a decoder graph over its output.

Shape suffixes: B images, N rows of the decoder, L tokens, M cells of an image's memory, C its width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ModelError
from sightline.models.base import GenerationConfig, ModelCard
from sightline.models.layout import find_graphs
from sightline.models.onnx_session import OnnxGraph, open_session
from sightline.models.sentences import SentenceWriter
from sightline.models.tokenizing import Tokenizer
from sightline.types import Caption

ROWS_PER_RUN = 16
"""Rows given to the decoder graph at once: its logits (N, L, V) are large, and more rows are no faster."""


class OnnxCaptioner:
    """A captioner from `onnx/image[.int8].onnx` and `onnx/decoder[.int8].onnx` of a model folder.

    The graphs: `pixel_values` float (B, 3, S, S) -> `encoder_hidden_states` (B, M, C), and `input_ids` int64 (N, L)
    with `encoder_hidden_states` (N, M, C) -> `logits` (N, L, V).
    """

    def __init__(self, card: ModelCard, folder: Path, *, threads: int | None = None) -> None:
        """Open the graphs of a model folder. Raises ModelError where one is missing or broken."""
        graphs = find_graphs(folder, card)
        if graphs is None:
            raise ModelError(
                f"{folder} lacks the graphs of a captioner, onnx/image.onnx and onnx/decoder.onnx. Use the runtime "
                "torch, or let the extra `torch` export them."
            )
        self.card = card
        self._image = open_session(graphs["image"], threads=threads)
        self._decoder = open_session(graphs["decoder"], threads=threads)
        self._writer = SentenceWriter(card, Tokenizer.load(folder, card.text), self._describe)
        self.runtime = f"onnx:{self._decoder.provider}"

    def generate(self, pixels_BHW3: NDArray[np.uint8], config: GenerationConfig) -> list[list[Caption]]:
        """Resized RGB pixels (B, S, S, 3) -> for each image its captions, best first; see `SentenceWriter.write`."""
        return self._writer.write(pixels_BHW3, config)

    def score(self, pixels_BHW3: NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each image, the mean log-probability (nats) of each of its texts; see `SentenceWriter.score`."""
        return self._writer.score(pixels_BHW3, texts)

    def _describe(self, pixel_values: NDArray[np.float32]) -> _OnnxDecoder:
        memory = self._image.run({"pixel_values": pixel_values})
        return _OnnxDecoder(self._decoder, memory["encoder_hidden_states"])


class _OnnxDecoder:
    """The decoder graph, bound to the memory of a batch of images.

    Dynamically quantised graphs scale activations by the extremes of all rows of a run. So that an image's captions
    don't depend on its neighbours, rows of different images then never share a run, nor do texts that are scored.
    """

    def __init__(self, graph: OnnxGraph, memory_BMC: NDArray[np.float32]) -> None:
        self._graph = graph
        self._memory_BMC = memory_BMC
        self._rows_interact = ".int8." in graph.path.name
        self.scored_rows = 1 if self._rows_interact else ROWS_PER_RUN

    def next_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the token after the last (N, V)."""
        if self._rows_interact:
            starts = [0, *(np.flatnonzero(np.diff(images_N)) + 1)]
        else:
            starts = list(range(0, len(ids_NL), ROWS_PER_RUN))
        runs = [slice(first, end) for first, end in pairwise([*starts, len(ids_NL)])]
        return np.concatenate([self.all_logits(ids_NL[rows], images_N[rows])[:, -1] for rows in runs])

    def all_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the token after each (N, L, V)."""
        feeds: dict[str, NDArray[Any]] = {"input_ids": ids_NL, "encoder_hidden_states": self._memory_BMC[images_N]}
        logits_NLV: NDArray[np.float32] = self._graph.run(feeds)["logits"]
        return logits_NLV
