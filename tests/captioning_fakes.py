"""Small models that really compute: pixels are counted by colour, texts by the colours that their words suggest."""

import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.core.captioning.dual import DualCaption
from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import ModelCard, TextSpec
from sightline.core.types import Caption, ModelIdentity, Precision

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 180, 20),
    "blue": (20, 20, 220),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
    "brown": (120, 70, 20),
    "yellow": (240, 230, 20),
    "pink": (250, 130, 200),
}
SUGGESTS = {
    "dog": "brown",
    "wolf": "black",
    "grass": "green",
    "sea": "blue",
    "swimming": "blue",
    "snow": "white",
    "tomato": "red",
}
_NAMES = list(COLOURS)
_HASHED = 8


def make_card(kind="encoder", *, name="fake", size_px=16, **changes):
    return ModelCard(
        name=name,
        kind=kind,
        family="sightline-clip" if kind == "encoder" else "sightline-captioner",
        source="package",
        preprocessing=Preprocessing(size_px=size_px, resize_mode="squash", interpolation="bilinear"),
        text=TextSpec(context_length=77, pad_id=0),
        **changes,
    )


def share_by_colour(pixels_BHW3):
    """Share of the pixels nearest to each colour (B, 8)."""
    palette = np.array(list(COLOURS.values()), np.float32)
    distances = np.linalg.norm(pixels_BHW3[..., None, :].astype(np.float32) - palette, axis=-1)
    nearest = distances.argmin(-1).reshape(len(pixels_BHW3), -1)
    return np.stack([(nearest == i).mean(1) for i in range(len(palette))], axis=1).astype(np.float32)


class FakeEncoder:
    """Joint space: 8 colours, and 8 hashed dimensions that tell texts apart a little."""

    precision: Precision = "fp32"
    runtime = "fake"
    dim = len(_NAMES) + _HASHED

    def __init__(self, *, name="fake", weights_hash="w1", temperature=100.0, size_px=16):
        self.card = make_card(name=name, temperature=temperature, size_px=size_px)
        self.weights_hash = weights_hash
        self.texts_seen = []
        self.batches = []

    @property
    def identity(self):
        return ModelIdentity(name=self.card.name, weights_hash=self.weights_hash, preprocessing_version=1, dim=self.dim)

    def encode_images(self, pixels_BHW3):
        self.batches.append(len(pixels_BHW3))
        vectors = np.zeros((len(pixels_BHW3), self.dim), np.float32)
        vectors[:, : len(_NAMES)] = share_by_colour(pixels_BHW3)
        vectors[:, len(_NAMES) :] = 0.05
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_texts(self, texts):
        self.texts_seen.extend(texts)
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                if (colour := SUGGESTS.get(word, word)) in COLOURS:
                    vectors[row, _NAMES.index(colour)] += 1
            vectors[row, len(_NAMES) + zlib.crc32(text.encode()) % _HASHED] += 0.1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_maps(self, pixels_BHW3):
        return None


class FakeCaptioner:
    """Writes of the colours that it sees, most frequent first; a word is as probable as its colour is frequent."""

    runtime = "fake"

    def __init__(self, *, size_px=8):
        self.card = make_card("captioner", name="fake-captioner", size_px=size_px)

    def generate(self, pixels_BHW3, config):
        captions = []
        for share in share_by_colour(pixels_BHW3):
            order = np.argsort(-share, kind="stable")[: config.num_candidates]
            captions.append(
                [
                    Caption(
                        text=f"something {_NAMES[i]}",
                        source="generated",
                        log_prob=float(np.log(share[i] + 0.01)),
                        model=self.card.name,
                    )
                    for i in order
                ]
            )
        return captions

    def score(self, pixels_BHW3, texts):
        scores = []
        for share, several in zip(share_by_colour(pixels_BHW3), texts, strict=True):
            scores.append([self._score(share, text) for text in several])
        return scores

    def _score(self, share, text):
        words = re.findall(r"\w+", text.lower())
        colours = [SUGGESTS.get(word, word) for word in words]
        return float(np.mean([np.log(share[_NAMES.index(c)] + 0.01) if c in COLOURS else -3.0 for c in colours]))


def paint(path: Path, *colours: str, size_px=32) -> Path:
    """A picture of vertical stripes of these colours."""
    pixels = np.zeros((size_px, size_px, 3), np.uint8)
    for stripe, colour in zip(np.array_split(np.arange(size_px), len(colours)), colours, strict=True):
        pixels[:, stripe] = COLOURS[colour]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


def caption_of(text, similarity=None, log_prob=None, *, source="clip"):
    return Caption(text=text, source=source, similarity=similarity, log_prob=log_prob)


def dual(path, text="a dog"):
    """A photo's captions as the run gives them."""
    best = replace(caption_of(text, 0.31234567, -1.5, source="generated"), model="starter-captioner")
    return DualCaption(path=Path(path), clip=(caption_of("a cat", 0.2, None),), generated=(best,), best=best)
