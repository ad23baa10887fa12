"""ONNX Runtime: graphs ready to run, and the encoder behind two of them. Needs no torch.

Shape suffixes: B images, T texts, L length in tokens, S side in pixels, H W height and width, D joint space.
"""

from __future__ import annotations

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

from sightline.core.models import inputs
from sightline.core.models.cards import ModelCard
from sightline.core.models.files import find_graphs
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
        self._tokenizer = inputs.Tokenizer.load(folder, card.text)
        self._weights_hash = weights_hash

    @cached_property
    def _text_tower(self) -> _Tower:
        return _open_tower(self.graphs["text"], _TEXT_OUTPUTS, card=self.card, threads=self._threads)

    @property
    def runtime(self) -> str:
        """ONNX Runtime and the execution provider that runs the image tower."""
        tower = next(iter(self._image_towers.values()), None) or self._image_tower(1)
        return f"onnx:{tower.graph.provider}"

    @cached_property
    def identity(self) -> ModelIdentity:
        return self.card.make_identity(self._weights_hash)

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        tower = self._image_tower(len(pixels_BHW3))
        return inputs.normalise_rows(self._run_images(tower, pixels_BHW3, tower.output))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        tower = self._text_tower
        per_run = (
            1 if tower.graph.rows_interact else inputs.TEXTS_PER_RUN
        )  # alone, a text's vector depends on nothing else
        embeds_TD = np.zeros((len(texts), self.dim), np.float32)
        for chosen, ids_TL in inputs.text_batches(self._tokenizer, texts, per_run=per_run):
            # A mask of ones is right for all families: CLIP is causal, and SigLIP was trained to read its padding.
            feeds = {"input_ids": ids_TL, "attention_mask": np.ones_like(ids_TL)}
            embeds_TD[chosen] = tower.graph.run(feeds, [tower.output])[tower.output]
        return inputs.normalise_rows(embeds_TD)

    def read_text(self, text: str) -> inputs.TextReading:
        """What of a text reaches the model."""
        return self._tokenizer.read(text)

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """The last feature map in the joint space (B, H, W, D), not normalised; None where the graph has none."""
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
        per_run = CPU_IMAGES_PER_RUN if graph.provider == CPU else inputs.IMAGES_PER_RUN

        def run(batch_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
            batch = batch_BHW3 if takes_pixels else self.card.preprocessing.normalise(batch_BHW3)
            result: NDArray[np.float32] = graph.run({name: batch}, [output])[output]
            return result

        side_by_side = tower is self._image_towers.get(True)
        if side_by_side:
            per_run = min(per_run, max(1, math.ceil(len(pixels_BHW3) / self._cpus)))
        batches = inputs.pixel_batches(self.card, pixels_BHW3, per_run=per_run)
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
