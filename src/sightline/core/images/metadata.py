"""What EXIF says of a picture: orientation, date, camera, position. Broken values count as absent, never as errors.

Tags and their types: CIPA DC-008 (Exif 2.32).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

_DATE = re.compile(r"\s*(\d{4})[:\-/.](\d{1,2})[:\-/.](\d{1,2})[ T](\d{1,2}):(\d{1,2}):(\d{1,2})")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExifFacts:
    """What is read from EXIF; the defaults are those of a picture without it."""

    orientation: int = 1
    """1 to 8: how the stored pixels must be turned to be upright."""
    taken_at: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def read_exif(image: Image.Image) -> ExifFacts:
    """The EXIF facts of an opened picture.

    A PNG without EXIF before its pixels is decoded by Pillow to look behind them.
    """
    main: Mapping[int, Any] = {}
    details: Mapping[int, Any] = {}
    position: Mapping[int, Any] = {}
    with suppress(Exception):  # damaged EXIF makes Pillow raise nearly anything; what was read before it counts
        exif = image.getexif()
        main = exif
        details = exif.get_ifd(ExifTags.IFD.Exif)
        position = exif.get_ifd(ExifTags.IFD.GPSInfo)
    latitude, longitude = parse_position(position)
    return ExifFacts(
        orientation=parse_orientation(main.get(ExifTags.Base.Orientation)),
        taken_at=_first_date(main, details),
        camera=parse_camera(main.get(ExifTags.Base.Make), main.get(ExifTags.Base.Model)),
        latitude=latitude,
        longitude=longitude,
    )


def parse_orientation(value: object) -> int:
    """1 to 8; anything else counts as upright."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def parse_date(value: object) -> str | None:
    """EXIF's `2024:05:01 12:30:00`, and the variants found in the wild, as ISO 8601; None for no real date."""
    match = _DATE.match(_clean(value))
    if match is None:
        return None
    try:
        return datetime(*(int(part) for part in match.groups())).isoformat()  # type: ignore[arg-type]
    except ValueError:  # such as 0000:00:00, written by cameras whose clock was never set
        return None


def parse_camera(make: object, model: object) -> str | None:
    """`Canon`, `Canon EOS 5D` -> `Canon EOS 5D`; `Apple`, `iPhone 12` -> `Apple iPhone 12`."""
    maker, name = _clean(make), _clean(model)
    brand = maker.split(" ")[0].lower()
    if brand and name.lower().startswith(brand):
        return name
    return f"{maker} {name}".strip() or None


def parse_position(gps: Mapping[int, Any]) -> tuple[float | None, float | None]:
    """Latitude and longitude in degrees, or two Nones: without hemispheres, out of range, or the 0, 0 of no fix."""
    latitude = _parse_angle(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "NS", limit=90)
    longitude = _parse_angle(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "EW", limit=180)
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):
        return None, None
    return latitude, longitude


def _parse_angle(value: object, reference: object, hemispheres: str, *, limit: int) -> float | None:
    """Degrees, minutes and seconds with a hemisphere -> signed degrees, to a centimetre."""
    hemisphere = _clean(reference).upper()[:1]
    if not hemisphere or hemisphere not in hemispheres:
        return None
    try:
        parts = [float(part) for part in value] if isinstance(value, tuple) else [float(value)]  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    degrees = math.fsum(part / 60.0**place for place, part in enumerate(parts))
    if not 1 <= len(parts) <= 3 or not math.isfinite(degrees) or not 0 <= degrees <= limit:
        return None
    return round(-degrees if hemisphere == hemispheres[1] else degrees, 7)


def _first_date(main: Mapping[int, Any], details: Mapping[int, Any]) -> str | None:
    """When the shutter was pressed, else when it was scanned, else when the file was last changed."""
    candidates = (
        details.get(ExifTags.Base.DateTimeOriginal),
        details.get(ExifTags.Base.DateTimeDigitized),
        main.get(ExifTags.Base.DateTime),
    )
    return next((date for value in candidates if (date := parse_date(value))), None)


def _clean(value: object) -> str:
    """Text of an EXIF field: up to its first NUL, white space tidied, without control characters."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        return ""
    printable = "".join(character if character.isprintable() else " " for character in text.split("\0")[0])
    return " ".join(printable.split())
