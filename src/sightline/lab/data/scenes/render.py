"""Scene -> pixels, in numpy, without functions whose last bit depends on the machine: only + - * / and square roots.

Shapes are signed distances: negative inside, in pixels, so that edges are smooth at any size.
Shape suffixes: S size_px, H W the window around one object, N lattice points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.lab.data.scenes.grammar import COLOURS, Scene, SceneObject

Plane = NDArray[Any]
"""float32, but numpy's stubs lose that in arithmetic."""

_STRIPE_PERIOD = 0.08
"""Width of a stripe and its gap, as a fraction of the image's side."""
_DOT_PERIOD = 0.084
_DOT_RADIUS = 0.029
_RIM = 0.006
"""Along its edge a striped or dotted thing has its first paint only, which holds it together."""
_OCTAVES = ((3, 30), (5, 26), (9, 21), (17, 16), (33, 11), (65, 7))
"""Lattice points a side, and amplitude: equal steps of frequency with falling amplitude, as in photographs (1/f)."""
_COLOURFULNESS = 0.3
"""Strength of the noise's hue beside its brightness."""
_WEIGHT_ONE = 256.0


def render_scene(scene: Scene, size_px: int) -> NDArray[np.uint8]:
    """RGB (S, S, 3) uint8."""
    canvas_3SS = np.empty((3, size_px, size_px), np.float32)
    canvas_3SS[:] = np.array(scene.ground, np.float32)[:, None, None]
    if scene.noise_seed is not None:
        canvas_3SS += _make_noise(scene.noise_seed, size_px)
    for thing in scene.objects:
        _paint(thing, canvas_3SS)
    canvas_3SS += np.float32(0.5)
    np.clip(canvas_3SS, 0, 255, out=canvas_3SS)
    return np.ascontiguousarray(canvas_3SS.astype(np.uint8).transpose(1, 2, 0))


def _paint(thing: SceneObject, canvas_3SS: Plane) -> None:
    """Lay one object over the canvas."""
    size_px = canvas_3SS.shape[1]
    reach = thing.radius + 1.5 / size_px
    left, right = max(int((thing.x - reach) * size_px), 0), min(int((thing.x + reach) * size_px) + 1, size_px)
    top, bottom = max(int((thing.y - reach) * size_px), 0), min(int((thing.y + reach) * size_px) + 1, size_px)
    x_1W = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - thing.x * size_px))[None, :]
    y_H1 = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - thing.y * size_px))[:, None]
    square = thing.tilt * thing.tilt
    cosine, sine = np.float32((1 - square) / (1 + square)), np.float32(2 * thing.tilt / (1 + square))
    x_HW, y_HW = x_1W * cosine + y_H1 * sine, y_H1 * cosine - x_1W * sine
    distance_HW = _SHAPES[str(thing.kind.shape)](x_HW, y_HW, thing.radius * size_px)
    paints_23 = np.array(COLOURS[str(thing.kind.colour)], np.float32) + np.array(thing.jitter, np.float32)
    paint_3HW, second_3HW = np.clip(paints_23, 0, 255)[:, :, None, None]
    if thing.kind.texture != "solid":
        share_HW = (_stripes if thing.kind.texture == "striped" else _dots)(x_HW, y_HW, thing.grain, size_px)
        share_HW *= _cover(distance_HW + np.float32(_RIM * size_px))
        paint_3HW = paint_3HW + share_HW * (second_3HW - paint_3HW)
    window_3HW = canvas_3SS[:, top:bottom, left:right]
    window_3HW += _cover(distance_HW) * (paint_3HW - window_3HW)


def _cover(distance_HW: Plane) -> Plane:
    """The share of each pixel that lies inside, by its middle's signed distance."""
    return np.asarray(np.clip(np.float32(0.5) - distance_HW, 0, 1))


def _stripes(x_HW: Plane, y_HW: Plane, grain: int, size_px: int) -> Plane:
    """Share of the second paint: 1 within a stripe, 0 between stripes."""
    half = math.sqrt(0.5)
    across, down = ((1.0, 0.0), (0.0, 1.0), (half, half), (half, -half))[grain]
    period = np.float32(_STRIPE_PERIOD * size_px)
    along_HW = x_HW * np.float32(across) + y_HW * np.float32(down)
    phase_HW = along_HW / period
    phase_HW -= np.floor(phase_HW)
    from_middle_HW = np.abs(phase_HW - np.float32(0.5)) * period
    return _cover(from_middle_HW - period / 4)


def _dots(x_HW: Plane, y_HW: Plane, grain: int, size_px: int) -> Plane:
    """Share of the second paint: 1 within a dot. Dots lie on a square lattice, which `grain` shifts or not."""
    period = np.float32(_DOT_PERIOD * size_px)
    shift = np.float32(0.5 * (grain % 2))
    u_HW, v_HW = x_HW / period + shift, y_HW / period + shift
    u_HW -= np.floor(u_HW + np.float32(0.5))
    v_HW -= np.floor(v_HW + np.float32(0.5))
    distance_HW = np.sqrt(u_HW * u_HW + v_HW * v_HW) * period
    return _cover(distance_HW - np.float32(_DOT_RADIUS * size_px))


def _make_noise(seed: int, size_px: int) -> Plane:
    """Coloured noise like a photograph out of focus, (3, S, S): the same whatever adds up the matrix products.

    Lattices of random bytes, interpolated. The weights are whole numbers, so every product and sum is exact in float64.
    """
    octaves = [(n, amplitude) for n, amplitude in _OCTAVES if n <= max(size_px // 2 + 1, 33)]
    n_words = -(-sum(3 * n * n for n, _ in octaves) // 8)
    random_bytes = np.random.PCG64(seed).random_raw(n_words).astype("<u8").view(np.uint8)
    total_3SS = np.zeros((3, size_px, size_px))
    start = 0
    for n, amplitude in octaves:
        lattice_3NN = random_bytes[start : start + 3 * n * n].reshape(3, n, n).astype(np.float64)
        lattice_3NN -= 127.5
        lattice_3NN *= amplitude
        start += 3 * n * n
        weights_SN = _interpolation(n, size_px)
        total_3SS += weights_SN @ lattice_3NN @ weights_SN.T
    light_SS, warm_SS, cool_SS = (total_3SS * (1 / (_WEIGHT_ONE**2 * 127.5))).astype(np.float32)
    warm_SS *= np.float32(_COLOURFULNESS)
    cool_SS *= np.float32(_COLOURFULNESS)
    green_SS = light_SS - warm_SS * np.float32(0.5) - cool_SS * np.float32(0.3)
    return np.stack([light_SS + warm_SS, green_SS, light_SS + cool_SS])


@cache
def _interpolation(n_points: int, size_px: int) -> NDArray[np.float64]:
    """Whole-numbered weights (S, N) that interpolate N lattice points linearly at S pixels; each row's sum is 256."""
    at_S = (np.arange(size_px) + 0.5) / size_px * (n_points - 1)
    before_S = np.minimum(at_S.astype(np.int64), n_points - 2)
    share_S = np.floor((at_S - before_S) * _WEIGHT_ONE + 0.5)
    weights_SN = np.zeros((size_px, n_points))
    weights_SN[np.arange(size_px), before_S] = _WEIGHT_ONE - share_S
    weights_SN[np.arange(size_px), before_S + 1] = share_S
    return weights_SN


# Each shape: coordinates from its centre in pixels, and its radius -> signed distance, roughly.


def _circle(x: Plane, y: Plane, radius: float) -> Plane:
    return np.asarray(np.sqrt(x * x + y * y) - np.float32(0.92 * radius))


def _square(x: Plane, y: Plane, radius: float) -> Plane:
    return np.asarray(np.maximum(np.abs(x), np.abs(y)) - np.float32(0.705 * radius))


def _triangle(x: Plane, y: Plane, radius: float) -> Plane:
    y = y - np.float32(0.06 * radius)
    sides = np.abs(x) * np.float32(math.sqrt(0.75)) - y * np.float32(0.5)
    return np.asarray(np.maximum(sides, y) - np.float32(0.48 * radius))


def _cross(x: Plane, y: Plane, radius: float) -> Plane:
    x, y = np.abs(x), np.abs(y)
    arm, length = np.float32(0.3 * radius), np.float32(0.95 * radius)
    return np.asarray(np.minimum(np.maximum(x - length, y - arm), np.maximum(x - arm, y - length)))


def _ring(x: Plane, y: Plane, radius: float) -> Plane:
    return np.asarray(np.abs(np.sqrt(x * x + y * y) - np.float32(0.71 * radius)) - np.float32(0.2 * radius))


def _heart(x: Plane, y: Plane, radius: float) -> Plane:
    """A square on its tip, and a half disc on each upper side."""
    half = 0.52 * radius
    y = y - np.float32(0.1 * radius)
    u = (np.abs(x) + y) * np.float32(math.sqrt(0.5))
    v = (y - np.abs(x)) * np.float32(math.sqrt(0.5))
    square = np.maximum(np.abs(u), np.abs(v)) - np.float32(half)
    lobe = np.sqrt(u * u + (v + np.float32(half)) * (v + np.float32(half))) - np.float32(half)
    return np.asarray(np.minimum(square, lobe))


_SHAPES: Mapping[str, Callable[[Plane, Plane, float], Plane]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "heart": _heart,
    "ring": _ring,
}
