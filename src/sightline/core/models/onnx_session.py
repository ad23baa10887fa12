"""One ONNX graph, ready to run: execution provider, threads, and inputs cast to what the graph declares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from sightline.errors import ModelError
from sightline.kit.work import usable_cpus

PREFERRED_PROVIDERS = (
    "CUDAExecutionProvider",
    "CoreMLExecutionProvider",
    "DmlExecutionProvider",
    "OpenVINOExecutionProvider",
    "CPUExecutionProvider",
)

_DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_LOG_FATAL_ONLY = 4

ROWS_INDEPENDENT = "sightline.rows_independent"
"""Metadata of an int8 graph in which no row of a batch changes another's result."""


class OnnxGraph:
    """A loaded graph. `inputs` and `outputs` are names in the graph's order, `provider` is what runs it.

    `rows_independent` is what an int8 graph says of itself; graphs in fp32 need not.
    """

    def __init__(self, path: Path, session: Any) -> None:
        self.path = path
        self.inputs: tuple[str, ...] = tuple(node.name for node in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(node.name for node in session.get_outputs())
        self.provider: str = session.get_providers()[0]
        self.rows_independent = ROWS_INDEPENDENT in session.get_modelmeta().custom_metadata_map
        self._session = session
        self._dtypes = {node.name: _DTYPES.get(node.type) for node in session.get_inputs()}
        self._shapes = {node.name: tuple(node.shape) for node in [*session.get_inputs(), *session.get_outputs()]}

    def shape(self, name: str) -> tuple[int | str | None, ...]:
        """Declared shape of an input or output; a name or None stands where it is dynamic."""
        return self._shapes[name]

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
        if providers is None and chosen != ["CPUExecutionProvider"]:
            return open_session(path, threads=threads, providers=["CPUExecutionProvider"])
        raise ModelError(f"{path} can't be loaded by ONNX Runtime {ort.__version__}: {_first_line(error)}") from error
    return OnnxGraph(path, session)


def run_in_memory(
    model: Any, batches: Iterable[Mapping[str, NDArray[Any]]], outputs: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Run an ONNX model that isn't on disk on the CPU, batch by batch -> its named outputs.

    A batch holds one input or names all. Raises ModelError as `OnnxGraph.run` does.
    """
    providers = ["CPUExecutionProvider"]
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
