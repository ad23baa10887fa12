"""What a study made, from its folder, or on a smaller scale now: models, sweeps, generated pictures."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from claims import (
    STUDY_SWEEPS,
    find_study_model,
    shrink_sweep,
    study_folder,
    train_small,
)
from PIL import Image

from sightline.lab.data.scenes.grammar import RELATIONS, ObjectKind, Scene, draw_scene, is_related
from sightline.lab.data.scenes.render import render_scene
from sightline.lab.experiments.results import RunResult, is_sweep, read_sweep
from sightline.lab.experiments.sweep import run_sweep
from sightline.lab.generate.config import (
    FLOW,
    FLOW_SAMPLING,
    DiffusionConfig,
    GuidedConfig,
    has_finished,
    load_prompts,
    make_flow_config,
)
from sightline.lab.generate.judge import MadeImage, wilson_interval
from sightline.lab.generate.run import DiffusionRequest, GuidedRequest, generate_diffused, generate_guided

MAKER, JUDGE = "scenes-0", "scenes-1"
GENERATED, FLOW_GENERATED = "generated", "generated-flow"
SETTINGS_FILE = "generate.json"
_FEW = 12
_SMALL_FLOW = ("steps=1500", "keep_steps=250", "n_scenes=8000")
"""A fifth of the study's: some minutes."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Pictures that one model made of words, and what another makes of them."""

    asked: dict[str, Any]
    """`generate.json`."""
    images: Sequence[MadeImage]
    maker: Path
    judge: Path

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """What the judge says of the best picture of each prompt."""
        verdicts: list[dict[str, Any]] = self.asked["judgement"]["verdicts"]
        return verdicts

    @property
    def right(self) -> np.ndarray:
        """Of each verdict whether the right prompt ranks first."""
        return np.array([verdict["rank"] == 1 for verdict in self.verdicts])

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the share of right ones."""
        return wilson_interval(int(self.right.sum()), len(self.right))

    @property
    def chance(self) -> float:
        """The share that guessing gets right."""
        return float(self.asked["judgement"]["chance"])

    def judged_image(self, verdict: dict[str, Any]) -> MadeImage:
        """The picture that a verdict is on."""
        return next(p for p in self.images if (p.prompt, p.seed) == (verdict["prompt"], verdict["seed"]))


def find_model(name: str, work: Path, *, smoke: bool) -> Path:
    """A model of the study, or a smaller one, trained now into `work` unless it is there."""
    found = None if smoke else find_study_model(name)
    small = work / name
    return found or (small if small.is_dir() else train_small(name, small, smoke=smoke))


def find_sweep(name: str, work: Path, *, smoke: bool) -> list[RunResult]:
    """The trials of a sweep of the study that came to their end, or of a smaller one, trained now into `work`."""
    study = None if smoke else study_folder()
    if study is not None and is_sweep(study / name):
        trials = read_sweep(study / name).trials
    else:
        trials = tuple(run_sweep(shrink_sweep(STUDY_SWEEPS[name], smoke=smoke), work / name))
    return [trial for trial in trials if trial.state == "complete"]


def find_flow(work: Path, *, smoke: bool) -> Path:
    """The study's flow, or a smaller one, trained now into `work` unless it is there."""
    from sightline.lab.generate.flow import train_flow

    study = None if smoke else study_folder()
    if study is not None and has_finished(study / "flow"):
        return study / "flow"
    folder = work / "flow"
    if not has_finished(folder):
        init = f"init=dir:{find_model(MAKER, work, smoke=smoke)}"
        train_flow(make_flow_config(folder, [init, *(() if smoke else _SMALL_FLOW)], smoke=smoke), folder)
    return folder


@dataclass(frozen=True, kw_only=True)
class Described:
    """A scene of two things, the sentence that says all of both and how they lie, and false ones beside it."""

    scene: Scene
    prompt: str
    swapped: dict[str, str]
    """What is false -> the sentence: colours or shapes exchanged, the relation turned round."""

    def render(self, size_px: int) -> np.ndarray:
        """The scene on a plain ground."""
        return render_scene(replace(self.scene, noise_seed=None), size_px)


def describe_scenes(count: int) -> list[Described]:
    """The first val scenes of two things, different in colour and shape, clearly beside or above each other."""
    found: list[Described] = []
    for number in itertools.count():
        scene = draw_scene(0, "val", number)
        one, other = scene.objects[:2]
        relation = next((name for name in RELATIONS if is_related(name, one, other)), None)
        alike = one.kind.colour == other.kind.colour or one.kind.shape == other.kind.shape
        if relation is None or alike or len(scene.objects) > 2:
            continue
        found.append(_describe(scene, relation))
        if len(found) == count:
            return found
    raise AssertionError  # the stream has no end


def _describe(scene: Scene, relation: str) -> Described:
    words = {"left": "to the left of", "right": "to the right of"}
    turned = {"left": "right", "right": "left", "above": "below", "below": "above"}
    one, other = (thing.kind for thing in scene.objects)

    def say(one: ObjectKind, relation: str, other: ObjectKind) -> str:
        return f"a {' '.join(map(str, one))} {words.get(relation, relation)} a {' '.join(map(str, other))}"

    swap = {
        key: (one._replace(**{key: getattr(other, key)}), other._replace(**{key: getattr(one, key)}))
        for key in ("colour", "shape")
    }
    swapped = {f"{key}s": say(first, relation, second) for key, (first, second) in swap.items()}
    swapped["places"] = say(one, turned[relation], other)
    return Described(scene=scene, prompt=say(one, relation, other), swapped=swapped)


def load_or_make(work: Path, *, smoke: bool, flow: bool = False) -> Generated:
    """The study's pictures where there is a study; else a dozen, made now by smaller models.

    They are optimised until CLIP finds that they fit; with `flow` they are the flow's, the best of four by CLIP.
    """
    study, name = None if smoke else study_folder(), FLOW_GENERATED if flow else GENERATED
    folder = work / name if study is None or not (study / name / SETTINGS_FILE).is_file() else study / name
    if not (folder / SETTINGS_FILE).is_file():
        with contextlib.redirect_stderr(io.StringIO()):  # the judge is exported for ONNX Runtime, which is told there
            (_make_by_flow if flow else _make)(work, folder, smoke=smoke)
    asked = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    return Generated(
        asked=asked,
        images=[_read(folder, entry) for entry in asked["pictures"]],
        maker=find_model(MAKER, work, smoke=smoke),
        judge=find_model(JUDGE, work, smoke=smoke),
    )


def _make(work: Path, folder: Path, *, smoke: bool) -> None:
    maker, judge = (find_model(name, work, smoke=smoke) for name in (MAKER, JUDGE))
    config = GuidedConfig(seeds=1, steps=100, views=2)
    if smoke:
        config = replace(config, steps=4, bank=8, frames=4)
    prompts = load_prompts(f"scenes:{4 if smoke else _FEW}")
    generate_guided(
        GuidedRequest(prompts=prompts, models=[f"dir:{maker}"], judge=f"dir:{judge}", config=config), folder
    )


def _make_by_flow(work: Path, folder: Path, *, smoke: bool) -> None:
    maker, judge = (find_model(name, work, smoke=smoke) for name in (MAKER, JUDGE))
    request = DiffusionRequest(
        prompts=load_prompts(f"scenes:{4 if smoke else _FEW}"),
        pipeline=f"{FLOW}{find_flow(work, smoke=smoke)}",
        model=f"dir:{maker}",
        judge=f"dir:{judge}",
        config=DiffusionConfig(**{**FLOW_SAMPLING, **({"steps": 2} if smoke else {})}),
    )
    generate_diffused(request, folder)


def _read(folder: Path, entry: dict[str, Any]) -> MadeImage:
    def pixels(name: str) -> np.ndarray:
        with Image.open(folder / name) as image:
            return np.asarray(image.convert("RGB"))

    return MadeImage(
        prompt=entry["prompt"],
        seed=entry["seed"],
        rgb=pixels(entry["file"]),
        similarity=entry["similarity"],
        steps=entry["steps"],
        took_s=entry["took_s"],
        curve=tuple((step, similarity) for step, similarity in entry["curve"]),
        frames=tuple(pixels(name) for name in entry.get("frames", [])),
    )
