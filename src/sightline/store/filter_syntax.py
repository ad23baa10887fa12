"""From the text of a filter to a tree: tokens, then recursive descent.

Grammar, keywords in any case::

    any       = all { "or" all }
    all       = one { "and" one }
    one       = "not" one | "(" any ")" | condition
    condition = FIELD ( COMPARISON value | ["not"] "like" STRING | ["not"] "in" "(" value { "," value } ")"
                      | ["not"] "between" value "and" value | "is" ["not"] "null" )
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One comparison. `operator` is one of `OPERATORS`; a negated `in` or `between` is wrapped in `Not`."""

    field: str
    operator: str
    values: tuple[Value, ...] = ()
    position: int
    """Where it begins in the text, from 1."""


@dataclass(frozen=True, kw_only=True)
class Not:
    """The opposite of a part."""

    part: Node


@dataclass(frozen=True, kw_only=True)
class Group:
    """Several parts joined by one word, `and` or `or`."""

    joined_by: str
    parts: tuple[Node, ...]


Node = Condition | Not | Group


@dataclass(frozen=True, kw_only=True)
class _Token:
    kind: str
    text: str
    position: int


def parse_filter(text: str) -> Node:
    """The tree of a filter. Raises InputError with the position, what was found and what is allowed."""
    return _Parser(_tokenise(text)).parse()


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
    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._conditions = 0

    def parse(self) -> Node:
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

    def _group(self, joined_by: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise InputError(f"The filter is nested deeper than {MAX_DEPTH} levels; write it flatter.")
        parts = [self._part(joined_by, depth)]
        while self._accept(joined_by):
            parts.append(self._part(joined_by, depth))
        return parts[0] if len(parts) == 1 else Group(joined_by=joined_by, parts=tuple(parts))

    def _part(self, joined_by: str, depth: int) -> Node:
        return self._group("and", depth) if joined_by == "or" else self._one(depth)

    def _one(self, depth: int) -> Node:
        negated = False
        while self._accept("not"):
            negated = not negated
        if self._accept("("):
            node = self._group("or", depth + 1)
            if not self._accept(")"):
                raise self._expected("'and', 'or' or ')'")
        else:
            node = self._condition()
        return Not(part=node) if negated else node

    def _condition(self) -> Node:
        if self._next.kind != "word":
            raise self._expected("a field's name, such as taken_at or path,")
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise InputError(f"The filter has more than {MAX_CONDITIONS} conditions; `in (...)` joins many values.")
        field = self._take()
        operator, values = self._comparison()
        negated = operator in ("not in", "not between")
        operator = operator.removeprefix("not ") if negated else operator
        node = Condition(field=field.text.lower(), operator=operator, values=values, position=field.position)
        return Not(part=node) if negated else node

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
            return _number(self._take().text)
        raise self._expected("a number or a text in quotes")


def _number(text: str) -> int | float:
    # SQLite's integers have 64 bits; what is larger is compared as a float. Digits are limited by int() itself.
    if text.lstrip("+-").isdecimal() and len(text) <= 18:
        return int(text)
    return float(text)
