"""The last stage of the starter CLIP: the teacher learns the words, then the small tower learns the teacher.

Contrastive training alone learns Flickr8k's 6,000 images by heart (R@10 66% on them, 23% on new ones). A linear map on
the frozen teacher's features generalises far better, but the teacher is large. So a linear map and the text tower are
trained together on the teacher's features first; then the small image tower is fitted to the mapped features, which
any image can provide: Tiny ImageNet's count as much as Flickr8k's. The map and the teacher are thrown away.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from corpus import Corpus, token_rows
from measure import retrieval
from numpy.typing import NDArray
from progress import Log, Training
from teacher import TeacherFeatures
from torch import nn
from train_clip import ClipRecipe, Texts, both_kinds, contrastive_loss, evaluate

from sightline.models.convolutional import ConvClip


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilRecipe:
    """How the last stage is trained; the defaults are those of the shipped weights."""

    seed: int = 10
    sampling: ClipRecipe = dataclasses.field(default_factory=ClipRecipe)  # batch sizes and captions an image, as before
    word_epochs: int = 12
    word_rate: float = 1e-3
    feature_dropout: float = 0.3
    epochs: int = 10
    size_px: int = 96  # a tower trained on 0.85 of a picture at 96 px sees things in the same size at 112 px, whole
    tiny_batch: int = 120
    rate: float = 1e-3
    distance_weight: float = 10.0


def learn_words(
    corpus: Corpus, features: TeacherFeatures, start: ConvClip, recipe: DistilRecipe, folder: Path, log: Log
) -> tuple[ConvClip, nn.Linear]:
    """Train text tower and a linear map on the teacher's frozen features; the image tower isn't touched."""
    torch.manual_seed(recipe.seed)
    model = copy.deepcopy(start)
    linear = nn.Linear(features.train.shape[1], model.config.dim)
    texts, size = Texts(corpus), recipe.sampling.flickr_batch
    n_steps = len(features.train) // size
    training = Training(
        nn.ModuleDict({"linear": linear, "tower": model.text_tower, "projection": model.text_projection}),
        folder / "words.pt", epochs=recipe.word_epochs, steps=n_steps, rate=recipe.word_rate, seed=recipe.seed,
    )  # fmt: skip
    scale = model.logit_scale.exp().item()
    for epoch, generator in training.epochs():
        order = torch.randperm(len(features.train), generator=generator).numpy()
        for index in range(n_steps):
            rows = order[index * size : (index + 1) * size]
            batch = texts.sample(rows, recipe.sampling, generator)
            image = torch.from_numpy(np.concatenate([features.train[rows], features.tiny[batch.tiny_rows]]))
            image_BD = F.normalize(linear(F.dropout(image, recipe.feature_dropout)), dim=-1)
            with torch.autocast("cpu", torch.bfloat16):
                text_TD = model.encode_texts(batch.ids_TL)
            loss = contrastive_loss(image_BD @ text_TD.T * scale, batch.positive_BT, batch.ignored_BT)
            training.descend(loss)
        if (epoch + 1) % 3 == 0:
            figures = _teacher_recall(corpus, features, model, linear)
            log.write(stage="words", epoch=epoch + 1, loss=round(loss.item(), 3), **figures)
    return model.eval(), linear.eval()


def learn_teacher(
    corpus: Corpus,
    features: TeacherFeatures,
    words: tuple[ConvClip, nn.Linear],
    recipe: DistilRecipe,
    folder: Path,
    log: Log,
) -> ConvClip:
    """Fit the image tower to the mapped features of Flickr8k and Tiny ImageNet; the text tower stays as it is."""
    model, linear = words
    with torch.inference_mode():
        wanted_train = F.normalize(linear(torch.from_numpy(features.train)), dim=-1).numpy()
        wanted_tiny = F.normalize(linear(torch.from_numpy(features.tiny)), dim=-1).numpy()
        captions = [caption for captions in corpus.train_captions for caption in captions]
        spoken = _embedded(model, token_rows(corpus.tokenizer, captions)).reshape(len(features.train), 5, -1)
    size, scale = recipe.sampling.flickr_batch, model.logit_scale.exp().item()
    n_steps = len(features.train) // size
    training = Training(
        nn.ModuleDict({"tower": model.image_tower, "projection": model.image_projection}), folder / "distilled.pt",
        epochs=recipe.epochs, steps=n_steps, rate=recipe.rate, seed=recipe.seed + 1,
    )  # fmt: skip
    tiny_rows = np.flatnonzero(corpus.tiny_is_train)
    positive_BT = torch.eye(size, dtype=torch.bool).repeat_interleave(5, dim=1)
    for epoch, generator in training.epochs():
        order = torch.randperm(len(features.train), generator=generator).numpy()
        for index in range(n_steps):
            rows = order[index * size : (index + 1) * size]
            tiny = np.sort(tiny_rows[torch.randint(len(tiny_rows), (recipe.tiny_batch,), generator=generator).numpy()])
            image = both_kinds(corpus, rows, tiny, recipe.size_px, generator)
            with torch.autocast("cpu", torch.bfloat16):
                image_BD = model.encode_images(image)[0]
            wanted_BD = torch.from_numpy(np.concatenate([wanted_train[rows], wanted_tiny[tiny]]))
            distance = 1 - (image_BD * wanted_BD).sum(-1).mean()
            text_TD = torch.from_numpy(spoken[rows].reshape(size * 5, -1))
            logits_BT = image_BD[:size] @ text_TD.T * scale
            contrast = contrastive_loss(logits_BT, positive_BT, torch.zeros_like(positive_BT))
            training.descend(recipe.distance_weight * distance + contrast)
        losses = {"distance": round(distance.item(), 3), "contrast": round(contrast.item(), 3)}
        log.write(stage="distil", epoch=epoch + 1, **losses)
        if (epoch + 1) % 2 == 0:
            log.write(stage="distil", epoch=epoch + 1, **evaluate(model, corpus))
    return model.eval()


@torch.inference_mode()
def _teacher_recall(corpus: Corpus, features: TeacherFeatures, model: ConvClip, linear: nn.Linear) -> dict[str, float]:
    """Recall both ways among Flickr8k's val images with the teacher's mapped features: what the tower can hope for."""
    model.eval()
    image_BD = F.normalize(linear(torch.from_numpy(features.val)), dim=-1).numpy()
    texts = _embedded(model, token_rows(corpus.tokenizer, [text for texts in corpus.val_captions for text in texts]))
    return retrieval(image_BD, texts, np.repeat(np.arange(len(image_BD)), 5))


@torch.inference_mode()
def _embedded(model: ConvClip, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Unit vectors of many texts."""
    model.eval()
    return np.concatenate(
        [model.encode_texts(torch.from_numpy(ids[start : start + 500])).numpy() for start in range(0, len(ids), 500)]
    )
