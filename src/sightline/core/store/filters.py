"""Filters such as `taken_at > '2024-01-01' and path like '%holiday%'`, compiled to parameterised SQL.

Nothing the user writes becomes SQL: fields are looked up in a fixed table, values are bound as parameters.

Grammar, keywords in any case::

    any       = all { "or" all }
    all       = one { "and" one }
    one       = "not" one | "(" any ")" | condition
    condition = FIELD ( COMPARISON value | ["not"] "like" STRING | ["not"] "in" "(" value { "," value } ")"
                      | ["not"] "between" value "and" value | "is" ["not"] "null" )
"""

from __future__ import annotations

import difflib
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from sightline.core.store.rows import Parameter, Sql, path_to_sql
from sightline.core.store.texts import fold
from sightline.errors import InputError

Value = str | int | float
COMPARISONS = ("=", "!=", "<>", "<", "<=", ">", ">=")
OPERATORS = (*COMPARISONS, "like", "not like", "in", "between", "is null", "is not null")
MAX_CONDITIONS = 200
MAX_VALUES = 1000
MAX_DEPTH = 50

_KEYWORDS = {"and", "or", "not", "like", "in", "between", "is", "null"}
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<word>[A-Za-z_]\w*)
      | (?P<operator><>|!=|<=|>=|=|<|>)
      | (?P<mark>[(),])""",
    re.VERBOSE | re.ASCII,
)

MAX_PARAMETERS = 30_000
"""SQLite binds at most 32,766 values to one statement."""
MAX_PATTERN_BYTES = 50_000
"""SQLite's limit for `like`."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Something a filter may ask for. `below_root` fields are put behind the path of the image's root."""

    kind: Literal["text", "number", "date", "caption"]
    sql: str
    collate: str = ""
    below_root: bool = False


_LOCAL_TIME = "strftime('%Y-%m-%dT%H:%M:%S', images.{column} / 1000000000, 'unixepoch', 'localtime')"

FIELDS: Mapping[str, Field] = {
    "path": Field(kind="text", sql="'/' || images.relative", below_root=True),
    "name": Field(kind="text", sql="cast(images.name as text)"),
    "folder": Field(kind="text", sql="iif(images.folder = '', '', '/' || images.folder)", below_root=True),
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
    "caption": Field(kind="caption", sql="captions.text"),
    "captioned": Field(kind="number", sql="exists (select 1 from captions where captions.image_id = images.id)"),
}

_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?", re.ASCII)
_FIRST_MOMENT = "0001-01-01T00:00:00"
"""The rest of a shorter date."""
_DATE_END = "~"
"""Sorts after every character of a date: `2024-05~` lies behind all of May 2024."""
_OPPOSITES = {"!=": "=", "not like": "like", "is null": "is not null"}


class _Condition(NamedTuple):
    """One comparison. `operator` is one of `OPERATORS`; `not` before `in` and `between` stands outside."""

    field: str
    operator: str
    values: tuple[Value, ...]
    position: int
    """Its beginning in the text, from 1."""


def compile_filter(text: str, roots: Mapping[int, Path]) -> Sql:
    """A filter -> a condition over `images`. `roots` says where each root lies. Raises InputError."""
    sql = _Parser(_tokenise(text), roots).parse()
    if len(sql.parameters) > MAX_PARAMETERS:
        raise InputError("The filter has too many values in all; ask in several smaller filters.")
    return sql


def _compare(expression: Sql, kind: str, condition: _Condition) -> Sql:
    """An expression under a condition's operator. Raises InputError for values of another kind."""
    operator = condition.operator
    if operator in ("is null", "is not null"):
        return Sql(f"({expression.text} {operator})", expression.parameters)
    if kind == "date" and operator not in ("like", "not like"):
        return _compare_date(expression, condition)
    values = [_checked(value, kind, condition) for value in condition.values]
    if kind == "text":
        return _compare_text(expression, operator, values)
    match operator:
        case "in":
            right = f"in ({', '.join(_placeholder(value) for value in values)})"
        case "between":
            right = f"between {_placeholder(values[0])} and {_placeholder(values[1])}"
        case _:
            right = f"{operator} {_placeholder(values[0])}"
    return Sql(f"({expression.text} {right})", (*expression.parameters, *values))


def _compare_text(expression: Sql, operator: str, values: Sequence[Parameter]) -> Sql:
    """`like` knows neither case nor accents, all else tells them apart; Unicode forms (NFC, NFD) are alike to both.

    Texts in ASCII, most of them, are left to SQLite.
    """
    if operator in ("like", "not like"):
        prepare, function = fold, "fold_text"
    else:
        prepare, function = partial(unicodedata.normalize, "NFC"), "compose_text"
    given = [prepare(value) if isinstance(value, str) else value for value in values]
    if operator not in ("like", "not like") and all(isinstance(one, str) and one.isascii() for one in given):
        text, parameters = expression.text, expression.parameters
    else:
        changed = f"cast({function}(cast({expression.text} as blob)) as text)"  # odd bytes can't go in or out as text
        text = f"iif({expression.text} glob '*[^ -~]*', {changed}, {expression.text})"
        parameters = 3 * expression.parameters
    placed = ", ".join(map(_placeholder, given))
    right = f"({placed})" if operator == "in" else " and ".join(placed.split(", "))
    return Sql(f"({text} {operator} {right})", (*parameters, *given))


def make_functions(db: sqlite3.Connection) -> None:
    """Give a connection the functions that filters by text call."""

    def of_bytes(change: Callable[[str], str], text: bytes | None) -> bytes | None:
        changed = None if text is None else change(text.decode("utf-8", "surrogateescape"))
        return None if changed is None else changed.encode("utf-8", "surrogateescape")

    for name, change in (("fold_text", fold), ("compose_text", partial(unicodedata.normalize, "NFC"))):
        db.create_function(name, 1, partial(of_bytes, change), deterministic=True)


def _read_date(value: Value, condition: _Condition) -> str:
    """A date as it is compared. Raises InputError for what is none."""
    if isinstance(value, str) and _DATE.fullmatch(date := value.strip().replace(" ", "T")):
        with suppress(ValueError):  # such as a 13th month
            datetime.fromisoformat(date + _FIRST_MOMENT[len(date) :])
            return date
    raise InputError(
        f"The filter compares {condition.field} (position {condition.position}) with {value!r}, which is no date. "
        "Dates are written '2024', '2024-05', '2024-05-01' or '2024-05-01 12:30'."
    )


def _join(parts: Sequence[Sql], separator: str) -> Sql:
    """Parts as a balanced tree: SQLite refuses one that is 1000 levels deep."""
    if len(parts) == 1:
        return Sql(f"({parts[0].text})", parts[0].parameters)
    middle = len(parts) // 2
    left, right = _join(parts[:middle], separator), _join(parts[middle:], separator)
    return Sql(f"({left.text}{separator}{right.text})", (*left.parameters, *right.parameters))


def _look_up(condition: _Condition) -> Field:
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
        return Sql(field.sql + field.collate)
    if not roots:
        return Sql("null")
    # The file system's own root already ends with the slash that the field's SQL begins with.
    paths = {id_: path_to_sql(path.as_posix().rstrip("/")) for id_, path in roots.items()}
    cases = " ".join("when ? then cast(? as text)" for _ in paths)
    parameters = tuple(parameter for pair in paths.items() for parameter in pair)
    return Sql(f"(case images.root_id {cases} end || {field.sql})", parameters)


def _compile_caption(condition: _Condition, field: Field) -> Sql:
    """True where any caption matches; `!=` and `not like` where none does."""
    opposite = _OPPOSITES.get(condition.operator)
    asked = condition._replace(operator=opposite or condition.operator)
    inner = _compare(Sql(field.sql), "text", asked)
    exists = f"exists (select 1 from captions where captions.image_id = images.id and {inner.text})"
    return Sql(f"not {exists}" if opposite else exists, inner.parameters)


def _placeholder(value: Parameter) -> str:
    return "cast(? as text)" if isinstance(value, bytes) else "?"


def _compare_date(expression: Sql, condition: _Condition) -> Sql:
    """A date stands for its whole period: `= '2024-05'` is any time of May, `> '2024-05'` begins with June."""
    dates = [_read_date(value, condition) for value in condition.values]
    match condition.operator:
        case "<" | ">=":
            parts = [(f"{expression.text} {condition.operator} ?", dates)]
        case "<=" | ">":
            parts = [(f"{expression.text} {condition.operator} ?", [dates[0] + _DATE_END])]
        case "!=":
            parts = [(f"{expression.text} not between ? and ?", [dates[0], dates[0] + _DATE_END])]
        case "between":
            parts = [(f"{expression.text} between ? and ?", [dates[0], dates[1] + _DATE_END])]
        case _:
            parts = [(f"{expression.text} between ? and ?", [date, date + _DATE_END]) for date in dates]
    return _join([Sql(text, tuple(values)) for text, values in parts], " or ")


def _checked(value: Value, kind: str, condition: _Condition) -> Parameter:
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


@dataclass(frozen=True, kw_only=True)
class _Token:
    kind: str
    text: str
    position: int


def _tokenise(text: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unreadable(text, at)
        kind, found = str(match.lastgroup), match.group()
        if kind == "word" and found.lower() in _KEYWORDS:
            kind, found = "keyword", found.lower()
        if kind != "space":
            tokens.append(_Token(kind=kind, text=found, position=at + 1))
        at = match.end()
    return [*tokens, _Token(kind="end", text="", position=len(text) + 1)]


def _unreadable(text: str, at: int) -> InputError:
    if text[at] in "'\"":
        return InputError(
            f"The filter's text from position {at + 1} has no closing {text[at]}: {text[at : at + 40]}. "
            f"A quote inside a text is doubled: 'it''s'."
        )
    return InputError(
        f"The filter has {text[at : at + 20]!r} at position {at + 1}, which is no part of a filter. "
        "Allowed are fields, numbers, texts in quotes, parentheses and " + ", ".join(OPERATORS) + ", and, or, not."
    )


class _Parser:
    """Reads a filter by recursive descent, and gives the SQL for each part as it ends."""

    def __init__(self, tokens: Sequence[_Token], roots: Mapping[int, Path]) -> None:
        self._tokens = tokens
        self._roots = roots
        self._at = 0
        self._conditions = 0

    def parse(self) -> Sql:
        node = self._group("or", 0)
        if self._next.kind != "end":
            raise self._expected("'and', 'or' or the end of the filter")
        return node

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += 1
        return token

    def _accept(self, *texts: str) -> bool:
        """Take the next tokens where they are these keywords or marks."""
        ahead = self._tokens[self._at : self._at + len(texts)]
        if [token.text for token in ahead] != list(texts) or any(t.kind not in ("keyword", "mark") for t in ahead):
            return False
        self._at += len(texts)
        return True

    def _expected(self, what: str) -> InputError:
        token = self._next
        found = "its end" if token.kind == "end" else repr(token.text)
        return InputError(f"The filter needs {what} at position {token.position}, but has {found} there.")

    def _group(self, joined_by: str, depth: int) -> Sql:
        if depth > MAX_DEPTH:
            raise InputError(f"The filter is nested deeper than {MAX_DEPTH} levels; write it flatter.")
        parts = [self._part(joined_by, depth)]
        while self._accept(joined_by):
            parts.append(self._part(joined_by, depth))
        return parts[0] if len(parts) == 1 else _join(parts, f" {joined_by} ")

    def _part(self, joined_by: str, depth: int) -> Sql:
        return self._group("and", depth) if joined_by == "or" else self._one(depth)

    def _one(self, depth: int) -> Sql:
        negated = False
        while self._accept("not"):
            negated = not negated
        if self._accept("("):
            node = self._group("or", depth + 1)
            if not self._accept(")"):
                raise self._expected("'and', 'or' or ')'")
        else:
            node = self._condition()
        return Sql(f"not {node.text}", node.parameters) if negated else node

    def _condition(self) -> Sql:
        if self._next.kind != "word":
            raise self._expected("a field's name, such as taken_at or path,")
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise InputError(f"The filter has more than {MAX_CONDITIONS} conditions; `in (...)` joins many values.")
        name = self._take()
        operator, values = self._comparison()
        negated = operator in ("not in", "not between")
        operator = operator.removeprefix("not ") if negated else operator
        condition = _Condition(name.text.lower(), operator, values, name.position)
        field = _look_up(condition)
        if field.kind == "caption":
            sql = _compile_caption(condition, field)
        else:
            sql = _compare(_expression(field, self._roots), field.kind, condition)
        return Sql(f"not {sql.text}", sql.parameters) if negated else sql

    def _comparison(self) -> tuple[str, tuple[Value, ...]]:
        if self._next.kind == "operator":
            return self._take().text.replace("<>", "!="), (self._value(),)
        if self._accept("is", "not", "null"):
            return "is not null", ()
        if self._accept("is", "null"):
            return "is null", ()
        negation = "not " if self._accept("not") else ""
        if self._accept("like"):
            return f"{negation}like", (self._value(),)
        if self._accept("in"):
            return f"{negation}in", self._list()
        if self._accept("between"):
            low = self._value()
            if not self._accept("and"):
                raise self._expected("'and' between the two values of 'between'")
            return f"{negation}between", (low, self._value())
        raise self._expected("one of the operators " + ", ".join(OPERATORS))

    def _list(self) -> tuple[Value, ...]:
        if not self._accept("("):
            raise self._expected("'(' after 'in'")
        values = [self._value()]
        while self._accept(","):
            values.append(self._value())
        if not self._accept(")"):
            raise self._expected("',' or ')' in the list of 'in'")
        if len(values) > MAX_VALUES:
            raise InputError(f"The filter's 'in' lists {len(values)} values; at most {MAX_VALUES} are allowed.")
        return tuple(values)

    def _value(self) -> Value:
        if self._next.kind == "string":
            text = self._take().text
            quote = text[0]
            return text[1:-1].replace(quote * 2, quote)
        if self._next.kind == "number":
            text = self._take().text
            # SQLite's integers have 64 bits; what is larger is compared as a float. Digits are limited by int() itself.
            return int(text) if text.lstrip("+-").isdecimal() and len(text) <= 18 else float(text)
        raise self._expected("a number or a text in quotes")
