"""The starter CLIP: heads on cached features of two published towers, then the image tower's last blocks on pixels.

Shape suffixes: B pictures, N pictures of a set, K views, F features, T texts, E text width, D joint space, S side.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from classes import Classes
from corpus import CONTEXT_LENGTH, PAD_ID, Corpus
from features import (
    CACHE_PX,
    N_NAMED,
    NAMES_PX,
    USED_PX,
    as_images,
    cached_pixels,
    normalise,
    pool,
    text_features,
    tower_features,
    tuned_cells,
)
from numpy.typing import NDArray
from objective import Classifier, Distillation, NameFeatures, Objective
from progress import Log, Training
from published import FACTORS, load_image_tower, load_text_tower
from torch import Tensor, nn

from sightline.core.models.lite import LiteClip, LiteClipConfig
from sightline.lab.data.base import Dataset
from sightline.lab.evaluation.retrieval import retrieval_metrics
from sightline.lab.training.batches import Augmentation, augment, draw_changes

TOWER = "lite2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """How the CLIP is trained; the defaults are those of the shipped weights."""

    seed: int = 0
    crops: int = 2
    whitening_ridge: float = 0.1
    temperature: float = 30.0
    epochs: int = 40
    batch: int = 512
    rate: float = 1e-3
    tuned_from: int = 7  # the first block that moves; those before it see edges and textures
    tuning_epochs: int = 5
    tuning_batch: int = 128
    tuning_names: int = 32
    tuning_px: int = 192
    names_px: int = 128
    tuning_rate: float = 2e-4
    remembered: int = 6  # steps whose vectors serve as more that don't fit
    names: int = 12_000  # pictures of Tiny ImageNet
    distilling_epochs: int = 60
    teacher_temperature: float = 40.0


VIEWS = Augmentation(crop_min=0.6, aspect_jitter=1.3, colour_jitter=0.2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What the published towers say of the material."""

    classifier: Classifier
    features_NKF: Tensor
    val_NF: Tensor
    captions_N5E: Tensor
    val_TE: Tensor
    names: NameFeatures


def train_clip(corpus: Corpus, classes: Classes, recipe: ClipRecipe, log: Log) -> LiteClip:
    """All stages; each leaves a file in the corpus's folder."""
    torch.manual_seed(recipe.seed)
    width, depth = FACTORS[TOWER]
    config = LiteClipConfig(
        size_px=USED_PX, image_width=width, image_depth=depth, vocab_size=corpus.tokenizer.vocab_size,
        context_length=CONTEXT_LENGTH, pad_id=PAD_ID,
    )  # fmt: skip
    model = LiteClip(config)
    published, weight_CF, bias_C = load_image_tower(TOWER)
    model.image_tower.load_state_dict(published.state_dict())
    load_text_tower(model.text_tower, corpus.old_ids)
    model.text_tower.requires_grad_(False)
    known = look_up(model, corpus, classes, Classifier(weight_CF=weight_CF, bias_C=bias_C), recipe)
    log.write(stage="features", flickr=list(known.features_NKF.shape))
    learn_heads(model, known, corpus, recipe, log)
    tune(model, known, corpus, classes, recipe, log)
    known = look_again(model, known, corpus, recipe)
    teachers = [(copy.deepcopy(model), 2.0)]  # under these heads the tower was tuned
    for seed in (recipe.seed, recipe.seed + 5):
        learn_heads(model, known, corpus, dataclasses.replace(recipe, seed=seed), log, name=f"tuned-heads-{seed}")
        teachers.append((copy.deepcopy(model), 1.0))
    student = dataclasses.replace(recipe, seed=recipe.seed + 1, epochs=recipe.distilling_epochs)
    learn_heads(model, known, corpus, student, log, name="distilled-heads", teachers=teachers)
    return model.eval()


def look_up(model: LiteClip, corpus: Corpus, classes: Classes, classifier: Classifier, recipe: ClipRecipe) -> Known:
    """Features of pictures, captions and names, computed once."""
    folder = corpus.folder / "features"
    folder.mkdir(exist_ok=True)

    def images(name: str, dataset: Dataset, crops: int) -> Tensor:
        path = folder / f"{TOWER}-{USED_PX}-{name}.npy"
        pooled = tower_features(model.image_tower, dataset, path, size_px=USED_PX, crops=crops)
        return torch.from_numpy(pooled.astype(np.float32))

    def texts(name: str, said: list[str]) -> Tensor:
        return text_features(model.text_tower, said, corpus, folder / f"texts-{name}.npy")

    names = classes.texts()
    return Known(
        classifier=classifier,
        features_NKF=images("train", corpus.train, recipe.crops),
        val_NF=images("val", corpus.val, 0)[:, 0],
        captions_N5E=texts("train", [text for pair in corpus.train for text in pair.captions]).unflatten(0, (-1, 5)),
        val_TE=texts("val", [text for pair in corpus.val for text in pair.captions]),
        names=NameFeatures(classes, texts("names", names), texts("photos", [f"a photo of a {name}" for name in names])),
    )


def look_again(model: LiteClip, known: Known, corpus: Corpus, recipe: ClipRecipe) -> Known:
    """The same with what the tuned image tower says; its cells are kept for the captioner."""
    train_NKF, val_NKF = (
        torch.from_numpy(pool(tuned_cells(model.image_tower, dataset, name, corpus, crops=crops))).float()
        for name, dataset, crops in (("train", corpus.train, recipe.crops), ("val", corpus.val, 0))
    )
    return dataclasses.replace(known, features_NKF=train_NKF, val_NF=val_NKF[:, 0])


def learn_heads(
    model: LiteClip,
    known: Known,
    corpus: Corpus,
    recipe: ClipRecipe,
    log: Log,
    *,
    name: str = "heads",
    teachers: Sequence[tuple[LiteClip, float]] = (),
) -> None:
    """Both heads, from a random start, on features of towers that stand still; `teachers` are heads to follow."""
    torch.manual_seed(recipe.seed)
    for module in (*model.image_projection.modules(), *model.text_projection.modules()):
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    for moving in (model.image_projection, model.text_projection, model.logit_scale):
        moving.requires_grad_(True)
    head = model.image_projection
    mean_F, axes_FE = whitening(known.features_NKF[:, :2].mean(1), model.config.feature_width, recipe.whitening_ridge)
    with torch.no_grad():
        head.features.weight.copy_(axes_FE.T)
        head.features.bias.copy_(-mean_F @ axes_FE)
        model.logit_scale.fill_(math.log(recipe.temperature))
    model.image_tower.requires_grad_(False)
    objective = Objective(known.captions_N5E, known.names, known.classifier, remembered=0)
    if teachers:
        named_NF = torch.from_numpy(
            pool(tuned_cells(model.image_tower, corpus.tiny("train", N_NAMED), "named", corpus))
        )
        objective = Distillation(objective, teachers, named_NF.float()[:, 0], temperature=recipe.teacher_temperature)
    n_steps = len(known.captions_N5E) // recipe.batch
    training = Training(
        model, corpus.folder / f"{name}.pt", epochs=recipe.epochs, steps=n_steps, rate=recipe.rate, seed=recipe.seed
    )
    for epoch, generator in training.epochs():
        order = torch.randperm(len(known.captions_N5E), generator=generator)
        for row_B in order[: n_steps * recipe.batch].split(recipe.batch):
            view_B = torch.randint(known.features_NKF.shape[1], row_B.shape, generator=generator)
            feature_BF = known.features_NKF[row_B, view_B]
            loss = objective.pairs(model, feature_BF, row_B, generator)
            loss = loss + objective.classes(model, feature_BF, generator)
            training.descend(loss)
        if (epoch + 1) % 10 == 0 or epoch + 1 == recipe.epochs:
            log.write(stage=name, epoch=epoch + 1, loss=round(loss.item(), 3), **check(model, known, known.val_NF))


def tune(model: LiteClip, known: Known, corpus: Corpus, classes: Classes, recipe: ClipRecipe, log: Log) -> None:
    """The image tower's last blocks under heads that stand still, on pictures with captions and small ones with names.

    ImageNet's classifier stands still and must go on recognising what it recognised, which keeps the features where
    the classes' directions point.
    """
    tower = model.image_tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for still in (model.image_projection, model.text_projection, model.logit_scale):
        still.requires_grad_(False)
    for block in [*tower.blocks[recipe.tuned_from :], tower.head]:
        block.requires_grad_(True)
    pixels_NSS3, names = cached_pixels(corpus.train, CACHE_PX), corpus.tiny("train", recipe.names)
    names_NSS3 = cached_pixels(names, NAMES_PX)
    class_N = class_rows(names, corpus, classes)
    named_N = torch.where(class_N >= 0)[0]
    recognised_NC = known.classifier.logits(known.features_NKF.mean(1)).softmax(1)
    objective = Objective(known.captions_N5E, known.names, known.classifier, remembered=recipe.remembered)
    training = Training(
        model, corpus.folder / "tuned.pt", epochs=recipe.tuning_epochs, steps=len(corpus.train) // recipe.tuning_batch,
        rate=recipe.tuning_rate, seed=recipe.seed + 1,
    )  # fmt: skip

    def look(pixels: NDArray[np.uint8], rows: Tensor, size_px: int, generator: torch.Generator) -> Tensor:
        changes = draw_changes(len(rows), VIEWS, generator)
        return _pooled(model, augment(torch.from_numpy(pixels[rows.numpy()]), size_px, VIEWS, changes), recipe)

    for epoch, generator in training.epochs():
        order = torch.randperm(len(corpus.train), generator=generator)
        for step, row_B in enumerate(order[: training.n_steps * recipe.tuning_batch].split(recipe.tuning_batch)):
            feature_BF = look(pixels_NSS3, row_B, recipe.tuning_px, generator)
            small_B = named_N[torch.randint(len(named_N), (recipe.tuning_names,), generator=generator)]
            small_BF, named_B = look(names_NSS3, small_B, recipe.names_px, generator), class_N[small_B]
            loss = objective.pairs(model, feature_BF, row_B, generator)
            other_N = torch.randint(len(known.features_NKF), (3 * len(row_B),), generator=generator)
            source_BF = torch.cat([feature_BF.detach(), known.features_NKF[other_N, 0]])
            loss = loss + objective.classes(model, source_BF, generator, (small_BF, named_B))
            told = F.log_softmax(known.classifier.logits(feature_BF), 1)
            loss = loss + 0.1 * F.kl_div(told, recognised_NC[row_B], reduction="batchmean")
            loss = loss + 0.1 * F.cross_entropy(known.classifier.logits(small_BF), named_B)
            training.descend(loss)
            if step % 10 == 0:
                log.write(stage="tuning", epoch=epoch, step=step, of=training.n_steps, loss=round(loss.item(), 3))
        log.write(stage="tuning", epoch=epoch + 1, **check(model, known, embed_pooled(model, corpus.val, 224, recipe)))


def class_rows(names: Dataset, corpus: Corpus, classes: Classes) -> Tensor:
    """Which of ImageNet's classes each of Tiny ImageNet's pictures is of; -1 for the few that have none there."""
    row_of = {name: row for row, own in enumerate(classes.names) for name in own}
    rows_of_label = [next((row_of[name] for name in own if name in row_of), -1) for own in names.class_names or ()]
    return torch.tensor([rows_of_label[pair.label or 0] for pair in names])


def whitening(feature_NF: Tensor, width: int, ridge: float) -> tuple[Tensor, Tensor]:
    """Mean (F,) and PCA whitening (F, E) of features; the ridge keeps the faintest axes from being mostly noise."""
    centred_NF = feature_NF - feature_NF.mean(0)
    variance_F, axes_FF = torch.linalg.eigh(centred_NF.T @ centred_NF / len(centred_NF))
    variance_E, axes_FE = variance_F.flip(0)[:width], axes_FF.flip(1)[:, :width]
    return feature_NF.mean(0), axes_FE / torch.sqrt(variance_E + ridge * variance_E.mean())


def _pooled(model: LiteClip, image_B3SS: Tensor, recipe: ClipRecipe) -> Tensor:
    tower = model.image_tower
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            early_BCHW = tower.blocks[: recipe.tuned_from](F.relu6(tower.stem(normalise(image_B3SS))))
        cells_BCHW = F.relu6(tower.head(tower.blocks[recipe.tuned_from :](early_BCHW)))
    return cells_BCHW.float().mean(dim=(2, 3))


@torch.inference_mode()
def embed_pooled(model: LiteClip, dataset: Dataset, size_px: int, recipe: ClipRecipe) -> Tensor:
    """Pooled features (N, F) of whole pictures."""
    model.eval()
    pixels_NSS3 = cached_pixels(dataset, size_px)
    parts = [pixels_NSS3[start : start + 50] for start in range(0, len(pixels_NSS3), 50)]
    return torch.cat([_pooled(model, as_images(torch.from_numpy(np.array(part))), recipe) for part in parts])


@torch.inference_mode()
def check(model: LiteClip, known: Known, val_NF: Tensor) -> dict[str, float]:
    """Recall at 10 both ways on val, and how often names agree with ImageNet's classifier where that is sure."""
    model.eval()
    head = model.image_projection
    image_ND = F.normalize(head(head.features(val_NF)), dim=-1)
    text_TD = F.normalize(model.text_projection(known.val_TE), dim=-1)
    metrics = retrieval_metrics(image_ND.numpy(), text_TD.numpy(), np.arange(len(val_NF)).repeat(5))
    name_CE = known.names.features_T2E[known.names.first_C].mean(1)
    named_N = (image_ND @ F.normalize(model.text_projection(name_CE), dim=-1).T).argmax(1)
    sure_N, class_N = known.classifier.logits(known.val_NF).softmax(1).max(1)
    agree = (named_N == class_N)[sure_N > 0.6].float().mean().item()
    found = {name: round(metrics[name], 4) for name in ("image_retrieval_recall@10", "text_retrieval_recall@10")}
    model.train()
    return {**found, "names_agree": round(agree, 4), "scale": round(model.logit_scale.exp().item(), 1)}
