"""What filters ask for, as arrays over all images, so that a filter becomes a mask without a trip through Python rows.

A field is read from SQLite when a filter first asks for it, and all are dropped at the first read after any write, of
this process or another: the arrays are never a second truth. Conditions on fields that hardly ever repeat (paths,
captions) are left to SQL. Masks of the latest filters are kept as well.

SQL's logic has three values: a condition on a missing value is neither true nor false, and stays so under `not`.

Shape suffixes: N images by ascending id, U distinct values and, last, the missing one.
"""

from __future__ import annotations

import operator
import sqlite3
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.core.store.filters import (
    DATE_END,
    FIELDS,
    Condition,
    Field,
    Group,
    Node,
    Not,
    compare,
    compile_filter,
    compile_node,
    parse_filter,
    read_date,
)

_NEWEST = f"coalesce(images.taken_at, {FIELDS['modified_at'].sql})"
_KEPT_MASKS = 16
_KEPT_PLACES = 8

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """Where a condition is true and where it is false (N,); elsewhere it is neither."""

    true: NDArray[np.bool_]
    false: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """A text column: each image's place among the distinct values."""

    values: Sequence[str]
    """Ascending, as SQLite orders them."""
    codes: NDArray[np.int32]
    """(N,); -1, which is the last of U, where there is no value."""


class Selection:
    """The images that meet a filter."""

    def __init__(self, ids_N: NDArray[np.int64], mask_N: NDArray[np.bool_], places: _Places) -> None:
        self.ids = ids_N
        self.met = mask_N
        self._places = places

    def mask(self, ids_M: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some ids (M,) meet the filter; those of no image don't."""
        if not len(self.ids):
            return np.zeros(len(ids_M), dtype=np.bool_)
        at_M, known_M = self._places.find(ids_M)
        mask_M: NDArray[np.bool_] = self.met[at_M] & known_M
        return mask_M


class _Places:
    """Where arrays of ids lie among those of all images; kept, since the same arrays are asked for again and again."""

    def __init__(self, ids_N: NDArray[np.int64]) -> None:
        self._ids = ids_N
        self._found: OrderedDict[int, tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.bool_]]] = OrderedDict()

    def find(self, ids_M: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """For each id its place, and whether it is there at all."""
        if (kept := self._found.get(id(ids_M))) is not None:
            return kept[1:]
        at_M = np.minimum(np.searchsorted(self._ids, ids_M), len(self._ids) - 1)
        known_M = self._ids[at_M] == ids_M
        # The array is kept too: as long as it lives, no other has its address.
        self._found[id(ids_M)] = ids_M, at_M, known_M
        if len(self._found) > _KEPT_PLACES:
            self._found.popitem(last=False)
        return at_M, known_M


class Columns:
    """The columns of one open library. Used under the lock of its database, inside a read transaction."""

    def __init__(self) -> None:
        self._state: tuple[int, int] | None = None
        self._table: _Table

    def select(self, db: sqlite3.Connection, where: str, roots: Mapping[int, Path]) -> Selection:
        """The images that meet a filter. Raises InputError where it can't be read."""
        return self._current(db).select(where, roots)

    def newest_first(
        self, db: sqlite3.Connection, where: str | None, roots: Mapping[int, Path], *, model_id: int | None
    ) -> NDArray[np.int64]:
        """Ids under a filter, of images with a vector of a model, newest first, ties by higher id."""
        table = self._current(db)
        mask_N = np.ones(len(table.ids), dtype=np.bool_) if where is None else table.select(where, roots).met
        if model_id is not None:
            mask_N = mask_N & table.embedded(model_id)
        order = table.newest_first()
        ids: NDArray[np.int64] = table.ids[order[mask_N[order]]]
        return ids

    def _current(self, db: sqlite3.Connection) -> _Table:
        # The first number changes with every commit of other connections, the second with every change of this one.
        state = int(db.execute("pragma data_version").fetchone()[0]), db.total_changes
        if state != self._state:
            self._state, self._table = state, _Table(db)
        return self._table


class _Table:
    """The images of one state of the library."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.ids = self._read_ids("select group_concat(id) from (select id from images order by id)")
        self._numbers: dict[str, NDArray[np.float64]] = {}
        self._texts: dict[str, Texts] = {}
        self._embedded: dict[int, NDArray[np.bool_]] = {}
        self._masks: OrderedDict[str, NDArray[np.bool_]] = OrderedDict()
        self._places = _Places(self.ids)
        self._order: NDArray[np.intp] | None = None

    def select(self, where: str, roots: Mapping[int, Path]) -> Selection:
        if where not in self._masks:
            compile_filter(where, roots)  # says what is wrong with it
            self._masks[where] = self._evaluate(parse_filter(where), roots).true
        self._masks.move_to_end(where)
        if len(self._masks) > _KEPT_MASKS:
            self._masks.popitem(last=False)
        return Selection(self.ids, self._masks[where], self._places)

    def embedded(self, model_id: int) -> NDArray[np.bool_]:
        """Which images have a vector of a model."""
        if model_id not in self._embedded:
            sql = "select group_concat(image_id) from vectors where model_id = ?"
            self._embedded[model_id] = np.isin(self.ids, self._read_ids(sql, model_id))
        return self._embedded[model_id]

    def newest_first(self) -> NDArray[np.intp]:
        """Places of the images in that order, ties by higher id."""
        if self._order is None:
            self._order = np.lexsort((self.ids, self._text(_NEWEST).codes))[::-1]
        return self._order

    def _evaluate(self, node: Node, roots: Mapping[int, Path]) -> Truth:
        if not _has_columns(node):
            return self._ask_sql(node, roots)
        match node:
            case Not():
                part = self._evaluate(node.part, roots)
                return Truth(true=part.false, false=part.true)
            case Group():
                truths = [self._evaluate(part, roots) for part in _bundle(node)]
                true, false = [truth.true for truth in truths], [truth.false for truth in truths]
                if node.joined_by == "and":
                    return Truth(true=reduce(np.logical_and, true), false=reduce(np.logical_or, false))
                return Truth(true=reduce(np.logical_or, true), false=reduce(np.logical_and, false))
            case Condition():
                field = FIELDS[node.field]
                return (
                    self._compare_numbers(field, node) if field.kind == "number" else self._compare_texts(field, node)
                )

    def _ask_sql(self, node: Node, roots: Mapping[int, Path]) -> Truth:
        condition = compile_node(node, roots)
        sql = (
            "select group_concat(id) filter (where met), group_concat(id) filter (where not met) "
            f"from (select images.id as id, {condition.text} as met from images)"
        )
        true, false = (_parse_ids(text) for text in self._db.execute(sql, condition.parameters).fetchone())
        return Truth(true=np.isin(self.ids, true), false=np.isin(self.ids, false))

    def _compare_numbers(self, field: Field, condition: Condition) -> Truth:
        number_N = self._number(field.sql)
        known_N = ~np.isnan(number_N)
        values = [float(value) for value in condition.values]
        match condition.operator:
            case "is null":
                return Truth(true=~known_N, false=known_N)
            case "is not null":
                return Truth(true=known_N, false=~known_N)
            case "in":
                met_N = np.isin(number_N, values)
            case "between":
                met_N = (number_N >= values[0]) & (number_N <= values[1])
            case _:
                met_N = _COMPARE[condition.operator](number_N, values[0])
        return Truth(true=met_N & known_N, false=~met_N & known_N)

    def _compare_texts(self, field: Field, condition: Condition) -> Truth:
        """Decided once for each distinct value (U,), then spread over the images."""
        texts = self._text(field.sql)
        count = len(texts.values)
        true_U, false_U = np.zeros(count + 1, dtype=np.bool_), np.zeros(count + 1, dtype=np.bool_)
        if condition.operator in ("is null", "is not null"):
            true_U[-1] = True
            false_U[:-1] = True
            if condition.operator == "is not null":
                true_U, false_U = false_U, true_U
        elif field.kind == "date":
            for span in _date_spans(condition, texts.values):
                true_U[span] = True
            if condition.operator == "!=":
                true_U = ~true_U
            true_U[-1] = False
            false_U[:-1] = ~true_U[:-1]
        else:
            true_U[:-1] = [self._meets(value, field, condition) for value in texts.values]
            false_U[:-1] = ~true_U[:-1]
        return Truth(true=true_U[texts.codes], false=false_U[texts.codes])

    def _meets(self, value: str, field: Field, condition: Condition) -> bool:
        """Whether SQLite finds that a value meets a condition: nobody else knows its `like` as well."""
        asked = compare(field.of_value(value), field.kind, condition)
        return bool(self._db.execute(f"select {asked.text}", asked.parameters).fetchone()[0])

    def _number(self, sql: str) -> NDArray[np.float64]:
        if sql not in self._numbers:
            self._numbers[sql] = np.array(self._read(sql), dtype=np.float64)
        return self._numbers[sql]

    def _text(self, sql: str) -> Texts:
        if sql not in self._texts:
            found = self._read(sql)
            values = sorted({value for value in found if value is not None})
            places: dict[str | None, int] = {value: place for place, value in enumerate(values)}
            places[None] = -1
            codes_N = np.fromiter(map(places.__getitem__, found), dtype=np.int32, count=len(found))
            self._texts[sql] = Texts(values=values, codes=codes_N)
        return self._texts[sql]

    def _read(self, sql: str) -> list[Any]:
        return [row[0] for row in self._db.execute(f"select {sql} from images order by images.id")]

    def _read_ids(self, sql: str, *parameters: int) -> NDArray[np.int64]:
        """Ids by way of one text, which takes half the time of rows."""
        return _parse_ids(self._db.execute(sql, parameters).fetchone()[0])


def _parse_ids(joined: str | None) -> NDArray[np.int64]:
    return np.fromstring(joined or "", dtype=np.int64, sep=",")


def _has_columns(node: Node) -> bool:
    """Whether any condition of a part can be decided by columns."""
    match node:
        case Not():
            return _has_columns(node.part)
        case Group():
            return any(_has_columns(part) for part in node.parts)
        case Condition():
            field = FIELDS[node.field]
            return field.columnar and not (field.kind == "date" and node.operator in ("like", "not like"))


def _bundle(group: Group) -> list[Node]:
    """A group's parts, those that SQL must decide as one: it goes over the images once."""
    parts = [part for part in group.parts if _has_columns(part)]
    if len(parts) < len(group.parts):
        left = tuple(part for part in group.parts if not _has_columns(part))
        parts.append(Group(joined_by=group.joined_by, parts=left))
    return parts


def _date_spans(condition: Condition, values: Sequence[str]) -> list[slice]:
    """Which of the ascending values lie in the periods that a condition names."""
    dates = [read_date(value, condition) for value in condition.values]
    first, after = bisect_left(values, dates[0]), bisect_right(values, dates[-1] + DATE_END)
    match condition.operator:
        case "<":
            return [slice(0, first)]
        case "<=":
            return [slice(0, after)]
        case ">":
            return [slice(after, len(values))]
        case ">=":
            return [slice(first, len(values))]
        case "between":
            return [slice(first, after)]
        case _:
            return [slice(bisect_left(values, date), bisect_right(values, date + DATE_END)) for date in dates]
