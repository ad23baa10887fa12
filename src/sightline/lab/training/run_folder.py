"""The folder of a run: its settings, result, checkpoints and the vectors of a few val pairs, each written whole.

A checkpoint is a folder `checkpoints/step-N` of safetensors files and one `state.json`; nothing in it is a pickle.

Shape suffixes: N pairs of a probe, D dimension of the joint space.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError, TrainingError
from sightline.kit import files
from sightline.kit.files import share_as_others
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.log import RESULT_FILE, RUN_FILE, TRIAL_FILE

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CURVES_FILE = "curves.png"
PROBE_START_FILE = "probe-start.npz"
"""The probe of the weights before the first update."""
PROBE_BEST_FILE = "probe-best.npz"
"""The probe of the weights that are kept."""
PROBE_PAIRS = 256
"""At most so many val pairs, the first ones."""
CHECKPOINTS = "checkpoints"
_STATE = "state.json"
_FORMAT = 1
_STEP = re.compile(r"step-(\d+)")

_FREE = ("decode", "keep_checkpoints", "log_steps", "patience")
"""Settings that a resumed run may change: they don't decide its weights."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """`run.json` and `checkpoints/`, a log, curves, and beside them a model folder with the best weights so far."""

    path: Path

    def start(self, config: TrainConfig) -> None:
        """Write the config of a new run. Raises InputError where the folder holds something already."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; --output must name a folder.")
        if (self.path / RUN_FILE).is_file():
            raise InputError(
                f"{self.path} holds a run already. Go on with it: --resume. Or give another --output; a run is never "
                "overwritten."
            )
        if self.path.is_dir() and any(entry.name != TRIAL_FILE for entry in self.path.iterdir()):
            raise InputError(f"{self.path} isn't empty and holds no run. Give a new folder as --output.")
        with files.explained(f"The run's folder {self.path}", "Choose another.", error=InputError):
            self.path.mkdir(parents=True, exist_ok=True)
            files.write_json(self.path / RUN_FILE, config.to_dict(), indent=2)

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """A run that can't be prepared leaves nothing behind, so that it can be tried again."""
        try:
            yield
        except BaseException:
            for name in (RUN_FILE, "tokenizer.json"):
                (self.path / name).unlink(missing_ok=True)
            raise

    def read_config(self) -> TrainConfig:
        """The config of the run that is here. Raises InputError where there is none."""
        path = self.path / RUN_FILE
        if not path.is_file():
            raise InputError(f"{self.path} holds no run ({RUN_FILE} is missing); leave --resume out to start one.")
        return TrainConfig.from_dict(read_object(path))

    def write_result(self, values: Mapping[str, Any]) -> None:
        """Write what came of the run, whole or not at all. Raises TrainingError where the disk is full."""
        advice = "The weights are whole: make room and go on with --resume."
        write_json(self.path / RESULT_FILE, values, advice=advice)

    def check_resumable(self, config: TrainConfig) -> Path | None:
        """The newest checkpoint of the run that is here, None where it was stopped before its first.

        Raises TrainingError where `config` isn't the run's own.
        """
        before, now = self.read_config().to_dict(), config.to_dict()
        changed = [key for key in now if now[key] != before[key] and key not in _FREE]
        if changed:
            listed = ", ".join(f"{key} was {before[key]!r}, is now {now[key]!r}" for key in changed[:3])
            raise TrainingError(
                f"A run goes on with the settings it began with; {listed}. Only {', '.join(_FREE)} may change. Start "
                f"another run with --init dir:{self.path} to train these weights further in another way."
            )
        return newest_checkpoint(self.path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises InputError where it is missing or damaged."""
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is damaged: an object is expected, not {type(values).__name__}.")
    return values


def write_json(path: Path, values: Mapping[str, Any], *, advice: str) -> None:
    """Write a file of a run or a sweep, whole or not at all. Raises TrainingError, with advice, where it can't be."""
    with files.explained(path, advice, error=TrainingError):
        files.write_json(path, values, indent=2)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """All that changes while a run goes on: modules by name, the optimiser, and plain values."""

    modules: Mapping[str, nn.Module]
    optimiser: torch.optim.Optimizer
    average: Mapping[str, Tensor] | None = None
    """Moving average of the weights, where the run keeps one."""


def save_checkpoint(run: Path, step: int, trained: Trained, *, state: Mapping[str, Any], keep: int) -> Path:
    """Write `checkpoints/step-N` and drop all but the newest `keep`.

    Raises TrainingError where it can't be written, as on a full disk; earlier checkpoints are left as they are.
    """
    import torch
    from safetensors import SafetensorError

    folder = run / CHECKPOINTS / f"step-{step}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(folder) as partial:
            partial.mkdir()
            for name, module in trained.modules.items():
                _write(partial / f"{name}.safetensors", module.state_dict())
            _write(partial / "optimiser.safetensors", _flatten(trained.optimiser))
            if trained.average is not None:
                _write(partial / "average.safetensors", trained.average)
            values = {"format": _FORMAT, "step": step, "torch": torch.__version__, **state}
            files.write_json(partial / _STATE, values, indent=2, durable=True)
    except (OSError, SafetensorError) as error:
        last = newest_checkpoint(run)
        kept = f"{last} is whole: free some space and go on with --resume." if last else "There is no earlier one."
        raise TrainingError(f"The checkpoint of step {step:,} can't be written to {folder}: {error}. {kept}") from error
    killed = folder.parent.glob(".step-*.partial")  # of a process that was killed while it wrote
    for old in (*_checkpoints(run)[:-keep], *killed):
        shutil.rmtree(old, ignore_errors=True)
    return folder


def newest_checkpoint(run: Path) -> Path | None:
    """The folder of the last step that was written whole, or None."""
    return next(reversed(_checkpoints(run)), None)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The plain values of a checkpoint. Raises TrainingError where they are missing, damaged or of another format."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise ValueError(f"{_STATE} holds no object")
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{checkpoint} is damaged ({error}). Delete it, and --resume goes on from the one before."
        ) from error
    if state.get("format") != _FORMAT:
        raise TrainingError(
            f"{checkpoint} has format {state.get('format')!r}, this version of Sightline writes {_FORMAT}. "
            "Resume with the version that wrote it, or start again in another folder."
        )
    return state


def load_checkpoint(checkpoint: Path, trained: Trained) -> dict[str, Tensor] | None:
    """Put a checkpoint's tensors into modules and optimiser, in place; gives the moving average, or None.

    Raises TrainingError where a file is missing or damaged, or the tensors are those of another model.
    """
    for name, module in trained.modules.items():
        _fit(module, _read(checkpoint / f"{name}.safetensors"), origin=f"{checkpoint}: {name}")
    _unflatten(trained.optimiser, _read(checkpoint / "optimiser.safetensors"), origin=str(checkpoint))
    return None if trained.average is None else _read(checkpoint / "average.safetensors")


def _checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints, by step."""
    folder = run / CHECKPOINTS
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := _STEP.fullmatch(p.name))] if folder.is_dir() else []
    return [path for _, path in sorted(found)]


def _fit(module: nn.Module, tensors: dict[str, Tensor], *, origin: str) -> None:
    own = module.state_dict()
    if set(own) != set(tensors) or any(own[name].shape != tensors[name].shape for name in own):
        differing = sorted(set(own) ^ set(tensors)) or [n for n in own if own[n].shape != tensors[n].shape]
        raise TrainingError(
            f"{origin}: these are the weights of another model; {len(differing)} tensors differ, such as "
            f"{differing[0]}. Give the folder of the run that wrote them, or start anew in another folder."
        )
    module.load_state_dict(tensors)


def _flatten(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments as named tensors: `12.exp_avg` is that of the twelfth parameter."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def _unflatten(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], *, origin: str) -> None:
    parameters = dict(enumerate(p for group in optimiser.param_groups for p in group["params"]))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index) if index.isdecimal() else -1, {})[name] = value
    fits = all(
        index in parameters and "exp_avg" in values and values["exp_avg"].shape == parameters[index].shape
        for index, values in state.items()
    )
    if not fits:
        raise TrainingError(f"{origin}: the optimiser's state is that of another model or of other frozen parts.")
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    share_as_others(path)
    # Have the bytes on the disk before the folder gets its name.
    with path.open("rb") as file, contextlib.suppress(OSError):  # some file systems can't
        os.fsync(file.fileno())


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path} can't be read ({error}). Delete {path.parent}, and --resume goes on from the one before."
        ) from error
    return tensors


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """The vectors of a few val pairs at one moment of a run, kept for those who study it.

    Images and the first caption of each (or the name of its class), as unit vectors.
    """

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
    advice = "Make room or correct its permissions; go on with --resume."
    with (
        files.explained(path, advice, error=TrainingError),
        files.replacing(path) as partial,
        partial.open("wb") as file,
    ):
        np.savez(
            file,
            image_ND=probe.image_ND,
            text_ND=probe.text_ND,
            ids=np.array(probe.ids, dtype=np.str_),
            texts=np.array(probe.texts, dtype=np.str_),
            step=np.int64(probe.step),
            temperature=np.float64(probe.temperature),
        )


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
