"""What the screenshots show: the demo's photos that may be shown anywhere, with what the models make of them."""

import json
import math
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from PIL import Image

from sightline.core.library import Library
from sightline.faces.demo.photos import gather_photos, load_photos

CROPS_OF_EACH = 12


@dataclass(frozen=True)
class Showcase:
    """Where everything lies."""

    folder: Path

    @property
    def photos(self) -> Path:
        return self.folder / "Pictures" / "Photos"

    @property
    def phone(self) -> Path:
        return self.folder / "Pictures" / "Phone"

    @property
    def library(self) -> Path:
        return self.folder / "My photos"

    @property
    def second_library(self) -> Path:
        """The same photos with what else a phone has of them: copies, and a file that is damaged."""
        return self.folder / "Everything"

    @property
    def growing_library(self) -> Path:
        """To which a folder is added."""
        return self.folder / "Family"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def second_model(self) -> Path:
        return self.folder / "Second"

    @property
    def options(self):
        """Of `sightline serve`."""
        libraries = (self.library, self.second_library, self.growing_library)
        served = [option for library in libraries for option in ("--library", library)]
        return [*served, "--allow-root", self.folder / "Pictures", "--runs", self.runs]


def build_showcase(folder: Path) -> Showcase:
    showcase = Showcase(folder)
    gather_photos([photo for photo in load_photos() if photo.redistributable], showcase.photos)
    _add_copies(showcase.photos, showcase.phone)
    _add_details(showcase.photos, showcase.folder / "Pictures" / "Details")
    shutil.copytree(str(resources.files("sightline.core.models") / "starter" / "clip"), showcase.second_model)
    with Library.open(showcase.library, model="starter") as library:
        library.index(showcase.photos)
        for _ in library.caption([showcase.photos], captioner="starter-captioner"):
            pass
    with Library.open(showcase.library, model=f"dir:{showcase.second_model}") as library:
        library.index()
    with Library.open(showcase.second_library, model="starter") as library:
        library.index(showcase.photos, showcase.phone)
    with Library.open(showcase.growing_library, model="starter") as library:
        library.index(showcase.photos)
    _write_run(showcase.runs / "flowers")
    return showcase


def _add_copies(photos: Path, copies: Path) -> None:
    copies.mkdir()
    shutil.copy(photos / "chelsea.png", copies / "chelsea (1).png")
    with Image.open(photos / "coffee.png") as coffee:
        coffee.resize((450, 300)).save(copies / "IMG_0412.jpg", quality=90)
    (copies / "IMG_0413.jpg").write_bytes((photos / "flower.jpg").read_bytes()[:3000])


def _add_details(photos: Path, folder: Path) -> None:
    """Enough pictures that indexing and captioning them can be watched: parts of the photos."""
    folder.mkdir(parents=True)
    for photo in sorted(path for path in photos.iterdir() if path.is_file()):
        with Image.open(photo) as whole:
            rgb = whole.convert("RGB")
        width, height = rgb.width // 3, rgb.height // 3
        for number in range(CROPS_OF_EACH):
            left, top = number % 10 * (rgb.width - width) // 9, number // 10 * (rgb.height - height) // 7
            detail = rgb.crop((left, top, left + width, top + height))
            detail.save(folder / f"{photo.stem} {number:02d}.png")


def _write_run(run: Path) -> None:
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"recipe": "flickr8k-conv", "epochs": 4, "batch_size": 256}))
    rows = []
    for step in range(1, 301):
        loss = 1.1 + 4.4 * math.exp(-step / 70) + 0.12 * math.sin(step * 1.7) * math.exp(-step / 200)
        rows.append({"step": step, "kind": "train", "epoch": step / 100, "loss": loss, "learning_rate": 1e-3})
        if step % 100 == 0:
            recall = 0.5 * (1 - math.exp(-step / 150))
            recalls = {"image_retrieval_recall@10": recall, "text_retrieval_recall@10": recall + 0.03}
            rows.append({"step": step, "kind": "val", **recalls, "mean_recall": recall + 0.015})
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
