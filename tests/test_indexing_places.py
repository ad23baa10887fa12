"""Facts and places of a library's images, as indexing keeps them up to date."""

import sqlite3
import time
from dataclasses import replace
from functools import partial

import pytest
from PIL import ExifTags, Image

from indexing_world import PooledEncoder, photo, write_photo
from sightline.core.images.facts import FACTS_VERSION
from sightline.core.indexing import places
from sightline.core.indexing.indexer import index
from sightline.core.store.sqlite import open_store

needs_places = pytest.mark.skipif(not places.places_available(), reason="the extra `places` is not installed")

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="{}">
<dc:title>{}</dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"""


def write_at(path, seed, latitude, longitude):
    exif = Image.Exif()
    gps = ExifTags.GPS
    exif[ExifTags.IFD.GPSInfo] = {
        gps.GPSLatitudeRef: "SN"[latitude > 0],
        gps.GPSLatitude: (abs(latitude), 0.0, 0.0),
        gps.GPSLongitudeRef: "WE"[longitude > 0],
        gps.GPSLongitude: (abs(longitude), 0.0, 0.0),
    }
    photo(seed).save(path, "JPEG", quality=90, exif=exif)


def write_sidecar(path, title, *, rating=3):
    time.sleep(0.02)  # file systems count time in steps
    path.write_text(XMP.format(rating, title), encoding="utf-8")


def titles(store):
    return {record.path.name: record.info.facts.title for record in store.scan()}


@pytest.fixture
def library(tmp_path):
    (tmp_path / "photos").mkdir()
    with open_store(tmp_path / "library") as store:
        encoder = PooledEncoder()
        yield store, tmp_path / "photos", encoder, partial(index, store, encoder, [tmp_path / "photos"])


def test_an_older_library_gets_facts_and_embeds_nothing(library):
    store, folder, encoder, run = library
    write_at(folder / "a.jpg", 1, 48.8584, 2.2945)
    write_sidecar(folder / "a.xmp", "The tower")
    run()
    (record,) = store.scan()
    assert (record.info.facts.title, record.info.facts.rating) == ("The tower", 3)
    with sqlite3.connect(store.folder / "library.db") as db:
        db.execute("update images set title = null, rating = null, city = null, facts_version = 0")
    report = run()
    assert (report.unchanged, report.embedded, encoder.encoded) == (1, 0, 1)
    assert next(store.scan()) == record
    written = store.written_ns(record.id)
    assert run().unchanged == 1
    assert store.written_ns(record.id) == written  # nothing is read twice


def test_changes_of_a_sidecar_are_noticed(library):
    store, folder, encoder, run = library
    write_photo(folder / "a.jpg", 1)
    write_photo(folder / "b.JPG", 2)
    run()
    assert titles(store) == {"a.jpg": None, "b.JPG": None}
    write_sidecar(folder / "a.jpg.xmp", "one")
    write_sidecar(folder / "b.XMP", "two")
    run()
    assert titles(store) == {"a.jpg": "one", "b.JPG": "two"}
    write_sidecar(folder / "a.jpg.xmp", "three")
    run()
    assert titles(store) == {"a.jpg": "three", "b.JPG": "two"}
    assert [row for row, _ in store.match("three", 5)] == [store.find_path(folder / "a.jpg").id]
    assert encoder.encoded == 2


def test_a_copy_and_a_renamed_image_have_their_own_sidecars(library):
    store, folder, encoder, run = library
    write_photo(folder / "a.jpg", 1)
    write_sidecar(folder / "a.xmp", "one")
    run()
    (folder / "copy.jpg").write_bytes((folder / "a.jpg").read_bytes())
    write_sidecar(folder / "copy.xmp", "two")
    run()
    assert titles(store) == {"a.jpg": "one", "copy.jpg": "two"}
    (folder / "copy.jpg").rename(folder / "moved.jpg")
    write_sidecar(folder / "moved.xmp", "three")
    report = run()
    assert (titles(store), report.renamed) == ({"a.jpg": "one", "moved.jpg": "three"}, 1)
    assert encoder.encoded == 1


def test_a_file_that_is_gone_or_damaged_keeps_its_row(library):
    store, folder, _, run = library
    write_photo(folder / "a.jpg", 1)
    run()
    stat = (folder / "a.jpg").stat()
    (folder / "a.jpg").write_bytes(b"x" * stat.st_size)
    import os

    os.utime(folder / "a.jpg", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    write_sidecar(folder / "a.xmp", "one")
    report = run()
    assert [file.reason for file in report.skipped] == ["not an image (its content is text)"]
    assert titles(store) == {"a.jpg": None}


@needs_places
@pytest.mark.parametrize(
    ("latitude", "longitude", "place"),
    [
        (48.8584, 2.2945, ("Paris", None, "France")),  # the middle of Neuilly is nearer
        (48.805, 2.12, ("Versailles", None, "France")),
        (52.497, 13.39, ("Berlin", None, "Germany")),
        (40.758, -73.985, ("New York City", "New York", "United States")),
        (40.728, -74.07, ("Jersey City", "New Jersey", "United States")),  # 7 km from New York's middle
        (47.594, 7.61, ("Weil am Rhein", None, "Germany")),  # Basel is near, and larger
        (36.1, -112.1, (None, "Arizona", "United States")),
        (-16.8, -179.99, (None, None, "Fiji")),  # on the other side of the date line
        (0.0, -30.0, (None, None, None)),
        (90.0, 0.0, (None, None, None)),
    ],
)
def test_places_of_positions(latitude, longitude, place):
    assert places.find_place(latitude, longitude) == place


@needs_places
def test_positions_get_places_once_and_what_a_person_wrote_stays(library, monkeypatch):
    store, folder, _, run = library
    write_at(folder / "a.jpg", 1, 48.8584, 2.2945)
    write_at(folder / "b.jpg", 2, 0.5, -30.0)
    write_photo(folder / "c.jpg", 3)
    monkeypatch.setattr(places, "places_available", lambda: False)
    run()
    assert store.place_names() == frozenset()
    monkeypatch.undo()
    run()
    assert store.place_names() == {"Paris", "France"}
    assert [record.path.name for record in store.scan(where="place like 'Paris%'")] == ["a.jpg"]
    assert [row for row, _ in store.match("paris", 5)] == [store.find_path(folder / "a.jpg").id]
    versions = [record.info.facts.version for record in store.scan()]
    assert versions == [FACTS_VERSION + 1, FACTS_VERSION + 1, FACTS_VERSION]
    monkeypatch.setattr(places, "find_place", lambda *position: pytest.fail("looked up twice"))
    run()
    record = store.find_path(folder / "b.jpg")
    facts = replace(record.info.facts, city="Atlantis", version=FACTS_VERSION)
    from sightline.core.store.base import Entry

    store.upsert([Entry(image=replace(record, info=replace(record.info, facts=facts)))])
    store.put_places({record.id: ("Paris", None, "France")})
    assert store.get([record.id])[0].info.facts.city == "Atlantis"
    assert store.get([record.id])[0].info.facts.country == "France"
