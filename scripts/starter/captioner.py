"""The starter captioner: the CLIP's frozen image tower; its decoder learns English, then pictures, then from itself."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from beam import beam_search
from corpus import Corpus
from numpy.typing import NDArray
from pixels import as_images, cached_pixels, normalise
from progress import Log, Training
from self_critical import Agreement, self_critical_loss
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sightline.evaluation.captions.metrics import score_words
from sightline.models.convolutional import ConvCaptioner, ConvCaptionerConfig, ConvClip
from sightline.training.augment import Augmentation, augment, draw_changes
from sightline.training.token_table import tokenize
from sightline.training.vocabulary import PAD_ID

VIEWS = Augmentation(crop_min=0.8, colour_jitter=0.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionerRecipe:
    """How the starter captioner is trained; the defaults are those of the shipped weights."""

    seed: int = 0
    text_epochs: int = 1
    text_batch: int = 128
    text_rate: float = 1e-3
    views: int = 8  # crops of each training image whose cells are cached; the decoder then trains without the tower
    epochs: int = 8  # passes over all five captions of every image
    batch: int = 128
    rate: float = 5e-4
    smoothing: float = 0.1
    critical_epochs: int = 5  # passes over the images in which it learns from its own sentences
    critical_batch: int = 64
    critical_rate: float = 1e-4
    samples: int = 5
    n_checked: int = 250


def train_captioner(corpus: Corpus, clip: ConvClip, recipe: CaptionerRecipe, log: Log) -> ConvCaptioner:
    """Train the decoder as a language model on captions alone, then on images' cells; the tower stays frozen."""
    torch.manual_seed(recipe.seed + 2)
    config = ConvCaptionerConfig(
        size_px=clip.config.size_px, vocab_size=clip.config.vocab_size, context_length=clip.config.context_length,
        pad_id=PAD_ID,
    )  # fmt: skip
    model = ConvCaptioner(config)
    model.image_tower.requires_grad_(False)
    _learn_language(model, corpus, recipe, log)
    model.image_tower.load_state_dict(clip.image_tower.state_dict())  # last: what was resumed brought its own
    views = cached_cells(model, corpus, recipe, log)
    _learn_pictures(model, views, corpus, recipe, log)
    _learn_from_itself(model, views, corpus, recipe, log)
    return model.eval()


def _learn_language(model: ConvCaptioner, corpus: Corpus, recipe: CaptionerRecipe, log: Log) -> None:
    """Next-token training on captions without images: the memory is one cell of zeros."""
    rows = tokenize([*corpus.told, *(pair.captions for pair in corpus.train)], corpus.tokenizer).ids_CL
    n_steps = len(rows) // recipe.text_batch
    training = Training(
        model, corpus.folder / "captioner-text.pt", epochs=recipe.text_epochs, steps=n_steps, rate=recipe.text_rate,
        seed=recipe.seed + 3,
    )  # fmt: skip
    for epoch, generator in training.epochs():
        for index, batch in enumerate(_by_length(rows, recipe.text_batch, generator)):
            memory = torch.zeros(len(batch), 1, model.config.cell_width)
            loss = _loss(model, _ids(rows[batch]), memory, smoothing=0.0)
            training.descend(loss)
            if index % 100 == 0:
                log.write(stage="captioner-text", epoch=epoch, step=index, of=n_steps, loss=round(loss.item(), 3))


@torch.inference_mode()
def cached_cells(model: ConvCaptioner, corpus: Corpus, recipe: CaptionerRecipe, log: Log) -> NDArray[np.float16]:
    """The cells of `views` random crops of every training image, (views, images, N, C), computed once."""
    path = corpus.folder / "cache" / f"cells-{_tower(model)}-{recipe.views}.npy"
    n_cells = (model.config.size_px // 2 ** len(model.config.image_blocks)) ** 2
    if not path.exists():
        model.eval()
        pixels_NSS3 = cached_pixels(corpus.train, 160)
        cells = np.empty((recipe.views, len(pixels_NSS3), n_cells, model.config.cell_width), np.float16)
        for view in range(recipe.views):
            generator = torch.Generator().manual_seed((recipe.seed + 4) * 1000 + view)
            for start in range(0, len(pixels_NSS3), 100):
                pixels_BSS3 = torch.from_numpy(pixels_NSS3[start : start + 100])
                changes = draw_changes(len(pixels_BSS3), VIEWS, generator)
                image_B3SS = normalise(augment(pixels_BSS3, model.config.size_px, VIEWS, changes))
                with torch.autocast("cpu", torch.bfloat16):
                    cells[view, start : start + 100] = model.encode_images(image_B3SS).half().numpy()
            log.write(stage="cells", view=view + 1, of=recipe.views)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, cells)
        partial.replace(path)
    mapped: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return mapped


def _learn_pictures(
    model: ConvCaptioner, views: NDArray[np.float16], corpus: Corpus, recipe: CaptionerRecipe, log: Log
) -> None:
    """Next-token training on pairs, with a fresh choice of view for every caption."""
    table = tokenize([pair.captions for pair in corpus.train], corpus.tokenizer)
    rows, owner = table.ids_CL, np.repeat(np.arange(len(corpus.train)), np.diff(table.first_N))
    n_steps = len(rows) // recipe.batch
    training = Training(
        model,
        corpus.folder / f"captioner-{_tower(model)}.pt",
        epochs=recipe.epochs,
        steps=n_steps,
        rate=recipe.rate,
        seed=recipe.seed + 5,
    )
    for epoch, generator in training.epochs():
        for batch in _by_length(rows, recipe.batch, generator):
            view = torch.randint(len(views), (len(batch),), generator=generator).numpy()
            memory = torch.from_numpy(views[view, owner[batch]]).float()
            loss = _loss(model, _ids(rows[batch]), memory, smoothing=recipe.smoothing)
            training.descend(loss)
        log.write(stage="captioner", epoch=epoch + 1, loss=round(loss.item(), 3))
        if (epoch + 1) % 2 == 0 or epoch + 1 == recipe.epochs:
            figures, captions = check(model, corpus, recipe.n_checked)
            log.write(stage="captioner", epoch=epoch + 1, **figures, captions=captions[:40:10])


def _learn_from_itself(
    model: ConvCaptioner, views: NDArray[np.float16], corpus: Corpus, recipe: CaptionerRecipe, log: Log
) -> None:
    """Sentences of its own that agree with people's become likelier."""
    agreement, size = Agreement(corpus), recipe.critical_batch
    training = Training(
        model, corpus.folder / f"captioner-critical-{_tower(model)}.pt", epochs=recipe.critical_epochs,
        steps=len(corpus.train) // size, rate=recipe.critical_rate, seed=recipe.seed + 6,
    )  # fmt: skip
    for epoch, generator in training.epochs():
        order, rewards = torch.randperm(len(corpus.train), generator=generator).numpy(), []
        for index in range(training.n_steps):
            rows = order[index * size : (index + 1) * size]
            view = torch.randint(len(views), (len(rows),), generator=generator).numpy()
            loss, reward = self_critical_loss(
                model, torch.from_numpy(views[view, rows]).float(), rows, agreement,
                samples=recipe.samples, generator=generator,
            )  # fmt: skip
            training.descend(loss)
            rewards.append(reward)
        figures, captions = check(model, corpus, recipe.n_checked)
        log.write(
            stage="captioner-critical", epoch=epoch + 1, sampled=round(float(np.mean(rewards)), 4), **figures,
            captions=captions[:40:10],
        )  # fmt: skip


def _tower(model: ConvCaptioner) -> str:
    """Names what was made with this image tower, so that another CLIP in the same folder never meets it."""
    parts = b"".join(parameter.detach().numpy().tobytes() for parameter in model.image_tower.parameters())
    return hashlib.sha256(parts).hexdigest()[:8]


@torch.inference_mode()
def check(model: ConvCaptioner, corpus: Corpus, n_images: int) -> tuple[dict[str, float], list[str]]:
    """CIDEr and BLEU-4 of beam-3 captions of the first val images, and the captions."""
    model.eval()
    pixels_NSS3 = torch.from_numpy(cached_pixels(corpus.val, model.config.size_px)[:n_images])
    cells = torch.cat([model.encode_images(normalise(as_images(part))) for part in pixels_NSS3.split(100)])

    def logits(ids: NDArray[np.int64], image: NDArray[np.int64]) -> NDArray[np.float32]:
        return model.decode(torch.from_numpy(ids), cells[torch.from_numpy(image)])[:, -1].numpy()

    captions = [corpus.tokenizer.decode(ids) for ids in beam_search(logits, len(cells))]
    return caption_figures(captions, [pair.captions for pair in corpus.val][:n_images]), captions


def caption_figures(captions: list[str], references: list[tuple[str, ...]]) -> dict[str, float]:
    """CIDEr and BLEU-4."""
    metrics = score_words(captions, references).metrics()
    return {name: round(metrics[name], 4) for name in ("CIDEr", "Bleu_4")}


def _loss(model: ConvCaptioner, ids_BL: Tensor, cells_BNC: Tensor, *, smoothing: float) -> Tensor:
    """Mean cross-entropy of the next token, in nats, padding left out."""
    ids_BL = ids_BL[:, : int((ids_BL != PAD_ID).sum(1).max())]
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        logits_BLV = model.decode(ids_BL[:, :-1], cells_BNC)
    target = ids_BL[:, 1:].flatten()
    return F.cross_entropy(logits_BLV.flatten(0, 1).float(), target, ignore_index=PAD_ID, label_smoothing=smoothing)


def _by_length(rows: NDArray[np.integer], size: int, generator: torch.Generator) -> Iterator[NDArray[np.int64]]:
    """Whole batches in random order, each of texts of like length, so that little is spent on padding."""
    order = torch.randperm(len(rows), generator=generator).numpy()
    lengths = (rows != PAD_ID).sum(1)
    pools = [
        pool[np.argsort(lengths[pool], kind="stable")]
        for pool in np.split(order, range(50 * size, len(order), 50 * size))
    ]
    batches = [pool[start : start + size] for pool in pools for start in range(0, len(pool) - size + 1, size)]
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[index]


def _ids(rows: NDArray[np.uint16] | NDArray[np.int32]) -> Tensor:
    return torch.from_numpy(rows.astype(np.int64))
