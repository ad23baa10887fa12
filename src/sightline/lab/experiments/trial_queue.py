"""The trials of a sweep in Optuna's storage: which are waiting, who takes them, what came of them.

A process holds a lock file for the trial that it trains, which the system frees when the process ends, in whatever way:
a trial that is under way by the storage but whose lock is free is gone on with by the next who looks.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import BaseFileLock, FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from sightline.errors import InputError, TrainingError
from sightline.lab.experiments.sweep_config import (
    Axis,
    Choices,
    PrunerName,
    Range,
    SamplerName,
    SweepConfig,
    flat_value,
)
from sightline.lab.training.config import parse_setting, setting_options

STORAGE_FILE = "optuna.log"
LOCKS_FOLDER = "locks"
_FOLDER, _TOOK_S, _REASON = "folder", "took_s", "reason"
_UNCLAIMED_S = 60.0
"""After so long a trial that a process of another machine took, but never put its name to, is anybody's."""

Outcome = Literal["complete", "pruned", "failed"]

_OUTCOMES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that this process trains."""

    number: int
    cell: dict[str, Any]
    trial: optuna.Trial
    lock: BaseFileLock


class TrialQueue:
    """The trials of one sweep; several processes may have it open."""

    def __init__(
        self, output: Path, config: SweepConfig, axes: tuple[Axis, ...], *, study_name: str, folder_id: str
    ) -> None:
        """Open or make the study. Raises InputError for a storage that can't be opened."""
        self.axes, self._config, self._folder_id = axes, config, folder_id
        self._locks = output / LOCKS_FOLDER
        self.study = optuna.create_study(
            storage=_open_storage(output, config.storage),
            study_name=study_name,
            direction="maximize" if config.maximise else "minimize",
            pruner=_make_pruner(config.pruner),
            load_if_exists=True,
        )
        self._locks.mkdir(exist_ok=True)

    # --- which there are ----------------------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """All of them, by number."""
        with _explained():
            return self.study.get_trials(deepcopy=False)

    def enqueue(self, cells: Iterable[Mapping[str, Any]]) -> None:
        """Have trials of these settings wait, where no trial has them; Optuna's own test takes near numbers for one."""
        known = {repr(sorted(_params_of(trial).items())) for trial in self.trials()}
        for cell in cells:
            params = {key: flat_value(value) for key, value in cell.items()}
            if repr(sorted(params.items())) not in known:
                with _explained():
                    self.study.enqueue_trial(params)

    def retry_failed(self) -> None:
        """Have the settings of failed trials wait once more, where no later trial has them."""
        last = {repr(sorted(_params_of(trial).items())): trial for trial in self.trials()}
        for trial in last.values():
            if trial.state == TrialState.FAIL:
                with _explained():
                    self.study.enqueue_trial(_params_of(trial))

    def median_took_s(self) -> float | None:
        """Seconds of the trials that were trained to their end; None before the first."""
        took = [trial.user_attrs[_TOOK_S] for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return statistics.median(took) if took else None

    # --- taking and ending one ----------------------------------------------------------------------------------

    def claim_abandoned(self) -> Claim | None:
        """A trial that was begun here and that no process trains any more, with its lock."""
        for trial in self.trials():
            if trial.state != TrialState.RUNNING or not self._is_ours(trial):
                continue
            lock = self._lock_of(trial.number)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            with _explained():
                taken = optuna.Trial(self.study, trial._trial_id)
                if self.study.trials[trial.number].state == TrialState.RUNNING:
                    return self._put_name_to(taken, lock)
            lock.release()
        return None

    def claim_next(self) -> Claim:
        """The next trial that waits, else a new one of settings that the sampler draws, with its lock.

        Callers hold the sweep's own lock.
        """
        # Seeded by the trial's number, so that a new process doesn't draw the same again.
        seed = self._config.seed + len(self.trials())
        make = optuna.samplers.TPESampler if self._config.sampler == "tpe" else optuna.samplers.RandomSampler
        self.study.sampler = make(seed=seed)
        with _explained():
            trial = self.study.ask()
        lock = self._lock_of(trial.number)
        lock.acquire(blocking=False)  # its number is new, so nobody has it
        return self._put_name_to(trial, lock)

    def report(self, claim: Claim, *, percent: int, value: float) -> bool:
        """Note a measurement after so much of the run; whether the pruner would end it."""
        with _explained():
            if percent not in self.study.trials[claim.number].intermediate_values:  # a resumed run measures again
                claim.trial.report(value, percent)
            return claim.trial.should_prune()

    def finish(self, claim: Claim, outcome: Outcome, *, value: float | None, reason: str | None, took_s: float) -> None:
        """Write down the outcome of a trial; its lock is free from then on."""
        with _explained():
            claim.trial.set_user_attr(_TOOK_S, round(took_s, 2))
            claim.trial.set_user_attr(_REASON, reason)
            values = value if outcome == "complete" else None
            self.study.tell(claim.number, values, state=_OUTCOMES[outcome])
        claim.lock.release()

    # --- how ----------------------------------------------------------------------------------------------------

    def _lock_of(self, number: int) -> BaseFileLock:
        return FileLock(self._locks / f"{number}.lock", thread_local=False)

    def _put_name_to(self, trial: optuna.Trial, lock: BaseFileLock) -> Claim:
        with _explained():
            trial.set_user_attr(_FOLDER, self._folder_id)
            params = trial.params  # some, where its process died while they were drawn
            for axis in self.axes:
                if axis.key not in params:
                    params[axis.key] = trial._suggest(axis.key, make_distribution(axis, self._config.sampler))
        drawn = {axis.key: params[axis.key] for axis in self.axes}
        cell = {key: parse_setting(key, value) if isinstance(value, str) else value for key, value in drawn.items()}
        return Claim(number=trial.number, cell=cell, trial=trial, lock=lock)

    def _is_ours(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(_FOLDER)
        if owner is not None:
            return bool(owner == self._folder_id)
        begun = trial.datetime_start
        is_old = begun is not None and (datetime.now() - begun).total_seconds() > _UNCLAIMED_S
        return self._config.storage is None or is_old


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna's own lines are left to those who ask for them."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def make_distribution(axis: Axis, sampler: SamplerName) -> BaseDistribution:
    """An axis as Optuna is told it; of a grid's numbers their range, which `--extend` may widen."""
    if isinstance(axis, Range):
        make: Callable[..., BaseDistribution] = IntDistribution if axis.is_whole else FloatDistribution
        return make(axis.low, axis.high, log=axis.is_log)
    if sampler == "grid" and is_extensible(axis):
        if _are_numbers(axis.values):
            whole = all(isinstance(value, int) for value in axis.values)
            bounds = min(axis.values), max(axis.values)
            return IntDistribution(*bounds) if whole else FloatDistribution(*bounds)
        return CategoricalDistribution(setting_options(axis.key) or ())
    return CategoricalDistribution([flat_value(value) for value in axis.values])


def is_extensible(axis: Choices) -> bool:
    """True where a grid's axis can get further values: Optuna fixes the choices of all that isn't a number."""
    return _are_numbers(axis.values) or setting_options(axis.key) is not None


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _open_storage(output: Path, url: str | None) -> Any:
    if url is None:
        path = output / STORAGE_FILE
        try:
            with FileLock(path.with_name(STORAGE_FILE + ".flock")):
                _drop_broken_line(path)
                return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} can't be read: {error}. Is it Optuna's journal?") from error
    try:
        return optuna.storages.get_storage(RDBStorage(url, engine_kwargs={"pool_pre_ping": True}))
    except Exception as error:  # whatever a database's driver raises
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"--storage: the database can't be opened: {first}. Write an address that SQLAlchemy knows, as in "
            "sqlite:////shared/sweeps.db or postgresql://USER@HOST/NAME."
        ) from error


class _JournalLock(JournalFileOpenLock):
    """Optuna's lock on its journal by the system's, which frees that of a killed process at once."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._lock = FileLock(path.with_name(path.name + ".flock"), poll_interval=0.01)

    def acquire(self) -> bool:
        """Wait for it."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Free it."""
        self._lock.release()


def _drop_broken_line(path: Path) -> None:
    """Cut off what a crash left of a last line: it would make the next one unreadable."""
    if not path.is_file() or not path.stat().st_size:
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def _make_pruner(name: PrunerName) -> optuna.pruners.BasePruner:
    """Steps are percents of a run, so that batch sizes can be compared."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4)
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=10, reduction_factor=3)
    return optuna.pruners.NopPruner()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """A storage's refusal as an error that says what to do."""
    try:
        yield
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        raise TrainingError(
            f"The sweep's storage can't be read or written: {error}. What was trained is kept: correct that and run "
            "the same command again."
        ) from error


def _params_of(trial: FrozenTrial) -> dict[str, Any]:
    """Settings that a trial was asked to have or that were drawn, as Optuna has them."""
    params: dict[str, Any] = trial.system_attrs.get("fixed_params", trial.params)
    return params
