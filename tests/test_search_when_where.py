"""Dates and places inside queries: what becomes a filter, what stays a word, and what is offered.

Covers: sightline.core.search.dates.
"""

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from sightline.core.search.query import Part
from sightline.core.search.when_where import read_when_where
from sightline.core.types import TaughtWord

TODAY = date(2026, 11, 30)
LINES = (Path(__file__).parent / "query_readings.tsv").read_text("utf-8").splitlines()
READINGS = [line.split("\t") for line in LINES if not line.startswith("#")]
PLACES = (
    "Paris|France|Nice|Turkey|Reading|Mobile|Orange|New York City|New York|United States|London|United Kingdom|Texas|"
    "Zürich|Victoria|São Paulo|Split|Bath|China"
)


class Images:
    """Stands in for a store with images of 1990 to 2026 and of some places."""

    def __init__(self, *taught):
        self._taught = [TaughtWord(name=name) for name in taught]

    def words(self):
        return self._taught

    def place_names(self):
        return set(PLACES.split("|"))

    def count(self, *, where):
        years = [int(year) for year in re.findall(r"'(\d{4})", where)]
        return 7 if "is null" in where else int(not years or any(1990 <= year <= 2026 for year in years))


def spell(short):
    """`2023-07 @Paris+France` -> the filters that it stands for."""
    dates, _, places = short.partition("@")
    conditions = []
    if times := dates.strip():
        parts = re.split(r" (or|and) ", times)
        conditions.append(" ".join(part if part in ("or", "and") else spell_time(part) for part in parts))
    if places:
        quoted = [" and ".join(f"place = '{name}'" for name in one.split("+")) for one in places.split("|")]
        conditions.append(" or ".join(quoted))
    return conditions


def spell_time(time):
    first, is_range, last = time.partition("..")
    if is_range and first and last:
        return f"taken_at between '{first}' and '{last}'"
    if is_range:
        return f"taken_at >= '{first}'" if first else f"taken_at <= '{last}'"
    return f"taken_at like '____{time[3:]}%'" if time.startswith("any") else f"taken_at = '{time}'"


def read(query, *, store: Any = None, **how):
    images: Any = store or Images()
    return read_when_where(images, [Part(text=query)], today=TODAY, **how)


def test_the_table_is_of_150_queries():
    assert len(READINGS) >= 150
    assert len({query for query, *_ in READINGS}) == len(READINGS)


@pytest.mark.parametrize(("query", "words", "filters", "offered"), READINGS, ids=[query for query, *_ in READINGS])
def test_readings(query, words, filters, offered):
    found = read(query)
    assert " ".join(part.text for part in found.parts) == words
    assert [one.where for one in found.read_as] == spell(filters)
    assert [one.where for one in found.offered] == spell(offered)


def test_filters_join_that_of_the_user_and_say_what_they_leave_out():
    found = read("beach july 2023 in Paris", where="width > 100 or height > 100")
    assert found.where == "(width > 100 or height > 100) and (taken_at = '2023-07') and (place = 'Paris')"
    assert [(one.kind, one.words, one.label, one.left_out) for one in found.read_as] == [
        ("dates", "july 2023", "taken in July 2023", 7),
        ("places", "in Paris", "in Paris", 7),
    ]
    assert read("two dogs", where="width > 100").where == "width > 100"


@pytest.mark.parametrize(
    ("query", "label"),
    [
        ("14 july 2023", "taken on 14 July 2023"),
        ("2019-2021", "taken from 2019 to 2021"),
        ("since may 2020", "taken since May 2020"),
        ("before 2015", "taken until 2014"),
        ("flowers in may", "taken in May of any year"),
        ("Paris, Texas", "in Paris, Texas"),
    ],
)
def test_labels(query, label):
    assert read(query).read_as[0].label == label


def test_either_kind_can_be_taken_off():
    query = "beach july 2023 in Paris"
    assert [part.text for part in read(query, plain=["dates"]).parts] == ["beach july 2023"]
    assert [part.text for part in read(query, plain=["places"]).parts] == ["beach in Paris"]
    plain = read(query, plain=["dates", "places"], where="width > 1")
    assert ([part.text for part in plain.parts], plain.where, plain.read_as) == ([query], "width > 1", ())


def test_words_that_were_taught_stay_words():
    store = Images("Paris", "may")
    assert [part.text for part in read("paris in may", store=store).parts] == ["paris in may"]
    assert read("paris in may", store=store).offered == ()


def test_negative_parts_and_images_stay_as_they_are():
    parts = [Part(text="beach 2019"), Part(text="paris 2018", weight=-1.0), Part(row=3)]
    store: Any = Images()
    found = read_when_where(store, parts, today=TODAY)
    assert [part.label for part in found.parts] == ["beach", "paris 2018", "image 3"]
    assert found.where == "(taken_at = '2019')"


def test_names_with_quotes_are_quoted():
    store = Images()
    store.place_names = lambda: {"L'Aquila"}
    assert read("l'aquila", store=store).where == "(place = 'L''Aquila')"
