"""What a sweep varies: settings with the values they take, or the range that they are drawn from."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.errors import InputError
from sightline.training.config import parse_setting

MOST_CELLS = 10_000
"""A grid of more would not end; samplers draw from such."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_LOG_RATIO = 10.0
"""A range of positive numbers that is at least so wide is drawn from by order of magnitude."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Some values, in the order in which they were given."""

    key: str
    values: tuple[Any, ...]

    def to_json(self) -> list[Any]:
        """The values as JSON has them."""
        return [list(value) if isinstance(value, tuple) else value for value in self.values]


@dataclass(frozen=True, kw_only=True)
class Range:
    """All numbers from `low` to `high`, both included."""

    key: str
    low: float
    high: float
    is_whole: bool

    @property
    def is_log(self) -> bool:
        """Whether orders of magnitude are equally likely, instead of values."""
        return self.low > 0 and self.high / self.low >= _LOG_RATIO

    def to_json(self) -> dict[str, float]:
        """The ends of the range."""
        return {"low": self.low, "high": self.high}


Axis = Choices | Range
Cell = Mapping[str, Any]
"""A value for each setting that is varied."""


def parse_grid(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Axes from `key=value,value` and `key=low..high`, of the types that the settings have.

    Values that hold commas themselves are told apart by semicolons: `towers.image_blocks=1,1;2,2`.
    Raises InputError for an unknown setting, a value of another type, one that stands there twice.
    """
    axes: dict[str, Axis] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise InputError(f"{text!r} is no part of a grid; write key=value,value as in lr=3e-4,1e-3.")
        if key in axes:
            raise InputError(f"{key} stands in the grid twice; write all its values behind one {key}=.")
        axes[key] = _parse_axis(key, values)
    if not axes:
        raise InputError("A sweep needs settings to vary: --grid lr=3e-4,1e-3 batch_size=64,256")
    return tuple(axes.values())


def cells_of(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """All combinations, the last setting changing fastest. Raises InputError for ranges, and for too many."""
    for axis in axes:
        if isinstance(axis, Range):
            raise InputError(
                f"{axis.key}={axis.low:g}..{axis.high:g} is a range, which has no last value: take --sampler random or "
                "tpe with --trials N, or list the values."
            )
    choices = [axis for axis in axes if isinstance(axis, Choices)]
    count = math.prod(len(axis.values) for axis in choices)
    if count > MOST_CELLS:
        raise InputError(
            f"This grid has {count:,} cells, more than {MOST_CELLS:,}. Vary less, or take --sampler random with "
            "--trials N."
        )
    for values in itertools.product(*(axis.values for axis in choices)):
        yield dict(zip((axis.key for axis in choices), values, strict=True))


def merge_axes(before: Sequence[Axis], now: Sequence[Axis]) -> tuple[Axis, ...]:
    """The values of both: what `--extend` makes of a sweep. Raises InputError where they vary other settings."""
    if sorted(axis.key for axis in before) != sorted(axis.key for axis in now):
        raise InputError(
            f"--extend adds values to the settings that the sweep varies ({', '.join(axis.key for axis in before)}); "
            "to vary others, start another sweep."
        )
    wanted = {axis.key: axis for axis in now}
    return tuple(_merge(axis, wanted[axis.key]) for axis in before)


def setting_text(key: str, value: Any) -> str:
    """`key=value` as `TrainConfig.changed` reads it, to the bit."""
    if isinstance(value, tuple | list):
        return f"{key}={','.join(map(str, value))}"
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"


def short_text(value: Any) -> str:
    """A value for a table or a name: floats to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def to_json(cell: Cell) -> dict[str, Any]:
    """A cell as JSON has it, which knows no tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in cell.items()}


def axes_from_json(grid: Mapping[str, Any]) -> tuple[Axis, ...]:
    """What `to_json` gave, for each setting."""
    axes: list[Axis] = []
    for key, values in grid.items():
        if isinstance(values, dict):
            low, high = values["low"], values["high"]
            axes.append(Range(key=key, low=low, high=high, is_whole=isinstance(low, int)))
        else:
            typed = tuple(tuple(value) if isinstance(value, list) else value for value in values)
            axes.append(Choices(key=key, values=typed))
    return tuple(axes)


def _parse_axis(key: str, text: str) -> Axis:
    if match := _RANGE.fullmatch(text.strip()):
        return _parse_range(key, match[1], match[2])
    parts = text.split(";") if ";" in text else text.split(",")
    values = tuple(parse_setting(key, part.strip()) for part in parts)
    if any(isinstance(value, tuple) for value in values) and ";" not in text:
        values = (parse_setting(key, text),)  # its commas are the value's own
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise InputError(f"{key}: {short_text(twice[0])} stands there twice; each value is trained once.")
    return Choices(key=key, values=values)


def _parse_range(key: str, low: str, high: str) -> Range:
    ends = [parse_setting(key, end) for end in (low, high)]
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise InputError(f"{key}={low}..{high}: only numbers have ranges; list the values instead.")
    if not ends[0] < ends[1]:
        raise InputError(f"{key}={low}..{high}: the lower end comes first.")
    return Range(key=key, low=ends[0], high=ends[1], is_whole=isinstance(ends[0], int))


def _merge(before: Axis, now: Axis) -> Axis:
    if isinstance(before, Choices) and isinstance(now, Choices):
        return Choices(key=before.key, values=tuple(dict.fromkeys((*before.values, *now.values))))
    if isinstance(before, Range) and isinstance(now, Range):
        return now
    raise InputError(f"{before.key}: values can't become a range, nor a range values; start another sweep.")
