"""The pointing game: does the strongest point of a map lie within the thing that the words name?

Zhang et al. 2016 (Excitation Backprop, arXiv:1608.00507), on rendered scenes, where each thing's place is known, and
without their margin of 15 pixels. A thing is the circle around its centre that holds all of it; words are its colour
and shape, which no other thing of a scene shares.

Shape suffixes: T words of one scene, H W rows and columns of a map, N words of all scenes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Encoder
from sightline.errors import InputError
from sightline.lab.data.base import Dataset
from sightline.lab.data.scenes.dataset import SceneImage
from sightline.lab.data.scenes.grammar import Scene, SceneObject
from sightline.lab.evaluation.embedding import CountProgress, describe_encoder, embed_texts
from sightline.lab.evaluation.results import Bootstrap, EvalResult, Figures, mean_of
from sightline.lab.experiments.explain import MethodChoice, choose_method, explain_pixels

HIT = "pointing_hit"


@dataclass(frozen=True, kw_only=True)
class PointingConfig:
    """Settings of the game."""

    method: MethodChoice = "auto"
    bootstrap: Bootstrap = field(default_factory=Bootstrap)


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The outcome of the words of one thing."""

    words: str
    hit: bool
    """True where the strongest point lies within the thing."""
    on_another: bool
    """True where it lies within another thing instead: seen, but not told apart."""
    energy: float
    """Share of the heat above the map's mean that lies within the thing; 0 where all places are alike."""
    share: float
    """Share of the image that the thing takes: the chance of a hit, and of energy, for a map that knows nothing."""


def pointing_game(
    encoder: Encoder, dataset: Dataset, config: PointingConfig | None = None, *, progress: CountProgress | None = None
) -> EvalResult:
    """`pointing_hit` with its chance, `pointing_on_another`, `pointing_energy`; intervals by resampling scenes.

    Raises InputError for images whose things' places aren't known, ModelError where the model can't be asked so.
    """
    config = config or PointingConfig()
    started = time.perf_counter()
    points = list(play(encoder, dataset, method=config.method, progress=progress))
    scene_N = np.repeat(np.arange(len(points)), [len(of_scene) for of_scene in points])
    flat = [point for of_scene in points for point in of_scene]
    things_N = np.repeat([len(of_scene) for of_scene in points], [len(of_scene) for of_scene in points])
    results = {
        HIT: [point.hit for point in flat],
        "pointing_on_another": [point.on_another for point in flat],
        "pointing_energy": [point.energy for point in flat],
        "pointing_chance": [point.share for point in flat],
    }
    statistics = {name: mean_of(np.array(values), scene_N, len(points)) for name, values in results.items()}
    figures = Figures(statistics=statistics, n_groups=len(points))
    return EvalResult(
        model=encoder.card.name,
        data=dataset.name,
        split=dataset.split,
        n_images=len(points),
        n_texts=len(flat),
        metrics=figures.metrics(),
        intervals=figures.intervals(config.bootstrap),
        details=describe_encoder(encoder)
        | {
            "method": choose_method(encoder, config.method),
            # what a map reaches that finds things and can't read
            "pointing_at_any_thing": round(float((1 / things_N).mean()), 6),
        },
        took_s=time.perf_counter() - started,
    )


def play(
    encoder: Encoder, dataset: Dataset, *, method: MethodChoice = "auto", progress: CountProgress | None = None
) -> Iterator[list[Point]]:
    """The points of each scene's things, scene by scene. Raises as `pointing_game`."""
    chosen = choose_method(encoder, method)
    for done, pair in enumerate(dataset, start=1):
        if not isinstance(pair.image, SceneImage):
            raise InputError(
                f"{dataset.name} doesn't say where things are; the pointing game needs scenes: --data scenes"
            )
        scene = pair.image.scene()
        words = [name_of(thing) for thing in scene.objects]
        pixels_SS3 = encoder.card.preprocessing.resize(pair.image.read())
        heat_THW, _ = explain_pixels(encoder, pixels_SS3, embed_texts(encoder, words), method=chosen)
        yield judge(heat_THW, scene, words)
        if progress is not None:
            progress(done, len(dataset))


def judge(heat_THW: NDArray[np.float32], scene: Scene, words: Sequence[str]) -> list[Point]:
    """One map for each thing of a scene -> whether it points there. Maps must cover the whole image."""
    inside_THW = np.stack([_inside(thing, heat_THW.shape[1:]) for thing in scene.objects])
    points = []
    for index, (text, heat_HW, thing) in enumerate(zip(words, heat_THW, scene.objects, strict=True)):
        y, x = np.unravel_index(int(heat_HW.argmax()), heat_HW.shape)
        things_here = inside_THW[:, y, x]
        above_HW = np.maximum(heat_HW.astype(np.float64) - heat_HW.mean(dtype=np.float64), 0)
        total = above_HW.sum()
        points.append(
            Point(
                words=text,
                hit=bool(things_here[index]),
                on_another=bool(things_here.any() and not things_here[index]),
                energy=float(above_HW[inside_THW[index]].sum() / total) if total > 0 else 0.0,
                share=math.pi * thing.radius**2,
            )
        )
    return points


def name_of(thing: SceneObject) -> str:
    """`a red circle`."""
    return f"a {thing.kind.colour} {thing.kind.shape}"


def _inside(thing: SceneObject, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The places of a map (H, W) whose middle lies within a thing's circle."""
    height, width = shape
    y_H, x_W = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    inside_HW: NDArray[np.bool_] = (x_W[None] - thing.x) ** 2 + (y_H[:, None] - thing.y) ** 2 <= thing.radius**2
    return inside_HW
