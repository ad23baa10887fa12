import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin
from PIL.TiffImagePlugin import IFDRational

from sightline.core.images.decode import read_image, read_info
from sightline.core.images.facts import (
    MAX_XMP_BYTES,
    parse_camera,
    parse_date,
    parse_orientation,
    parse_position,
    read_sidecar,
    read_xmp,
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
        ("2024:05:01 24:00:00", "2024-05-01"),
        ("2024:05:01 12:30", "2024-05-01T12:30:00"),
        ("2024:05:01 12:30:60", "2024-05-01"),
        ("1993:08:01   :  :  ", "1993-08-01"),
        ("1993:08:    :  :  ", "1993-08"),
        ("1993:  :     :  :  ", "1993"),
        ("2024:00:00 00:00:00", "2024"),
        ("2024:05:00 00:00:00", "2024-05"),
        ("2014:04:26 07:09:19 PM", "2014-04-26T19:09:19"),
        ("2014:04:26 12:09:19 am", "2014-04-26T00:09:19"),
        ("2014:04:26 12:09:19 p.m.", "2014-04-26T12:09:19"),
        ("2014:04:26 19:09:19 PM", "2014-04-26T19:09:19"),
        ("2024-05-01T23:30:00Z", "2024-05-01T23:30:00"),
        ("2024/05/01 12.30.05", "2024-05-01T12:30:05"),
        ("0001:01:01 00:00:00", None),
        ("2024:02:30 12:00:00", None),
        ("24:05:01 12:30:00", None),
        ("20240501 123000", None),
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
        (position(latitude=(-5, 30, 0)), (-5.5, 7.25)),
        (position(latitude=(51, 30, IFDRational(0, 0))), (51.5, 7.25)),
        (position(latitude=(IFDRational(0, 0), 30, 0)), (None, None)),
        (position(latitude=-33.5, north=None, longitude=-70.5, east=None), (-33.5, -70.5)),
        (position(latitude=-33.5, north="S"), (-33.5, 7.25)),
        (position(latitude="46.51"), (46.51, 7.25)),
        (position(latitude="46,30.6S", north=None, longitude="7,15,0W", east=None), (-46.51, -7.25)),
        (position(latitude="93/2"), (46.5, 7.25)),
        (position(latitude=("x", 0, 0)), (None, None)),
        (position(latitude=(1, 2, 3, 4)), (None, None)),
        (position(north=""), (None, None)),
        (position(east="N"), (None, None)),
        (position(latitude=()), (None, None)),
        ({}, (None, None)),
    ],
)
def test_positions(gps, expected):
    named = {ExifTags.GPSTAGS[tag]: value for tag, value in gps.items()}
    assert parse_position(named) == pytest.approx(expected)


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


def with_xmp(properties="", *, attributes="", namespaces=""):
    return f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
      xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
      xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
      xmlns:aux="http://ns.adobe.com/exif/1.0/aux/" xmlns:MicrosoftPhoto="http://ns.microsoft.com/photo/1.0/"
      ><rdf:Description {attributes}>{properties}</rdf:Description></rdf:RDF></x:xmpmeta>""".encode()


def jpeg(*, iptc=None, **saved):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (90, 120, 150)).save(file, "JPEG", **saved)
    if iptc is None:
        return file.getvalue()
    records = b"".join(b"\x1c" + bytes(key) + len(value).to_bytes(2, "big") + value for key, value in iptc)
    block = b"8BIM\x04\x04\0\0" + len(records).to_bytes(4, "big") + records + b"\0" * (len(records) % 2)
    payload = b"Photoshop 3.0\0" + block
    data = file.getvalue()
    return data[:2] + b"\xff\xed" + (len(payload) + 2).to_bytes(2, "big") + payload + data[2:]


def test_what_the_camera_measured():
    data = photo(
        details={
            ExifTags.Base.LensModel: "EF24-70mm f/2.8L",
            ExifTags.Base.FNumber: IFDRational(28, 10),
            ExifTags.Base.ExposureTime: IFDRational(1, 250),
            ExifTags.Base.ISOSpeedRatings: 400,
            ExifTags.Base.FocalLength: IFDRational(50, 1),
        },
        gps=position() | {GPS.GPSAltitude: IFDRational(1234, 10), GPS.GPSAltitudeRef: b"\1"},
    )
    facts = read_info(data).facts
    assert (facts.lens, facts.f_number, facts.exposure_s, facts.iso) == ("EF24-70mm f/2.8L", 2.8, 0.004, 400)
    assert (facts.focal_mm, facts.altitude_m) == (50.0, -123.4)


def test_values_that_mean_nothing_are_absent():
    details = {
        ExifTags.Base.LensModel: "\0",
        ExifTags.Base.FNumber: IFDRational(0, 0),
        ExifTags.Base.ExposureTime: IFDRational(0, 1),
        ExifTags.Base.ShutterSpeedValue: IFDRational(5, 1),
        ExifTags.Base.ISOSpeedRatings: 65535,
        ExifTags.Base.RecommendedExposureIndex: 102_400,
        ExifTags.Base.FocalLength: IFDRational(0, 1),
    }
    main = {ExifTags.Base.ImageDescription: "OLYMPUS DIGITAL CAMERA         ", 0x4746: 9}
    facts = read_info(photo(main=main, details=details)).facts
    assert (facts.lens, facts.f_number, facts.exposure_s, facts.iso) == (None, None, 0.03125, 102_400)
    assert (facts.focal_mm, facts.altitude_m, facts.description, facts.rating) == (None, None, None, None)


def test_texts_of_exif_in_utf_8_and_of_windows():
    main = {
        ExifTags.Base.ImageDescription: "Caf@@ in Z@@rich",  # Pillow writes ASCII alone
        ExifTags.Base.Artist: "Jane Doe",
        0x4749: 75,  # Windows' rating in percent
        0x9C9E: "été;Hund;Hund;".encode("utf-16-le"),
        0x9C9B: "Привет\0".encode("utf-16-le"),
    }
    data = photo(main=main).replace(b"Caf@@ in Z@@rich", "Café in Zürich".encode())
    facts = read_info(data).facts
    assert (facts.description, facts.author, facts.title) == ("Café in Zürich", "Jane Doe", "Привет")
    assert (facts.keywords, facts.rating) == (("été", "Hund"), 4)


def test_iptc_tells_what_was_written():
    records = [
        ((2, 5), b"A title"),
        ((2, 25), "Käse".encode()),
        ((2, 25), "Stadt".encode("latin-1")),
        ((2, 55), b"20240501"),
        ((2, 60), b"123005+0200"),
        ((2, 80), b"Jane"),
        ((2, 90), "Zürich".encode("latin-1")),
        ((2, 95), b"ZH"),
        ((2, 101), b"Switzerland"),
        ((2, 120), b"Two dogs\rin the snow"),
    ]
    info = read_info(jpeg(iptc=records))
    facts = info.facts
    assert (facts.title, facts.description, facts.author) == ("A title", "Two dogs in the snow", "Jane")
    assert (facts.city, facts.region, facts.country) == ("Zürich", "ZH", "Switzerland")
    assert (facts.keywords, info.taken_at) == (("Käse", "Stadt"), "2024-05-01T12:30:05")


RICH = with_xmp(
    """<dc:title><rdf:Alt><rdf:li xml:lang="de">Hunde</rdf:li><rdf:li xml:lang="x-default">Dogs</rdf:li></rdf:Alt>
    </dc:title><dc:subject><rdf:Bag><rdf:li>snow</rdf:li><rdf:li> dog &amp; cat </rdf:li></rdf:Bag></dc:subject>
    <dc:creator><rdf:Seq><rdf:li>Ann</rdf:li><rdf:li>Bob</rdf:li></rdf:Seq></dc:creator>
    <exif:ISOSpeedRatings><rdf:Seq><rdf:li>200</rdf:li></rdf:Seq></exif:ISOSpeedRatings>
    <photoshop:City>Paris</photoshop:City>""",
    attributes='MicrosoftPhoto:Rating="75" xmp:Rating="-1" photoshop:DateCreated="2019-12-24T18:00:00+01:00" '
    'exif:GPSLatitude="48,51.396N" exif:GPSLongitude="2,21.132E" exif:GPSAltitude="350/10" aux:Lens="50mm"',
)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_tells_all_of_it(format_name):
    file = io.BytesIO()
    saved: Any
    if format_name == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", RICH.decode())
        saved = {"pnginfo": text}
    elif format_name == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700] = RICH
        tags.tagtype[700] = 1
        saved = {"tiffinfo": tags}
    else:
        saved = {"xmp": RICH}
    Image.new("RGB", (40, 30)).save(file, format_name, **saved)
    info = read_info(file.getvalue())
    facts = info.facts
    assert (facts.title, facts.author, facts.keywords) == ("Dogs", "Ann, Bob", ("snow", "dog & cat"))
    assert (facts.rating, facts.iso, facts.lens, facts.city) == (-1, 200, "50mm", "Paris")
    assert (info.latitude, info.longitude, facts.altitude_m) == (pytest.approx(48.8566), pytest.approx(2.3522), 35)
    assert info.taken_at == "2019-12-24T18:00:00"


def test_the_newest_source_of_what_is_written_wins_and_exif_of_what_is_measured(tmp_path):
    exif = Image.Exif()
    exif.update({ExifTags.Base.ImageDescription: "from EXIF", ExifTags.Base.Artist: "EXIF", 0x4746: 1})
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.DateTimeOriginal: "2020:01:01 00:00:00"}
    packet = with_xmp("<dc:description>from XMP</dc:description>", attributes='photoshop:DateCreated="2021"')
    iptc = [((2, 120), b"from IPTC"), ((2, 80), b"IPTC")]
    data = jpeg(iptc=iptc, exif=exif, xmp=packet)
    info = read_info(data)
    assert (info.facts.description, info.facts.author, info.facts.rating) == ("from XMP", "IPTC", 1)
    assert info.taken_at == "2020-01-01T00:00:00"
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_sidecar(tmp_path / "a.jpg") is None
    beside = with_xmp("<dc:description>from the sidecar</dc:description>", attributes='photoshop:DateCreated="2022"')
    (tmp_path / "a.xmp").write_bytes(b"no XML")
    (tmp_path / "a.jpg.xmp").write_bytes(beside)
    for info in (
        read_info(data, sidecar=read_sidecar(tmp_path / "a.jpg")),
        read_image(data, sidecar=read_sidecar(tmp_path / "a.jpg")).info,
    ):
        assert (info.facts.description, info.facts.author) == ("from the sidecar", "IPTC")
        assert info.taken_at == "2022"
    (tmp_path / "a.jpg.xmp").unlink()
    broken = read_info(data, sidecar=read_sidecar(tmp_path / "a.jpg"))
    plain = read_info(data)
    assert replace(broken.facts, version=0) == replace(plain.facts, version=0)
    assert broken.taken_at == plain.taken_at


def test_no_xmp_can_fail_a_read_or_swell():
    bomb = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>""" + with_xmp(
        "<dc:title>&b;</dc:title>"
    )
    outside = b"""<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>""" + with_xmp("<dc:title>&a;</dc:title>")
    deep = with_xmp("<dc:title>" * 20_000 + "x" + "</dc:title>" * 20_000)
    for packet in (bomb, outside, b"", b"<x", b"\xff\xfe\0", b" " * (MAX_XMP_BYTES + 1), RICH[:-20]):
        assert read_xmp(packet) == {}
    assert read_xmp(deep).keys() <= {"title"}
    assert read_xmp(with_xmp("<dc:title>" + "x" * 50_000 + "</dc:title>"))["title"] == "x" * 4000 + "..."
    assert read_info(jpeg(xmp=bomb)).facts.title is None
