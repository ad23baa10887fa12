"""A library of an older Sightline: headers are looked at once; only what has other pixels is embedded anew."""

import io
import shutil
import sqlite3
import struct
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from icc_profiles import P3, SRGB, rgb_profile
from indexing_world import PooledEncoder, photo, rows, write_photo
from sightline.core.images.decode import PIXELS_VERSION
from sightline.core.indexing import renew
from sightline.core.indexing.indexer import index
from sightline.core.store.base import Failure
from sightline.core.store.sqlite import open_store
from sightline.core.types import Caption, Facts

CONCERNED = {"p3.jpg", "copy of p3.jpg", "negative.tif"}


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "library")
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path):
    """Photos that are read as ever, and three whose pixels were read otherwise, two of them copies."""
    folder = tmp_path / "photos"
    for seed in range(3):
        write_photo(folder / f"plain{seed}.jpg", seed)
    photo(5).save(folder / "srgb.jpg", icc_profile=rgb_profile(SRGB))
    photo(6).save(folder / "p3.jpg", icc_profile=rgb_profile(P3))
    shutil.copy(folder / "p3.jpg", folder / "copy of p3.jpg")
    stream = io.BytesIO()
    Image.fromarray(np.asarray(photo(7).convert("L")).astype(np.uint16) * 257).save(stream, "TIFF")
    tag = struct.pack("<HHI", 262, 3, 1)
    (folder / "negative.tif").write_bytes(stream.getvalue().replace(tag + b"\1", tag + b"\0"))
    return folder


def age(store):
    """Make all rows those of an older Sightline, with vectors of nothing in particular."""
    with closing(sqlite3.connect(store.folder / "library.db")) as db, db:
        db.execute("update images set pixels_version = 0, facts_version = 0")
        db.execute("delete from settings where name = 'pixels_version'")
        junk = np.ones(32, np.float16) / np.float16(32**0.5)
        db.execute("update vectors set vector = ?, generation = generation + 1", (junk.tobytes(),))
        db.execute("update models set generation = generation + 1")


def names_with_old_vectors(store):
    ids_N, vectors_ND = store.vectors("pooled")
    old = set(ids_N[np.ptp(vectors_ND, axis=1) < 0.01].tolist())
    return {name for name, record in rows(store).items() if record.id in old}


def test_only_images_whose_pixels_differ_are_embedded_anew_and_captions_stay(store, folder):
    encoder = PooledEncoder()
    index(store, encoder, [folder])
    index(store, PooledEncoder("second"), [folder])
    ids = {name: record.id for name, record in rows(store).items()}
    for source in ("generated", "user"):
        store.put_captions({id_: [Caption(text=f"by {source}", source=source)] for id_ in ids.values()})
    age(store)
    encoder = PooledEncoder()
    report = index(store, encoder, [folder])
    assert (report.unchanged, report.updated, report.embedded) == (7, 0, 2)
    assert names_with_old_vectors(store) == set(ids) - CONCERNED
    assert store.missing_vectors("pooled") == set()
    assert store.missing_vectors("second") == {ids[name] for name in CONCERNED}
    assert {len(captions) for captions in store.captions(list(ids.values())).values()} == {2}
    assert {record.info.pixels_version for record in rows(store).values()} == {PIXELS_VERSION}
    assert min(record.info.facts.version for record in rows(store).values()) > 0
    assert {record.id for record in rows(store).values()} == set(ids.values())


def test_headers_are_looked_at_once(store, folder, monkeypatch):
    index(store, PooledEncoder(), [folder])
    age(store)
    index(store, PooledEncoder(), [folder])
    monkeypatch.setattr(renew, "read_info", lambda *_, **__: pytest.fail("looked again"))
    assert index(store, PooledEncoder(), [folder]).embedded == 0


def test_facts_are_written_at_once(store, folder):
    index(store, PooledEncoder(), [folder])
    record = rows(store)["plain1.jpg"]
    (folder / "plain1.jpg.xmp").write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag><rdf:li>lighthouse'
        "</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    age(store)
    assert rows(store)["plain1.jpg"].info.facts == Facts()
    index(store, PooledEncoder(), [folder])
    assert rows(store)["plain1.jpg"].info.facts.keywords == ("lighthouse",)
    assert [id_ for id_, _ in store.match("lighthouse", 5)] == [record.id]
    (folder / "plain1.jpg.xmp").unlink()
    report = index(store, PooledEncoder(), [folder])
    assert (rows(store)["plain1.jpg"].info.facts.keywords, report.embedded) == ((), 0)
    assert not store.match("lighthouse", 5)


def test_a_run_cut_short_goes_on_with_the_next(store, folder):
    index(store, PooledEncoder(), [folder])
    age(store)

    def stop(progress):
        if progress.done:
            raise KeyboardInterrupt

    assert index(store, PooledEncoder(image_s=0.2), [folder], on_progress=stop).interrupted
    assert len(store.vectors("pooled")[0]) == 7  # nothing is lost meanwhile
    index(store, PooledEncoder(), [folder])
    assert not names_with_old_vectors(store) & CONCERNED


def test_what_cannot_be_reached_waits_and_what_changed_is_read_as_ever(store, folder, tmp_path):
    index(store, PooledEncoder(), [folder])
    age(store)
    write_photo(folder / "plain0.jpg", 50)
    folder.rename(tmp_path / "away")
    report = index(store, PooledEncoder(), [folder])
    assert (report.embedded, report.removed, len(store.vectors("pooled")[0])) == (0, 0, 7)
    (tmp_path / "away").rename(folder)
    assert index(store, PooledEncoder(), [folder]).embedded == 3


def test_failures_that_other_rules_undo_are_tried_again_once(store, folder, monkeypatch):
    whole = (folder / "plain2.jpg").read_bytes()
    (folder / "open ended.jpg").write_bytes(whole[:-2] + b"\0\0")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    index(store, PooledEncoder(), [folder])
    record = rows(store)["open ended.jpg"]
    store.delete([record.id])
    failures = [
        Failure(
            root=folder,
            relative="open ended.jpg",
            size_bytes=record.size_bytes,
            mtime_ns=record.mtime_ns,
            reason="truncated JPEG",
        ),
        *(replace(failure, reason="permission denied") for failure in store.failures()),
    ]
    store.upsert([], failures=failures)
    age(store)
    report = index(store, PooledEncoder(), [folder])
    assert (report.added + report.copied, [skipped.reason for skipped in report.skipped]) == (1, ["permission denied"])
    assert "open ended.jpg" in rows(store)
