"""What the indexing tests share: a quick encoder that counts its work, and folders of small generated photos."""

import io
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import ModelCard, TextSpec
from sightline.core.types import ModelIdentity, Precision

DIM = 32


class PooledEncoder:
    """8 x 8 means of the pixels through a fixed random matrix: alike pictures get alike vectors."""

    precision: Precision = "fp32"
    runtime = "test"
    dim = DIM

    def __init__(self, name="pooled", *, image_s=0.0, weights="0", source="test"):
        self.card = ModelCard(
            name=name,
            kind="encoder",
            family="clip",
            source=source,
            preprocessing=Preprocessing(size_px=32, resize_mode="squash"),
            text=TextSpec(context_length=8, pad_id=0),
            dim=DIM,
        )
        self.image_s = image_s
        self.weights = weights
        self.batch_sizes = []
        self._matrix = np.random.default_rng(len(name)).normal(size=(8 * 8 * 3, DIM)).astype(np.float32)

    @property
    def identity(self):
        return ModelIdentity(name=self.card.name, weights_hash=self.weights, preprocessing_version=1, dim=DIM)

    @property
    def encoded(self):
        return sum(self.batch_sizes)

    def encode_images(self, pixels_BHW3):
        time.sleep(self.image_s * len(pixels_BHW3))
        self.batch_sizes.append(len(pixels_BHW3))
        pooled = pixels_BHW3.reshape(len(pixels_BHW3), 8, 4, 8, 4, 3).mean((2, 4)).reshape(len(pixels_BHW3), -1)
        vectors = (pooled / 255 - 0.5).astype(np.float32) @ self._matrix
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_texts(self, texts):
        raise NotImplementedError

    def encode_maps(self, pixels_BHW3):
        return None


def photo(seed, *, size_px=(48, 40)):
    """A picture of random patches: no two seeds look alike."""
    patches = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(patches).resize(size_px, Image.Resampling.NEAREST)


def photo_bytes(seed, *, file_format="JPEG"):
    stream = io.BytesIO()
    photo(seed).save(stream, file_format, quality=90)
    return stream.getvalue()


def write_photo(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo_bytes(seed))
    return path


def write_photos(folder, count, *, first_seed=0):
    return [write_photo(folder / f"photo-{i:04}.jpg", first_seed + i) for i in range(count)]


def touch(path, *, seconds=10):
    """Another mtime, the same bytes."""
    status = Path(path).stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


def rows(store):
    """Relative path -> record, over all roots."""
    return {record.relative: record for record in store.scan()}
