import io

import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from sightline.core.images.decode import (
    parse_camera,
    parse_date,
    parse_orientation,
    parse_position,
    read_image,
    read_info,
)

GPS = ExifTags.GPS


def photo(format_name="JPEG", *, main=None, details=None, gps=None):
    exif = Image.Exif()
    exif.update(main or {})
    if details:
        exif[ExifTags.IFD.Exif] = details
    if gps:
        exif[ExifTags.IFD.GPSInfo] = gps
    loaded = Image.Exif()  # Pillow's TIFF writer takes only one that was read
    loaded.load(exif.tobytes())
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (90, 120, 150)).save(file, format_name, exif=loaded)
    return file.getvalue()


def position(latitude=(46, 30, 36.0), north="N", longitude=(7, 15, 0.0), east="E"):
    return {
        GPS.GPSLatitudeRef: north,
        GPS.GPSLatitude: latitude,
        GPS.GPSLongitudeRef: east,
        GPS.GPSLongitude: longitude,
    }


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_tells_when_where_and_with_what(format_name):
    data = photo(
        format_name,
        main={
            ExifTags.Base.Make: "Canon",
            ExifTags.Base.Model: "Canon EOS 5D",
            ExifTags.Base.DateTime: "2025:01:01 00:00:00",
        },
        details={ExifTags.Base.DateTimeOriginal: "2024:05:01 12:30:59"},
        gps=position(),
    )
    for info in (read_info(data), read_image(data).info):
        assert (info.width, info.height, info.format) == (40, 30, format_name)
        assert info.taken_at == "2024-05-01T12:30:59"
        assert info.camera == "Canon EOS 5D"
        assert info.latitude == pytest.approx(46.51)
        assert info.longitude == pytest.approx(7.25)


def test_an_image_without_exif_tells_nothing():
    file = io.BytesIO()
    Image.new("RGB", (4, 3)).save(file, "JPEG")
    info = read_info(file.getvalue())
    assert (info.taken_at, info.camera, info.latitude, info.longitude) == (None, None, None, None)


def test_the_date_of_the_shutter_wins_over_scan_and_change():
    main = {ExifTags.Base.DateTime: "2003:03:03 03:03:03"}
    details = {
        ExifTags.Base.DateTimeOriginal: "0000:00:00 00:00:00",
        ExifTags.Base.DateTimeDigitized: "2002:02:02 02:02:02",
    }
    assert read_info(photo(main=main, details=details)).taken_at == "2002-02-02T02:02:02"
    assert read_info(photo(main=main)).taken_at == "2003-03-03T03:03:03"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024:05:01 12:30:00", "2024-05-01T12:30:00"),
        ("2024-05-01T12:30:00", "2024-05-01T12:30:00"),
        ("2024:05:01 12:30:00.123+02:00", "2024-05-01T12:30:00"),
        (b"2024:05:01 12:30:00\0", "2024-05-01T12:30:00"),
        (" 2024:5:1  9:03:07\0\0junk", "2024-05-01T09:03:07"),
        ("0000:00:00 00:00:00", None),
        ("2024:13:01 12:30:00", None),
        ("2024:05:01 24:00:00", None),
        ("    :  :     :  :  ", None),
        ("yesterday", None),
        (20240501, None),
        (None, None),
    ],
)
def test_dates(value, expected):
    assert parse_date(value) == expected


@pytest.mark.parametrize(
    ("make", "model", "expected"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D70", "NIKON D70"),
        ("Apple", "iPhone 12", "Apple iPhone 12"),
        ("SONY\0\0", "  DSC-RX100  \n", "SONY DSC-RX100"),
        (b"FUJIFILM", b"X-T4\0garbage", "FUJIFILM X-T4"),
        ("Leica", None, "Leica"),
        (None, "X1", "X1"),
        ("", "\0", None),
        (7, (1, 2), None),
    ],
)
def test_cameras(make, model, expected):
    assert parse_camera(make, model) == expected


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        (position(north="S", east="W"), (-46.51, -7.25)),
        (position(latitude=(IFDRational(93, 2), 0, 0)), (46.5, 7.25)),
        (position(latitude=(46.5,), longitude=(7, 15)), (46.5, 7.25)),
        (position(latitude=46.5), (46.5, 7.25)),
        (position(north=b"n\0"), (46.51, 7.25)),
        (position(latitude=(0, 0, 0), longitude=(0, 0, 0)), (None, None)),
        (position(latitude=(91, 0, 0)), (None, None)),
        (position(longitude=(200, 0, 0)), (None, None)),
        (position(latitude=(IFDRational(1, 0), 0, 0)), (None, None)),
        (position(latitude=(-5, 0, 0)), (None, None)),
        (position(latitude=("x", 0, 0)), (None, None)),
        (position(latitude=(1, 2, 3, 4)), (None, None)),
        (position(north=""), (None, None)),
        (position(east="N"), (None, None)),
        (position(latitude=()), (None, None)),
        ({}, (None, None)),
    ],
)
def test_positions(gps, expected):
    assert parse_position(gps) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "expected"), [(6, 6), (1, 1), (0, 1), (9, 1), ("6", 1), ((6, 6), 1), (None, 1), (-1, 1)]
)
def test_orientations(value, expected):
    assert parse_orientation(value) == expected


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0garbage that is no TIFF",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\0\0\0\0",  # its details are itself
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02\0\x06\0\x06\0\0\0\0",  # an orientation in letters
    ],
)
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_never_fails_a_read(format_name, exif):
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, format_name, exif=exif)
    assert read_image(file.getvalue()).rgb.shape == (30, 40, 3)
    assert read_info(file.getvalue()).taken_at is None


def test_what_lies_before_the_damage_counts():
    data = photo(main={ExifTags.Base.Make: "Canon", ExifTags.Base.Orientation: 6}, gps=position())
    exif = data.index(b"Exif\0\0") + 6
    gps_tag = data.index(b"\x25\x88" if data[exif : exif + 2] == b"II" else b"\x88\x25", exif)
    broken = data[: gps_tag + 8] + b"\xff\xff\xff\x7f" + data[gps_tag + 12 :]
    info = read_info(broken)
    assert (info.camera, info.width, info.height, info.latitude) == ("Canon", 30, 40, None)
