"""Data sets of plain colours, and an encoder of a plane whose vectors are known by heart."""

from dataclasses import dataclass

import numpy as np

from captioning_fakes import COLOURS, FakeEncoder
from sightline.errors import ImageError
from sightline.lab.data.base import Dataset, HardNegative, Pair, fingerprint_of_pairs


@dataclass(frozen=True)
class Colour:
    """A picture of one colour; `broken` can't be read."""

    name: str

    def read(self, *, min_side_px=None):
        if self.name == "broken":
            raise ImageError("truncated JPEG")
        return np.full((20, 20, 3), COLOURS[self.name], np.uint8)


def pair(id_, colour, *captions, label=None, negatives=()):
    swaps = tuple(HardNegative(caption=a, negative=b, kind=kind) for a, b, kind in negatives)
    return Pair(id=id_, image=Colour(colour), captions=captions, label=label, negatives=swaps)


def dataset(*pairs, split="val", class_names=None, name="fake:colours"):
    return Dataset(
        name=name, split=split, pairs=pairs, fingerprint=fingerprint_of_pairs(pairs), class_names=class_names
    )


class Plane(FakeEncoder):
    """Texts are angles in degrees, `30`, so that cosines are known; anything else is nan."""

    dim = 2

    def encode_texts(self, texts):
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def unit(*angles):
    """Unit vectors at these angles in degrees (N, 2)."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def random_units(rng, n, dim=8):
    vectors = rng.normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
