"""Uploaded images and texts: checked, kept for a while, embedded.

Covers: sightline.faces.web.problems.
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from PIL import Image

from sightline.errors import GoneError
from sightline.faces.service import uploads
from sightline.faces.web.problems import explain
from web_world import image_bytes, index, open_app, write_photos


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    with open_app(index(folder / "library", write_photos(folder / "photos"))) as client:
        yield client


def encode(format="PNG", *, size=(80, 60), **options):  # noqa: A002
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format, **options)
    return buffer.getvalue()


def png_that_claims(width, height):
    """A valid header of any size, and next to no pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def send(client, data, path="/api/uploads", name="a.png", media_type="image/png"):
    return client.post(path, files={"file": (name, data, media_type)})


HOSTILE = {
    "empty": (b"", "empty"),
    "text": (b"hello", "text"),
    "html": (b"<script>alert(1)</script>", "text"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://evil.example/"/></svg>', "text"),
    "zeros": (bytes(5000), "zero bytes"),
    "pdf": (b"%PDF-1.7 ...", "PDF"),
    "zip": (b"PK\x03\x04" + bytes(100), "zip"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "text"),
    "truncated jpeg": (encode("JPEG")[:400], "JPEG"),
    "truncated png": (encode("PNG")[:400], "PNG"),
    "truncated webp": (encode("WEBP")[:200], "WEBP"),
    "truncated gif": (encode("GIF")[:50], "GIF"),
    "only a signature": (b"\x89PNG\r\n\x1a\n", "PNG"),
    "huge header": (png_that_claims(100_000, 100_000), "too large"),
    "just too many pixels": (png_that_claims(10_001, 10_000), "too large"),
    "largest header": (png_that_claims(2**31 - 1, 2**31 - 1), ""),
    "no pixels": (png_that_claims(0, 0), ""),
    "fewer pixels than claimed": (png_that_claims(300, 300), "PNG"),
    "bmp bomb": (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 90_000, 90_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "too large",
    ),
    "random": (np.random.default_rng(1).bytes(2000), "not an image"),
}


@pytest.mark.parametrize("path", ["/api/uploads", "/api/embed", "/api/caption"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads_are_refused_with_the_reason(client, name, path):
    data, reason = HOSTILE[name]
    response = send(client, data, path)
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert reason.lower() in response.json()["detail"].lower()


def test_a_bomb_is_refused_before_its_pixels_are_decoded(client, monkeypatch):
    def decode(*_, **__):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(uploads, "read_image", decode)
    pixels = zlib.compress(bytes(3 * 11_000 * 11_000 // 100))  # a real one compresses a thousandfold
    assert len(pixels) < 2**20
    response = send(client, png_that_claims(11_000, 11_000))
    assert response.status_code == 422
    assert "11000 x 11000" in response.json()["detail"]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_images_of_every_format_are_taken_whatever_they_are_called(client, format):  # noqa: A002
    response = send(client, encode(format), name="../../etc/passwd\x00.exe", media_type="text/html")
    assert response.status_code == 200, response.text
    assert (response.json()["width"], response.json()["height"]) == (80, 60)


def test_a_polyglot_is_an_image_and_nothing_of_it_but_pixels_comes_back(client):
    """A GIF that is also a script and a zip archive."""
    script = encode("GIF") + b"*/=1;alert(document.cookie);PK\x03\x04evil.html<script>"
    answer = send(client, script).json()
    assert answer["thumbnail"].startswith("data:image/webp;base64,")
    assert b"alert" not in io.BytesIO(answer["thumbnail"].encode()).read()
    exif = Image.Exif()
    exif[0x010E] = "<script>alert(1)</script>"
    tagged = io.BytesIO()
    Image.new("RGB", (60, 40)).save(tagged, "JPEG", exif=exif)
    preview = client.post("/api/uploads", files={"file": tagged.getvalue()}).json()["thumbnail"]
    import base64

    assert b"script" not in base64.b64decode(preview.partition(",")[2])


def test_the_same_bytes_have_the_same_key_and_are_embedded_once(client, monkeypatch):
    first = send(client, image_bytes((1, 2, 3))).json()
    monkeypatch.setattr(uploads, "embed_pixels", lambda *_: pytest.fail("it was embedded again"))
    assert send(client, image_bytes((1, 2, 3))).json() == first
    found = client.get("/api/search", params={"parts": f'[{{"upload": "{first["key"]}"}}]'})
    assert found.json()["parts"] == [{"label": "your picture", "weight": 1, "kind": "image"}]


def test_the_latest_uploads_are_kept_by_number_and_bytes(monkeypatch):
    class Encoder:
        class card:
            name = "test"

            class preprocessing:
                size_px = 8

                @staticmethod
                def resize(rgb):
                    return rgb[:8, :8]

        @staticmethod
        def encode_images(pixels):
            return np.ones((1, 2), np.float32)

    encoder: Any = Encoder
    monkeypatch.setattr(uploads, "_KEPT", 3)
    kept = uploads.Uploads()
    keys = [kept.add(image_bytes((i, i, i)), encoder).key for i in range(4)]
    with pytest.raises(GoneError) as refused:
        kept.get(keys[0])
    problem = explain(refused.value)
    assert (problem.status_code, problem.kind) == (410, "upload-gone")
    assert kept.get(keys[1]).key == keys[1]
    kept.add(image_bytes((9, 9, 9)), encoder)
    assert kept.get(keys[1]).vector(encoder).tolist() == [1, 1]
    monkeypatch.setattr(uploads, "_KEPT_BYTES", 10)
    kept.add(image_bytes((8, 8, 8)), encoder)
    with pytest.raises(GoneError):
        kept.get(keys[1])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\nno header at all"),
        ("multipart/form-data; boundary=b", b""),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n',
        ),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"X: y\r\n" * 10_000),
        ("multipart/form-data; boundary=" + "b" * 10_000, b"x"),
        ("application/json", b"{}"),
        ("application/x-www-form-urlencoded", b"file=abc"),
        ("image/png", image_bytes()),
        ("", b""),
    ],
)
@pytest.mark.parametrize("path", ["/api/uploads", "/api/embed"])
def test_malformed_bodies_are_refused(client, path, content_type, body):
    response = client.post(path, content=body, headers={"Content-Type": content_type})
    assert 400 <= response.status_code < 500
    assert response.headers["content-type"] == "application/problem+json"


def test_texts_and_images_are_embedded_as_the_model_does(client):
    from sightline.core.images.decode import read_image
    from sightline.core.models.loading import load_encoder

    encoder = load_encoder("starter")
    texts = client.post("/api/embed", json={"texts": ["a dog", "a cat"]}).json()
    assert (texts["model"], texts["dim"]) == ("starter", encoder.dim)
    np.testing.assert_allclose(texts["vectors"], encoder.encode_texts(["a dog", "a cat"]), atol=1e-6)
    data = [encode(size=(300, 200)), image_bytes()]
    files = [("file", ("a", one)) for one in data]
    images = client.post("/api/embed", files=files, params={"model": "starter"}).json()
    preprocessing = encoder.card.preprocessing
    pixels = np.stack([preprocessing.resize(read_image(one, min_side_px=preprocessing.size_px).rgb) for one in data])
    expected = np.stack([encoder.encode_images(one[None])[0] for one in pixels])
    np.testing.assert_allclose(images["vectors"], expected, atol=1e-5)


@pytest.mark.parametrize("texts", [[], [""], ["x" * 2001], ["a"] * 257, [1], None, "a", [None], {"0": "a"}])
def test_texts_that_cannot_be_embedded(client, texts):
    response = client.post("/api/embed", json={"texts": texts})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"].startswith("body")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"null", b'{"texts": ["a"], "more": 1}', b"\xff", b'{"texts": ["\\ud800"]}', b"[" * 100_000],
)
def test_json_that_is_none(client, body):
    response = client.post("/api/embed", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


def test_too_many_images_at_once_are_refused(client):
    files = [("file", ("a", image_bytes()))] * 33
    response = client.post("/api/embed", files=files)
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
