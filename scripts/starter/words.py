"""What captions mean, learned where it is cheap: among themselves, then against the teacher's frozen features.

A small image tower trained on 6,000 pairs learns those pictures by heart, and its text tower with it. So the text tower
learns first which sentences tell the same picture (27,000 pictures that we don't have were described five times each),
then, together with a linear map, to find the teacher's features. Trunk, map and text tower make a CLIP of their own,
of foreign parts and so never shipped, but a student's image tower can follow its vectors on any picture.

Shape suffixes: B pictures, N pictures of a set, K views, F features, T texts, L tokens, D joint space.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from corpus import Corpus
from numpy.typing import NDArray
from parts import Part, contrast, look_at, shuffled_steps, token_ids
from progress import Log, Training
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sightline.data.base import Dataset
from sightline.models.convolutional import ConvClip
from sightline.models.tokenizing import Tokenizer
from sightline.training.losses import softmax_contrastive
from sightline.training.token_table import tokenize


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordsRecipe:
    """How the words are learned; the defaults are those of the shipped weights."""

    seed: int = 0
    sentence_epochs: int = 6
    sentence_batch: int = 256
    sentence_rate: float = 1e-3
    epochs: int = 12
    batch: int = 128
    names_batch: int = 64
    rate: float = 1e-3
    map_factor: float = 2.0  # on the map's rate, which starts from nothing
    crops: int = 6
    feature_dropout: float = 0.3
    temperature: float = 30.0


class Matcher(nn.Module):
    """A linear map of whitened features and a text tower, in one joint space."""

    def __init__(self, clip: ConvClip, features: int, recipe: WordsRecipe) -> None:
        super().__init__()
        self.text_tower, self.text_projection = clip.text_tower, clip.text_projection
        self.map = nn.Linear(features, clip.config.dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(recipe.temperature)))
        self.dropout = recipe.feature_dropout

    def encode_features(self, feature_BF: Tensor) -> Tensor:
        """Whitened features (B, F) -> unit vectors (B, D)."""
        return F.normalize(self.map(F.dropout(feature_BF, self.dropout, self.training)), dim=-1)

    def encode_texts(self, ids_TL: Tensor) -> Tensor:
        """Token ids (T, L) -> unit vectors (T, D)."""
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            return F.normalize(self.text_projection(self.text_tower(ids_TL)).float(), dim=-1)


def learn_sentences(corpus: Corpus, clip: ConvClip, recipe: WordsRecipe, log: Log) -> None:
    """Train the text tower so that two sentences about one picture are nearer than those about others."""
    table = tokenize([*corpus.told, *(pair.captions for pair in corpus.train)], corpus.tokenizer)
    matcher = Matcher(clip, 1, recipe)
    size, n_groups = recipe.sentence_batch, len(table.first_N) - 1
    training = Training(
        matcher, corpus.folder / "sentences.pt", epochs=recipe.sentence_epochs, steps=n_groups // size,
        rate=recipe.sentence_rate, seed=recipe.seed,
    )  # fmt: skip
    group_B = torch.arange(size)
    for epoch, generator in training.epochs():
        rng = np.random.default_rng([recipe.seed, epoch])
        order = torch.randperm(n_groups, generator=generator).numpy()
        for index in range(training.n_steps):
            places, _ = table.draw(order[index * size : (index + 1) * size], 2, rng)
            text_TD = matcher.encode_texts(token_ids(table, places))
            scale = matcher.logit_scale.exp()
            loss = softmax_contrastive(text_TD[::2], text_TD[1::2], group_B, group_B, scale=scale)
            training.descend(loss)
        log.write(stage="sentences", epoch=epoch + 1, loss=round(loss.item(), 3), scale=round(scale.item(), 1))


def learn_words(
    matcher: Matcher, parts: list[Part], validate: Callable[[Matcher], dict[str, float]], recipe: WordsRecipe,
    corpus: Corpus, log: Log,
) -> None:  # fmt: skip
    """Train map and text tower together, on each step's share of every set."""
    n_steps = len(parts[0].group_N) // recipe.batch
    training = Training(
        matcher, corpus.folder / "words.pt", epochs=recipe.epochs, steps=n_steps, rate=recipe.rate,
        seed=recipe.seed + 1, factors={"map": recipe.map_factor},
    )  # fmt: skip
    for epoch, generator in training.epochs():
        rng = np.random.default_rng([recipe.seed + 1, epoch])
        for rows in shuffled_steps(parts, rng):
            image_BD = matcher.encode_features(look_at(parts, rows, generator))
            scale = matcher.logit_scale.exp()
            training.descend(contrast(parts, rows, image_BD, matcher.encode_texts, scale, rng))
        if (epoch + 1) % 3 == 0 or epoch + 1 == recipe.epochs:
            matcher.eval()
            log.write(stage="words", epoch=epoch + 1, scale=round(scale.item(), 1), **validate(matcher))


def features_part(dataset: Dataset, features_NKF: NDArray[np.float32], tokenizer: Tokenizer, *, size: int) -> Part:
    """A set as the frozen teacher sees it: one of each picture's views at a time."""
    feature_NKF = torch.from_numpy(features_NKF)

    def look(rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        return feature_NKF[
            torch.from_numpy(rows), torch.randint(feature_NKF.shape[1], (len(rows),), generator=generator)
        ]

    return Part.of(dataset, tokenizer, look, size=size)
