"""ONNX Runtime: graphs ready to run, the encoder behind two of them, and the captioner. Needs no torch.

A captioner has an image graph, run once an image, and a decoder graph over its output, once a token. The decoder
takes what is kept of earlier tokens as inputs, and computes the new ones alone.

Shape suffixes: B images, T texts, L length in tokens, S side in pixels, H W height and width, D joint space; of
captioners N rows of the decoder, G of them with padding, M cells of an image's memory, C its width, V vocabulary, A
images with running rows, R rows of each, K heads, P earlier tokens, F width of a head.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from sightline.core.models.cards import ModelCard
from sightline.core.models.files import find_graphs, hash_file
from sightline.core.models.generation import Decoder, SentenceWriter
from sightline.core.models.inputs import (
    IMAGES_PER_RUN,
    TEXTS_PER_RUN,
    TextReading,
    Tokenizer,
    normalise_rows,
    normalised_batches,
    pixel_batches,
    text_batches,
)
from sightline.core.types import ModelIdentity, Precision
from sightline.errors import ModelError
from sightline.kit.work import usable_cpus

CPU = "CPUExecutionProvider"
PREFERRED_PROVIDERS = (
    *("CUDAExecutionProvider", "CoreMLExecutionProvider", "DmlExecutionProvider", "OpenVINOExecutionProvider"),
    CPU,
)
CPU_IMAGES_PER_RUN = 8
"""Images given to a CPU at once. A larger batch no longer fits into its caches: ViT-B/32 in int8 is a seventh slower
with 32, in fp32 a twentieth, and no choice between 4 and 16 is better by more than that."""

ROWS_INDEPENDENT = "sightline.rows_independent"
"""Metadata of an int8 graph in which no row of a batch changes another's result."""

_IMAGE_OUTPUTS = ("image_embeds", "pooler_output")
_TEXT_OUTPUTS = ("text_embeds", "pooler_output")
_MAP_OUTPUT = "feature_map"
_LOG_FATAL_ONLY = 4


_DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OnnxGraph:
    """A loaded graph. `inputs` and `outputs` are names in the graph's order, `provider` is what runs it.

    `rows_interact` where int8 scales activations by the largest of a run, so that rows change each other's results.
    """

    def __init__(self, path: Path, session: Any) -> None:
        independent = ROWS_INDEPENDENT in session.get_modelmeta().custom_metadata_map
        self.path = path
        self.inputs: tuple[str, ...] = tuple(node.name for node in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(node.name for node in session.get_outputs())
        self.provider: str = session.get_providers()[0]
        self.rows_interact = ".int8." in path.name and not independent
        self._session = session
        self.shapes: Mapping[str, tuple[int | str | None, ...]] = {
            node.name: tuple(node.shape) for node in [*session.get_inputs(), *session.get_outputs()]
        }
        """Declared shapes of inputs and outputs; a name or None stands where one is dynamic."""
        self._dtypes = {node.name: _DTYPES.get(node.type) for node in session.get_inputs()}

    def dtype(self, name: str) -> type[np.generic] | None:
        """Declared type of an input; None for one that numpy doesn't have."""
        return self._dtypes[name]

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Feed the inputs that the graph declares (others are left out) -> the named outputs, by default all.

        Raises ModelError where an input is missing or the runtime fails.
        """
        if missing := [name for name in self.inputs if name not in feeds]:
            raise ModelError(f"{self.path} needs the inputs {', '.join(self.inputs)}; missing: {', '.join(missing)}.")
        names = list(self.outputs if outputs is None else outputs)
        typed = {name: np.ascontiguousarray(feeds[name], dtype=self._dtypes[name]) for name in self.inputs}
        try:
            results = self._session.run(names, typed)
        except Exception as error:  # onnxruntime's own exceptions share no public base class
            raise ModelError(f"{self.path} failed in ONNX Runtime ({self.provider}): {_first_line(error)}") from error
        return dict(zip(names, results, strict=True))


def open_session(path: Path, *, threads: int | None = None, providers: Sequence[str] | None = None) -> OnnxGraph:
    """Load a graph on the best execution provider of this machine.

    `threads` is the number of CPU threads, by default one for each CPU this process may use. `providers` names
    execution providers and switches the choice off. Raises ModelError where the file is missing or can't be loaded.
    """
    if not path.is_file():
        raise ModelError(f"There is no ONNX graph {path}; export the model again or pull it: `sightline models pull`.")
    chosen = list(providers) if providers is not None else available_providers()
    options = _session_options(threads or usable_cpus(), chosen)
    try:
        session = ort.InferenceSession(str(path), sess_options=options, providers=chosen)
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        if providers is None and chosen != [CPU]:
            return open_session(path, threads=threads, providers=[CPU])
        raise ModelError(f"{path} can't be loaded by ONNX Runtime {ort.__version__}: {_first_line(error)}") from error
    return OnnxGraph(path, session)


def run_in_memory(
    model: Any, batches: Iterable[Mapping[str, NDArray[Any]]], outputs: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Run an ONNX model that isn't on disk on the CPU, batch by batch -> its named outputs.

    A batch holds one input or names all. Raises ModelError as `OnnxGraph.run` does.
    """
    providers = [CPU]
    options = _session_options(usable_cpus(), providers)
    session = ort.InferenceSession(model.SerializeToString(), sess_options=options, providers=providers)
    graph = OnnxGraph(Path(model.graph.name), session)
    for feeds in batches:
        named = feeds if len(feeds) > 1 else {graph.inputs[0]: next(iter(feeds.values()))}
        yield graph.run(named, outputs)


def available_providers() -> list[str]:
    """Execution providers of the installed ONNX Runtime that we use, best first."""
    installed = set(ort.get_available_providers())
    return [name for name in PREFERRED_PROVIDERS if name in installed]


def _session_options(threads: int, providers: Sequence[str]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY  # errors reach the caller as exceptions, once
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    # Threads that wait for work would burn the time of others: captions are 4 to 12% faster so, nothing is slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if "DmlExecutionProvider" in providers:
        options.enable_mem_pattern = False  # DirectML supports neither memory patterns nor parallel execution
    return options


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


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
        tower = next(iter(self._image_towers.values()), None) or self._image_tower(1)
        return f"onnx:{tower.graph.provider}"

    @cached_property
    def identity(self) -> ModelIdentity:
        return self.card.make_identity(self._weights_hash)

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        tower = self._image_tower(len(pixels_BHW3))
        return normalise_rows(self._run_images(tower, pixels_BHW3, tower.output))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        tower = self._text_tower
        per_run = 1 if tower.graph.rows_interact else TEXTS_PER_RUN  # alone, a text's vector depends on nothing else
        embeds_TD = np.zeros((len(texts), self.dim), np.float32)
        for chosen, ids_TL in text_batches(self._tokenizer, texts, per_run=per_run):
            # A mask of ones is right for all families: CLIP is causal, and SigLIP was trained to read its padding.
            feeds = {"input_ids": ids_TL, "attention_mask": np.ones_like(ids_TL)}
            embeds_TD[chosen] = tower.graph.run(feeds, [tower.output])[tower.output]
        return normalise_rows(embeds_TD)

    def read_text(self, text: str) -> TextReading:
        return self._tokenizer.read(text)

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        tower = self._image_tower(len(pixels_BHW3))
        return self._run_images(tower, pixels_BHW3, _MAP_OUTPUT) if _MAP_OUTPUT in tower.graph.outputs else None

    def _image_tower(self, count: int) -> _Tower:
        """The image tower for so many images: many keep each CPU busy by itself, few are shared by all CPUs.

        Runs side by side never wait for each other within an image, which threads of one run do after every layer.
        """
        many = count >= 2 * self._cpus > 2 and self._threads is None and available_providers()[0] == CPU
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

        side_by_side = tower is self._image_towers.get(True)
        if side_by_side:
            per_run = min(per_run, max(1, math.ceil(len(pixels_BHW3) / self._cpus)))
        batches = pixel_batches(self.card, pixels_BHW3, per_run=per_run)
        return np.concatenate(list((self._pool.map if side_by_side else map)(run, batches)))[: len(pixels_BHW3)]

    @cached_property
    def _cpus(self) -> int:
        return usable_cpus()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._cpus, thread_name_prefix="image-tower")


def _open_tower(path: Path, names: Sequence[str], *, card: ModelCard, threads: int | None) -> _Tower:
    graph = open_session(path, threads=threads)
    output = next((name for name in names if name in graph.outputs), None)
    if output is None:
        raise ModelError(
            f"{graph.path} has the outputs {', '.join(graph.outputs)}; expected one of {', '.join(names)}."
        )
    declared = graph.shapes[output][-1]
    if isinstance(declared, int) and declared != card.dim:
        raise ModelError(f"{graph.path} gives {declared} dimensions, the card of {card.name} says {card.dim}.")
    return _Tower(graph=graph, output=output)


SEEN_PER_RUN = 2
"""Images given to the image graph at once: its activations then stay in a CPU's cache."""

MATCHED_AT_ONCE = 32
"""Images whose memories are read with one text at once: as many rows as `_CachedDecoder` scores in one run."""

SMALL_DECODER_BYTES = 16_000_000
"""An int8 decoder graph up to this size runs on one thread: more are no faster (16 images of the starter's: 54 ms on
one and on two), and how they split the rows changes a sum's last bits, which int8 can round otherwise."""


class OnnxCaptioner(SentenceWriter[NDArray[np.float32]]):
    """A captioner from `onnx/image[.int8].onnx` and `onnx/decoder[.int8].onnx` of a model folder.

    The graphs: `pixel_values` float (B, 3, S, S) -> `encoder_hidden_states` (B, M, C), and the decoder: `input_ids`
    int64 (A, R, L) with `encoder_hidden_states` (A, M, C) and, for each layer, `past_key_I` and `past_value_I`
    (A, R, K, P, F) -> `logits` (A, R, L, V) and `present_key_I`, `present_value_I`.
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
        if "past_key_0" not in self._decoder.inputs:
            raise ModelError(
                f"{self._decoder.path} keeps nothing of earlier tokens, as graphs of Sightline's first versions do. "
                f"Delete {folder}, if Sightline exported it, and it is exported again; or export the model anew."
            )
        self.runtime = f"onnx:{self._decoder.provider}"

    @cached_property
    def image_side(self) -> str:
        """The image graph's content, and what is done to pixels before it."""
        return hashlib.blake2b(
            f"{hash_file(self._image.path)} {self.card.preprocessing}".encode(), digest_size=16
        ).hexdigest()

    def see(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        batches = normalised_batches(self.card, pixels_BHW3, per_run=SEEN_PER_RUN)
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
        starts = range(0, len(pixel_values), SEEN_PER_RUN)
        parts = [self._image.run({"pixel_values": pixel_values[first : first + SEEN_PER_RUN]}) for first in starts]
        return np.concatenate([part["encoder_hidden_states"] for part in parts])

    def _describe(self, memory_BMC: NDArray[np.float32]) -> Decoder:
        return _CachedDecoder(self._decoder, memory_BMC)


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
