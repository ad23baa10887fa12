"""A tokenizer of the training captions' own words, for towers that start from random weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from sightline.core.models.cards import TextSpec

SPECIAL_TOKENS = ("[PAD]", "[BOS]", "[UNK]", "[EOS]")
"""EOS isn't 2: transformers' CLIP takes an end id of 2 for the mark of its configurations of 2021."""

PAD_ID, BOS_ID, UNK_ID, EOS_ID = range(4)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A lower-casing byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) of at most `vocab_size` entries.

    Punctuation and accents are dropped, so "A dog." equals "a dog"; a small model can't afford two ways to say it.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNK_ID]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace("\u2019", "'"),
            normalizers.Replace(Regex(r"[^\w\s']|_"), " "),
        ]
    )
    # A mark before each word, not a suffix after it: with suffixes the trainer's order, and so the ids, is random.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", BOS_ID), ("[EOS]", EOS_ID)]
    )
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` into a folder, which is made when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def text_spec(context_length: int) -> TextSpec:
    """How a model with such a tokenizer takes text."""
    return TextSpec(context_length=context_length, pad_id=PAD_ID, bos_id=BOS_ID, eos_id=EOS_ID)
