"""Images over HTTP: facts, files, thumbnails and heatmaps.

Covers: sightline.faces.service.thumbnails, sightline.faces.web.files, sightline.faces.web.routes.images.
"""

import base64
import io
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi")

from PIL import Image

import sightline as sl
from sightline.core.types import TextLine, TextReading
from sightline.faces.integrations.tools_schemas import ImageDescription
from sightline.faces.service.thumbnails import Thumbnails
from web_world import COLOURS, PATIENCE_S, index, open_app, write_image, write_photos

TURNED = {3: "bottom right", 6: "top right", 8: "bottom left", 1: "top left"}


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


@pytest.fixture
def library(tmp_path, photos):
    return index(tmp_path / "library", photos)


@pytest.fixture
def client(library):
    with open_app(library) as client:
        yield client


@pytest.fixture(scope="module")
def sharing(tmp_path_factory):
    """A client whose photos no test changes."""
    folder = tmp_path_factory.mktemp("images")
    with open_app(index(folder / "library", write_photos(folder / "photos"))) as client:
        client.photos = folder / "photos"
        yield client


def hit_of(client, name):
    return next(hit for hit in client.get("/api/search").json()["hits"] if hit["name"] == name)


def open_image(response):
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


def test_an_image_tells_all_that_is_known_of_it(tmp_path, photos):
    exif = Image.Exif()
    exif[0x0132], exif[0x010F], exif[0x0110] = "2024:05:01 12:30:00", "Maker", "Model"
    Image.new("RGB", (30, 20), "red").save(photos / "dated.jpg", exif=exif)
    (photos / "copy.jpg").write_bytes((photos / "dated.jpg").read_bytes())
    with open_app(index(tmp_path / "library", photos)) as client:
        hit, copy = hit_of(client, "dated.jpg"), hit_of(client, "copy.jpg")
        client.put(f"/api/images/{hit['id']}/captions", json={"text": "a red field"})
        image = client.get(f"/api/images/{hit['id']}").json()
        assert image["captions"][0]["text"] == "a red field"
        assert image["duplicates"] == [copy["id"]]
        assert image["models"] == ["starter"]
        assert image["folder"] == str(photos)
        assert (image["width"], image["height"], image["format"]) == (30, 20, "JPEG")
        assert (image["taken_at"], image["camera"]) == ("2024-05-01T12:30:00", "Maker Model")
        assert image["size_bytes"] == (photos / "dated.jpg").stat().st_size
        assert image["exists"] is True
        (photos / "dated.jpg").unlink()
        assert client.get(f"/api/images/{hit['id']}").json()["exists"] is False


@pytest.mark.parametrize("path", ["", "/thumbnail", "/file", "/heatmap?q=a"])
@pytest.mark.parametrize(("row", "status"), [("999", 404), (str(2**63 - 1), 404), ("0", 422), ("-1", 422), ("a", 422)])
def test_rows_that_are_not_there(sharing, path, row, status):
    response = sharing.get(f"/api/images/{row}{path}")
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


def test_names_that_are_no_text_are_shown_and_served(tmp_path):
    photos = tmp_path / "photos"
    write_photos(photos, names=("red",))
    odd = os.fsdecode(os.fsencode(photos) + b'/caf\xe9 \n".png')
    os.rename(photos / "red.png", odd)  # noqa: PTH104 - the name is the point
    with open_app(index(tmp_path / "library", photos)) as client:
        (hit,) = client.get("/api/search").json()["hits"]
        assert hit["name"] == 'caf\ufffd \n".png'
        served = client.get(f"/api/images/{hit['id']}/file")
        assert served.headers["content-disposition"].isascii()
        assert open_image(served).size == (120, 90)
        assert client.get(f"/api/images/{hit['id']}").json()["name"] == hit["name"]


@pytest.mark.parametrize(("orientation", "corner"), TURNED.items())
def test_thumbnails_are_upright(tmp_path, orientation, corner):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:20, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "turned.jpg", exif=exif, quality=95)
    with open_app(index(tmp_path / "library", tmp_path / "photos")) as client:
        thumbnail = open_image(client.get("/api/images/1/thumbnail")).convert("L")
        image = client.get("/api/images/1").json()
    assert thumbnail.size == (image["width"], image["height"]) == ((60, 90) if orientation in (6, 8) else (90, 60))
    x = 5 if "left" in corner else thumbnail.width - 5
    y = 5 if "top" in corner else thumbnail.height - 5
    assert thumbnail.getpixel((x, y)) > 200
    assert thumbnail.getpixel((thumbnail.width - x, thumbnail.height - y)) < 50


def test_a_thumbnail_is_made_once_kept_on_disk_and_cached_by_browsers(tmp_path, library, photos):
    write_image(photos / "large.png", COLOURS["red"], size=(1600, 1200))
    index(library, photos)
    with open_app(library) as client:
        hit = hit_of(client, "large.png")
        small = client.get(hit["thumbnail"])
        assert small.headers["content-type"] == "image/webp"
        assert small.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert max(open_image(small).size) == 320
        assert max(open_image(client.get(f"/api/images/{hit['id']}/thumbnail?size=640")).size) == 640
        assert client.get(f"/api/images/{hit['id']}/thumbnail?v=old").headers["cache-control"] == "private, no-cache"
        again = client.get(hit["thumbnail"], headers={"If-None-Match": f'"x", W/{small.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        placeholder = hit_of(client, "large.png")["placeholder"]
    (photos / "large.png").unlink()
    with open_app(library) as client:
        assert client.get(hit["thumbnail"]).content == small.content
        assert placeholder
        assert hit_of(client, "large.png")["placeholder"] == placeholder


@pytest.mark.parametrize("size", ["0", "100", "641", "320.5", "x"])
def test_thumbnails_come_in_two_sizes(sharing, size):
    assert sharing.get(f"/api/images/1/thumbnail?size={size}").status_code == 422


def test_a_file_that_changed_since_it_was_indexed_is_shown_but_not_kept(client, library, photos):
    hit = hit_of(client, "red.png")
    write_image(photos / "red.png", COLOURS["blue"], size=(50, 50))
    shown = client.get(hit["thumbnail"])
    assert open_image(shown).size == (50, 50)
    assert hit_of(client, "red.png")["placeholder"] is None


def test_a_damaged_file_of_thumbnails_is_made_anew(library):
    folder = library / "thumbnails"
    folder.mkdir()
    (folder / "thumbnails.db").write_bytes(b"no database" * 1000)
    with open_app(library) as client:
        hit = hit_of(client, "red.png")
        assert client.get(hit["thumbnail"]).status_code == 200
        assert hit_of(client, "red.png")["placeholder"]
    data = bytearray((folder / "thumbnails.db").read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (folder / "thumbnails.db").write_bytes(data)
    with open_app(library) as client:
        assert client.get(hit["thumbnail"]).status_code == 200
        assert client.get(hit["thumbnail"]).status_code == 200
        assert hit_of(client, "red.png")["placeholder"]


def test_where_thumbnails_cannot_be_kept_they_are_made_each_time_and_later_kept(library, caplog):
    (library / "thumbnails").write_text("a file where the folder should be")
    with open_app(library) as client:
        hit = hit_of(client, "red.png")
        for _ in range(2):
            assert client.get(hit["thumbnail"]).status_code == 200
        assert hit_of(client, "red.png")["placeholder"] is None
        assert caplog.text.count("can't be kept") == 1
        (library / "thumbnails").unlink()
        client.get(hit["thumbnail"])
        assert not (library / "thumbnails").exists(), "it isn't tried each time"
        client.app.state.libraries.get().thumbnails._retry_at_s = 0.0
        client.get(hit["thumbnail"])
        assert hit_of(client, "red.png")["placeholder"]


def test_a_thumbnail_file_in_use_by_another_process_is_not_thrown_away(tmp_path, library, monkeypatch):
    monkeypatch.setattr("sightline.faces.service.thumbnails._BUSY_TIMEOUT_S", 0.05)
    with sl.Library.open(library) as opened:
        record = opened.store.get([1])[0]
    thumbnails = Thumbnails(library / "thumbnails")
    kept = thumbnails.make(record, 320)
    other = sqlite3.connect(library / "thumbnails" / "thumbnails.db", isolation_level=None)
    other.execute("begin immediate")
    thumbnails.make(record, 640)
    other.close()
    assert thumbnails.find(record.content_hash, 320) == kept
    assert thumbnails.find(record.content_hash, 640) is None
    thumbnails.close()
    assert thumbnails.find(record.content_hash, 320) is None
    thumbnails.close()


def test_threads_share_thumbnails(library):
    with sl.Library.open(library) as opened:
        records = list(opened.store.scan())
    thumbnails = Thumbnails(library / "thumbnails")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: thumbnails.make(records[i % 3], 320), range(40)))
    for record, webp in zip(records * 13, made, strict=False):
        assert thumbnails.find(record.content_hash, 320) == webp
    thumbnails.close()


def test_a_placeholder_is_the_image_in_some_pixels_and_never_large(tmp_path):
    photos = tmp_path / "photos"
    half = np.zeros((600, 900, 3), np.uint8)
    half[:, :450], half[:, 450:] = COLOURS["red"], COLOURS["blue"]
    noise = np.random.default_rng(0).integers(0, 255, (10, 10, 3), np.uint8).repeat(30, 0).repeat(30, 1)
    photos.mkdir()
    for name, pixels in (("half", half), ("noise", noise), ("line", half[:1])):
        Image.fromarray(pixels).save(photos / f"{name}.png")
    with open_app(index(tmp_path / "library", photos)) as client:
        for name in ("half", "noise", "line"):
            client.get(hit_of(client, f"{name}.png")["thumbnail"])
            address = hit_of(client, f"{name}.png")["placeholder"]
            assert address.startswith("data:image/webp;base64,")
            assert len(address) <= (260 if name == "noise" else 200)
        hit = hit_of(client, "half.png")
        assert client.get(f"/api/images/{hit['id']}").json()["placeholder"] == hit["placeholder"]
    tiny = Image.open(io.BytesIO(base64.b64decode(hit["placeholder"].partition(",")[2]))).convert("RGB")
    assert tiny.size == (10, 7)
    for x, colour in ((1, "red"), (8, "blue")):
        assert np.abs(np.array(tiny.getpixel((x, 3))) - COLOURS[colour]).max() < 30


def test_thumbnails_of_another_version_are_made_anew(library):
    folder = library / "thumbnails"
    folder.mkdir()
    with sqlite3.connect(folder / "thumbnails.db") as older:
        older.execute("create table thumbnails (content_hash text, size_px integer, webp blob)")
        older.execute("create table colours (content_hash text primary key, colour text)")
    older.close()
    with open_app(library) as client:
        assert client.get(hit_of(client, "red.png")["thumbnail"]).status_code == 200
        assert hit_of(client, "red.png")["placeholder"]


def test_the_file_is_served_as_it_is(client, photos):
    hit = hit_of(client, "red.png")
    data = (photos / "red.png").read_bytes()
    served = client.get(f"/api/images/{hit['id']}/file")
    assert served.content == data
    assert served.headers["content-type"] == "image/png"
    assert served.headers["content-disposition"] == 'inline; filename="red.png"'
    assert served.headers["accept-ranges"] == "bytes"
    again = client.get(f"/api/images/{hit['id']}/file", headers={"If-None-Match": served.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=0-0,2-3", 206, None),
        ("bytes=0-99999999", 206, slice(0, None)),
        ("bytes=99999999-", 416, None),
        ("bytes=9-5", 416, None),
        ("bytes=abc", 200, slice(0, None)),
        ("bytes=", 200, slice(0, None)),
        ("lines=1-2", 200, slice(0, None)),
        ("bytes=" + ",".join("0-1" for _ in range(1000)), 200, slice(0, None)),
        ("bytes=-0", 416, None),
        ("bytes=" + "9" * 5000 + "-", 200, slice(0, None)),
    ],
)
def test_ranges_of_a_file(sharing, asked, status, part):
    hit = hit_of(sharing, "red.png")
    response = sharing.get(f"/api/images/{hit['id']}/file", headers={"Range": asked})
    assert response.status_code == status
    if part is not None:
        assert response.content == (sharing.photos / "red.png").read_bytes()[part]
    if status == 416:
        assert response.headers["content-range"] == f"bytes */{(sharing.photos / 'red.png').stat().st_size}"
        assert response.headers["content-type"] == "application/problem+json"


def test_what_browsers_cannot_show_comes_as_a_jpeg(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 60), "red").save(photos / "a.tif")
    Image.new("RGB", (90, 60), "red").save(photos / "b.jpg", exif=exif)
    with open_app(index(tmp_path / "library", photos)) as client:
        scan, photo = (f"/api/images/{hit_of(client, name)['id']}/file" for name in ("a.tif", "b.jpg"))
        assert client.get(scan).headers["content-type"] == "image/tiff"
        shown = client.get(scan, params={"display": 1})
        assert (open_image(shown).format, open_image(shown).size) == ("JPEG", (90, 60))
        assert (
            client.get(scan, params={"display": 1}, headers={"If-None-Match": shown.headers["etag"]}).status_code == 304
        )
        assert client.get(photo, params={"display": 1}).content == (photos / "b.jpg").read_bytes()


def test_text_that_was_read_comes_with_its_boxes(client, library):
    red = hit_of(client, "red.png")
    assert client.get(f"/api/images/{red['id']}").json()["text"] is None
    corners = (0.1, 0.2, 0.9, 0.2, 0.9, 0.4, 0.1, 0.4)
    with sl.Library.open(library) as opened:
        reading = TextReading(engine="test", lines=(TextLine("INVOICE 2023", 0.98, corners),))
        opened.store.put_readings({red["content_hash"]: reading})
    shown = client.get(f"/api/images/{red['id']}").json()
    assert shown["text"] == [{"text": "INVOICE 2023", "score": 0.98, "corners": list(corners)}]
    assert ImageDescription.model_validate(shown).text[0].text == "INVOICE 2023"


def test_a_heatmap_has_a_cosine_for_each_cell(client, library):
    hit = hit_of(client, "red.png")
    answer = client.get(f"/api/images/{hit['id']}/heatmap", params={"q": "a red thing"}).json()
    values = np.array(answer["values"])
    assert values.shape == (answer["rows"], answer["columns"])
    assert values.size > 4
    assert (values.min(), values.max()) == (answer["low"], answer["high"])
    assert np.abs(values).max() <= 1
    with sl.Library.open(library) as opened:
        encoder = opened.encoder
        from sightline.core.images.decode import read_image
        from sightline.lab.experiments.explain import explain_image

        record = opened.store.get([hit["id"]])[0]
        pixels = encoder.card.preprocessing.resize(
            read_image(record.path, min_side_px=encoder.card.preprocessing.size_px).rgb
        )
        (match,) = explain_image(encoder, pixels, ["a red thing"], method="map")
    np.testing.assert_allclose(values, match.heat_HW, atol=1e-5)
    assert answer["area"]["width"] <= 1
    assert client.get(f"/api/images/{hit['id']}/heatmap").status_code == 422


def test_a_model_without_maps_says_so(client, monkeypatch):
    monkeypatch.setattr("sightline.faces.service.models.SharedEncoder.encode_maps", lambda self, pixels: None)
    response = client.get("/api/images/1/heatmap", params={"q": "a"})
    assert (response.status_code, response.json()["type"]) == (409, "/problems/no-map")


def test_a_hundred_thumbnails_at_once_do_not_keep_searches_waiting(library, monkeypatch):
    """Those that wait for a processor hold no thread of the pool that answers searches."""
    release = threading.Event()
    make = Thumbnails.make

    def slow(self, record, size_px):
        assert release.wait(PATIENCE_S)
        return make(self, record, size_px)

    monkeypatch.setattr(Thumbnails, "make", slow)
    with open_app(library) as client, ThreadPoolExecutor(100) as pool:
        waiting = [pool.submit(client.get, f"/api/images/{1 + i % 3}/thumbnail") for i in range(100)]
        assert client.get("/api/search", params={"q": "red"}).status_code == 200
        assert not any(request.done() for request in waiting)
        release.set()
        assert {request.result().status_code for request in waiting} == {200}


def test_an_image_longer_than_jpeg_holds_is_shown_smaller(tmp_path):
    """Its format is none that browsers show, so it is made a JPEG, whose sides are limited."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (70_000, 8), (200, 30, 30)).save(tmp_path / "photos" / "long.tif")
    with open_app(index(tmp_path / "library", tmp_path / "photos")) as client:
        shown = client.get("/api/images/1/file", params={"display": "true"})
        assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")
        with Image.open(io.BytesIO(shown.content)) as image:
            assert image.size == (65_500, 8)
        for size in (320, 640):
            assert client.get("/api/images/1/thumbnail", params={"size": size}).status_code == 200
