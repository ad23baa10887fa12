"""Makes what tests of later versions keep of this one: python tests/make_fixtures.py tests/fixtures/vX_Y

A small library with its pictures, a run folder, and what this version's client and page say to its server. Run it once,
with the code of a release, and never again for that release: what matters is that that version made them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx2
import numpy as np
from PIL import Image, ImageDraw

import sightline
import sightline as sl
from recorded_client import Recorder, keep_from_writing, listen, wait_for_jobs
from sightline.core.types import Caption
from sightline.faces.service.schemas import PartRequest
from sightline.faces.web.client import Client
from web_demo import run_on_a_socket

SIDE_PX = 64
TAKEN = {0x9003: "2021:07:04 12:30:05"}
CAMERA = {0x010F: "Acme", 0x0110: "Pocket 3"}
PLACE = {1: "N", 2: (48.0, 8.0, 0.0), 3: "E", 4: (11.0, 34.0, 30.0)}
CHANGES = "towers.text_bigrams=64", "words_count=32"
"""That keep the run small."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if (folder / "library").exists():
        sys.exit(f"{folder} has its fixtures; they are never made anew.")
    with tempfile.TemporaryDirectory(prefix="sightline-") as scratch:
        made = Path(scratch).resolve() / folder.name
        draw_images(made)
        train(made / "trained" / "scenes")
        fill_library(made)
        record_jobs(made)
        moved = made.rename(made.with_name("moved"))  # as for those who open it later: no path of the library holds
        served = shutil.copytree(moved, made.with_name("served"))
        record_client(served, moved / "client.json")
        shutil.copytree(moved, folder, dirs_exist_ok=True)


def call(*words, allowed=(0,)):
    done = subprocess.run([sys.executable, "-m", "sightline", *map(str, words)], text=True, check=False)
    assert done.returncode in allowed, done.returncode


def draw_images(made):
    """Shapes in folders of two roots: with EXIF, a copy, a name beyond ASCII, one that can't be read, one left out."""
    photos, album = made / "photos", made / "album"
    exif = Image.Exif()
    exif.update(CAMERA)
    exif.get_ifd(0x8769).update(TAKEN)
    exif.get_ifd(0x8825).update(PLACE)
    save(photos / "2021" / "red circle.jpg", draw("ellipse", "red"), exif=exif)
    save(photos / "2021" / "blue square.png", draw("rectangle", "blue"))
    save(photos / "naïve grün.webp", draw("ellipse", "green"))
    save(photos / "yellow.gif", draw("rectangle", "gold"))
    save(photos / "raw" / "left out.png", draw("ellipse", "black"))
    save(album / "wide.png", draw("rectangle", "purple", size_px=(96, 48)))
    shutil.copy2(photos / "2021" / "red circle.jpg", album / "copy.jpg")
    whole = (photos / "2021" / "red circle.jpg").read_bytes()
    (photos / "broken.jpg").write_bytes(whole[: len(whole) // 2])


def draw(shape, colour, *, size_px=(SIDE_PX, SIDE_PX)):
    image = Image.fromarray(np.full((size_px[1], size_px[0], 3), 235, np.uint8))
    getattr(ImageDraw.Draw(image), shape)((12, 12, size_px[0] - 12, size_px[1] - 12), fill=colour)
    return image


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def train(run):
    call("train", "scenes-scratch", "--smoke", "--output", run, *(word for c in CHANGES for word in ("--set", c)))
    shutil.rmtree(run / "tensorboard")  # nothing reads these again
    (run / "curves.png").unlink()


def fill_library(made):
    """As a user would: indexed, a second model added, captioned, one caption of the user's own."""
    library = ("--library", made / "library")
    folders = (made / "photos", made / "album")
    call("index", *folders, "--exclude", "raw", *library, "--model", "starter", allowed=(1,))  # one can't be read
    call("index", *folders, "--exclude", "raw", *library, "--model", f"dir:{made / 'trained' / 'scenes'}", allowed=(1,))
    call("caption", *library, "--captioner", "starter-captioner")
    with sl.Library.open(made / "library") as opened:
        (row,) = opened.store.scan(where="name = 'blue square.png'")
        opened.store.put_captions({row.id: [Caption(text="my blue window", source="user", best=True)]})
        assert list(opened.store.stats().models.values()) == [6, 6]
        opened.search("a red circle")


def record_jobs(made):
    """Leave a finished job in the library, as a server does."""
    with run_on_a_socket(made / "library", model="starter") as (_, address), Client(address) as client:
        client.submit("index", folders=[str(made / "album")])
        wait_for_jobs(client._http)
    (made / "library" / "jobs.lock").unlink()


def record_client(served, file):
    """Every request that the client knows, then those that only the page sends."""
    library, photos = served / "library", served / "photos"
    settings = {"captioner": "starter-captioner", "allow_roots": (served,), "runs": served / "trained"}
    recorder = Recorder({"home": served})
    with run_on_a_socket(library, **settings) as (config, address):
        connected = httpx2.Client(base_url=address.rstrip("/"), transport=recorder)
        with connected as http, Client(address, http=http) as client:
            talk(client, photos, recorder)
            http.headers["X-Sightline-Token"] = config.token
            browse(http)
        with httpx2.Client(base_url=address) as http:
            events = listen(http)
    version = {"version": sightline.__version__}
    recorded = version | {"exchanges": recorder.exchanges, "events": events}
    file.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def talk(client, photos, recorder):
    client.health()
    client.stats()
    client.list_libraries()
    client.list_models()
    first = client.search("a red circle", limit=2)
    client.search("a red circle", limit=2, cursor=first.next)
    client.search("blue", match="captions")
    client.search("a square", match="both", where="width > 10 and captioned = 1", min_similarity=-1.0, model="starter")
    client.search()
    red = client.search(where="name = 'red circle.jpg'").hits[0].id
    upload = client.upload(photos / "2021" / "blue square.png")
    parts = [PartRequest(upload=upload.key), PartRequest(text="red", weight=-0.5), PartRequest(id=red)]
    client.search("a square", parts=parts)
    client.search(like=red, limit=3)
    client.image(red)
    client.thumbnail(red)
    client.thumbnail(red, size_px=640)
    client.file(red)
    client.heatmap(red, "a red circle", model="starter")
    client.set_caption(red, "a red ball")
    client.remove_caption(red)
    client.embed_texts(["a red circle", "a dog"], model="starter")
    client.embed_images([photos / "yellow.gif"])
    client.caption(photos / "yellow.gif")
    client.caption(photos / "yellow.gif", candidates=["a yellow square", "a dog"])
    client.duplicates()
    client.duplicates(min_similarity=0.95)
    client.compare("a red circle", ["starter"], limit=3)
    client.use_model("starter")
    client.runs()
    client.run("scenes", after=2)
    refuse(client)
    job = client.submit("index", folders=[str(photos)])
    client.job(job.id)
    client.submit("caption", captioner="none")
    client.submit("add_model", model="starter")
    with keep_from_writing(photos.parent / "library", photos / "yellow.gif"):
        recorder.locked = True
        client.submit("index", folders=[str(photos)])
        behind = client.submit("index", model="starter")
        client.pause(behind.id)
        client.resume(behind.id)
        client.cancel(behind.id)
    recorder.locked = False
    client.list_jobs()


def refuse(client):
    """What a server says to what can't be done."""
    for path in ("/api/images/999999", "/api/jobs/no-such-job", "/api/search?limit=0", "/api/runs/none"):
        client._http.get(path)


def browse(http):
    """The page asks for these; the rest as the client does."""
    for page in ("/", "/library", "/caption", "/compare", "/train", "/image/1"):
        http.get(page)
    http.get("/api/search", params={"limit": 60, "q": "a red circle", "match": "pictures"})
    http.get("/api/images/1/captions")
    http.get("/api/images/1/file", params={"display": 1})
    http.get("/api/images/1/thumbnail", params={"size": 320, "v": "1"})
    http.post("/api/caption", data={"id": "1"})
    home = http.get("/api/folders").json()["allow_roots"][0]
    http.get("/api/folders", params={"path": home})
    http.get("/api/duplicates", params={"min_similarity": 0.9, "offset": 0, "limit": 100})
    http.get("/metrics")


if __name__ == "__main__":
    main()
