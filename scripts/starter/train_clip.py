"""The starter CLIP: a warm-up on Tiny ImageNet's classes, then contrastive training on Flickr8k with a teacher."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from augment import augment, normalise
from corpus import PAD_ID, TEMPLATES, Corpus, token_rows, with_article, words
from measure import retrieval
from numpy.typing import NDArray
from progress import Log, Training
from torch import Tensor, nn

from sightline.models.convolutional import ConvClip, ConvClipConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """How the starter CLIP is trained; the defaults are those of the shipped weights."""

    seed: int = 0
    warm_epochs: int = 3
    warm_px: int = 64
    warm_batch: int = 256
    warm_rate: float = 2e-3
    epochs: int = 28
    small_epochs: int = 12  # the first epochs, on smaller crops: cheaper, and nothing is lost
    small_px: int = 96
    full_px: int = 112
    flickr_batch: int = 160
    tiny_batch: int = 40
    captions_per_image: int = 2
    rate: float = 1e-3
    teacher_weight: float = 4.0
    max_logit_scale: float = 100.0


def warm_up(corpus: Corpus, recipe: ClipRecipe, folder: Path, log: Log) -> ConvClip:
    """Train the image tower to name Tiny ImageNet's classes, so that Flickr8k's 6,000 images need not teach edges."""
    torch.manual_seed(recipe.seed)
    model = ConvClip(ConvClipConfig(size_px=recipe.full_px, vocab_size=corpus.tokenizer.get_vocab_size()))
    model = model.to(memory_format=torch.channels_last)
    head = nn.Linear(model.config.cell_width, len(corpus.class_names))
    rows = np.flatnonzero(corpus.tiny_is_train)
    n_steps = len(rows) // recipe.warm_batch
    training = Training(
        nn.ModuleDict({"tower": model.image_tower, "head": head}), folder / "warm-up.pt", epochs=recipe.warm_epochs,
        steps=n_steps, rate=recipe.warm_rate, seed=recipe.seed, clip_norm=math.inf,
    )  # fmt: skip
    for epoch, generator in training.epochs():
        order = rows[torch.randperm(len(rows), generator=generator).numpy()]
        for index in range(n_steps):
            batch = np.sort(order[index * recipe.warm_batch : (index + 1) * recipe.warm_batch])
            image = augment(corpus.tiny_pixels[batch], recipe.warm_px, generator, smallest=0.6)
            with torch.autocast("cpu", torch.bfloat16):
                logits = head(model.image_tower(image).mean(dim=(2, 3)))
            loss = F.cross_entropy(logits.float(), torch.from_numpy(corpus.tiny_labels[batch]), label_smoothing=0.1)
            training.descend(loss)
            if index % 50 == 0:
                log.write(stage="warm-up", epoch=epoch, step=index, of=n_steps, loss=round(loss.item(), 3))
        log.write(stage="warm-up", epoch=epoch + 1, acc1=_accuracy(model, head, corpus))
    return model


def train(
    corpus: Corpus, targets_ND: NDArray[np.float32], model: ConvClip, recipe: ClipRecipe, folder: Path, log: Log
) -> ConvClip:
    """Contrastive training with every caption of an image as its positive, beside the teacher's features."""
    torch.manual_seed(recipe.seed + 1)
    texts = Texts(corpus)
    teacher_head = nn.Linear(model.config.cell_width, targets_ND.shape[1])
    n_steps = len(corpus.train_captions) // recipe.flickr_batch
    training = Training(
        nn.ModuleList([model, teacher_head]), folder / "clip.pt", epochs=recipe.epochs, steps=n_steps,
        rate=recipe.rate, seed=recipe.seed + 1,
    )  # fmt: skip
    for epoch, generator in training.epochs():
        size_px = recipe.small_px if epoch < recipe.small_epochs else recipe.full_px
        order = torch.randperm(len(corpus.train_captions), generator=generator).numpy()
        for index in range(n_steps):
            rows = order[index * recipe.flickr_batch : (index + 1) * recipe.flickr_batch]
            batch = texts.sample(rows, recipe, generator)
            image = both_kinds(corpus, rows, batch.tiny_rows, size_px, generator)
            with torch.autocast("cpu", torch.bfloat16):
                cells = model.image_tower(image).mean(dim=(2, 3))
                image_BD = F.normalize(model.image_projection(cells).float(), dim=-1)
                text_TD = model.encode_texts(batch.ids_TL)
                guess_BD = F.normalize(teacher_head(cells[: len(rows)]).float(), dim=-1)
            logits_BT = image_BD @ text_TD.T * model.logit_scale.exp()
            contrast = contrastive_loss(logits_BT, batch.positive_BT, batch.ignored_BT)
            distance = 1 - (guess_BD * torch.from_numpy(targets_ND[rows])).sum(-1).mean()
            training.descend(contrast + recipe.teacher_weight * distance)
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(recipe.max_logit_scale))
        losses = {"contrast": round(contrast.item(), 3), "distance": round(distance.item(), 3)}
        log.write(stage="clip", epoch=epoch + 1, **losses, scale=round(model.logit_scale.exp().item(), 1))
        if (epoch + 1) % 2 == 0 or epoch + 1 == recipe.epochs:
            log.write(stage="clip", epoch=epoch + 1, **evaluate(model, corpus))
    return model.eval()


def both_kinds(
    corpus: Corpus, flickr: NDArray[np.int64], tiny: NDArray[np.int64], size_px: int, generator: torch.Generator
) -> Tensor:
    """Augmented pixels of rows of Flickr8k, then of Tiny ImageNet, as one batch."""
    parts = [augment(pixels, size_px, generator) for pixels in (corpus.train_pixels[flickr], corpus.tiny_pixels[tiny])]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def contrastive_loss(logits_BT: Tensor, positive_BT: Tensor, ignored_BT: Tensor) -> Tensor:
    """Cross-entropy both ways, averaged over all positives of a row (Khosla et al. 2020, arXiv:2004.11362, eq. 2).

    Ignored pairs are neither positive nor negative.
    """
    logits_BT = logits_BT.masked_fill(ignored_BT, -1e4)
    weight_BT = positive_BT.float()
    by_image = (logits_BT.log_softmax(1) * weight_BT).sum(1) / weight_BT.sum(1)
    by_text = (logits_BT.log_softmax(0) * weight_BT).sum(0) / weight_BT.sum(0)
    return -(by_image.mean() + by_text.mean()) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextBatch:
    """The words of one step and which images they belong to; images are Flickr8k's first, then Tiny ImageNet's."""

    tiny_rows: NDArray[np.int64]
    ids_TL: Tensor
    positive_BT: Tensor
    ignored_BT: Tensor


class Texts:
    """Draws a step's captions and names, and says which pairs match, which don't and which can't be told."""

    def __init__(self, corpus: Corpus) -> None:
        captions = [caption for captions in corpus.train_captions for caption in captions]
        self.caption_ids = token_rows(corpus.tokenizer, captions).reshape(len(corpus.train_captions), 5, -1)
        self.names = sorted({name for names in corpus.class_names for name in names})
        place = {name: index for index, name in enumerate(self.names)}
        self.class_members = [[place[name] for name in names] for names in corpus.class_names]
        self.belongs_CM = np.zeros((len(corpus.class_names), len(self.names)), np.bool_)
        for label, members in enumerate(self.class_members):
            self.belongs_CM[label, members] = True
        spoken = [template.format(a=with_article(name), bare=name) for name in self.names for template in TEMPLATES]
        self.name_ids = token_rows(corpus.tokenizer, spoken).reshape(len(self.names), len(TEMPLATES), -1)
        self.mentions_NM = self._mentions(corpus)
        # A class is mentioned by an image's captions where one of its names is.
        self.mentions_NC = self.mentions_NM @ self.belongs_CM.T
        self.tiny_rows = np.flatnonzero(corpus.tiny_is_train)
        self.tiny_labels = corpus.tiny_labels

    def sample(self, flickr_rows: NDArray[np.int64], recipe: ClipRecipe, generator: torch.Generator) -> TextBatch:
        """Captions for these Flickr8k images, and names for as many Tiny ImageNet images as the recipe asks."""
        n_flickr, n_tiny, per_image = len(flickr_rows), recipe.tiny_batch, recipe.captions_per_image
        pick = torch.rand(n_flickr, 5, generator=generator).argsort(1)[:, :per_image].numpy()
        caption_ids = self.caption_ids[flickr_rows[:, None], pick].reshape(n_flickr * per_image, -1)
        tiny_rows = np.sort(self.tiny_rows[torch.randint(len(self.tiny_rows), (n_tiny,), generator=generator).numpy()])
        labels = self.tiny_labels[tiny_rows]
        draw = torch.rand(n_tiny, per_image, 2, generator=generator).numpy()
        members = [self.class_members[label] for label in np.repeat(labels, per_image)]
        names = np.array([own[int(u * len(own))] for own, u in zip(members, draw[..., 0].ravel(), strict=True)])
        name_ids = self.name_ids[names, (draw[..., 1].ravel() * len(TEMPLATES)).astype(int)]
        owners = np.repeat(flickr_rows, per_image)
        positive = np.zeros((n_flickr + n_tiny, len(owners) + len(names)), np.bool_)
        positive[:n_flickr, : len(owners)] = flickr_rows[:, None] == owners[None, :]
        positive[n_flickr:, len(owners) :] = self.belongs_CM[np.ix_(labels, names)]
        ignored = np.zeros_like(positive)
        ignored[:n_flickr, len(owners) :] = self.mentions_NM[np.ix_(flickr_rows, names)]
        ignored[n_flickr:, : len(owners)] = self.mentions_NC[np.ix_(owners, labels)].T
        ids = np.concatenate([caption_ids, name_ids])
        longest = int((ids != PAD_ID).sum(1).max())
        return TextBatch(
            tiny_rows=tiny_rows, ids_TL=torch.from_numpy(ids[:, :longest]), positive_BT=torch.from_numpy(positive),
            ignored_BT=torch.from_numpy(ignored),
        )  # fmt: skip

    def _mentions(self, corpus: Corpus) -> NDArray[np.bool_]:
        """(Flickr8k images, names): whether an image's captions hold the last word of the name.

        A picture of a dog that Flickr8k describes is no negative for "a dog", so such pairs are left out of the loss.
        """
        head_words = [words(name)[-1] for name in self.names]
        mentions = np.zeros((len(corpus.train_captions), len(self.names)), np.bool_)
        for row, captions in zip(mentions, corpus.train_captions, strict=True):
            said = {word for caption in captions for word in words(caption)}
            said |= {word[:-1] for word in said if word.endswith("s")}
            row[:] = [word in said for word in head_words]
        return mentions


@torch.inference_mode()
def evaluate(model: ConvClip, corpus: Corpus) -> dict[str, float]:
    """Recall both ways among Flickr8k's val images."""
    model.eval()
    images, texts = [], []
    ids = token_rows(corpus.tokenizer, [caption for captions in corpus.val_captions for caption in captions])
    for start in range(0, len(corpus.val_pixels), 100):
        images.append(model.encode_images(normalise(corpus.val_pixels[start : start + 100]))[0].numpy())
    for start in range(0, len(ids), 250):
        texts.append(model.encode_texts(torch.from_numpy(ids[start : start + 250])).numpy())
    owners = np.repeat(np.arange(len(corpus.val_captions)), 5)
    return retrieval(np.concatenate(images), np.concatenate(texts), owners)


@torch.inference_mode()
def _accuracy(model: ConvClip, head: nn.Linear, corpus: Corpus) -> float:
    """Top-1 accuracy on the held-out rows of Tiny ImageNet (a quarter of them, evenly spread)."""
    model.eval()
    rows = np.flatnonzero(~corpus.tiny_is_train)[::4]
    correct = 0
    for start in range(0, len(rows), 500):
        batch = rows[start : start + 500]
        logits = head(model.image_tower(normalise(corpus.tiny_pixels[batch])).mean(dim=(2, 3)))
        correct += int((logits.argmax(1).numpy() == corpus.tiny_labels[batch]).sum())
    return round(correct / len(rows), 4)
