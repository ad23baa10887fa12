"""Captions from what a decoder writes, and token sequences from texts: the part that all captioner runtimes share."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import ModelCard
from sightline.core.models.generation import Decoder, Frame, Hypothesis, generate_tokens, score_tokens
from sightline.core.models.inputs import Tokenizer, normalised_batches
from sightline.core.types import Caption
from sightline.errors import InputError, ModelError

IMAGES_PER_BATCH = 16
"""Images that are decoded together: the decoder's weights are read once a token for all of them, which is what a token
costs; more gain little."""

_BOILERPLATE = re.compile(
    r"(?:(?:(?:an?|the|this is an?)\s+)?(?:image|picture|photo|photograph)\s+of\s+)+", re.IGNORECASE
)
_SPACE_BEFORE_PUNCTUATION = re.compile(r"\s+(?=[.,;:!?])")


def tidy(text: str) -> str:
    """A generated sentence without its leading "an image of", with single spaces and none before punctuation."""
    text = _SPACE_BEFORE_PUNCTUATION.sub("", " ".join(text.split()))
    boilerplate = _BOILERPLATE.match(text)
    return text[boilerplate.end() :] if boilerplate else text


_Memory = TypeVar("_Memory")


class SentenceWriter(Generic[_Memory]):
    """A captioner but for its two networks: pixels and prompt to their inputs, tokens to captions, texts to scores.

    Subclasses bring the image side and the decoder. What was seen last is kept: images for which sentences are written
    and then others are scored go through the image side once.
    """

    def __init__(self, card: ModelCard, tokenizer: Tokenizer) -> None:
        self.card = card
        self._tokenizer = tokenizer
        self._last: tuple[tuple[object, ...], _Memory] | None = None

    def _see(self, pixel_values: NDArray[np.float32]) -> _Memory:
        """Normalised pixels (B, 3, S, S) -> what the image side makes of them, of the runtime's own type."""
        raise NotImplementedError

    def _describe(self, memory: _Memory) -> Decoder:
        """The decoder, bound to that."""
        raise NotImplementedError

    def generate(self, pixels_BHW3: NDArray[np.uint8], config: GenerationConfig) -> list[list[Caption]]:
        """For each image up to `config.num_candidates` captions, best first, no two alike.

        The model's context shortens `config.max_tokens`. Samples depend on the seed and the image's pixels, not on its
        batch. An image for which the model writes no words has no captions. Raises InputError where the prompt leaves
        no room within `config.max_tokens`; ModelError for pixels of another shape than the model's, and where the model
        fails or returns what is not finite.
        """
        limited = replace(config, max_tokens=min(config.max_tokens, self.card.text.context_length))
        frame = self._frame(config.prompt)
        seeds = [zlib.crc32(pixels.tobytes()) for pixels in pixels_BHW3]
        captions = []
        for images, decoder in self._decoders(pixels_BHW3):
            for hypotheses in generate_tokens(decoder, limited, frame=frame, image_seeds=seeds[images]):
                captions.append(self._captions(hypotheses)[: config.num_candidates])
        return captions

    def score(self, pixels_BHW3: NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each image, the mean log-probability (nats) of a token of each of its texts, EOS included.

        It equals a caption's `log_prob` where that caption ended by itself, without prompt or stripped words. A text
        that is longer than the model's context is scored by its beginning. Raises InputError unless there is a list of
        texts for each image, ModelError as `generate` does.
        """
        if len(texts) != len(pixels_BHW3):
            raise InputError(f"There are {len(pixels_BHW3)} images and texts for {len(texts)}; give each image a list.")
        scores = []
        for images, decoder in self._decoders(pixels_BHW3):
            scores += self._score(decoder, texts[images])
        return scores

    def _decoders(self, pixels_BHW3: NDArray[np.uint8]) -> Iterator[tuple[slice, Decoder]]:
        """Slices of images, and the decoder bound to them, in batches of a bounded size."""
        for first in range(0, len(pixels_BHW3), IMAGES_PER_BATCH):
            images = slice(first, first + IMAGES_PER_BATCH)
            yield images, self._describe(self._memory(pixels_BHW3[images]))

    def _memory(self, pixels_BHW3: NDArray[np.uint8]) -> _Memory:
        digest = hashlib.blake2b(np.ascontiguousarray(pixels_BHW3).data, digest_size=16).digest()
        key, last = (pixels_BHW3.shape, pixels_BHW3.dtype, digest), self._last
        if last is None or last[0] != key:
            (pixel_values,) = normalised_batches(self.card, pixels_BHW3)
            last = self._last = key, self._see(pixel_values)
        return last[1]

    def _score(self, decoder: Decoder, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        limit = self.card.text.context_length - 1
        flat = [text for several in texts for text in several]
        sequences = [ids[:limit] for ids in self._tokenizer.ids_of(flat, add_special=False)]
        images = [image for image, several in enumerate(texts) for _ in several]
        scores = iter(score_tokens(decoder, sequences, images, frame=self._frame("")))
        return [[next(scores) for _ in several] for several in texts]

    def _frame(self, prompt: str) -> Frame:
        text = self.card.text
        if text.bos_id is None or text.eos_id is None:
            raise ModelError(f"The card of {self.card.name} lacks bos_id or eos_id; a captioner's card needs both.")
        start_ids = (text.bos_id, *(self._tokenizer.ids(prompt, add_special=False) if prompt else []))
        banned_ids = (text.pad_id, text.bos_id)
        return Frame(start_ids=start_ids, eos_id=text.eos_id, pad_id=text.pad_id, banned_ids=banned_ids)

    def _captions(self, hypotheses: Sequence[Hypothesis]) -> list[Caption]:
        captions: dict[str, Caption] = {}
        for one in hypotheses:
            written = [token for token in one.ids[1:] if token != self.card.text.eos_id]
            text = tidy(self._tokenizer.decode(written))
            if text and text not in captions:
                captions[text] = Caption(text=text, source="generated", log_prob=one.log_prob, model=self.card.name)
        return list(captions.values())
