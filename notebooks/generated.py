"""The study's generated pictures: those in its folder, or a few that are made now."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightline.lab.experiments.notebooks import SCENES, find_study_model, study_folder, train_small
from sightline.lab.generate.config import GuidedConfig, load_prompts
from sightline.lab.generate.judge import MadeImage, wilson_interval
from sightline.lab.generate.run import GuidedRequest, generate_guided

MAKER, JUDGE = "scenes-0", "scenes-1"
GENERATED = "generated"
SETTINGS_FILE = "generate.json"
_FEW = 12


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


def find_model(name: str, work: Path, *, smoke: bool, data: str = SCENES) -> Path:
    """A model of the study, or a smaller one, trained now into `work` unless it is there."""
    found = None if smoke or data != SCENES else find_study_model(name)
    small = work / name
    return found or (small if small.is_dir() else train_small(name, small, data=data, smoke=smoke))


def load_or_make(work: Path, *, smoke: bool) -> Generated:
    """The study's pictures where there is a study; else a dozen, made now by smaller models."""
    study = None if smoke else study_folder()
    folder = study / GENERATED if study is not None else None
    if folder is None or not (folder / SETTINGS_FILE).is_file():
        folder = _make(work, smoke=smoke)
    asked = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    return Generated(
        asked=asked,
        images=[_read(folder, entry) for entry in asked["pictures"]],
        maker=find_model(MAKER, work, smoke=smoke),
        judge=find_model(JUDGE, work, smoke=smoke),
    )


def _make(work: Path, *, smoke: bool) -> Path:
    maker, judge = (find_model(name, work, smoke=smoke) for name in (MAKER, JUDGE))
    config = GuidedConfig(seeds=1, steps=100, views=2)
    if smoke:
        config = replace(config, steps=4, bank=8, frames=4)
    prompts = load_prompts(f"scenes:{4 if smoke else _FEW}")
    request = GuidedRequest(prompts=prompts, models=[f"dir:{maker}"], judge=f"dir:{judge}", config=config)
    with contextlib.redirect_stderr(io.StringIO()):  # the judge is exported for ONNX Runtime, which is told there
        generate_guided(request, work / GENERATED)
    return work / GENERATED


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
