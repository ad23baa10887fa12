"""Inputs of models, for every runtime: texts as token ids, pixels in batches, and rows put together again.

Shape suffixes: B images, b those of a batch, T texts, L length in tokens, S side in pixels, D joint space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from sightline.core.models.base import Encoder
from sightline.core.models.cards import ModelCard, TextSpec
from sightline.core.types import ModelIdentity
from sightline.errors import ModelError

IMAGES_PER_RUN = 32
TEXTS_PER_RUN = 64
"""Images and texts given to a runtime at once; texts are short."""


_CLIP_PATTERN = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_WORD = re.compile(r"[^\W\d_]+")
_UNKNOWN_TOKENS = frozenset({"[UNK]", "<unk>"})
_MOST_PIECES = 0.5
"""Pieces for each letter of a word that a tokenizer knows at most: more, and it fell apart."""

_CLIP_BOS, _CLIP_EOS = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class TextReading:
    """A text as a tokenizer reads it."""

    tokens: int
    """Word pieces, without those that mark start and end."""
    read: int
    """So many of them reach the model."""
    words: int
    unknown: tuple[str, ...]
    """Words that it can't know."""


class Tokenizer:
    """One model's tokenizer with the model's own limits; safe to share between threads."""

    def __init__(self, backend: tokenizers.Tokenizer, spec: TextSpec) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.spec = spec
        self.vocab_size = int(backend.get_vocab_size(with_added_tokens=True))
        self._backend = backend
        self._adds_special = backend.num_special_tokens_to_add(is_pair=False) > 0
        self._marks = len(marks := self.ids(""))
        self._end_ids = marks[-1:]

    @classmethod
    def load(cls, folder: Path, spec: TextSpec) -> Tokenizer:
        """From `tokenizer.json`, else CLIP's `vocab.json` + `merges.txt`, else BERT's `vocab.txt`.

        Raises ModelError where none is there, one is broken, or its end token isn't the one that the model looks for.
        """
        try:
            tokenizer = cls(_load_backend(folder), spec)
        except ModelError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"The tokenizer files in {folder} are broken: {error}. Restore them.") from error
        if spec.eos_id is not None and [spec.eos_id] != tokenizer._end_ids:
            raise ModelError(
                f"The tokenizer in {folder} doesn't belong to this model: it ends texts with {tokenizer._end_ids}, "
                f"the model looks for id {spec.eos_id}. Copy the tokenizer files from where the weights came."
            )
        return tokenizer

    def encode(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Texts -> ids (T, L), padded at the end as the spec says and truncated so that the end token stays."""
        rows = [self.truncate(self.ids(text)) for text in texts]
        longest = max((len(row) for row in rows), default=0)
        length = self.spec.context_length if self.spec.padding == "fixed" else longest
        ids_TL = np.full((len(rows), length), self.spec.pad_id, dtype=np.int64)
        for row, ids in zip(ids_TL, rows, strict=True):
            row[: len(ids)] = ids
        return ids_TL

    def ids(self, text: str, add_special: bool = True) -> list[int]:
        """Ids of one text, not truncated, with or without the tokens that mark its start and end."""
        ids = list(self._backend.encode(self._prepare(text), add_special_tokens=add_special).ids)
        return self._marked(ids) if add_special else ids

    def ids_of(self, texts: Sequence[str], add_special: bool = True) -> list[list[int]]:
        """`ids` of many texts at once, on all cores."""
        prepared = [self._prepare(text) for text in texts]
        rows = [list(found.ids) for found in self._backend.encode_batch(prepared, add_special_tokens=add_special)]
        return [self._marked(ids) for ids in rows] if add_special else rows

    def read(self, text: str) -> TextReading:
        """What of a text reaches the model, and which of its words it can't know."""
        encoding = self._backend.encode(self._prepare(text), add_special_tokens=False)
        tokens = len(encoding.ids)
        room = self.spec.context_length - self._marks
        words = _WORD.findall(text)
        return TextReading(
            tokens=tokens,
            read=min(tokens, room),
            words=len(words),
            unknown=tuple(word for word in words if self._is_unknown(word)),
        )

    def _is_unknown(self, word: str) -> bool:
        """True for a word that falls into single letters, or that the vocabulary has no letters for."""
        pieces = self._backend.encode(self._prepare(word), add_special_tokens=False).tokens
        return any(piece in _UNKNOWN_TOKENS for piece in pieces) or 1 < len(pieces) > _MOST_PIECES * len(word)

    def truncate(self, ids: list[int]) -> list[int]:
        """Ids of one text cut to what the model can read, so that the end token stays."""
        limit = self.spec.context_length
        if len(ids) <= limit:
            return ids
        return ids[: limit - len(self._end_ids)] + self._end_ids

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text without special tokens."""
        text = str(self._backend.decode([int(i) for i in ids], skip_special_tokens=True))
        return text.replace("</w>", " ").strip()

    def _prepare(self, text: str) -> str:
        """File names may hold surrogate escapes, which the tokenizer refuses as invalid UTF-8."""
        return (text.lower() if self.spec.lowercase else text).encode("utf-8", errors="replace").decode("utf-8")

    def _marked(self, ids: list[int]) -> list[int]:
        """With the tokens of start and end, where the tokenizer files don't add them."""
        if self._adds_special:
            return ids
        bos = [] if self.spec.bos_id is None else [self.spec.bos_id]
        eos = [] if self.spec.eos_id is None else [self.spec.eos_id]
        return bos + ids + eos


def _load_backend(folder: Path) -> tokenizers.Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _clip_backend(folder)
    if (folder / "vocab.txt").is_file():
        return _bert_backend(folder / "vocab.txt")
    raise ModelError(
        f"{folder} has no tokenizer: it needs tokenizer.json, vocab.json with merges.txt (CLIP), or vocab.txt (BLIP)."
    )


def _clip_backend(folder: Path) -> tokenizers.Tokenizer:
    """CLIP's byte-level BPE, as transformers' CLIPTokenizer builds it from the same two files."""
    vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=_CLIP_EOS)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([_CLIP_BOS, _CLIP_EOS])
    backend.post_processor = processors.RobertaProcessing(
        _special(backend, _CLIP_EOS), _special(backend, _CLIP_BOS), trim_offsets=False, add_prefix_space=False
    )
    return backend


def _bert_backend(vocab_path: Path) -> tokenizers.Tokenizer:
    """BERT's lower-casing WordPiece, which BLIP's text decoder uses."""
    backend = tokenizers.Tokenizer(models.WordPiece(models.WordPiece.read_file(str(vocab_path)), unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    backend.post_processor = processors.BertProcessing(_special(backend, "[SEP]"), _special(backend, "[CLS]"))
    return backend


def _special(backend: tokenizers.Tokenizer, token: str) -> tuple[str, int]:
    """The token with its id, which it has since `add_special_tokens`."""
    return token, backend.get_vocab(with_added_tokens=True)[token]


def read_text(encoder: Encoder, text: str) -> TextReading | None:
    """A text as an encoder's tokenizer reads it; None where that isn't on this machine."""
    read: Callable[[str], TextReading | None] | None = getattr(encoder, "read_text", None)
    return None if read is None else read(text)


class WrappedEncoder:
    """An encoder around another one, which answers in all that a subclass doesn't change."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.card = encoder.card
        self.dim = encoder.dim
        self.precision = encoder.precision

    @property
    def runtime(self) -> str:
        return self._encoder.runtime

    @property
    def identity(self) -> ModelIdentity:
        return self._encoder.identity

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._encoder.encode_images(pixels_BHW3)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encoder.encode_texts(texts)

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        return self._encoder.encode_maps(pixels_BHW3)

    def read_text(self, text: str) -> TextReading | None:
        return read_text(self._encoder, text)


def check_pixels(card: ModelCard, pixels_BHW3: NDArray[np.uint8]) -> None:
    """Raise ModelError unless the pixels are (B, S, S, 3) uint8, as the card's `preprocessing.resize` makes them."""
    side = card.preprocessing.size_px
    if pixels_BHW3.ndim != 4 or pixels_BHW3.shape[1:] != (side, side, 3) or pixels_BHW3.dtype != np.uint8:
        raise ModelError(
            f"{card.name} takes uint8 pixels of shape (B, {side}, {side}, 3); got {pixels_BHW3.dtype} "
            f"{pixels_BHW3.shape}. Use card.preprocessing.resize on each image."
        )


def pixel_batches(
    card: ModelCard, pixels_BHW3: NDArray[np.uint8], *, per_run: int = IMAGES_PER_RUN
) -> list[NDArray[np.uint8]]:
    """Pixels (B, S, S, 3) uint8 -> batches (b, S, S, 3) of a bounded size. Raises ModelError as `check_pixels` does.

    No images give a batch of one black image, whose result the caller cuts off: empty batches fail in some published
    graphs.
    """
    check_pixels(card, pixels_BHW3)
    if len(pixels_BHW3) == 0:
        pixels_BHW3 = np.zeros((1, *pixels_BHW3.shape[1:]), np.uint8)
    return [pixels_BHW3[start : start + per_run] for start in range(0, len(pixels_BHW3), per_run)]


def normalised_batches(
    card: ModelCard, pixels_BHW3: NDArray[np.uint8], *, per_run: int = IMAGES_PER_RUN
) -> Iterator[NDArray[np.float32]]:
    """The batches of `pixel_batches`, normalised and with channels first: (b, 3, S, S) float32."""
    return map(card.preprocessing.normalise, pixel_batches(card, pixels_BHW3, per_run=per_run))


def text_batches(
    tokenizer: Tokenizer, texts: Sequence[str], *, per_run: int = TEXTS_PER_RUN
) -> list[tuple[list[int], NDArray[np.int64]]]:
    """Texts -> batches of texts of like length: where each stands among `texts`, and the ids (t, L) of all.

    A batch is padded to its longest text, so sorting by length first saves most of the padding.
    """
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    batches = [order[start : start + per_run] for start in range(0, len(order), per_run)]
    return [(chosen, tokenizer.encode([texts[index] for index in chosen])) for chosen in batches]


def normalise_rows(x_BD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; a row of zeros stays one."""
    norm_B1 = np.linalg.norm(x_BD, axis=1, keepdims=True)
    unit_BD: NDArray[np.float32] = (x_BD / np.maximum(norm_B1, 1e-12)).astype(np.float32, copy=False)
    return unit_BD
