"""A sweep: the same recipe trained with other settings again and again, each trial a run of its own.

Optuna keeps which trials there are and draws their settings; the folder keeps everything that readers want.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import json
import math
import os
import time
import traceback
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sightline.errors import InputError, SightlineError, TrainingError, install_advice
from sightline.kit.work import Notice, Progress
from sightline.lab.experiments.results import SWEEP_FILE, RunResult, is_run, read_sweep
from sightline.lab.experiments.sweep_config import (
    ADVICE,
    DEFAULT_TRIALS,
    Axis,
    Choices,
    SweepConfig,
    SweepFolder,
    TrialNote,
    axes_from_json,
    cells_of,
    merge_axes,
    parse_grid,
    refuse_impossible,
    setting_text,
    short_text,
    smoke_settings,
)
from sightline.lab.training.recipes import make_config
from sightline.lab.training.run_folder import RunFolder, read_object, write_json

if TYPE_CHECKING:
    from sightline.lab.experiments.trial_queue import Claim, Outcome, TrialQueue
    from sightline.lab.training.loop import TrainReport

_TOLD = ("ALARM", "left out", "going on")
"""Lines of a run that are repeated; the others stand in its log."""
_FORMAT = 1


def run_sweep(
    config: SweepConfig,
    output: Path,
    *,
    report: Notice = lambda line: None,
    progress: Progress = lambda done, total, note: None,
) -> list[RunResult]:
    """Train the trials of a sweep in the folder `output`, or go on with those that are left; all of the folder's runs.

    Trials that fail are kept with their reason. Several processes may work in one folder. After Ctrl-C the running
    trial is kept as a checkpoint, its state `stopped`, and KeyboardInterrupt is raised; the next call goes on with it,
    as with one whose process died. Raises InputError for settings that no trial can have, TrainingError where the
    folder or the storage can't be written.
    """
    _require_installed()
    axes = parse_grid(config.grid)
    refuse_impossible(config, axes)
    from sightline.lab.experiments.trial_queue import quiet_optuna

    with quiet_optuna():
        folder = SweepFolder(path=output)
        with folder.locked():
            queue = _open(config, axes, folder)
        Sweep(config, folder, queue, report=report, progress=progress).go()
    return list(read_sweep(output).trials)


class _Counts(NamedTuple):
    begun: int
    finished: int
    left: int
    """Trials that may still be begun."""


class Sweep:
    """One process that works on a sweep."""

    def __init__(
        self, config: SweepConfig, folder: SweepFolder, queue: TrialQueue, *, report: Notice, progress: Progress
    ) -> None:
        self.config, self.folder, self.queue = config, folder, queue
        self.report, self.progress = report, progress
        self._settings = [*smoke_settings(config, queue.axes), *config.settings]
        self._started_s = time.monotonic()
        self._storage_error: TrainingError | None = None

    def go(self) -> None:
        """Trial after trial, until none is left or the budget's time is used."""
        while (claim := self._claim()) is not None:
            self._run(claim)
            gc.collect()  # the run's tensors, before those of the next

    # --- which trial is next ------------------------------------------------------------------------------------

    def _claim(self) -> Claim | None:
        with self.folder.locked():
            if self._budget_left_s() > 0 and (abandoned := self.queue.claim_abandoned()) is not None:
                return abandoned
            counts, left_s = self._counts(), self._budget_left_s()
            if counts.left and (left_s <= 0 or (self.queue.median_took_s() or 0.0) > left_s):
                budget_s = self.config.budget_s or 0.0
                self.report(f"{counts.left:,} trials are left, which the budget of {budget_s:,.0f} s has no time for")
                return None
            if counts.left:
                return self.queue.claim_next()
        if elsewhere := counts.begun - counts.finished:
            self.report(f"{elsewhere:,} trials are under way in other processes")
        return None

    def _counts(self) -> _Counts:
        states = [trial.state for trial in self.queue.trials()]
        waiting = sum(state.name == "WAITING" for state in states)
        begun, most = len(states) - waiting, self.config.trials
        if self.config.sampler == "grid":
            left = waiting if most is None else min(waiting, max(0, most - begun))
        else:
            left = max(waiting, (most or DEFAULT_TRIALS) - begun)
        return _Counts(begun=begun, finished=sum(state.is_finished() for state in states), left=left)

    def _budget_left_s(self) -> float:
        if self.config.budget_s is None:
            return math.inf
        return self.config.budget_s - (time.monotonic() - self._started_s)

    # --- one trial ----------------------------------------------------------------------------------------------

    def _run(self, claim: Claim) -> None:
        """Train one, and write down what came of it. Raises KeyboardInterrupt where it was interrupted."""
        path = self.folder.trial_path(claim.number, claim.cell)
        known = {"number": claim.number, "settings": dict(claim.cell), "metric": self.config.metric}
        note, counts = TrialNote(path, known), self._counts()
        total = counts.begun + counts.left
        what = " ".join(f"{key}={short_text(value)}" for key, value in claim.cell.items())
        self.report(f"trial {claim.number} ({counts.begun:,} of {total:,}): {what}")
        note.write("running")
        try:
            result, pruned = self._train(claim, path, done=counts.finished, total=total)
        except KeyboardInterrupt:
            self._leave(claim, note, "interrupted")
            raise
        except Exception as error:  # one trial's failure is a result of the sweep, with its reason
            if self._storage_error is not None or _is_disk_full(error):  # the next trial would meet it too
                with contextlib.suppress(TrainingError):
                    self._leave(claim, note, str(error))
                raise TrainingError(f"{error} The sweep stops here; the same command goes on with it.") from error
            text, where = str(error).strip() or type(error).__name__, dict[str, Any]()
            if not isinstance(error, SightlineError):
                text = f"{type(error).__name__}: {text.splitlines()[0]}"
                where = {"traceback": traceback.format_exception(error)}
            self._finish(claim, note, "failed", reason=text, **where)
            return
        if result.interrupted and result.steps < result.total_steps:
            self._leave(claim, note, result.stopped)
            raise KeyboardInterrupt
        value = result.metrics.get(self.config.metric)
        if value is None:
            there = ", ".join(result.metrics) or "no metrics"
            self._finish(claim, note, "failed", reason=f"it has no {self.config.metric}; there are {there}")
        else:
            self._finish(claim, note, "pruned" if pruned else "complete", reason=result.stopped, value=value)
        if result.interrupted:
            raise KeyboardInterrupt

    def _leave(self, claim: Claim, note: TrialNote, reason: str | None) -> None:
        """For whoever goes on with it."""
        try:
            note.write("stopped", reason=reason)
        finally:
            claim.lock.release()

    def _finish(
        self,
        claim: Claim,
        note: TrialNote,
        outcome: Outcome,
        *,
        reason: str | None,
        value: float | None = None,
        **more: Any,
    ) -> None:
        note.write(outcome, reason=reason, value=value, **more)
        self.queue.finish(claim, outcome, value=value, reason=reason, took_s=note.took_s)
        shown = f"{self.config.metric} {value:.4f}" if value is not None else "no result"
        because = f": {reason}" if reason else ""
        self.report(f"trial {claim.number}: {outcome}, {shown}, {note.took_s:,.0f} s{because}")

    def _train(self, claim: Claim, path: Path, *, done: int, total: int) -> tuple[TrainReport, bool]:
        """The report of the run, and whether the pruner ended it."""
        from sightline.lab.training.loop import train

        resume = is_run(path)
        if resume:
            config = RunFolder(path=path).read_config()
        else:
            settings = [*self._settings, *(setting_text(key, value) for key, value in claim.cell.items())]
            config = make_config(self.config.recipe, settings, smoke=self.config.smoke)
        steps, pruned = 0, False

        def show(step: int, total_steps: int | None, note: str) -> None:
            nonlocal steps
            steps = total_steps or step
            self.progress(done, total, f"trial {claim.number}, step {step:,}/{steps:,}: {note}")

        def on_measure(step: int, metrics: Mapping[str, float]) -> str | None:
            nonlocal pruned
            reason = self._judge(claim, percent=round(100 * step / steps), metrics=metrics)
            pruned = reason is not None and step < steps
            return reason

        def tell(line: str) -> None:
            if line.startswith(_TOLD):
                self.report(f"trial {claim.number}: {line}")

        result = train(config, path, resume=resume, report=tell, progress=show, on_measure=on_measure)
        return result, pruned

    def _judge(self, claim: Claim, *, percent: int, metrics: Mapping[str, float]) -> str | None:
        value = metrics.get(self.config.metric)
        if value is None:
            return None
        try:
            ends = self.queue.report(claim, percent=percent, value=value)
        except TrainingError as error:
            self._storage_error = error
            raise
        return f"pruned after {percent}% ({self.config.pruner})" if ends else None


def _open(config: SweepConfig, axes: tuple[Axis, ...], folder: SweepFolder) -> TrialQueue:
    """The queue of the folder's sweep, which is begun, gone on with or extended. Callers hold the folder's lock."""
    from sightline.lab.experiments.trial_queue import TrialQueue

    file = folder.path / SWEEP_FILE
    asked = read_object(file) if file.is_file() else None
    is_new = asked is None
    if asked is None:
        grid = {axis.key: axis.to_json() for axis in axes}
        digest = hashlib.blake2b(json.dumps([config.identity(), grid]).encode(), digest_size=4).hexdigest()
        asked = {"format": _FORMAT, "study": f"{config.recipe}-{digest}", "folder": uuid.uuid4().hex, "grid": grid}
    else:
        axes = _same_sweep(config, axes, asked, folder.path)
    asked |= config.identity() | {"budget_s": config.budget_s, "trials": config.trials}
    asked |= {"grid": {axis.key: axis.to_json() for axis in axes}, "shared_storage": config.storage is not None}
    write_json(file, asked, advice=ADVICE)
    try:
        queue = TrialQueue(folder.path, config, axes, study_name=asked["study"], folder_id=asked["folder"])
    except BaseException:
        if is_new:  # so that it can be tried again
            file.unlink()
        raise
    if config.sampler == "grid":
        queue.enqueue(cells_of(axes))
    if config.retry_failed:
        queue.retry_failed()
    return queue


def _same_sweep(config: SweepConfig, axes: tuple[Axis, ...], asked: Mapping[str, Any], path: Path) -> tuple[Axis, ...]:
    """The axes to go on with. Raises InputError where the folder's sweep is another one."""
    if asked.get("format") != _FORMAT:
        raise InputError(
            f"{path}: the sweep has format {asked.get('format')!r}, this version of Sightline writes {_FORMAT}. Give "
            "another --output."
        )
    for key, value in config.identity().items():
        if asked.get(key) != value:
            raise InputError(
                f"{path} holds a sweep with {key} {asked.get(key)!r}, now it is {value!r}. Give another --output, or "
                "the settings that it began with."
            )
    if asked.get("shared_storage", False) != (config.storage is not None):
        wanted = "it needs the same --storage again" if asked.get("shared_storage") else "leave --storage out"
        raise InputError(f"{path} holds a sweep whose trials are kept in another storage: {wanted}.")
    before = axes_from_json(asked["grid"])
    if {axis.key: axis for axis in axes} == {axis.key: axis for axis in before}:
        return before
    if not config.extend:
        shown = " ".join(f"{key}={json.dumps(values)}" for key, values in asked["grid"].items())
        raise InputError(
            f"{path} holds a sweep over {shown}. Run it with that grid to go on, add --extend to add these values to "
            "it, or give another --output."
        )
    from sightline.lab.experiments.trial_queue import is_extensible

    merged = merge_axes(before, axes)
    for old, new in zip(before, merged, strict=True):
        fixed = isinstance(old, Choices) and isinstance(new, Choices) and old != new
        if fixed and (config.sampler != "grid" or not (is_extensible(old) and is_extensible(new))):  # type: ignore[arg-type]
            raise InputError(
                f"--extend can't add values to {old.key}: a sampler that draws, and settings that are no numbers, keep "
                "the values that they began with. Start another sweep."
            )
    return merged


def _require_installed() -> None:
    missing = [name for name in ("optuna", "torch", "transformers") if find_spec(name) is None]
    if missing:
        raise TrainingError(f"A sweep needs {' and '.join(missing)}: {install_advice('train')}")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise InputError(
            "A sweep trains each trial in one process. Leave torchrun out, and start the same command several times "
            "to train several trials at once."
        )


def _is_disk_full(error: BaseException | None) -> bool:
    """True where a disk that takes nothing more is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return True
        error = error.__cause__
    return False
