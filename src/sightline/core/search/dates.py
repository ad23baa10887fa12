"""Dates inside a query's words, `july 2023`, `last summer`, `from march to may 2022`: a small grammar of English.

What is as often no date stays a word: `may` and `march` alone, what an image can show (`summer`, `christmas` without a
year), a number amid other words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from typing import NamedTuple

_YEAR = "january february march april may june july august september october november december"
_MONTHS = _YEAR.split()
_SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
"""The first month of each, as north of the equator; a winter belongs to the year in which it begins."""
_HOLIDAYS = {
    "christmas eve": ("12-24", "12-24"),
    "christmas day": ("12-25", "12-25"),
    "christmas": ("12-24", "12-26"),
    "xmas": ("12-24", "12-26"),
    "boxing day": ("12-26", "12-26"),
    "new year's eve": ("12-31", "12-31"),
    "new year's day": ("01-01", "01-01"),
    "new year": ("01-01", "01-01"),
    "halloween": ("10-31", "10-31"),
    "valentine's day": ("02-14", "02-14"),
    "independence day": ("07-04", "07-04"),
    "st patrick's day": ("03-17", "03-17"),
}
_ANY_YEAR = "____"
_AMBIGUOUS = {"may", "march"}


def _alternatives(*names: str) -> str:
    return "|".join(name.replace(" ", r"\ ") for name in names)


def _moment(n: int) -> str:
    """A regular expression for a time by the calendar; its groups end in `n`."""
    month = "|".join(f"{name[:3]}(?:{name[3:]})?" if len(name) > 3 else name for name in _MONTHS)
    day = r"(?:[12]?\d|3[01])(?:st|nd|rd|th)?"
    year = r"(?:19|20)\d\d(?![\d:]|s\b)"
    names = _alternatives(*_SEASONS, *_HOLIDAYS)
    return rf"""(?:
        (?P<iso{n}>{year}-[01]\d(?:-[0-3]\d)?)
      | (?:(?P<day{n}>{day})\ (?:of\ )?)?\b(?P<month{n}>{month}|sept)\b\.?(?:\ (?P<late{n}>{day})\b)?
        (?:,?\ (?:of\ )?(?P<monthyear{n}>{year}))?
      | (?P<name{n}>{names})(?:\ of|\ in)?\ (?P<nameyear{n}>{year})(?:/(?:20)?\d\d)?
      | (?P<decade{n}>(?:19|20)\d)0s
      | (?P<year{n}>{year})
    )(?!\w)"""


_LEAD = r"(?<![\w-])(?:(?:taken|shot|made)\ )?(?:(?P<lead>in|on|during|from|of|at|over|for)\ )?(?:the\ )?"
_CALENDAR = re.compile(rf"{_LEAD}{_moment(1)}", re.VERBOSE)
_RANGE = re.compile(
    rf"""(?<![\w-])(?:(?:taken|from|between|since)\ )*{_moment(1)}
    (?P<to>\ ?[-–]\ ?|\ (?:to|till|until|and|through)\ ){_moment(2)}""",
    re.VERBOSE,
)
_OPEN = re.compile(rf"(?<![\w-])(?:taken\ )?(?P<word>since|after|before|until|till)\ {_moment(1)}", re.VERBOSE)
_RELATIVE = re.compile(
    rf"""{_LEAD}(?:
        (?P<near>today|yesterday)
      | (?P<which>last|this|past)\ (?P<unit>week|month|year|{_alternatives(*_SEASONS, *_HOLIDAYS, *_MONTHS)})
      | (?:last|past)\ (?P<span>\d{{1,3}})\ (?P<of>day|week|month|year)s
      | (?P<count>\d{{1,3}}|an?)\ (?P<by>day|week|month|year)s?\ ago
    )(?!\w)""",
    re.VERBOSE,
)


class Dates(NamedTuple):
    """Words that mean a time."""

    start: int
    end: int
    """Where they stand."""
    first: str
    last: str
    """Both ends of the time, as filters write dates; empty where it has none. `____-07` is July of any year."""
    certain: bool = True
    """False where they may as well be words: then the time is only offered."""
    kept: str = ""
    """What of the words an image shows as well, such as `christmas`."""

    @property
    def where(self) -> str:
        """The filter."""
        if not self.first or not self.last:
            return f"taken_at {'>=' if self.first else '<='} '{self.first or self.last}'"
        if self.first.startswith(_ANY_YEAR):
            return f"taken_at like '{self.first}%'"
        if self.first == self.last:
            return f"taken_at = '{self.first}'"
        return f"taken_at between '{self.first}' and '{self.last}'"

    @property
    def label(self) -> str:
        """The time, for people."""
        if not self.first or not self.last:
            return f"taken {'since' if self.first else 'until'} {_show(self.first or self.last)}"
        if self.first != self.last:
            return f"taken from {_show(self.first)} to {_show(self.last)}"
        return f"taken {'on' if self.first.count('-') == 2 else 'in'} {_show(self.first)}"


def find_dates(text: str, today: date) -> list[Dates]:
    """The times in a text, in order; none overlaps another. `today` is what `last year` counts from."""
    folded = text.lower().replace("’", "'")
    found: list[Dates] = []
    for pattern, read in ((_RELATIVE, _read_relative), (_RANGE, _read_range), (_OPEN, _read_open), (_CALENDAR, _read)):
        for match in pattern.finditer(folded):
            if all(match.end() <= other.start or match.start() >= other.end for other in found):
                with suppress(ValueError):  # such as 31 June
                    found += read(match, today)
    return sorted(found)


def _read(match: re.Match[str], today: date) -> Iterator[Dates]:
    first, last = _period(match, 1)
    name, year, month = match["name1"], match["year1"], match["month1"]
    is_alone = not match.string[match.end() :].strip() or not match.string[: match.start()].strip()
    certain = match["lead"] is not None or (is_alone if year else not match["decade1"])
    if month and not match["monthyear1"]:
        if len(month) == 3 and month != "may" and match["lead"] is None:
            return  # `mar`, `dec`, `jan` say too little
        has_day = match["day1"] or match["late1"]
        certain = bool(has_day) or match["lead"] == "in" or (month not in _AMBIGUOUS)
    yield Dates(match.start(), match.end(), first, last, certain, name if name in _HOLIDAYS else "")


def _read_range(match: re.Match[str], today: date) -> Iterator[Dates]:
    first, last = _period(match, 1)[0], _period(match, 2)[1]
    if last.startswith(_ANY_YEAR) or (match["to"] == " and " and "between " not in match[0]):
        return
    if first.startswith(_ANY_YEAR):
        years = (last[:4], _shift(last[:4], -1))
        first = next(named for year in years if (named := first.replace(_ANY_YEAR, year)) <= last)
    elif first > last:
        first, last = _period(match, 2)[0], _period(match, 1)[1]
    yield Dates(match.start(), match.end(), first, last)


def _read_open(match: re.Match[str], today: date) -> Iterator[Dates]:
    first, last = _period(match, 1)
    if not first.startswith(_ANY_YEAR):
        ends = {"since": (first, ""), "after": (_shift(last, 1), ""), "before": ("", _shift(first, -1))}
        yield Dates(match.start(), match.end(), *ends.get(match["word"], ("", last)))


def _read_relative(match: re.Match[str], today: date) -> Iterator[Dates]:
    now, unit = today.isoformat(), match["unit"]
    kept = unit if unit in _HOLIDAYS else ""
    if match["near"]:
        first = last = _shift(now, -(match["near"] == "yesterday"))
    elif match["span"]:
        first, last = _ago(now, match["of"], int(match["span"]), is_span=True), now
    elif match["count"]:
        count = int(match["count"]) if match["count"].isdigit() else 1
        first, last = _ago(now, match["by"], count), _ago(now, match["by"], count, is_end=True)
    elif unit in ("week", "month", "year"):
        count = int(match["which"] != "this")
        first, last = _ago(now, unit, count), _ago(now, unit, count, is_end=True)
    else:
        years = [today.year] if match["which"] == "this" else range(today.year, today.year - 3, -1)
        ends = (_named(unit, str(year)) for year in years)
        first, last = next((f, t) for f, t in ends if match["which"] == "this" or t < now[: len(t)])
    yield Dates(match.start(), match.end(), first, last, True, kept)


def _ago(now: str, unit: str, count: int, *, is_end: bool = False, is_span: bool = False) -> str:
    """The unit of time so many units ago: its beginning, or its end; of a span the same day or month then."""
    if unit == "year":
        return _shift(now[:7], -12 * count) if is_span else _shift(now[:4], -count)
    if unit == "month":
        return _shift(now[:7], -count)
    if unit == "week" and not is_span:
        return _shift(now, -date.fromisoformat(now).weekday() - 7 * count + 6 * is_end)
    return _shift(now, -count * (7 if unit == "week" else 1))


def _shift(moment: str, by: int) -> str:
    """A year, month or day so many years, months or days later."""
    year, *rest = (int(part) for part in moment.split("-"))
    if not rest:
        return f"{year + by:04d}"
    if len(rest) == 1:
        return "{:04d}-{:02d}".format(*((total := year * 12 + rest[0] - 1 + by) // 12, total % 12 + 1))
    return (date.fromisoformat(moment) + timedelta(days=by)).isoformat()


def _period(match: re.Match[str], n: int) -> tuple[str, str]:
    """Both ends of a time by the calendar. Raises ValueError for a day that isn't there."""
    part = {name: match[f"{name}{n}"] for name in ("iso", "day", "month", "late", "monthyear", "name", "nameyear")}
    if part["month"]:
        month = next(number for number, name in enumerate(_MONTHS, 1) if name.startswith(part["month"][:3]))
        moment = f"{part['monthyear'] or _ANY_YEAR}-{month:02d}"
        if day := part["day"] or part["late"]:
            moment += f"-{int(day.rstrip('sthndr')):02d}"
            date.fromisoformat(moment.replace(_ANY_YEAR, "2024"))
        return moment, moment
    if part["name"]:
        return _named(part["name"], part["nameyear"])
    if decade := match[f"decade{n}"]:
        return f"{decade}0", f"{decade}9"
    moment = part["iso"] or match[f"year{n}"]
    date.fromisoformat(moment + "2024-01-01"[len(moment) :])
    return moment, moment


def _named(name: str, year: str) -> tuple[str, str]:
    """A season, holiday or month of a year."""
    if name in _HOLIDAYS:
        first, last = _HOLIDAYS[name]
        return f"{year}-{first}", f"{year}-{last}"
    if name in _SEASONS:
        return f"{year}-{_SEASONS[name]:02d}", _shift(f"{year}-{_SEASONS[name]:02d}", 2)
    return (f"{year}-{_MONTHS.index(name) + 1:02d}",) * 2


def _show(moment: str) -> str:
    """`2023-07-14` -> `14 July 2023`."""
    year, *rest = moment.split("-")
    day = f"{int(rest[1])} " if len(rest) == 2 else ""
    month = f"{_MONTHS[int(rest[0]) - 1].capitalize()} " if rest else ""
    return f"{day}{month}{'of any year' if year == _ANY_YEAR else year}"
