"""Dual captions of files: read, rank candidates, generate, fuse, in a stream that no bad file stops.

Shape suffixes: B images, H W height and width, S size_px of a model, T texts, D dimension of the joint space.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.core.captioning.bank import read_candidates
from sightline.core.captioning.fuse import FusionWeights, fuse
from sightline.core.captioning.rank import BankRanker, ListRanker, Ranker, embed_texts
from sightline.core.images.decode import read_image
from sightline.core.models.base import Captioner, Encoder, GenerationConfig
from sightline.core.types import Caption
from sightline.errors import ImageError, InputError
from sightline.kit.work import map_ahead, usable_cpus

_DECODERS = min(4, usable_cpus())


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Settings of captioning. Raises InputError for a number below 1."""

    top_k: int = 5
    """Ranked candidates kept for each image."""
    candidates: Path | tuple[str, ...] | None = None
    """Captions to rank, or a file of them, one a line; None composes them from the bank."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    batch_size: int = 16
    batch_s: float | None = None
    """Time that a batch should take: batches grow from one image up to `batch_size` while they take less. None always
    takes `batch_size`, which is fastest but answers a slow model's reader only after sixteen images."""
    weights: FusionWeights = field(default_factory=FusionWeights)

    def __post_init__(self) -> None:
        for name in ("top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; it is {getattr(self, name)}.")
        if self.batch_s is not None and not self.batch_s > 0:
            raise InputError(f"batch_s must be more than 0 seconds; it is {self.batch_s}.")


@dataclass(frozen=True, kw_only=True)
class DualCaption:
    """The captions of one image, each with its similarity and, where there is a generator, its log-probability."""

    path: Path
    clip: tuple[Caption, ...]
    """Ranked candidates, most similar first."""
    generated: tuple[Caption, ...]
    """The generator's sentences, most probable first; empty without one, or where it found no words."""
    best: Caption
    """The fused choice; it also stands, flagged `best`, in one of the lists."""


@dataclass(frozen=True, kw_only=True)
class CaptionFailure:
    """An image that could not be captioned, and why: a short phrase without the path."""

    path: Path
    reason: str


def caption_images(
    paths: Iterable[Path], *, encoder: Encoder, captioner: Captioner | None = None, config: CaptionConfig | None = None
) -> Iterator[DualCaption | CaptionFailure]:
    """Caption files as they come, in order; one that can't be read is given as a failure and stops nothing.

    Without a captioner there are only ranked candidates. Files are decoded once, by threads that keep about two
    batches ahead, so any number may be given. Raises InputError for a bad candidates file, ModelError where a model
    fails, both before or between images.
    """
    return _Run(encoder, captioner, config or CaptionConfig()).stream(paths)


def caption_image(
    rgb_HW3: NDArray[np.uint8],
    *,
    encoder: Encoder,
    captioner: Captioner | None = None,
    config: CaptionConfig | None = None,
) -> DualCaption:
    """Caption one decoded image (H, W, 3) as `caption_images` does; its `path` is empty."""
    run = _Run(encoder, captioner, config or CaptionConfig())
    return run.caption_batch([run.make_ready(Path(), rgb_HW3)])[0]


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A decoded file, resized to (S, S, 3) for each model."""

    path: Path
    encoder_pixels: NDArray[np.uint8]
    captioner_pixels: NDArray[np.uint8] | None


class _Run:
    """One run over a stream of files: the models, the ranker and the size to decode at."""

    def __init__(self, encoder: Encoder, captioner: Captioner | None, config: CaptionConfig) -> None:
        self._encoder = encoder
        self._captioner = captioner
        self._config = config
        self._batch_size = config.batch_size if config.batch_s is None else 1
        self._ranker = _make_ranker(encoder, config.candidates)
        cards = [model.card for model in (encoder, captioner) if model is not None]
        self._min_side_px = max(card.preprocessing.size_px for card in cards)

    def stream(self, paths: Iterable[Path]) -> Iterator[DualCaption | CaptionFailure]:
        """Batches of readable images; failures keep their place in the order."""
        waiting: list[_Ready | CaptionFailure] = []
        # Read by threads, at most two batches ahead of what is consumed.
        for item in map_ahead(self._read, paths, threads=_DECODERS, ahead=2 * self._config.batch_size):
            waiting.append(item)
            if sum(isinstance(one, _Ready) for one in waiting) >= self._batch_size:
                yield from self._caption_readable(waiting)
                waiting = []
        yield from self._caption_readable(waiting)

    def _read(self, path: Path) -> _Ready | CaptionFailure:
        try:
            image = read_image(path, min_side_px=self._min_side_px)
        except ImageError as error:
            return CaptionFailure(path=path, reason=error.reason)
        return self.make_ready(path, image.rgb)

    def make_ready(self, path: Path, rgb_HW3: NDArray[np.uint8]) -> _Ready:
        """A decoded image at the size of each model."""
        return _Ready(
            path=path,
            encoder_pixels=self._encoder.card.preprocessing.resize(rgb_HW3),
            captioner_pixels=self._captioner.card.preprocessing.resize(rgb_HW3) if self._captioner else None,
        )

    def _caption_readable(self, items: Sequence[_Ready | CaptionFailure]) -> Iterator[DualCaption | CaptionFailure]:
        ready = [item for item in items if isinstance(item, _Ready)]
        started = time.monotonic()
        captions = iter(self.caption_batch(ready) if ready else ())
        if ready:
            self._resize((time.monotonic() - started) / len(ready))
        for item in items:
            yield item if isinstance(item, CaptionFailure) else next(captions)

    def _resize(self, image_s: float) -> None:
        if self._config.batch_s is not None:
            wanted = int(self._config.batch_s / max(image_s, 1e-6))
            self._batch_size = max(1, min(wanted, 2 * self._batch_size, self._config.batch_size))

    def caption_batch(self, batch: Sequence[_Ready]) -> list[DualCaption]:
        """Captions of some images, at once."""
        image_vectors_BD = self._encoder.encode_images(np.stack([item.encoder_pixels for item in batch]))
        clip = self._ranker.rank(image_vectors_BD, top_k=self._config.top_k)
        generated: list[list[Caption]] = [[] for _ in batch]
        if self._captioner is not None:
            pixels_BSS3 = np.stack([item.captioner_pixels for item in batch if item.captioner_pixels is not None])
            generated = self._captioner.generate(pixels_BSS3, self._config.generation)
            generated = self._add_similarities(generated, image_vectors_BD)
            clip = _add_log_probs(self._captioner, clip, pixels_BSS3)
        people_B = self._ranker.weigh_people(image_vectors_BD).tolist()
        return [
            self._combine(item.path, ranked, written, people_nats)
            for item, ranked, written, people_nats in zip(batch, clip, generated, people_B, strict=True)
        ]

    def _add_similarities(
        self, captions: Sequence[Sequence[Caption]], image_vectors_BD: NDArray[np.float32]
    ) -> list[list[Caption]]:
        vectors = iter(embed_texts(self._encoder, [caption.text for several in captions for caption in several]))
        return [
            [replace(caption, similarity=float(next(vectors) @ image_D)) for caption in several]
            for several, image_D in zip(captions, image_vectors_BD, strict=True)
        ]

    def _combine(
        self, path: Path, clip: Sequence[Caption], generated: Sequence[Caption], people_nats: float
    ) -> DualCaption:
        """Fuse CLIP's first with what was generated, and flag the winner where it stands."""
        best = fuse(
            clip[:1],
            generated,
            temperature=self._encoder.card.nats_per_cosine,
            weights=self._config.weights,
            people_nats=people_nats if generated else 0.0,
        )[0]

        def flagged(captions: Sequence[Caption]) -> tuple[Caption, ...]:
            return tuple(best if (c.source, c.text) == (best.source, best.text) else c for c in captions)

        return DualCaption(path=path, clip=flagged(clip), generated=flagged(generated), best=best)


def _make_ranker(encoder: Encoder, candidates: Path | tuple[str, ...] | None) -> Ranker:
    if candidates is None:
        return BankRanker(encoder)
    if isinstance(candidates, Path):
        return ListRanker(encoder, read_candidates(candidates))
    return ListRanker(encoder, candidates, cached=False)


def _add_log_probs(
    captioner: Captioner, captions: Sequence[Sequence[Caption]], pixels_BSS3: NDArray[np.uint8]
) -> list[list[Caption]]:
    log_probs = captioner.score(pixels_BSS3, [[caption.text for caption in several] for several in captions])
    return [
        [replace(caption, log_prob=log_prob) for caption, log_prob in zip(several, theirs, strict=True)]
        for several, theirs in zip(captions, log_probs, strict=True)
    ]
