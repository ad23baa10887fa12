"""The trials of a sweep in Optuna's storage: which are waiting, who takes them, what came of them.

A process holds a lock file for the trial that it trains, which the system frees when the process ends, in whatever way:
a trial that is under way by the storage but whose lock is free is gone on with by the next who looks.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from sightline.lab.experiments.sweep_config import Axis, Choices, PrunerName, Range, SamplerName, to_json
from sightline.lab.training.config import setting_options

STORAGE_FILE = "optuna.log"
LOCKS_FOLDER = "locks"
_SETTINGS, _FOLDER, _TOOK_S, _REASON, _STATE = "settings", "folder", "took_s", "reason", "state"
_UNCLAIMED_S = 60.0
"""After so long a trial that a process of another machine took, but never put its name to, is anybody's."""

Outcome = Literal["complete", "pruned", "failed"]

_OUTCOMES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True, kw_only=True)
class Search:
    """How trials are drawn, judged and cut short."""

    axes: tuple[Axis, ...]
    sampler: SamplerName
    pruner: PrunerName
    maximise: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that this process trains."""

    number: int
    cell: dict[str, Any]
    trial: optuna.Trial
    lock: BaseFileLock


class TrialQueue:
    """The trials of one sweep; several processes may have it open."""

    def __init__(self, output: Path, search: Search, *, study_name: str, folder_id: str, url: str | None) -> None:
        """Open or make the study. Raises InputError for a storage that can't be opened."""
        self.search = search
        self._locks, self._folder_id, self._is_local = output / LOCKS_FOLDER, folder_id, url is None
        self.study = optuna.create_study(
            storage=_open_storage(output, url),
            study_name=study_name,
            direction="maximize" if search.maximise else "minimize",
            sampler=optuna.samplers.RandomSampler(seed=search.seed),
            pruner=_make_pruner(search.pruner),
            load_if_exists=True,
        )
        self._locks.mkdir(exist_ok=True)

    # --- which there are ----------------------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """All of them, by number."""
        with _explained():
            return self.study.get_trials(deepcopy=False)

    def enqueue(self, cells: Sequence[Mapping[str, Any]]) -> int:
        """Have trials of these settings wait, where no trial has them; how many are new."""
        known = [trial.user_attrs.get(_SETTINGS) for trial in self.trials()]
        new = [as_json for cell in cells if (as_json := to_json(cell)) not in known]
        for settings in new:
            self._enqueue(settings)
        return len(new)

    def retry_failed(self) -> int:
        """Have the settings of failed trials wait once more, where no later trial has them; how many."""
        trials = [trial for trial in self.trials() if _SETTINGS in trial.user_attrs]
        last = {repr(sorted(trial.user_attrs[_SETTINGS].items())): trial for trial in trials}
        failed = [trial for trial in last.values() if trial.state == TrialState.FAIL]
        for trial in failed:
            self._enqueue(trial.user_attrs[_SETTINGS])
        return len(failed)

    def median_took_s(self) -> float | None:
        """Of the trials that were trained to their end; None before the first."""
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

    def claim_waiting(self) -> Claim | None:
        """The next trial that waits, with its lock. Callers hold the sweep's own lock."""
        if not any(trial.state == TrialState.WAITING for trial in self.trials()):
            return None
        return self._ask()

    def draw(self) -> Claim:
        """A new trial of settings that the sampler chooses. Callers hold the sweep's own lock."""
        self.study.sampler = self._make_sampler(seed=self.search.seed + len(self.trials()))
        return self._ask()

    def report(self, claim: Claim, *, percent: int, value: float) -> bool:
        """Note a measurement after so much of the run; whether the pruner would end it."""
        with _explained():
            if percent not in self.study.trials[claim.number].intermediate_values:  # a resumed run measures again
                claim.trial.report(value, percent)
            return claim.trial.should_prune()

    def finish(self, claim: Claim, outcome: Outcome, *, value: float | None, reason: str | None, took_s: float) -> None:
        """What came of a trial; its lock is free from then on."""
        with _explained():
            claim.trial.set_user_attr(_TOOK_S, round(took_s, 2))
            claim.trial.set_user_attr(_STATE, outcome)
            claim.trial.set_user_attr(_REASON, reason)
            values = value if outcome == "complete" else None
            self.study.tell(claim.number, values, state=_OUTCOMES[outcome])
        claim.lock.release()

    # --- how ----------------------------------------------------------------------------------------------------

    def _enqueue(self, settings: Mapping[str, Any]) -> None:
        with _explained():
            params = {key: _as_param(value) for key, value in settings.items()}
            self.study.enqueue_trial(params, user_attrs={_SETTINGS: dict(settings)})

    def _ask(self) -> Claim:
        with _explained():
            trial = self.study.ask(
                {axis.key: make_distribution(axis, self.search.sampler) for axis in self.search.axes}
            )
            if _SETTINGS not in trial.user_attrs:
                trial.set_user_attr(_SETTINGS, to_json(self._drawn_cell(trial.params)))
        lock = self._lock_of(trial.number)
        lock.acquire(blocking=False)  # its number is new, so nobody has it
        return self._put_name_to(trial, lock)

    def _lock_of(self, number: int) -> BaseFileLock:
        return FileLock(self._locks / f"{number}.lock", thread_local=False)

    def _put_name_to(self, trial: optuna.Trial, lock: BaseFileLock) -> Claim:
        with _explained():
            trial.set_user_attr(_FOLDER, self._folder_id)
            settings = trial.user_attrs.get(_SETTINGS)
            if settings is None:  # its process died right after it was drawn
                settings = to_json(self._drawn_cell(trial.params))
                trial.set_user_attr(_SETTINGS, settings)
        return Claim(number=trial.number, cell=_as_cell(settings), trial=trial, lock=lock)

    def _drawn_cell(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that Optuna's parameters stand for."""
        return {axis.key: _from_param(axis, params[axis.key]) for axis in self.search.axes if axis.key in params}

    def _is_ours(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(_FOLDER)
        if owner is not None:
            return bool(owner == self._folder_id)
        begun = trial.datetime_start
        is_old = begun is not None and (datetime.now() - begun).total_seconds() > _UNCLAIMED_S
        return self._is_local or is_old

    def _make_sampler(self, *, seed: int) -> optuna.samplers.BaseSampler:
        """Seeded by the trial's number, so that a new process doesn't draw the same again."""
        if self.search.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


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
    """What Optuna is told of an axis; of a grid's numbers their range, which `--extend` may widen."""
    if isinstance(axis, Range):
        make: Callable[..., BaseDistribution] = IntDistribution if axis.is_whole else FloatDistribution
        return make(axis.low, axis.high, log=axis.is_log)
    if sampler == "grid" and is_extensible(axis):
        if _are_numbers(axis.values):
            whole = all(isinstance(value, int) for value in axis.values)
            bounds = min(axis.values), max(axis.values)
            return IntDistribution(*bounds) if whole else FloatDistribution(*bounds)
        return CategoricalDistribution(setting_options(axis.key) or ())
    return CategoricalDistribution([_as_param(value) for value in axis.values])


def is_extensible(axis: Choices) -> bool:
    """Whether a grid's axis can get further values: Optuna fixes the choices of all that isn't a number."""
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
    """What a crash left of a last line would make the next one unreadable."""
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


def _as_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


def _as_param(value: Any) -> Any:
    """Optuna's choices are numbers, words, truth values and None."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else value


def _from_param(axis: Axis, param: Any) -> Any:
    if isinstance(axis, Range):
        return param
    return next(value for value in axis.values if _as_param(value) == param)
