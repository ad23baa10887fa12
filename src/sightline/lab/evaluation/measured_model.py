"""One model of a comparison: loaded, timed and asked for vectors, here or in a process of its own.

In its own process a model's memory can be told from that of others and of what we do ourselves: the other side runs
`MeasuredModel`, calls go through a pipe, one at a time. Processes are started afresh (spawn), so a script that compares
models does so under `if __name__ == "__main__":`. Shape suffixes: B images, T texts, C classes, S side in pixels, D
dimension of the joint space.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sightline import errors
from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.base import Encoder
from sightline.core.models.cards import find_card
from sightline.core.models.files import TOKENIZER_FILES, Runtime, find_graphs, find_local_folder, find_weights
from sightline.core.models.loading import load_encoder
from sightline.errors import ImageError, InputError, ModelError, SightlineError
from sightline.lab.data.base import Dataset, ImageSource
from sightline.lab.evaluation.classification import embed_classes
from sightline.lab.evaluation.embedding import CountProgress, EmbeddedImages, embed_images, embed_texts

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SPEED_BATCH = 32
"""Images that are encoded at once when a model is timed."""
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_KIB = 1024
_CLOSING_S = 5.0


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts of a model once it is loaded."""

    dim: int
    precision: str
    """Precision of the weights: `fp32`, `int8`."""
    runtime: str
    """The runtime: `onnx:CPUExecutionProvider`, `torch:cpu`."""
    weights_hash: str
    input_px: int
    disk_bytes: int
    """Size of the files that this runtime reads: graphs or weights, and the tokenizer."""
    exported: bool
    """True where loading had to make the model's ONNX graphs first, which leaves PyTorch in memory."""


class MeasuredModel:
    """A model that is timed and asked for vectors. Make it, `load` it, then the rest."""

    def __init__(self, name: str, runtime: Runtime) -> None:
        self._name = name
        self._runtime = runtime
        self._encoder: Encoder | None = None
        self._pixels_BSS3: NDArray[np.uint8] = np.zeros((0, 0, 0, 3), np.uint8)
        self._queries: Sequence[str] = ()
        self._before_bytes: int | None = None

    def load(self, images: Sequence[ImageSource], queries: Sequence[str]) -> ModelFacts:
        """Load the model and run it until it is warm; images and queries are those that `time_...` runs.

        Raises ModelError as `load_encoder` does, InputError where no image can be read.
        """
        card = find_card(self._name)
        # read before memory is measured: these are the same whichever model runs them
        self._pixels_BSS3 = read_batch(images, card.preprocessing)
        self._queries = queries
        with_torch = "torch" in sys.modules
        forget_peak()  # reading images may have taken more than the model will
        self._before_bytes = resident_bytes()
        encoder = self._encoder = load_encoder(card, runtime=self._runtime)
        for _ in range(2):  # warm-up
            encoder.encode_images(self._pixels_BSS3)
            encoder.encode_texts([queries[0]])
        loaded = encoder.runtime  # which opens what isn't open yet
        return ModelFacts(
            dim=encoder.dim,
            precision=encoder.precision,
            runtime=loaded,
            weights_hash=encoder.identity.weights_hash,
            input_px=card.preprocessing.size_px,
            disk_bytes=sum(
                path.stat().st_size for path in _files_read(encoder, find_local_folder(card, self._runtime))
            ),
            exported=loaded.startswith("onnx") and not with_torch and "torch" in sys.modules,
        )

    def time_images(self, seconds: float) -> float:
        """Images a second at SPEED_BATCH a run, without reading and resizing, over at least so long."""
        encode = self._loaded.encode_images
        return SPEED_BATCH * _runs_per_s(itertools.repeat(lambda: encode(self._pixels_BSS3)), seconds)

    def time_texts(self, seconds: float) -> float:
        """Text queries a second, one at a time as a search asks them, over at least so long."""
        encode = self._loaded.encode_texts
        runs = [lambda query=query: encode([query]) for query in self._queries]
        return _runs_per_s(itertools.cycle(runs), seconds)

    def added_bytes(self) -> int | None:
        """The most memory so far beyond that of the process before it had the model; None where it can't be known."""
        peak = peak_resident_bytes()
        return None if peak is None or self._before_bytes is None else max(0, peak - self._before_bytes)

    def embed_images(
        self, dataset: Dataset, *, batch_size: int = 64, progress: CountProgress | None = None
    ) -> EmbeddedImages:
        """Vectors of all images, see `embedding.embed_images`."""
        return embed_images(self._loaded, dataset, batch_size=batch_size, progress=progress)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts (T, D)."""
        return embed_texts(self._loaded, texts)

    def embed_classes(self, class_names: Sequence[Sequence[str]], templates: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of classes (C, D), each named first by each template."""
        return embed_classes(self._loaded, class_names, templates)

    def close(self) -> None:
        """Let the model go."""
        self._encoder = None

    @property
    def _loaded(self) -> Encoder:
        if self._encoder is None:
            raise InputError(f"{self._name} isn't loaded; call load first.")
        return self._encoder


def read_batch(images: Sequence[ImageSource], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The first SPEED_BATCH images that can be read, at the model's size, repeated where they are fewer.

    Raises InputError where none can be read.
    """
    pixels: list[NDArray[np.uint8]] = []
    problem = "there are none"
    for image in images:
        try:
            pixels.append(preprocessing.resize(image.read()))
        except ImageError as error:
            problem = error.reason
        if len(pixels) == SPEED_BATCH:
            break
    if not pixels:
        raise InputError(f"None of {len(images)} pictures can be read, so no model can be timed: {problem}.")
    return np.resize(np.stack(pixels), (SPEED_BATCH, *pixels[0].shape))


def resident_bytes() -> int | None:
    """Bytes that this process has in RAM now; where the system only keeps the most (macOS), that; None on Windows."""
    return _from_status("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int | None:
    """The most that this process ever had in RAM; None where the system doesn't tell (Windows).

    Linux: `VmHWM`, since `ru_maxrss` of a process still counts its parent from before `exec`.
    """
    if (peak := _from_status("VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * _KIB


def forget_peak() -> None:
    """Count the most from now on; only Linux can, elsewhere it stays that of the whole life of the process."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")  # the number that resets the peak


def _runs_per_s(
    runs: itertools.repeat[Callable[[], Any]] | itertools.cycle[Callable[[], Any]], seconds: float
) -> float:
    """Runs a second over at least `seconds`, the first one left out: other models ran since the last."""
    next(runs)()
    count, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds or not count:
        next(runs)()
        count += 1
    return count / took


def _files_read(encoder: Encoder, folder: Path | None) -> set[Path]:
    folder = getattr(encoder, "folder", folder)  # graphs that were exported here lie elsewhere
    if folder is None:
        return set()
    graphs = find_graphs(folder, encoder.card) if encoder.runtime.startswith("onnx") else None
    models = [path for graph in graphs.values() for path in graph.parent.glob(f"{graph.name}*")] if graphs else None
    tokenizer = [path for name in TOKENIZER_FILES if (path := folder / name).is_file()]
    return {*(models or find_weights(folder)), *tokenizer}


def _from_status(key: str) -> int | None:
    """A line of Linux's own account, as in `VmHWM:     52340 kB`."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith(f"{key}:")), None)


class ModelProcess:
    """`MeasuredModel` behind a pipe, with the same methods. Errors of the other side are raised here."""

    def __init__(self, name: str, runtime: Runtime) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, runtime), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends when the process does

    def __getattr__(self, method: str) -> Any:
        """A method of `MeasuredModel`, run on the other side."""
        if method.startswith("_"):
            raise AttributeError(method)
        return partial(self._call, method)

    def close(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        self._process.join(0.1)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_CLOSING_S)

    def _call(self, method: str, *arguments: Any, progress: CountProgress | None = None, **options: Any) -> Any:
        try:
            self._pipe.send((method, arguments, options, progress is not None))
            while True:
                kind, value = self._pipe.recv()
                if kind == "progress" and progress is not None:
                    progress(*value)
                elif kind == "result":
                    return value
                elif kind == "refused":
                    kind, message = value
                    raise getattr(errors, kind, ModelError)(message)
                elif kind == "failed":
                    raise ModelError(f"{self._name} failed in its process:\n{value}")
        except (EOFError, ConnectionError) as error:
            self._process.join(_CLOSING_S)
            raise ModelError(
                f"The process that ran {self._name} ended with exit code {self._process.exitcode}; -9 means that the "
                "system stopped it, mostly for want of memory. Compare fewer models at a time."
            ) from error


def _serve(pipe: Connection, name: str, runtime: Runtime) -> None:
    """The other side: runs calls until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the comparison, which ends us
    model = MeasuredModel(name, runtime)
    with contextlib.suppress(EOFError, ConnectionError):  # the comparison is over
        while True:
            pipe.send(_answer(model, pipe))


def _answer(model: Any, pipe: Connection) -> tuple[str, Any]:
    """Wait for a call and run it. Raises EOFError and ConnectionError where the pipe is closed."""
    try:
        method, arguments, options, with_progress = pipe.recv()
        if with_progress:
            options["progress"] = lambda done, total: pipe.send(("progress", (done, total)))
        return "result", getattr(model, method)(*arguments, **options)
    except SightlineError as error:
        return "refused", (type(error).__name__, str(error))
    except (EOFError, ConnectionError):
        raise
    except Exception:
        return "failed", traceback.format_exc()
