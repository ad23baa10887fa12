"""Full text: what is written about images, as tokens that are made the same way for what is kept and what is asked.

SQLite's FTS5 sees tokens with spaces between them and nothing else. A text gives its words without regard to case,
accents and Unicode forms; words that are joined (`schoolBus`, `IMG_2041`) in parts and whole; Chinese, Japanese,
Korean and Thai by characters, so that a phrase of characters finds any part of a sentence; and, marked, the stems of
English words, so that exact words and their other forms can be told apart.
"""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.files import is_image_name
from sightline.core.store.base import WordRows
from sightline.core.types import TEXT_KINDS, TextKind

_STOP_WORDS = (
    "a about above after all also am an and any are as at be been before below between both but by can could did do "
    "does doing down during each few for from further had has have having he her here hers him his how i if in into "
    "is it its just me more most my no nor not of off on once only or other our out over own s same she should so "
    "some such t than that the their them then there these they this those through to too under until up very was "
    "we were what when where which while who whom why will with you your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that tell nothing of an image (English)."""

_STEM = "\ue000"
_WHOLE = "\ue001"
"""Marks of tokens that are stems, and of a whole file name; of a category that is a separator in users' texts."""
_MAX_WHOLE = 64
"""Characters of joined words that are kept as one."""
_REBUILT_ROWS = 5000
_LOOKED_THROUGH, _LOOKED_THROUGH_PART = 2000, 0.1
"""Rows of one word that are looked through, or this part of the library where that is more."""
_LEAST_TYPED = 2
"""Letters of a beginning that is asked for."""
_DEBRIS = frozenset(["image", "img", "dsc", "dscf", "dscn", "dji", "gopr", "mvi", "photo", "pict", "pxl", "vid", "wa"])
"""What cameras and programs put into names; like digits, it tells nothing unless a whole name is asked for."""
_OTHER_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ı": "i"})
_ACCENTS = re.compile("[\u0300-\u036f]")
_SEPARATORS = re.compile(r"[\x00-\x1f!-/:-@\[-`{-\x7f]")
_WIDE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2600-\u27bf\u3005-\u3007\u3040-\u30ff\u3131-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U0001f300-\U0001faff\U00020000-\U0003ffff]"
)
"""Characters of scripts without spaces, and pictographs."""
_ASCII_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_HUMPS = re.compile(f"{_ASCII_HUMPS.pattern}|(?<={_WIDE.pattern})(?=.)|(?<=.)(?={_WIDE.pattern})")
"""Between the parts of joined words, and around each wide character."""
_IRREGULAR = {"men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose", "feet": "foot"}
_VOWEL = re.compile("[aeiouy]")


class Word(NamedTuple):
    """What stands between two spaces: its parts in order, and those parts that are joined, as one."""

    parts: tuple[str, ...]
    joined: tuple[str, ...] = ()


def fold(text: str) -> str:
    """A text as texts are compared: without regard to case, accents and Unicode forms."""
    return text.lower() if text.isascii() else _plain(text).casefold().translate(_OTHER_LETTERS)


def split_words(text: str) -> list[Word]:
    """The words of a text, folded."""
    plain = text if text.isascii() else "".join(map(_or_space, _plain(text)))
    return [word for spaced in plain.split() if (word := _split_word(spaced)).parts]


@lru_cache(maxsize=20_000)
def _split_word(spaced: str) -> Word:
    if spaced.isascii() and spaced.isalpha() and (spaced.islower() or spaced[1:].islower()):
        return Word((spaced.lower(),))
    humps = _ASCII_HUMPS if spaced.isascii() else _HUMPS
    folded = [[fold(part) for part in humps.split(piece)] for piece in _SEPARATORS.sub(" ", spaced).split()]
    parts = tuple(part for piece in folded for part in piece)
    joined = dict.fromkeys("".join(piece) for piece in (*folded, parts) if len(piece) > 1)
    return Word(parts, tuple(one for one in joined if len(one) <= _MAX_WHOLE and not _WIDE.search(one)))


def make_tokens(text: str, *, is_name: bool = False) -> str:
    """A text for FTS5: the parts of its words in order, then joined words, stems and, of a name, all of it as one."""
    words = split_words(text)
    parts = [part for word in words for part in word.parts]
    wholes = [whole for word in words for whole in word.joined]
    stems = {_STEM + root for one in (*parts, *wholes) if (root := stem(one)) != one}
    return " ".join([*parts, *wholes, *sorted(stems), *([_WHOLE + "".join(parts)] if is_name and parts else ())])


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """An English word without the ending of its plural, or `-ing` and `-ed`; any other as it is."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or not (word.isascii() and word.isalpha()):
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "xes", "ches", "shes", "zzes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root != word and len(root) >= 3 and _VOWEL.search(root) and not word.endswith("eed"):
            word = root[:-1] if root[-1] == root[-2] and root[-1] not in "lsz" else root
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text)))


def _or_space(character: str) -> str:
    """The character where it belongs to a word: a letter, mark, number or pictograph."""
    category = unicodedata.category(character)
    return character if character < "\x7f" or category[0] in "LMN" or category == "So" else " "


def name_stem(name: str) -> str:
    """A file name without the extension of an image."""
    return name.rpartition(".")[0] or name if is_image_name(name) else name


def refresh_texts(db: sqlite3.Connection, wanted: str) -> None:
    """Index again what is written about some images (a JSON array of ids)."""
    db.execute("delete from texts where rowid in (select value from json_each(?))", (wanted,))
    # Of the captions the chosen one and the user's own: those that lost would find what isn't there.
    rows = db.execute(
        "select id, name, folder, (select group_concat(text, char(10)) from captions where image_id = images.id and "
        "(source = 'user' or id = (select id from captions as other where other.image_id = images.id "
        "order by best desc, similarity desc nulls last, id limit 1))), "
        "(select text from readings where content_hash = images.content_hash), "
        "title, description, keywords, author, city, region, country from images "
        "where id in (select value from json_each(?))",
        (wanted,),
    ).fetchall()
    tokens = [
        (
            id_,
            make_tokens(name_stem(_as_text(name)), is_name=True),
            *(make_tokens(_as_text(text)) for text in (folder, caption, "\n".join(filter(None, facts)), read)),
        )
        for id_, name, folder, caption, read, *facts in rows
    ]
    db.executemany(f"insert into texts (rowid, {', '.join(TEXT_KINDS)}) values (?, ?, ?, ?, ?, ?)", tokens)


def rebuild_texts(db: sqlite3.Connection) -> None:
    """Index what is written about all images: of a library of an older version, or after the rules changed."""
    last = db.execute("select max(id) from images").fetchone()[0] or 0
    for first in range(1, last + 1, _REBUILT_ROWS):
        refresh_texts(db, json.dumps(list(range(first, first + _REBUILT_ROWS))))


def _as_text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def match_texts(
    db: sqlite3.Connection,
    text: str,
    k: int,
    condition: tuple[str, tuple[Any, ...]],
    *,
    without: Sequence[str] = (),
    typing: bool = False,
) -> list[tuple[int, float]]:
    """Rows of which some text holds any word of `text`, by BM25: (id, relevance), best first, ties by id.

    Those that hold all words of one of `without` are left out. With `typing` the last word may be a beginning; what
    holds such alone comes last.
    """
    words = content_words(text) or split_words(text)
    asked = [" OR ".join(map(word_expression, words))]
    if typing and words:
        asked.append(f'("{" ".join(words[-1].parts)}" *) NOT ({asked[0]})')
    unwanted = holding_expression(without)
    found: list[tuple[int, float]] = []
    for expression in filter(None, asked):
        rows = db.execute(
            "select texts.rowid, -texts.rank from texts join images on images.id = texts.rowid "
            f"where texts match ? and {condition[0]} order by texts.rank, texts.rowid limit ?",
            (f"({expression}) NOT ({unwanted})" if unwanted else expression, *condition[1], k - len(found)),
        )
        found += [(int(id_), float(relevance)) for id_, relevance in rows]
    return found


def find_words(db: sqlite3.Connection, text: str, *, typing: bool = False) -> tuple[list[WordRows], int]:
    """Where each word of a query that tells something is written, and the number of images.

    With `typing` the last word may be a beginning, too. Of a word that stands in more rows than can be looked through,
    only those come that hold all words of the query in one place.
    """
    words = content_words(text)
    images = int(db.execute("select count(*) from texts_docsize").fetchone()[0]) if words else 0
    asked = [(position, word_expression(word), False) for position, word in enumerate(words)]
    everything = " AND ".join(f"({expression})" for _, expression, _ in asked)
    if typing and words and len("".join(words[-1].parts)) >= _LEAST_TYPED:
        asked.append((len(words) - 1, f'"{" ".join(words[-1].parts)}" *', True))
    most = max(_LOOKED_THROUGH, int(images * _LOOKED_THROUGH_PART))
    counts = [_count(db, expression) for _, expression, _ in asked]
    together: dict[TextKind, NDArray[np.int64]] = {}
    if max(counts, default=0) > most and len(words) > 1 and 0 < _count(db, everything) <= most:
        together = _by_kind(db, everything, most)
    found = [
        WordRows(
            position=position,
            count=count,
            rows=together if count > most else _by_kind(db, expression, most) if count else {},
            is_debris=all(part.isdecimal() or part in _DEBRIS for part in words[position].parts),
            is_beginning=is_beginning,
        )
        for (position, expression, is_beginning), count in zip(asked, counts, strict=True)
    ]
    return found, images


def _by_kind(db: sqlite3.Connection, expression: str, most: int) -> dict[TextKind, NDArray[np.int64]]:
    return {kind: _ids(db, f"{{{column}}} : ({expression})", most) for kind, column in _columns(db)}


def _count(db: sqlite3.Connection, expression: str) -> int:
    return int(db.execute("select count(*) from texts where texts match ?", (expression,)).fetchone()[0])


def find_names(db: sqlite3.Connection, text: str) -> NDArray[np.int64]:
    """Ids (N,), ascending, of the images whose file has this name, with or without its extension."""
    parts = [part for word in split_words(name_stem(text.strip())) for part in word.parts]
    return _ids(db, f'"{_WHOLE}{"".join(parts)}"', _LOOKED_THROUGH) if parts else np.empty(0, np.int64)


def _ids(db: sqlite3.Connection, expression: str, most: int) -> NDArray[np.int64]:
    sql = "select group_concat(rowid) from (select rowid from texts where texts match ? limit ?)"
    return np.fromstring(db.execute(sql, (expression, most)).fetchone()[0] or "", dtype=np.int64, sep=",")


def _columns(db: sqlite3.Connection) -> list[tuple[TextKind, str]]:
    """The columns that there are: a library of an older version that is only read has `name` and `captions`."""
    there = {row[1] for row in db.execute("pragma table_info(texts)")}
    columns: list[tuple[TextKind, str]] = [(kind, f"{kind}s" if f"{kind}s" in there else kind) for kind in TEXT_KINDS]
    return [(kind, column) for kind, column in columns if column in there]


def find_holding(db: sqlite3.Connection, texts: Sequence[str]) -> NDArray[np.int64]:
    """Ids (N,), ascending, of the images about which all words of one of some texts are written."""
    expression = holding_expression(texts)
    return _ids(db, expression, -1) if expression else np.empty(0, np.int64)


def content_words(text: str) -> list[Word]:
    """The words of a query that tell something, none where all are stop words. A file's extension is no word."""
    named = " ".join(name_stem(spaced) for spaced in text.split())
    return [word for word in split_words(named) if word.parts[-1] not in STOP_WORDS or len(word.parts) > 1]


def word_expression(word: Word) -> str:
    """A word as FTS5 asks for it: as it is written, joined, and in its other forms."""
    forms = [" ".join(word.parts), *("".join(word.parts) for _ in word.joined[:1])]
    if len(word.parts) == 1:
        root = stem(word.parts[0])
        forms += [root, _STEM + root]
    return " OR ".join(f'"{form}"' for form in dict.fromkeys(forms))


def holding_expression(texts: Sequence[str]) -> str:
    """User texts -> an FTS5 expression for all words of any of them, less stop words; empty where there are none."""
    found = [content_words(text) or split_words(text) for text in texts]
    return " OR ".join(f"({' AND '.join(f'({word_expression(word)})' for word in words)})" for words in found if words)
