"""A real app on a small library, for the tests of the web room."""

import io
import json
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 60, 220), "grey": (120, 120, 120)}


def write_image(path, colour, *, seed=0, size=(120, 90)):
    noise = np.random.default_rng(seed).integers(-15, 15, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def write_photos(folder, names=("red", "green", "blue")):
    for name in names:
        write_image(folder / f"{name}.png", COLOURS[name])
    return folder


def write_many(folder, count, *, start=0):
    """Small different pictures, quick to make."""
    rng = np.random.default_rng(start)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        pixels = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{number:04d}.png")
    return folder


def image_bytes(colour=(200, 30, 30), *, format="PNG"):  # noqa: A002
    buffer = io.BytesIO()
    Image.new("RGB", (80, 60), colour).save(buffer, format)
    return buffer.getvalue()


def index(library, *folders, model="starter"):
    """Make a library, as the command line does."""
    import sightline as sl

    with sl.Library.open(library, model=model) as opened:
        opened.index(*folders)
    return library


def copy_model(tmp_path, name="own"):
    """The name of another model folder: the starter's weights under another name."""
    import sightline

    source = Path(sightline.__file__).parent / "core" / "models" / "starter" / "clip"
    return f"dir:{shutil.copytree(source, tmp_path / name)}"


PATIENCE_S = 240
"""How long a test waits for what must come: only what hangs takes so long, even where work yields to a busy machine."""


@contextmanager
def open_app(*libraries, **settings):
    """A client of a running app, with the token of its start."""
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from sightline.faces.web.app import create_app
    from sightline.faces.web.config import ServeConfig

    config = ServeConfig(libraries=libraries, captioner=settings.pop("captioner", "starter-captioner"), **settings)
    app = create_app(config)
    with TestClient(app, base_url=f"http://127.0.0.1:{config.port}") as client:
        client.headers["X-Sightline-Token"] = config.token
        yield client


@contextmanager
def open_for_tools(library, *, captioner=None, **how):
    """A library as `sightline mcp` opens it."""
    from sightline.faces.service.library import Libraries

    with Libraries(captioner=captioner) as libraries:
        opened = libraries.open_folder(library, **how)
        opened.libraries = libraries  # type: ignore[attr-defined]
        yield opened


def wait_for(find):
    """What `find` gives as soon as it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def wait_for_job(client, job, *states):
    states = states or ("done", "failed", "cancelled")

    def look():
        found = client.get(f"/api/jobs/{job['id']}").json()
        return found if found["state"] in states else None

    return wait_for(look)


def submit(client, **request):
    response = client.post("/api/jobs", json=request)
    assert response.status_code == 202, response.text
    return response.json()


def read_events(lines, count, *, names=("job", "library")):
    """The first events of a stream of lines, as (name, data)."""
    found, name = [], None
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: ") and name in names:
            found.append((name, json.loads(line.removeprefix("data: "))))
            if len(found) == count:
                break
    return found


class SlowEncoder:
    """The starter, with a pause in each batch of pictures; `started` is set as the first one begins."""

    def __init__(self, pause_s):
        from sightline.core.models.loading import load_encoder

        self._encoder = load_encoder("starter")
        self.pause_s = pause_s
        self.started = threading.Event()
        self.images = 0

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode_images(self, pixels):
        self.started.set()
        self.images += len(pixels)
        time.sleep(self.pause_s)
        return self._encoder.encode_images(pixels)
