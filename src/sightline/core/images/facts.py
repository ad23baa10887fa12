"""What an image file tells of itself beside its pixels: when, where and with what it was taken, and what was written.

EXIF and IPTC by Pillow, XMP (in the file, and in a file beside it) by defusedxml. Broken values count as absent, never
as errors. Sources: CIPA DC-008 (Exif 3.0), IPTC IIM 4.2, the XMP specification, parts 1 and 2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import ExifTags, IptcImagePlugin
from PIL.ImageFile import ImageFile

from sightline.core.images.files import sidecar_names
from sightline.core.types import SIDECAR_MARK, Facts
from sightline.kit.text import one_line

FACTS_VERSION = 1
"""The rules by which facts are read; rows of older ones are read anew by the next index. An odd number: the next one
says that the place was looked up, too (`Store.put_places`)."""
MAX_XMP_BYTES = 4 * 2**20
"""Larger packets hold edits of pixels; they are passed over."""
MAX_KEYWORDS = 500
MAX_CHARS = 4000

Values = Mapping[str, Any]
"""Raw values by the names that EXIF has for them; XMP uses the same."""

_WRITTEN = {"rating", "title", "description", "author", "keywords", "city", "region", "country"}
"""What people write: XMP has it newest, EXIF oldest. What a device measures EXIF has first-hand."""
_DATES = ("DateTimeOriginal", "DateTimeDigitized", "DateCreated", "CreateDate", "DateTime")
"""When the shutter was pressed, else when it was scanned, else when the file was last changed."""
_DATE = re.compile(
    r"\s*([1-9]\d{3})(?!\d)(?:[:\-/.](\d{1,2})(?:[:\-/.](\d{1,2})"
    r"(?:[ T:]+(\d{1,2})[:.](\d{1,2})(?:[:.](\d{1,2}))?[.\d]*\s*([AaPp]\.?[Mm])?)?)?)?"
)
_DEVICE_TEXT = re.compile(r"(?i)(olympus|konica|minolta|samsung|sony|kodak|digital)\b.*(camera|pictures|dsc)")
"""Descriptions that cameras write into every image."""

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_DC, _XAP, _PHOTOSHOP = (
    "{http://purl.org/dc/elements/1.1/}",
    "{http://ns.adobe.com/xap/1.0/}",
    "{http://ns.adobe.com/photoshop/1.0/}",
)
_XMP_TEXTS = {
    "title": f"{_DC}title",
    "description": f"{_DC}description",
    "city": f"{_PHOTOSHOP}City",
    "region": f"{_PHOTOSHOP}State",
    "country": f"{_PHOTOSHOP}Country",
}
_XMP_VALUES = (
    f"{_XAP}Rating",
    f"{_PHOTOSHOP}DateCreated",
    f"{_XAP}CreateDate",
    "{http://ns.adobe.com/exif/1.0/",
    "{http://cipa.jp/exif/1.0/",
    "{http://ns.adobe.com/tiff/1.0/",
)
"""Beginnings of names whose last part EXIF knows too."""
_IPTC_TEXTS = {
    "title": (2, 5),
    "author": (2, 80),
    "city": (2, 90),
    "region": (2, 95),
    "country": (2, 101),
    "description": (2, 120),
}
_IPTC_KEYWORDS, _IPTC_DATE, _IPTC_TIME = (2, 25), (2, 55), (2, 60)
_EXIF_TEXTS = {
    "lens": ("LensModel", "Lens"),
    "title": ("XPTitle",),
    "description": ("ImageDescription", "XPComment"),
    "author": ("Artist", "XPAuthor"),
}
_WIDE = {"XPTitle", "XPComment", "XPAuthor", "XPKeywords"}
"""Windows' own, in UTF-16."""
_NO_ISO = 65_535
"""What cameras write where the value is larger than the field."""
_HIGHEST_M = 100_000
_MOST = 10**9
_MOST_STEPS = 40

TURN_LEFT = "turn_left"
"""Key of an opened HEIC's `info`: the orientation by EXIF that nobody has turned yet."""


def read_facts(image: ImageFile, sidecar: bytes | None = None) -> tuple[int, dict[str, Any]]:
    """The turn that the pixels need (1 to 8), and what is told beside it, by `ImageInfo`'s names.

    `sidecar` is an XMP file beside the image. Of what is written, it wins over the file's XMP, that over IPTC, that
    over EXIF; of what is measured, the sidecar wins over EXIF, that over the file's XMP and IPTC.
    """
    values = _read_exif(image)
    beside, packet = read_xmp(sidecar), read_xmp(image.info.get("xmp"))
    exif, iptc = _describe(values) if values else {}, _read_iptc(image)
    told: dict[str, Any] = {}
    for name in exif.keys() | packet.keys() | beside.keys() | iptc.keys():
        order = (beside, packet, iptc, exif) if name in _WRITTEN else (beside, exif, packet, iptc)
        told[name] = next(source[name] for source in order if name in source)
    facts = {field.name: told.pop(field.name) for field in fields(Facts) if field.name in told}
    # Pillow turns TIFF by itself, and pillow_heif HEIF, as far as that says how.
    is_upright = image.format in {"TIFF", "HEIF"}
    return image.info.get(TURN_LEFT) or 1 if is_upright else parse_orientation(values.get("Orientation")), {
        **told,
        "facts": Facts(version=FACTS_VERSION + (SIDECAR_MARK if sidecar is not None else 0), **facts),
    }


def read_sidecar(path: Path) -> bytes | None:
    """The XMP file beside an image, `photo.jpg.xmp` or `photo.xmp`; None where there is none that can be read."""
    for name in sidecar_names(path.name):
        with suppress(OSError), path.with_name(name).open("rb") as file:
            return file.read(MAX_XMP_BYTES + 1)
    return None


def read_xmp(data: object) -> dict[str, Any]:
    """Facts of an XMP packet; none of one that is broken, too large, or has entities of its own."""
    if not isinstance(data, bytes) or not data or len(data) > MAX_XMP_BYTES:
        return {}
    from defusedxml.ElementTree import fromstring  # most images have no XMP

    found: dict[str, list[str]] = {}
    with suppress(Exception):  # the XML parser's errors, and defusedxml's
        for description in fromstring(data.rstrip(b"\0 ")).iterfind(f".//{_RDF}RDF/{_RDF}Description"):
            for name, value in description.items():
                found.setdefault(name, [value])
            for node in description:
                found.setdefault(node.tag, _texts_of(node))
    values = {name.rpartition("}")[2]: texts[0] for name, texts in found.items() if name.startswith(_XMP_VALUES)}
    texts = {fact: _text(found[name][0]) for fact, name in _XMP_TEXTS.items() if name in found}
    people, keywords = (found.get(f"{_DC}{name}", []) for name in ("creator", "subject"))
    return _present({**_describe(values), **texts, "author": _join(people), "keywords": _keywords(keywords)})


def _texts_of(node: Any) -> list[str]:
    """The text of a property, or of its items: of translations, the default first."""
    items = sorted(node.iter(f"{_RDF}li"), key=lambda item: item.get(_XML_LANG, "x-default") != "x-default")
    return [item.text or "" for item in items] or [node.text or ""]


def _read_iptc(image: ImageFile) -> dict[str, Any]:
    found: Mapping[tuple[int, int], Any] = {}
    with suppress(Exception):  # damaged records make Pillow raise nearly anything
        found = IptcImagePlugin.getiptcinfo(image) or {}
    if not found:
        return {}
    listed = {key: value if isinstance(value, list) else [value] for key, value in found.items()}
    facts = {name: _join(listed.get(key, ())) for name, key in _IPTC_TEXTS.items()}
    day, time = (_text(listed.get(key, [""])[0]) for key in (_IPTC_DATE, _IPTC_TIME))
    date = f"{day[:4]}:{day[4:6]}:{day[6:8]} {time[:2]}:{time[2:4]}:{time[4:6]}"
    keywords = _keywords(listed.get(_IPTC_KEYWORDS, ()))
    return _present({**facts, "keywords": keywords, "taken_at": parse_date(date)})


def _read_exif(image: ImageFile) -> dict[str, Any]:
    """Raw values by name; those of a damaged part, and of what lies behind it, are missing."""
    values: dict[str, Any] = {}
    with suppress(Exception):  # damaged EXIF makes Pillow raise nearly anything; what was read before it counts
        exif = image.getexif()
        values.update((ExifTags.TAGS.get(tag, ""), value) for tag, value in exif.items())
        for name in _WIDE.intersection(values):
            values[name] = bytes(values[name]).decode("utf-16-le", "replace")
        details = exif.get_ifd(ExifTags.IFD.Exif)
        values.update((ExifTags.TAGS.get(tag, ""), value) for tag, value in details.items())
        position = exif.get_ifd(ExifTags.IFD.GPSInfo)
        values.update((ExifTags.GPSTAGS.get(tag, ""), value) for tag, value in position.items())
    return values


def _describe(values: Values) -> dict[str, Any]:
    """Facts from raw values by EXIF's names: what is measured, and what EXIF has of what is written."""
    latitude, longitude = parse_position(values)
    speeds = ("PhotographicSensitivity", "ISOSpeedRatings", "ISOSpeed", "RecommendedExposureIndex")
    exposure_s = _positive(values, "ExposureTime") or _power(values, "ShutterSpeedValue", -1.0)
    texts = {name: [_text(values.get(tag)) for tag in tags] for name, tags in _EXIF_TEXTS.items()}
    return _present(
        {
            "taken_at": next(filter(None, (parse_date(values.get(name)) for name in _DATES)), None),
            "camera": parse_camera(values.get("Make"), values.get("Model")),
            "latitude": latitude,
            "longitude": longitude,
            "altitude_m": _parse_altitude(values),
            "f_number": _positive(values, "FNumber") or _power(values, "ApertureValue", 0.5),
            "exposure_s": exposure_s,
            "iso": next((int(iso) for name in speeds if (iso := _positive(values, name)) not in (None, _NO_ISO)), None),
            "focal_mm": _positive(values, "FocalLength"),
            "rating": _parse_rating(values),
            "keywords": _keywords(_text(values.get("XPKeywords")).split(";")),
            **{name: next((t for t in found if t and not _DEVICE_TEXT.match(t)), "") for name, found in texts.items()},
        }
    )


def parse_orientation(value: object) -> int:
    """1 to 8; anything else counts as upright."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def parse_date(value: object) -> str | None:
    """EXIF's `2024:05:01 12:30:00`, and the variants found in the wild, as ISO 8601; None for no real date.

    Parts that are blank or 0 are left out from the first one on, and so is a time that no clock shows.
    """
    match = _DATE.match(_text(value))
    if match is None:
        return None
    year, month, day = (part if part and int(part) else None for part in match.groups()[:3])
    hour, minute, second = match.group(4, 5, 6)
    if month is None:
        return year
    try:
        date = datetime(int(year or 0), int(month), int(day or 1))
    except ValueError:
        return None
    if day is None:
        return f"{date:%Y-%m}"
    with suppress(ValueError):
        if hour is not None:
            clock = int(hour) if match[7] is None or int(hour) > 12 else int(hour) % 12 + 12 * (match[7][0] in "pP")
            return date.replace(hour=clock, minute=int(minute), second=int(second or 0)).isoformat()
    return f"{date:%Y-%m-%d}"


def parse_camera(make: object, model: object) -> str | None:
    """`Canon`, `Canon EOS 5D` -> `Canon EOS 5D`; `Apple`, `iPhone 12` -> `Apple iPhone 12`."""
    maker, name = _text(make), _text(model)
    brand = maker.split(" ")[0].lower()
    if brand and name.lower().startswith(brand):
        return name
    return f"{maker} {name}".strip() or None


def parse_position(values: Values) -> tuple[float | None, float | None]:
    """Latitude and longitude in degrees, or two Nones: without hemispheres, out of range, or the 0, 0 of no fix."""
    latitude = _parse_angle(values.get("GPSLatitude"), values.get("GPSLatitudeRef"), "NS", limit=90)
    longitude = _parse_angle(values.get("GPSLongitude"), values.get("GPSLongitudeRef"), "EW", limit=180)
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):
        return None, None
    return latitude, longitude


def _parse_angle(value: object, reference: object, hemispheres: str, *, limit: int) -> float | None:
    """Degrees, minutes and seconds, or XMP's `46,30.6N`, with a hemisphere or below 0 -> degrees, to a centimetre.

    Minutes and seconds of 0/0 count as 0, as everywhere.
    """
    if isinstance(value, str) and (text := value.strip()):
        reference = text[-1] if text[-1].isalpha() else reference
        value = tuple(text.rstrip("NSEWnsew").split(","))
    hemisphere = _text(reference).upper()[:1]
    listed = value if isinstance(value, tuple) else (value,)
    parts = [_number(part) for part in listed]
    if not 1 <= len(parts) <= 3 or parts[0] is None or (hemisphere and hemisphere not in hemispheres):
        return None
    size = math.fsum(abs(part or 0.0) / 60.0**place for place, part in enumerate(parts))
    below = math.copysign(1, parts[0]) < 0
    if not 0 <= size <= limit or not (hemisphere or below):
        return None
    return round(-size if below or hemisphere == hemispheres[1] else size, 7)


def _parse_altitude(values: Values) -> float | None:
    metres = _number(values.get("GPSAltitude"))
    if metres is None or abs(metres) > _HIGHEST_M:
        return None
    reference = values.get("GPSAltitudeRef")
    is_below = (reference[:1] if isinstance(reference, (bytes, str)) else reference) in (1, 3, b"\1", b"\3", "1", "3")
    return round(-abs(metres) if is_below else metres, 2)


def _parse_rating(values: Values) -> int | None:
    """0 to 5 stars, -1 for rejected; from Windows' percent where that is all there is."""
    stars, percent = _number(values.get("Rating")), _number(values.get("RatingPercent"))
    if stars is None and percent is not None and percent > 0:
        stars = 1 + (percent - 1) / 24.5
    return round(stars) if stars is not None and -1 <= stars <= 5 else None


def _number(value: object) -> float | None:
    """A finite number, also of Pillow's fractions, `28/10`, or the first of several."""
    if isinstance(value, (tuple, list)):
        value = value[0] if value else None
    try:
        top, _, bottom = value.partition("/") if isinstance(value, str) else (value, "", "")
        number = float(top) / float(bottom or 1)  # type: ignore[arg-type]
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None


def _positive(values: Values, name: str) -> float | None:
    number = _number(values.get(name))
    return float(f"{number:.6g}") if number is not None and 0 < number < _MOST else None


def _power(values: Values, name: str, factor: float) -> float | None:
    """A value in APEX's steps, each a factor of two in light."""
    steps = _number(values.get(name))
    return float(f"{2 ** (factor * steps):.4g}") if steps is not None and abs(steps) < _MOST_STEPS else None


def _text(value: object) -> str:
    """Text of a field on one line: up to its first NUL, white space tidied, without control characters.

    Pillow reads EXIF as Latin-1, while most write UTF-8.
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return ""
    text = value.split("\0")[0]
    with suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    return one_line(text, max_chars=MAX_CHARS)


def _join(texts: Iterable[object]) -> str:
    return ", ".join(filter(None, map(_text, texts)))


def _keywords(texts: Iterable[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(_text, texts))))[:MAX_KEYWORDS]


def _present(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None and value not in ("", ())}
