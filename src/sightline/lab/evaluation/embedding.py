"""The embeddings of a whole data set: images are read in threads, ahead of the encoder.

Shape suffixes: B images, T texts, N pairs of the data set, S side in pixels, D dimension of the joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.base import Encoder
from sightline.errors import ImageError, InputError, ModelError
from sightline.kit.work import map_ahead, usable_cpus
from sightline.lab.data.base import Dataset, Pair
from sightline.lab.evaluation.results import Bootstrap, EvalResult, Figures, Problem, summarise

if TYPE_CHECKING:
    from sightline.lab.data.pixel_cache import PixelCache

_TEXTS_AT_ONCE = 256

CountProgress = Callable[[int, int], None]
"""Takes the images done and their number."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedImages:
    """Vectors of the images that could be read."""

    image_BD: NDArray[np.float32]
    row_B: NDArray[np.int64]
    """Index of each into the data set's pairs."""
    problems: tuple[Problem, ...] = ()
    """Images that couldn't be read."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedDataset(EmbeddedImages):
    """Vectors of images and of their captions, in the order of the data set."""

    text_TD: NDArray[np.float32]
    owner_T: NDArray[np.int64]
    """Index of each text's image into `image_BD`."""
    ids: tuple[str, ...]
    """Ids of the images."""
    texts: tuple[str, ...]


def embed_dataset(
    encoder: Encoder,
    dataset: Dataset,
    *,
    pixels: PixelCache | None = None,
    batch_size: int = 64,
    progress: CountProgress | None = None,
) -> EmbeddedDataset:
    """Embed all images and captions; images that can't be read are left out with their captions, and named.

    Raises InputError where no image can be read, ModelError where a vector isn't finite.
    """
    images = embed_images(encoder, dataset, pixels=pixels, batch_size=batch_size, progress=progress)
    pairs = [dataset[row] for row in images.row_B]
    texts = tuple(caption for pair in pairs for caption in pair.captions)
    return EmbeddedDataset(
        image_BD=images.image_BD,
        row_B=images.row_B,
        problems=images.problems,
        text_TD=embed_texts(encoder, texts),
        owner_T=np.repeat(np.arange(len(pairs)), [len(pair.captions) for pair in pairs]),
        ids=tuple(pair.id for pair in pairs),
        texts=texts,
    )


def embed_images(
    encoder: Encoder,
    dataset: Dataset,
    *,
    pixels: PixelCache | None = None,
    batch_size: int = 64,
    progress: CountProgress | None = None,
    encode: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None,
) -> EmbeddedImages:
    """Embed all images, by `encode` where another than the encoder's own is given.

    Raises InputError where none can be read, ModelError where a vector isn't finite.
    """
    if not len(dataset):
        raise InputError(f"{dataset.name} has no pictures in its split {dataset.split}.")
    rows: list[int] = []
    vectors: list[NDArray[np.float32]] = []
    problems: list[Problem] = []
    waiting: list[NDArray[np.uint8]] = []
    preprocessing = encoder.card.preprocessing
    source = read_ahead(dataset, preprocessing) if pixels is None else _cached(dataset, pixels, preprocessing.size_px)
    for row, image in enumerate(source):
        if isinstance(image, Problem):
            problems.append(image)
        else:
            rows.append(row)
            waiting.append(image)
        if waiting and (len(waiting) == batch_size or row + 1 == len(dataset)):
            vectors.append((encode or encoder.encode_images)(np.stack(waiting)))
            _require_finite(vectors[-1], encoder, what="pictures")
            waiting.clear()
        if progress is not None:
            progress(row + 1, len(dataset))
    if not rows:
        raise InputError(f"None of the {len(dataset)} pictures of {dataset.name} can be read: {problems[0].reason}.")
    return EmbeddedImages(image_BD=np.concatenate(vectors), row_B=np.array(rows), problems=tuple(problems))


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Texts -> (T, D); equal texts are embedded once, so that their vectors are equal to the bit.

    Raises ModelError where a vector isn't finite.
    """
    place = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    different = sorted(place, key=len)  # texts of like length pad each other least
    vectors_TD = np.zeros((len(different), encoder.dim), np.float32)
    for start in range(0, len(different), _TEXTS_AT_ONCE):
        batch = different[start : start + _TEXTS_AT_ONCE]
        encoded_TD = encoder.encode_texts(batch)
        _require_finite(encoded_TD, encoder, what="texts")
        vectors_TD[[place[text] for text in batch]] = encoded_TD
    return vectors_TD[[place[text] for text in texts]]


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Settings that all evaluators have."""

    batch_size: int = 64
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        """Raises InputError for a batch size below 1."""
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}.")

    def make_result(
        self,
        encoder: Encoder,
        dataset: Dataset,
        *figures: Figures,
        details: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> EvalResult:
        """The result of what was measured of an encoder on a data set; `facts` are further fields of it."""
        metrics, intervals = summarise(figures, self.bootstrap)
        return EvalResult(
            model=encoder.card.name,
            data=dataset.name,
            split=dataset.split,
            metrics=metrics,
            intervals=intervals,
            details=describe_encoder(encoder) | dict(details or {}),
            **facts,
        )


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """Details of a result on the run that made it, besides the model's name."""
    return {"runtime": encoder.runtime, "precision": encoder.precision, "weights_hash": encoder.identity.weights_hash}


def _require_finite(vectors_BD: NDArray[np.float32], encoder: Encoder, *, what: str) -> None:
    if not np.isfinite(vectors_BD).all():
        raise ModelError(
            f"{encoder.card.name} gives vectors of {what} that hold NaN or infinity; its weights are damaged, or its "
            "training went astray."
        )


def read_ahead(
    dataset: Dataset, preprocessing: Preprocessing, *, ahead: int | None = None
) -> Iterator[NDArray[np.uint8] | Problem]:
    """Images at the model's size in the order of the data set, read in threads, at most `ahead` of them early."""

    def read(pair: Pair) -> NDArray[np.uint8] | Problem:
        try:
            return preprocessing.resize(pair.image.read())
        except ImageError as error:
            return Problem(id=pair.id, reason=error.reason)

    threads = min(8, usable_cpus())
    return map_ahead(read, dataset, threads=threads, ahead=ahead or 16 * threads)


def _cached(dataset: Dataset, pixels: PixelCache, size_px: int) -> Iterator[NDArray[np.uint8] | Problem]:
    if len(pixels.pixels_NSS3) != len(dataset):
        raise InputError(
            f"The pixel cache holds {len(pixels.pixels_NSS3)} pictures, {dataset.name} has {len(dataset)}: it is the "
            "cache of another data set."
        )
    if pixels.pixels_NSS3.shape[1:] != (size_px, size_px, 3):
        raise InputError(
            f"The pixel cache holds pictures of {pixels.pixels_NSS3.shape[1:]}, the model takes {size_px} pixels: it "
            "was made for another model."
        )
    for row, pair in enumerate(dataset):
        if pixels.readable_N[row]:
            yield pixels.pixels_NSS3[row]
        else:
            yield Problem(id=pair.id, reason="could not be read when the pixel cache was made")
