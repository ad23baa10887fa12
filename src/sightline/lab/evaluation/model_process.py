"""A model in a process of its own, so that its memory can be told from that of others and of what we do ourselves.

The other side runs `MeasuredModel`; calls go through a pipe, one at a time. Processes are started afresh (spawn), so a
script that compares models does so under `if __name__ == "__main__":`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sightline import errors
from sightline.errors import ModelError, SightlineError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import numpy as np
    from numpy.typing import NDArray

    from sightline.core.models.files import Runtime
    from sightline.lab.data.base import Dataset, ImageSource
    from sightline.lab.evaluation.embedding import EmbeddedImages, Progress
    from sightline.lab.evaluation.measured_model import ModelFacts

_CLOSING_S = 5.0


class ModelProcess:
    """`MeasuredModel` behind a pipe, with the same methods. Errors of the other side are raised here."""

    def __init__(self, name: str, runtime: Runtime) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, runtime), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends when the process does

    def load(self, images: Sequence[ImageSource], queries: Sequence[str]) -> ModelFacts:
        """See `MeasuredModel.load`."""
        facts: ModelFacts = self._call("load", images, queries)
        return facts

    def time_images(self, seconds: float) -> float:
        """See `MeasuredModel.time_images`."""
        return float(self._call("time_images", seconds))

    def time_texts(self, seconds: float) -> float:
        """See `MeasuredModel.time_texts`."""
        return float(self._call("time_texts", seconds))

    def added_bytes(self) -> int | None:
        """See `MeasuredModel.added_bytes`."""
        added: int | None = self._call("added_bytes")
        return added

    def embed_images(
        self, dataset: Dataset, *, batch_size: int = 64, progress: Progress | None = None
    ) -> EmbeddedImages:
        """See `MeasuredModel.embed_images`."""
        images: EmbeddedImages = self._call("embed_images", dataset, progress=progress, batch_size=batch_size)
        return images

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `MeasuredModel.embed_texts`."""
        vectors_TD: NDArray[np.float32] = self._call("embed_texts", texts)
        return vectors_TD

    def embed_classes(self, class_names: Sequence[Sequence[str]], templates: Sequence[str]) -> NDArray[np.float32]:
        """See `MeasuredModel.embed_classes`."""
        vectors_CD: NDArray[np.float32] = self._call("embed_classes", class_names, templates)
        return vectors_CD

    def close(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        self._process.join(0.1)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_CLOSING_S)

    def _call(self, method: str, *arguments: Any, progress: Progress | None = None, **options: Any) -> Any:
        try:
            self._pipe.send((method, arguments, options, progress is not None))
            while True:
                kind, value = self._pipe.recv()
                if kind == "progress" and progress is not None:
                    progress(*value)
                elif kind == "result":
                    return value
                elif kind == "refused":
                    raise _as_error(*value)
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
    from sightline.lab.evaluation.measured_model import MeasuredModel

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


def _as_error(kind: str, message: str) -> SightlineError:
    error: SightlineError = getattr(errors, kind, ModelError)(message)
    return error
