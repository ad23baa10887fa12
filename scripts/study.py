"""The whole study with one command: `python scripts/study.py --output study`, as `make study` runs it.

It trains three models and those of three sweeps, each setting with three seeds, reports, trains a model that makes
pictures, makes some and has them judged, asks models where things are, and runs the notebooks, which load all that.
Each part is a command of `sightline` that is printed before it runs. Parts that are done are skipped; after Ctrl-C or
a crash the same command goes on. `--smoke` runs every part in seconds; figures mean nothing then.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sightline.errors import InputError, SightlineError
from sightline.lab.experiments.results import is_run, is_sweep, read_sweep
from sightline.lab.generate.config import has_finished, is_flow

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

from claims import (  # noqa: E402 - beside the notebooks
    RECIPE,
    SMOKE_VARIABLE,
    STUDY_MODELS,
    STUDY_SWEEPS,
    STUDY_VARIABLE,
    is_finished,
    shrink_sweep,
)

NOTEBOOKS = ROOT / "notebooks" / "run.py"
IMAGES, SMOKE_IMAGES = 50, 4
POINTING = (("scenes-0", "map"), ("scenes-0", "gradient"), ("scenes-vit-0", "gradient"), ("scenes-vit-0", "attention"))
FULL_MARK, SMOKE_MARK = "study.full", "study.smoke"
"""Empty files that say which kind of run a folder holds: models of seconds must never pass for the study's."""
_ENDED = ("complete", "pruned", "failed")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One part of the study."""

    name: str
    command: tuple[str, ...]
    is_done: Callable[[], bool] = lambda: False
    made: Path | None = None
    """What the command writes beside its place and is moved there when it is whole."""
    place: Path | None = None
    writes_json: bool = False
    """Whether its standard output is what is kept."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Where the study is kept, and whether it is a smoke run."""

    output: Path
    smoke: bool

    def claim_folder(self) -> None:
        """Make the folder. Raises InputError where it is a file, or holds a run of the other kind, smoke or full."""
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"{self.output} is a file; --output must name a folder.")
        if (self.output / (FULL_MARK if self.smoke else SMOKE_MARK)).is_file():
            raise InputError(f"{self.output} holds a {'full' if self.smoke else 'smoke'} run; give another --output.")
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / (SMOKE_MARK if self.smoke else FULL_MARK)).touch()

    def steps(self) -> Iterator[Step]:
        """All parts in order."""
        yield from map(self._model, STUDY_MODELS)
        yield from map(self._sweep, STUDY_SWEEPS)
        yield from (self._report(f"report-{name.removeprefix('sweep-')}", [name]) for name in STUDY_SWEEPS)
        yield self._report("report-models", list(STUDY_MODELS))
        yield self._flow()
        yield self._generated("generated", "--model", f"dir:{self.output / 'scenes-0'}", "--frames", "8")
        yield self._generated("generated-flow", "--engine", f"flow:{self.output / 'flow'}", "--seeds", "4")
        yield from (self._pointing(name, method) for name, method in POINTING)
        yield self._notebooks()

    def _model(self, name: str) -> Step:
        run = self.output / name
        resume = ("--resume",) if is_run(run) else ()
        command = (
            *_sightline("train", RECIPE, "--output", run),
            *_settings(STUDY_MODELS[name]),
            *self._smoke(),
            *resume,
        )
        return Step(
            name=name, command=command if not resume else _without_settings(command), is_done=lambda: is_finished(run)
        )

    def _sweep(self, name: str) -> Step:
        sweep, config = self.output / name, STUDY_SWEEPS[name]
        if self.smoke:
            config = shrink_sweep(config, smoke=True)
        command = _sightline("sweep", config.recipe, "--output", sweep, *self._smoke(), *_settings(config.settings))
        return Step(
            name=name, command=(*command, "--grid", *config.grid), is_done=lambda: _is_swept(sweep, config.grid)
        )

    def _report(self, name: str, runs: Sequence[str]) -> Step:
        folders = [self.output / run for run in runs]
        return Step(name=name, command=_sightline("report", *folders, "--output", self.output / f"{name}.html"))

    def _flow(self) -> Step:
        flow = self.output / "flow"
        begun = (
            ("--resume",)
            if is_flow(flow)
            else ("scenes-flow", "--init", f"dir:{self.output / 'scenes-0'}", *self._smoke())
        )
        command = _sightline("train", *begun, "--output", flow)
        return Step(name="flow", command=command, is_done=lambda: has_finished(flow))

    def _generated(self, name: str, *maker: str) -> Step:
        place, few = self.output / name, ("--steps", "3")
        made = place.with_name(f"{name}.partial")
        prompts = ("--prompts", f"scenes:{SMOKE_IMAGES if self.smoke else IMAGES}")
        command = _sightline("generate", *prompts, *maker, "--judge", f"dir:{self.output / 'scenes-1'}")
        return Step(
            name=name,
            command=(*command, *(few if self.smoke else ()), "--output", str(made)),
            is_done=place.is_dir,
            made=made,
            place=place,
        )

    def _pointing(self, name: str, method: str) -> Step:
        place = self.output / f"pointing-{name}-{method}.json"
        data = ("--data", "scenes", "--split", "test", "--limit", "4" if self.smoke else "300")
        command = _sightline("eval", "pointing", "--model", f"dir:{self.output / name}", *data, "--method", method)
        return Step(name=place.stem, command=(*command, "--json"), is_done=place.is_file, place=place, writes_json=True)

    def _notebooks(self) -> Step:
        return Step(name="notebooks", command=(sys.executable, str(NOTEBOOKS), *self._smoke()))

    def _smoke(self) -> tuple[str, ...]:
        return ("--smoke",) if self.smoke else ()


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where the whole study is there; 1 where a part failed; 130 when interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the study's folder [default: study, or study-smoke]")
    parser.add_argument("--smoke", action="store_true", help="every part in seconds, in a folder of its own")
    parser.add_argument("--only", action="append", metavar="PART", help="run just this part (several times for more)")
    parser.add_argument("--without", action="append", default=[], metavar="PART", help="leave this part out")
    options = parser.parse_args(arguments)
    output = options.output or Path("study-smoke" if options.smoke else "study")
    study = Study(output=output.expanduser().resolve(), smoke=options.smoke)
    try:
        study.claim_folder()
        steps = list(study.steps())
    except SightlineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    named = {*(options.only or ()), *options.without}
    if unknown := sorted(named - {step.name for step in steps}):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(step.name for step in steps)}")
    chosen = [step for step in steps if step.name in (options.only or [step.name]) and step.name not in options.without]
    started = time.monotonic()
    for step in chosen:
        code = run_step(step, study)
        if code:
            what = "Stopped" if code == 130 else f"{step.name} failed"
            print(f"{what}. The same command goes on from here.", file=sys.stderr)
            return 130 if code == 130 else 1
    print(f"The study is in {study.output}, after {(time.monotonic() - started) / 60:.1f} minutes.", file=sys.stderr)
    return 0


def run_step(step: Step, study: Study) -> int:
    """Run a part unless it is done; the exit code of its command."""
    if step.is_done():
        print(f"== {step.name}: done before", file=sys.stderr)
        return 0
    print(f"== {step.name}\n$ {_shown(step.command)}", file=sys.stderr, flush=True)
    if step.made is not None:
        shutil.rmtree(step.made, ignore_errors=True)  # ours, of a run that was stopped
    started = time.monotonic()
    target = None if not step.writes_json else step.place.with_name(f".{step.place.name}.partial")  # type: ignore[union-attr]
    code = _run(step.command, target=target, environment=_environment(study))
    if code == 0 and step.place is not None:
        (target or step.made).replace(step.place)  # type: ignore[union-attr]
    elif target is not None:
        target.unlink(missing_ok=True)
    print(f"== {step.name}: {(time.monotonic() - started) / 60:.1f} minutes", file=sys.stderr, flush=True)
    return code


def _run(command: Sequence[str], *, target: Path | None, environment: dict[str, str]) -> int:
    """Wait for a command; on Ctrl-C and SIGTERM it is given the time to keep what it has."""
    asked = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if number == signal.SIGTERM or asked:  # a terminal sends Ctrl-C to the command itself
            process.send_signal(number)
        asked = True

    with target.open("wb") if target is not None else contextlib.nullcontext() as file:
        process = subprocess.Popen(command, stdout=file, env=environment)
        before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return 130 if asked else code


def _environment(study: Study) -> dict[str, str]:
    """What notebooks and commands find the study by; pictures are rendered and decoded once for all."""
    named = {STUDY_VARIABLE: str(study.output), "SIGHTLINE_CACHE": str(study.output / "cache")}
    return {**os.environ, **named, SMOKE_VARIABLE: "1" if study.smoke else ""}


def _sightline(*words: object) -> tuple[str, ...]:
    return (sys.executable, "-m", "sightline", *map(str, words))


def _settings(settings: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for setting in settings for word in ("--set", setting))


def _without_settings(command: Sequence[str]) -> tuple[str, ...]:
    """A run that goes on has its settings already."""
    pairs = zip(command, ("", *command), strict=False)
    return tuple(word for word, before in pairs if "--set" not in (word, before) and word != "--smoke")


def _is_swept(sweep: Path, grid: Sequence[str]) -> bool:
    if not is_sweep(sweep):
        return False
    wanted = 1
    for axis in grid:
        wanted *= axis.count(",") + 1
    trials = read_sweep(sweep).trials
    return len(trials) == wanted and all(trial.state in _ENDED for trial in trials)


def _shown(command: Sequence[str]) -> str:
    """As a person would type it."""
    words = ["sightline", *command[3:]] if command[1:3] == ("-m", "sightline") else ["python", *command[1:]]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
