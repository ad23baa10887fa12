"""Filters such as `taken_at > '2024-01-01' and path like '%holiday%'`, compiled to parameterised SQL.

Nothing the user writes becomes SQL: fields are looked up in a fixed table, values are bound as parameters.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from sightline.errors import InputError
from sightline.store.filter_syntax import OPERATORS, Condition, Group, Node, Not, Value, parse_filter
from sightline.store.paths import SqlPath, path_to_sql

Parameter = SqlPath | int | float

MAX_PARAMETERS = 30_000
"""SQLite binds at most 32,766 values to one statement."""
MAX_PATTERN_BYTES = 50_000
"""SQLite's limit for `like`."""


@dataclass(frozen=True, kw_only=True)
class Sql:
    """A piece of SQL over the table `images`, with the parameters for its question marks."""

    text: str
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Field:
    """Something a filter may ask for. `below_root` fields are put behind the path of the image's root."""

    kind: Literal["text", "number", "date", "caption"]
    sql: str
    collate: str = ""
    below_root: bool = False
    columnar: bool = True
    """Whether `columns` keeps it as an array: a text that hardly ever repeats would only be copied."""

    def of_value(self, value: str) -> Sql:
        """A value that is compared as this field is."""
        return Sql(text=f"?{self.collate}", parameters=(value,))


_LOCAL_TIME = "strftime('%Y-%m-%dT%H:%M:%S', images.{column} / 1000000000, 'unixepoch', 'localtime')"

FIELDS: Mapping[str, Field] = {
    "path": Field(kind="text", sql="'/' || images.relative", below_root=True, columnar=False),
    "name": Field(kind="text", sql="cast(images.name as text)", columnar=False),
    "folder": Field(
        kind="text", sql="iif(images.folder = '', '', '/' || images.folder)", below_root=True, columnar=False
    ),
    "format": Field(kind="text", sql="images.format", collate=" collate nocase"),
    "width": Field(kind="number", sql="images.width"),
    "height": Field(kind="number", sql="images.height"),
    "aspect": Field(kind="number", sql="(images.width * 1.0 / images.height)"),
    "size_bytes": Field(kind="number", sql="images.size_bytes"),
    "modified_at": Field(kind="date", sql=_LOCAL_TIME.format(column="mtime_ns")),
    "indexed_at": Field(kind="date", sql=_LOCAL_TIME.format(column="indexed_at_ns")),
    "taken_at": Field(kind="date", sql="images.taken_at"),
    "camera": Field(kind="text", sql="images.camera"),
    "latitude": Field(kind="number", sql="images.latitude"),
    "longitude": Field(kind="number", sql="images.longitude"),
    "caption": Field(kind="caption", sql="captions.text", columnar=False),
    "captioned": Field(kind="number", sql="exists (select 1 from captions where captions.image_id = images.id)"),
}

_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?", re.ASCII)
_FIRST_MOMENT = "0001-01-01T00:00:00"
"""What completes a shorter date."""
DATE_END = "~"
"""Sorts after every character of a date: `2024-05~` lies behind all of May 2024."""
_OPPOSITES = {"!=": "=", "not like": "like", "is null": "is not null"}


def compile_filter(text: str, roots: Mapping[int, Path]) -> Sql:
    """A filter -> a condition over `images`. `roots` says where each root lies. Raises InputError."""
    sql = compile_node(parse_filter(text), roots)
    if len(sql.parameters) > MAX_PARAMETERS:
        raise InputError("The filter has too many values in all; ask in several smaller filters.")
    return sql


def compile_node(node: Node, roots: Mapping[int, Path]) -> Sql:
    """A part of a filter -> a condition over `images`. Raises InputError."""
    match node:
        case Group():
            return _join([compile_node(part, roots) for part in node.parts], f" {node.joined_by} ")
        case Not():
            part = compile_node(node.part, roots)
            return Sql(text=f"not {part.text}", parameters=part.parameters)
        case Condition():
            field = _look_up(node)
            if field.kind == "caption":
                return _compile_caption(node, field)
            return compare(_expression(field, roots), field.kind, node)


def _join(parts: Sequence[Sql], separator: str) -> Sql:
    """Parts as a balanced tree: SQLite refuses one that is 1000 levels deep."""
    if len(parts) == 1:
        return Sql(text=f"({parts[0].text})", parameters=parts[0].parameters)
    middle = len(parts) // 2
    left, right = _join(parts[:middle], separator), _join(parts[middle:], separator)
    return Sql(text=f"({left.text}{separator}{right.text})", parameters=(*left.parameters, *right.parameters))


def _look_up(condition: Condition) -> Field:
    if field := FIELDS.get(condition.field):
        return field
    close = difflib.get_close_matches(condition.field, FIELDS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise InputError(
        f"The filter asks for {condition.field!r} at position {condition.position}, which is no field.{hint} "
        f"Fields are {', '.join(FIELDS)}; operators are {', '.join(OPERATORS)}, and, or, not."
    )


def _expression(field: Field, roots: Mapping[int, Path]) -> Sql:
    if not field.below_root:
        return Sql(text=field.sql + field.collate)
    if not roots:
        return Sql(text="null")
    # The file system's own root already ends with the slash that the field's SQL begins with.
    paths = {id_: path_to_sql(path.as_posix().rstrip("/")) for id_, path in roots.items()}
    cases = " ".join("when ? then cast(? as text)" for _ in paths)
    parameters = tuple(parameter for pair in paths.items() for parameter in pair)
    return Sql(text=f"(case images.root_id {cases} end || {field.sql})", parameters=parameters)


def _compile_caption(condition: Condition, field: Field) -> Sql:
    """True where any caption matches; `!=` and `not like` where none does."""
    opposite = _OPPOSITES.get(condition.operator)
    asked = Condition(
        field=condition.field,
        operator=opposite or condition.operator,
        values=condition.values,
        position=condition.position,
    )
    inner = compare(Sql(text=field.sql), "text", asked)
    exists = f"exists (select 1 from captions where captions.image_id = images.id and {inner.text})"
    return Sql(text=f"not {exists}" if opposite else exists, parameters=inner.parameters)


def compare(expression: Sql, kind: str, condition: Condition) -> Sql:
    """An expression under a condition's operator. Raises InputError for values of another kind."""
    operator = condition.operator
    if operator in ("is null", "is not null"):
        return Sql(text=f"({expression.text} {operator})", parameters=expression.parameters)
    if kind == "date" and operator not in ("like", "not like"):
        return _compare_date(expression, condition)
    values = [_checked(value, kind, condition) for value in condition.values]
    match operator:
        case "in":
            right = f"in ({', '.join(_placeholder(value) for value in values)})"
        case "between":
            right = f"between {_placeholder(values[0])} and {_placeholder(values[1])}"
        case _:
            right = f"{operator} {_placeholder(values[0])}"
    return Sql(text=f"({expression.text} {right})", parameters=(*expression.parameters, *values))


def _placeholder(value: Parameter) -> str:
    return "cast(? as text)" if isinstance(value, bytes) else "?"


def _compare_date(expression: Sql, condition: Condition) -> Sql:
    """A date stands for its whole period: `= '2024-05'` is any time of May, `> '2024-05'` begins with June."""
    dates = [read_date(value, condition) for value in condition.values]
    match condition.operator:
        case "<" | ">=":
            parts = [(f"{expression.text} {condition.operator} ?", dates)]
        case "<=" | ">":
            parts = [(f"{expression.text} {condition.operator} ?", [dates[0] + DATE_END])]
        case "!=":
            parts = [(f"{expression.text} not between ? and ?", [dates[0], dates[0] + DATE_END])]
        case "between":
            parts = [(f"{expression.text} between ? and ?", [dates[0], dates[1] + DATE_END])]
        case _:
            parts = [(f"{expression.text} between ? and ?", [date, date + DATE_END]) for date in dates]
    return _join([Sql(text=text, parameters=tuple(values)) for text, values in parts], " or ")


def read_date(value: Value, condition: Condition) -> str:
    """A date as it is compared. Raises InputError for what is none."""
    if isinstance(value, str) and _DATE.fullmatch(date := value.strip().replace(" ", "T")):
        with suppress(ValueError):  # such as a 13th month
            datetime.fromisoformat(date + _FIRST_MOMENT[len(date) :])
            return date
    raise InputError(
        f"The filter compares {condition.field} (position {condition.position}) with {value!r}, which is no date. "
        "Dates are written '2024', '2024-05', '2024-05-01' or '2024-05-01 12:30'."
    )


def _checked(value: Value, kind: str, condition: Condition) -> Parameter:
    where = f"{condition.field} (position {condition.position})"
    if condition.operator in ("like", "not like"):
        if kind == "number" or not isinstance(value, str):
            raise InputError(
                f"The filter's {condition.operator!r} needs a text field and a text in quotes; see {where}."
            )
        if len(value.encode("utf-8", "surrogateescape")) > MAX_PATTERN_BYTES:
            raise InputError(f"The pattern for {where} is too long; at most {MAX_PATTERN_BYTES:,} bytes are allowed.")
        return path_to_sql(value)
    if kind == "number" and isinstance(value, str):
        raise InputError(f"The filter's field {where} is a number; write {value!r} as a number without quotes.")
    if kind == "text" and not isinstance(value, str):
        raise InputError(f"The filter's field {where} is a text; put {value!r} in quotes.")
    return path_to_sql(value) if isinstance(value, str) else value
