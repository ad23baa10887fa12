"""What the towers made of a few val pairs at one moment of a run: vectors kept beside the log, for those who study it.

Shape suffixes: N pairs, D dimension of the joint space.
"""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import InputError, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBE_START_FILE = "probe-start.npz"
"""Of the weights before the first update."""
PROBE_BEST_FILE = "probe-best.npz"
"""Of the weights that are kept."""
PROBE_PAIRS = 256
"""At most so many val pairs, the first ones."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """Pictures and the first caption of each (or the name of its class), as unit vectors."""

    image_ND: NDArray[np.float32]
    text_ND: NDArray[np.float32]
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    step: int
    """Updates done."""
    temperature: float
    """Factor on cosines, exp(logit scale)."""

    def __post_init__(self) -> None:
        """Raises InputError where the arrays don't belong together."""
        rows = {len(self.image_ND), len(self.text_ND), len(self.ids), len(self.texts)}
        if self.image_ND.ndim != 2 or self.image_ND.shape != self.text_ND.shape or len(rows) != 1:
            raise InputError(
                f"A probe has a row of pictures and of texts for each pair; these are {self.image_ND.shape} and "
                f"{self.text_ND.shape} for {len(self.ids)} ids and {len(self.texts)} texts."
            )


def write_probe(probe: Probe, path: Path) -> None:
    """Write a probe, whole or not at all. Raises TrainingError where the disk is full."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            np.savez(
                file,
                image_ND=probe.image_ND,
                text_ND=probe.text_ND,
                ids=np.array(probe.ids, dtype=np.str_),
                texts=np.array(probe.texts, dtype=np.str_),
                step=np.int64(probe.step),
                temperature=np.float64(probe.temperature),
            )
        partial.replace(path)
    except OSError as error:
        raise TrainingError(
            f"{path} can't be written: {error.strerror}. Make room or correct its permissions; go on with --resume."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def read_probe(path: Path) -> Probe:
    """A probe that `write_probe` wrote. Raises InputError where it is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Probe(
                image_ND=arrays["image_ND"].astype(np.float32, copy=False),
                text_ND=arrays["text_ND"].astype(np.float32, copy=False),
                ids=tuple(arrays["ids"].tolist()),
                texts=tuple(arrays["texts"].tolist()),
                step=int(arrays["step"]),
                temperature=float(arrays["temperature"]),
            )
    except FileNotFoundError as error:
        raise InputError(
            f"{path} doesn't exist: the run has not been measured yet, or is of an older version."
        ) from error
    except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}). Training the run again writes it anew.") from error
