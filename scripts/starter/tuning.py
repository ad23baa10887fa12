"""The teacher's trunk learns Flickr8k's pictures too: ImageNet's classes say little of what people do.

Shape suffixes: B pictures, S side, F features, D joint space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from corpus import Corpus
from numpy.typing import NDArray
from parts import Part, contrast, look_at, shuffled_steps
from pixels import as_images, cached_pixels, normalise
from progress import Log, Training
from teacher import CACHE_PX, Trunk, Whitening
from torch import Tensor, nn
from words import Matcher

from sightline.data.base import Dataset
from sightline.training.augment import Augmentation, augment, draw_changes


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningRecipe:
    """How the trunk is tuned; the defaults are those of the shipped weights."""

    seed: int = 7
    epochs: int = 6
    size_px: int = 160
    batch: int = 96
    names_batch: int = 32
    rate: float = 2e-4


NAMES_PX = 64
"""What Tiny ImageNet's pictures measure."""
TEACHER_PX = 192
"""What the tuned trunk is used at: a crop of 0.8 of a picture at 160 px shows things as large as the whole at 192."""
VIEWS = Augmentation(crop_min=0.6, aspect_jitter=1.5, colour_jitter=0.2)


class Tuned(nn.Module):
    """Trunk, whitening and map, and the words, all of which move."""

    def __init__(self, trunk: Trunk, whiten: Whitening, matcher: Matcher) -> None:
        super().__init__()
        self.trunk, self.matcher = trunk, matcher
        self.register_buffer("mean_F", torch.from_numpy(whiten.mean_F))
        self.register_buffer("axes_FD", torch.from_numpy(whiten.axes_FD))

    def encode_images(self, image_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels -> unit vectors (B, D) and the map (B, H, W, D) whose mean's direction they are."""
        cells_BHWF = self.trunk(image_B3SS).permute(0, 2, 3, 1)
        map_BHWD = self.matcher.map((cells_BHWF - self.mean_F) @ self.axes_FD)
        embeds_BD = map_BHWD.mean(dim=(1, 2)).float()
        return embeds_BD / torch.linalg.vector_norm(embeds_BD, dim=-1, keepdim=True), map_BHWD


def tune(
    tuned: Tuned, corpus: Corpus, names: Dataset, validate: Callable[[Tuned], dict[str, float]],
    recipe: TuningRecipe, log: Log,
) -> None:  # fmt: skip
    """Train all of it on pixels, a step being pictures with captions and pictures with names."""
    parts = [
        _pixels_part(corpus.train, corpus, CACHE_PX, recipe.batch, recipe),
        _pixels_part(names, corpus, NAMES_PX, recipe.names_batch, recipe),
    ]
    training = Training(
        tuned, corpus.folder / "tuned.pt", epochs=recipe.epochs, steps=len(corpus.train) // recipe.batch,
        rate=recipe.rate, seed=recipe.seed,
    )  # fmt: skip
    for epoch, generator in training.epochs():
        rng = np.random.default_rng([recipe.seed, epoch])
        for rows in shuffled_steps(parts, rng):
            image_B3SS = look_at(parts, rows, generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                image_BD, _ = tuned.encode_images(image_B3SS)
            scale = tuned.matcher.logit_scale.exp()
            loss = contrast(parts, rows, image_BD, tuned.matcher.encode_texts, scale, rng)
            training.descend(loss)
        tuned.eval()
        log.write(stage="tuning", epoch=epoch + 1, loss=round(loss.item(), 3), **validate(tuned))


def _pixels_part(dataset: Dataset, corpus: Corpus, cache_px: int, size: int, recipe: TuningRecipe) -> Part:
    pixels_NSS3 = cached_pixels(dataset, cache_px)

    def look(rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        changes = draw_changes(len(rows), VIEWS, generator)
        return normalise(augment(torch.from_numpy(pixels_NSS3[rows]), recipe.size_px, VIEWS, changes))

    return Part.of(dataset, corpus.tokenizer, look, size=size)


@torch.inference_mode()
def embed(tuned: Tuned, pixels_NSS3: NDArray[np.uint8]) -> Tensor:
    """Unit vectors of whole pictures, at the size that the teacher is used at."""
    parts = []
    for part in torch.from_numpy(np.asarray(pixels_NSS3)).split(50):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(tuned.encode_images(normalise(as_images(part)))[0])
    return torch.cat(parts)
