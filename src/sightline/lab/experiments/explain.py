"""Places in an image where words match: `explain_pixels` for what a model sees, `explain_image` for a photo.

Three ways to ask a model: `map` (its cells in the joint space), `gradient`, `attention`; the pointing game measures
them where the true place is known: does the strongest point of a map lie within the thing that the words name? (Zhang
et al. 2016, Excitation Backprop, arXiv:1608.00507, here on rendered scenes, without their margin of 15 pixels.) A thing
is the circle around its centre that holds all of it; words are its colour and shape, which no other thing of a scene
shares.

A map finer than the model's own is woven: the image is shifted by parts of a cell. A cell answers for the middle of
what it covers. Shifted by half a cell, the same cell answers for its edge; so n x n shifts give n x n answers for each
cell, at places of their own, without any interpolation.

Shape suffixes: B images or shifts, T texts, N words of all scenes, H W rows and columns of a map, D joint space, S side
in pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.base import Encoder
from sightline.errors import InputError, ModelError, install_advice
from sightline.lab.data.base import Dataset
from sightline.lab.data.scenes.dataset import SceneImage
from sightline.lab.data.scenes.grammar import Scene, SceneObject
from sightline.lab.evaluation.embedding import CountProgress, describe_encoder, embed_texts
from sightline.lab.evaluation.results import Bootstrap, EvalResult, Figures, mean_of

Cells = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Pixels (B, S, S, 3) -> the heat of each cell (B, T, H, W)."""

Method = Literal["map", "gradient", "attention"]
MethodChoice = Literal["auto", "map", "gradient", "attention"]
METHOD_CHOICES: tuple[MethodChoice, ...] = get_args(MethodChoice)
_MAPS_AT_ONCE = 64
"""Images whose cells in the joint space are in memory at once."""
FINE_CELLS = 16
"""Columns of a woven map, at least."""
SMOOTHING = 0.3
"""Standard deviation of the blur of a woven map, in cells of the model: neighbours come from different shifts, whose
levels differ a little. On scenes the strongest point of `map` then lies within the thing in 7 more of 100 cases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """A part of an image, in fractions of its width and height."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Strength:
    """The strength of a match at its best place, beside the rest of the same image."""

    here: float
    elsewhere: float
    """Mean outside the box of the best place."""
    deviations: float
    """Standard deviations of the rest by which `here` lies above their mean; 0 where all places are alike."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """The places where an image matches words."""

    words: str
    method: Method
    heat_HW: NDArray[np.float32]
    """Higher where they match better; units are the method's own."""
    area: Area
    """The part of the image that the map covers."""
    columns: int
    """Columns of the model's own map, before it was made finer."""
    similarity: float
    """Cosine of the words with the whole image."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; fractions are of the whole image."""
        strength, box = self.strength, self.box
        return {
            "words": self.words,
            "method": self.method,
            "place": [round(at, 4) for at in self.place],
            "box": {name: round(getattr(box, name), 4) for name in ("left", "top", "width", "height")},
            "here": round(strength.here, 6),
            "elsewhere": round(strength.elsewhere, 6),
            "deviations": round(strength.deviations, 3),
            "similarity": round(self.similarity, 6),
            "area": {name: round(getattr(self.area, name), 4) for name in ("left", "top", "width", "height")},
            "map": [[round(float(value), 6) for value in row] for row in self.heat_HW],
        }

    @property
    def place(self) -> tuple[float, float]:
        """The strongest point: how far right and how far down it lies, in fractions of the whole image."""
        row, column = np.unravel_index(int(self.heat_HW.argmax()), self.heat_HW.shape)
        height, width = self.heat_HW.shape
        return (
            self.area.left + self.area.width * (float(column) + 0.5) / width,
            self.area.top + self.area.height * (float(row) + 0.5) / height,
        )

    @property
    def box(self) -> Area:
        """A cell of the model around the strongest point, moved inside the area where it would stick out."""
        x, y = self.place
        width, height = self.area.width / self.columns, self.area.height / self.columns
        left = min(max(x - width / 2, self.area.left), self.area.left + self.area.width - width)
        top = min(max(y - height / 2, self.area.top), self.area.top + self.area.height - height)
        return Area(left=left, top=top, width=width, height=height)

    @property
    def strength(self) -> Strength:
        """The strongest point beside what lies outside its box."""
        height, width = self.heat_HW.shape
        x = self.area.left + self.area.width * (np.arange(width) + 0.5) / width
        y = self.area.top + self.area.height * (np.arange(height) + 0.5) / height
        box = self.box
        inside_HW = ((x >= box.left) & (x <= box.left + box.width))[None, :] & (
            (y >= box.top) & (y <= box.top + box.height)
        )[:, None]
        rest = self.heat_HW[~inside_HW].astype(np.float64)
        here = float(self.heat_HW.max())
        if not rest.size:
            return Strength(here=here, elsewhere=here, deviations=0.0)
        spread = float(rest.std())
        mean = float(rest.mean())
        return Strength(here=here, elsewhere=mean, deviations=(here - mean) / spread if spread > 0 else 0.0)


def explain_image(
    encoder: Encoder, rgb_HW3: NDArray[np.uint8], words: Sequence[str], *, method: MethodChoice = "auto"
) -> list[Match]:
    """The places where a photo (H, W, 3) matches each of some words.

    Raises InputError for no words or an unknown method, ModelError where the model can't be asked this way.
    """
    if not words or not all(text.strip() for text in words):
        raise InputError("There are no words to look for; give some, as in: sightline explain photo.jpg 'a red car'.")
    chosen = choose_method(encoder, method)
    preprocessing = encoder.card.preprocessing
    pixels_SS3 = preprocessing.resize(rgb_HW3)
    text_TD = encoder.encode_texts(words)
    heat_THW, columns = explain_pixels(encoder, pixels_SS3, text_TD, method=chosen)
    similarity_T = text_TD @ encoder.encode_images(pixels_SS3[None])[0]
    area = seen_area(preprocessing, rgb_HW3.shape[1], rgb_HW3.shape[0])
    return [
        Match(words=text, method=chosen, heat_HW=heat_HW, area=area, columns=columns, similarity=float(similarity))
        for text, heat_HW, similarity in zip(words, heat_THW, similarity_T, strict=True)
    ]


def explain_pixels(
    encoder: Encoder, pixels_SS3: NDArray[np.uint8], text_TD: NDArray[np.float32], *, method: Method
) -> tuple[NDArray[np.float32], int]:
    """Pixels as the model takes them and vectors of texts -> maps (T, H, W), and the columns of the model's own map.

    Raises ModelError where the model can't be asked this way, or gives maps that aren't finite.
    """
    if method == "map":
        heat_THW, columns = weave_maps(partial(_map_cells, encoder, text_TD=text_TD), pixels_SS3)
    else:
        heat_THW, columns = _by_torch(encoder, pixels_SS3, text_TD, method)
    if not np.isfinite(heat_THW).all():
        raise ModelError(f"{encoder.card.name} gives maps that hold NaN or infinity; its weights are damaged.")
    return heat_THW, columns


def choose_method(encoder: Encoder, method: str = "auto") -> Method:
    """`auto` -> the way that pointed best on scenes among those that this model can be asked.

    Raises InputError for an unknown method.
    """
    if method not in METHOD_CHOICES:
        raise InputError(f"There is no method {method!r}; the methods are {', '.join(METHOD_CHOICES)}.")
    if method != "auto":
        return method
    if not encoder.runtime.startswith("torch"):
        return "map"
    return "attention" if encoder.card.family == "clip" else "gradient"


def load_explainable(model: str, *, method: MethodChoice = "auto") -> Encoder:
    """The encoder of a model name, run by PyTorch where the method needs gradients; `auto` takes PyTorch where it can.

    Raises ModelError as `load_encoder` does.
    """
    from sightline.core.models.cards import ENDPOINT_PREFIX, find_card
    from sightline.core.models.files import find_weights, resolve_folder, torch_installed
    from sightline.core.models.loading import load_encoder

    if method == "map" or model.startswith(ENDPOINT_PREFIX):
        return load_encoder(model)
    card = find_card(model)
    has_weights = card.kind == "encoder" and bool(find_weights(resolve_folder(card)))
    if method == "auto":
        return load_encoder(model, runtime="torch" if has_weights and torch_installed() else "auto")
    if card.kind == "encoder" and not has_weights:
        raise ModelError(_no_gradients(f"{card.name} has ONNX graphs only"))
    return load_encoder(model, runtime="torch")


def seen_area(preprocessing: Preprocessing, width: int, height: int) -> Area:
    """The part of an image that the model sees: all of it squashed, or the square in its middle."""
    if preprocessing.resize_mode == "squash":
        return Area(left=0.0, top=0.0, width=1.0, height=1.0)
    side = min(width, height)
    seen_width, seen_height = side / width, side / height
    return Area(left=(1 - seen_width) / 2, top=(1 - seen_height) / 2, width=seen_width, height=seen_height)


def weave_maps(cells: Cells, pixels_SS3: NDArray[np.uint8]) -> tuple[NDArray[np.float32], int]:
    """One image -> a map for each text (T, H, W), and the columns of the model's own map.

    It has at least FINE_CELLS columns; a model that has so many by itself is run once.
    """
    own_THW = cells(pixels_SS3[None])[0]
    columns = own_THW.shape[-1]
    n_shifts = min(math.ceil(FINE_CELLS / columns), pixels_SS3.shape[1] // columns)
    if n_shifts <= 1:
        return own_THW, columns
    shifted_BTHW = cells(shift_pixels(pixels_SS3, cell_px=pixels_SS3.shape[1] / columns, n_shifts=n_shifts))
    _, n_texts, height, width = shifted_BTHW.shape
    by_shift = shifted_BTHW.reshape(n_shifts, n_shifts, n_texts, height, width)
    woven_THW = by_shift.transpose(2, 3, 0, 4, 1).reshape(n_texts, height * n_shifts, width * n_shifts)
    return blur(woven_THW, sigma=SMOOTHING * n_shifts), columns


def shift_pixels(pixels_SS3: NDArray[np.uint8], *, cell_px: float, n_shifts: int) -> NDArray[np.uint8]:
    """The image moved by parts of a cell, down and to the right: (n_shifts^2, S, S, 3), rows of shifts first.

    What is left free repeats the edge. The first is moved furthest, so cell j of shift k looks at place j n + k of a
    grid n times as fine.
    """
    side = pixels_SS3.shape[0]
    offsets = [round(cell_px * (0.5 - (k + 0.5) / n_shifts)) for k in range(n_shifts)]
    margin = max(map(abs, offsets))
    wide = np.pad(pixels_SS3, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return np.stack(
        [
            wide[margin - down : margin - down + side, margin - right : margin - right + side]
            for down in offsets
            for right in offsets
        ]
    )


def blur(heat_THW: NDArray[np.float32], *, sigma: float) -> NDArray[np.float32]:
    """Gaussian blur with a standard deviation of `sigma` places; beyond the edge, its values go on."""
    reach = math.ceil(3 * sigma)  # standard deviations after which the blur ends
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        margins = [(0, 0)] * 3
        margins[axis] = (reach, reach)
        wide = np.pad(heat_THW, margins, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(wide, len(kernel), axis=axis)
        heat_THW = np.ascontiguousarray(windows @ kernel.astype(np.float32))
    return heat_THW


def _map_cells(
    encoder: Encoder, pixels_BSS3: NDArray[np.uint8], *, text_TD: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Cosine of each cell with each text: (B, T, H, W)."""
    parts = []
    for start in range(0, len(pixels_BSS3), _MAPS_AT_ONCE):
        map_BHWD = encoder.encode_maps(pixels_BSS3[start : start + _MAPS_AT_ONCE])
        if map_BHWD is None:
            raise ModelError(
                f"{encoder.card.name} has no map of where words match. Use --method gradient, which needs its PyTorch "
                "weights."
            )
        cell_BHWD = map_BHWD / np.maximum(np.linalg.norm(map_BHWD, axis=-1, keepdims=True), 1e-12)
        parts.append(np.einsum("bhwd,td->bthw", cell_BHWD, text_TD, optimize=True))
    return np.concatenate(parts).astype(np.float32, copy=False)


def _by_torch(
    encoder: Encoder, pixels_SS3: NDArray[np.uint8], text_TD: NDArray[np.float32], method: Method
) -> tuple[NDArray[np.float32], int]:
    if not encoder.runtime.startswith("torch"):
        raise ModelError(_no_gradients(f"{encoder.card.name} runs by {encoder.runtime}"))
    from sightline.core.models.torch_models import ClipTowers, TorchEncoder
    from sightline.lab.experiments.gradients import METHODS

    assert isinstance(encoder, TorchEncoder)  # nothing else runs by PyTorch
    if method == "attention" and not isinstance(encoder.towers, ClipTowers):
        raise ModelError(
            f"--method attention follows the class token of CLIP's ViTs, which {encoder.card.name} "
            f"({encoder.card.family}) doesn't have. Use --method gradient."
        )
    cells = METHODS[method]
    return weave_maps(lambda pixels_BSS3: cells(encoder, pixels_BSS3, text_TD), pixels_SS3)


def _no_gradients(why: str) -> str:
    return (
        f"{why}, which gives no gradients. Use --method map, or a model with PyTorch weights, such as dir:RUN of a "
        f"training run, and the extra: {install_advice('torch')}"
    )


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
