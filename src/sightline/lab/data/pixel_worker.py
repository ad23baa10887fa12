"""Reading images into rows of an array file, here or in worker processes.

Workers are started by hand: multiprocessing's, and so those of concurrent.futures, would run the caller's script once
more where it has no `if __name__ == "__main__"`. Shape suffixes: B rows of a task, S size_px.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.core.images.files import explain_os_error
from sightline.errors import ImageError, InputError, SightlineError
from sightline.lab.data.base import ImageSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sightline.core.images.preprocess import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Task:
    """Images that become consecutive rows of a file."""

    sources: Sequence[ImageSource]
    preprocessing: Preprocessing
    path: Path
    offset: int
    """Byte at which the first row begins."""


Problems = list[tuple[int, str]]
"""Index in a task, and why the image can't be read."""


def read_task(task: Task) -> Problems:
    """Read the images and write their rows; a row whose image can't be read is zero.

    Raises OSError where the rows can't be written, SightlineError where nothing can be read at all.
    """
    pixels_BSS3, problems = read_rows(task.sources, task.preprocessing)
    with task.path.open("r+b") as file:  # not by a memory map, where a full disk kills the process
        file.seek(task.offset)
        file.write(pixels_BSS3.data)
    return problems


def read_rows(sources: Sequence[ImageSource], preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], Problems]:
    """Images at the model's size (B, S, S, 3), zeros for those that can't be read, and why they can't."""
    import numpy as np

    size_px = preprocessing.size_px
    pixels_BSS3 = np.zeros((len(sources), size_px, size_px, 3), np.uint8)
    problems: Problems = []
    for index, source in enumerate(sources):
        try:
            pixels_BSS3[index] = preprocessing.resize(source.read(min_side_px=size_px))
        except ImageError as error:
            problems.append((index, error.reason))
        except OSError as error:
            problems.append((index, explain_os_error(error)))
        except MemoryError:
            problems.append((index, "not enough memory to decode it"))
    return pixels_BSS3, problems


class WorkerProcess:
    """Does tasks in a process of its own: rendering and small decodes hold Python's lock most of the time."""

    def __init__(self) -> None:
        package_root = str(Path(__file__).resolve().parents[3])
        search = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # -P: a numpy.py in the current folder is not numpy
        command = [sys.executable, "-P", "-c", f"from {__name__} import serve_tasks; serve_tasks()"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def __call__(self, task: Task) -> Problems:
        """As `read_task`. Raises InputError also where the process dies, as on lack of memory."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            pickle.dump(task, stdin)
            stdin.flush()
            answer: Problems | Exception = pickle.load(stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            raise InputError(
                f"A process that reads pictures ended (code {code}) at one of {len(task.sources)} pictures from "
                f"{task.sources[0]} on. What was read is kept: start again, with more free memory if that was short."
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self) -> None:
        """Kill the process; a task under way is given up."""
        self._process.kill()
        self._process.wait()
        for pipe in filter(None, (self._process.stdin, self._process.stdout)):
            with suppress(OSError):  # what was not yet sent to a process that is gone
                pipe.close()


def serve_tasks() -> None:
    """The loop of a worker: pickled tasks from stdin until it ends, for each its problems or an error to stdout.

    Pickles, as multiprocessing has them: they come from the process that started this one, never from a file.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    while True:
        try:
            task: Task = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: Problems | Exception
        try:
            answer = read_task(task)
        except OSError as error:
            answer = error
        except SightlineError as error:
            answer = InputError(str(error))
        answers.write(pickle.dumps(answer))
