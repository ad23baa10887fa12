"""Checkpoints: all that a run needs to go on as if it had never stopped, written whole or not at all.

A checkpoint is a folder `checkpoints/step-N` of safetensors files and one `state.json`; nothing in it is a pickle.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightline.errors import TrainingError
from sightline.kit.files import share_as_others

CHECKPOINTS = "checkpoints"
_STATE = "state.json"
_FORMAT = 1
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What changes while a run goes on: modules by name, the optimiser, and plain values."""

    modules: Mapping[str, nn.Module]
    optimiser: torch.optim.Optimizer
    average: Mapping[str, Tensor] | None = None
    """Moving average of the weights, where the run keeps one."""


def save_checkpoint(run: Path, step: int, trained: Trained, *, state: Mapping[str, Any], keep: int) -> Path:
    """Write `checkpoints/step-N` and drop all but the newest `keep`.

    Raises TrainingError where it can't be written, as on a full disk; earlier checkpoints are left as they are.
    """
    folder = run / CHECKPOINTS / f"step-{step}"
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, module in trained.modules.items():
            _write(partial / f"{name}.safetensors", module.state_dict())
        _write(partial / "optimiser.safetensors", _flatten(trained.optimiser))
        if trained.average is not None:
            _write(partial / "average.safetensors", trained.average)
        values = {"format": _FORMAT, "step": step, "torch": torch.__version__, **state}
        _write_text(partial / _STATE, json.dumps(values, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = newest_checkpoint(run)
        kept = f"{last} is whole: free some space and go on with --resume." if last else "There is no earlier one."
        raise TrainingError(f"The checkpoint of step {step:,} can't be written to {folder}: {error}. {kept}") from error
    for old in _checkpoints(run)[:-keep]:
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
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    share_as_others(path)
    _sync(path)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """Have the bytes on the disk before the folder gets its name."""
    with path.open("rb") as file, contextlib.suppress(OSError):  # some file systems can't
        os.fsync(file.fileno())


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path} can't be read ({error}). Delete {path.parent}, and --resume goes on from the one before."
        ) from error
    return tensors
