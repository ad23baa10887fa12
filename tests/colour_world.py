"""Six pictures named for their colours, and an encoder of three dimensions: ranking can be checked by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import ModelCard, TextSpec
from sightline.core.store.base import Entry
from sightline.core.store.sqlite import SqliteStore, open_store
from sightline.core.types import Embedding, ImageInfo, ImageRecord, ModelIdentity, Precision

WORDS = {"red": 0, "green": 1, "blue": 2}
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "pink": (255, 60, 120),
}


class ColourEncoder:
    """A picture is its mean colour, a word the colour it names: enough to check ranking by hand."""

    card = ModelCard(
        name="colours",
        kind="encoder",
        family="clip",
        source="test",
        preprocessing=Preprocessing(size_px=8, resize_mode="squash"),
        text=TextSpec(context_length=8, pad_id=0),
        dim=3,
    )
    dim = 3
    precision: Precision = "fp32"
    runtime = "test"
    identity = ModelIdentity(name="colours", weights_hash="0", preprocessing_version=1, dim=3)

    def encode_images(self, pixels):
        vectors = pixels.mean(axis=(1, 2)).astype(np.float32) + 1e-3
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_texts(self, texts):
        return np.stack([np.eye(3, dtype=np.float32)[WORDS[text]] for text in texts])

    def encode_maps(self, pixels):
        return None


@contextmanager
def open_colours(folder: Path) -> Iterator[tuple[SqliteStore, ColourEncoder, Path]]:
    """A store of the six pictures, indexed by hand, with the encoder and the pictures' folder."""
    photos, encoder = folder / "photos", ColourEncoder()
    photos.mkdir()
    with open_store(folder / "library") as store:
        store.add_model(encoder.identity)
        for name, colour in COLOURS.items():
            path = photos / f"{name}.png"
            Image.new("RGB", (8, 8), colour).save(path)
            vector = encoder.encode_images(np.full((1, 8, 8, 3), colour, np.uint8))[0]
            store.upsert([Entry(image=record(path), embeddings=[Embedding(model="colours", vector=vector)])])
        yield store, encoder, photos


def record(path: Path, content_hash: str | None = None, size: int = 8) -> ImageRecord:
    stat = path.stat()
    return ImageRecord(
        root=path.parent,
        relative=path.name,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        content_hash=content_hash or path.name,
        info=ImageInfo(width=size, height=size, format="PNG"),
    )
