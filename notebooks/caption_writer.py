"""A small language model of captions: GPT-2's architecture, trained from scratch, kept in transformers' own layout.

    python notebooks/caption_writer.py CAPTIONS OUTPUT [--epochs N] [--images N]

CAPTIONS is a file of lines (or .gz), five after each other for each image, or the address of a set of pairs
(`flickr8k:PATH`, `scenes:0`, ...). A training text is the captions of one image in random order, each on its line, so
that the model learns two things at once: what a caption is, and how the next line says the same in other words.
Interrupted, the same command goes on after the last whole epoch; a finished run does with more epochs.
Shape suffixes: B texts, L tokens, V vocabulary.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

PER_IMAGE = 5
PAD, START, END = "<pad>", "<start>", "<end>"
NEW_LINE = "Ċ"
"""The token that ends a caption, as byte-level BPE writes a line's end."""
EVERY = 50
"""Batches whose mean loss is one point of the curve."""
LOG_FILE = "training.json"
CHAT_TEMPLATE = (
    "{% set quoted = messages[-1]['content'].split('\"')[1::2] %}"
    "{{ bos_token }}{% for line in quoted %}{{ line }}\n{% endfor %}"
)
"""How a request becomes a text for a model that knows captions and no instructions: what it quotes, a line each."""

Documents = list[list[str]]
"""The captions of each image."""


@dataclass(frozen=True, kw_only=True)
class WriterConfig:
    """Sizes and settings. The defaults make 0.6 million parameters."""

    vocabulary: int = 2048
    width: int = 96
    layers: int = 3
    heads: int = 4
    longest: int = 256
    """Tokens of a text at most."""
    batch: int = 32
    epochs: int = 2
    lr: float = 4e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    seed: int = 0


def read_documents(source: str, *, limit: int | None = None) -> Documents:
    """The captions of each image, or of the first `limit`, in lower case and without a full stop."""
    if not (path := Path(source).expanduser()).is_file():
        from sightline.lab.data.addressing import load_dataset

        return [
            [clean(caption) for caption in pair.captions] for pair in load_dataset(source, split="train", limit=limit)
        ]
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    captions = [clean(line) for line in text.splitlines()]
    return [captions[first : first + PER_IMAGE] for first in range(0, len(captions), PER_IMAGE)][:limit]


def clean(caption: str) -> str:
    """One line in lower case, without the full stop at its end."""
    return " ".join(caption.lower().split()).rstrip(" .")


def split(documents: Documents, *, held_out: int = 25) -> tuple[Documents, Documents]:
    """Training and validation images: each `held_out`-th is held out, with all of its captions."""
    return [d for n, d in enumerate(documents) if n % held_out], documents[::held_out]


def make_tokenizer(documents: Documents, config: WriterConfig) -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2 has it, learned from these captions; lower case only."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(("\n".join(lines) for lines in documents), trainer)
    start = (START, backend.token_to_id(START))
    backend.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[start])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, bos_token=START, eos_token=END, model_max_length=config.longest
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast, config: WriterConfig) -> GPT2LMHeadModel:
    """A GPT-2 of random weights."""
    torch.manual_seed(config.seed)
    settings = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=config.longest,
        n_embd=config.width,
        n_layer=config.layers,
        n_head=config.heads,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(settings)


class Corpus:
    """Captions as tokens, made once: each line ends with the token of a new line."""

    def __init__(self, documents: Documents, tokenizer: PreTrainedTokenizerFast, config: WriterConfig) -> None:
        flat = [f"{caption}\n" for lines in documents for caption in lines]
        ids = iter(tokenizer(flat, add_special_tokens=False)["input_ids"])
        self._lines = [[next(ids) for _ in lines] for lines in documents]
        self._tokenizer, self._config = tokenizer, config

    def __len__(self) -> int:
        return len(self._lines)

    def batches(self, *, epoch: int) -> Iterator[torch.Tensor]:
        """(B, L) each: all images once, captions in an order of this epoch; texts of like length stand together."""
        rng = np.random.default_rng((self._config.seed, epoch))
        texts = [self._join(lines, rng) for lines in self._lines]
        texts.sort(key=lambda ids: len(ids) + rng.integers(8))  # little padding, and no batch twice
        size = self._config.batch
        for first in rng.permutation(range(0, len(texts), size)):
            yield self._pad(texts[first : first + size])

    def _join(self, lines: Sequence[list[int]], rng: np.random.Generator) -> list[int]:
        order = rng.permutation(len(lines))
        ids = [
            self._tokenizer.bos_token_id,
            *(token for n in order for token in lines[n]),
            self._tokenizer.eos_token_id,
        ]
        return ids[: self._config.longest]

    def _pad(self, texts: Sequence[list[int]]) -> torch.Tensor:
        longest, pad = max(map(len, texts)), self._tokenizer.pad_token_id
        return torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in texts])


def next_token_loss(logits_BLV: torch.Tensor, ids_BL: torch.Tensor, *, pad: int) -> torch.Tensor:
    """Mean negative log-probability, in nats, of each token after those before it; padding doesn't count."""
    return functional.cross_entropy(logits_BLV[:, :-1].flatten(0, 1), ids_BL[:, 1:].flatten(), ignore_index=pad)


@torch.inference_mode()
def measure_loss(model: GPT2LMHeadModel, corpus: Corpus, *, pad: int) -> float:
    """The loss over a corpus, in nats a token."""
    model.eval()
    total = count = 0.0
    for ids_BL in corpus.batches(epoch=0):
        tokens = int((ids_BL[:, 1:] != pad).sum())
        total += (
            tokens
            * next_token_loss(model(ids_BL, attention_mask=(ids_BL != pad).long()).logits, ids_BL, pad=pad).item()
        )
        count += tokens
    return total / count


def train(
    model: GPT2LMHeadModel, corpora: tuple[Corpus, Corpus], config: WriterConfig, *, state: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Train on the first corpus; after each epoch its losses. With `state` it can go on where it was stopped."""
    learned, held_out = corpora
    pad, n_batches = model.config.pad_token_id, math.ceil(len(learned) / config.batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    first = _resume(model, optimiser, state)
    for epoch in range(first, config.epochs):
        model.train()
        started, losses = time.monotonic(), []
        for step, ids_BL in enumerate(learned.batches(epoch=epoch)):
            for group in optimiser.param_groups:
                group["lr"] = config.lr * _schedule(step, n_batches, epoch=epoch, warmup=config.warmup_steps)
            loss = next_token_loss(model(ids_BL, attention_mask=(ids_BL != pad).long()).logits, ids_BL, pad=pad)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
        seconds = time.monotonic() - started
        if state is not None:
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch + 1}, state)
        yield {
            "epoch": epoch + 1,
            "seconds": round(seconds, 1),
            "train_loss": [round(float(np.mean(losses[n : n + EVERY])), 3) for n in range(0, len(losses), EVERY)],
            "val_loss": measure_loss(model, held_out, pad=pad),
        }


def _schedule(step: int, steps: int, *, epoch: int, warmup: int) -> float:
    """Linear warm-up and a cosine to zero in each epoch, half as high as in the one before.

    Warm restarts (Loshchilov and Hutter 2017): a run that was finished can still go on.
    """
    return 0.5**epoch * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _resume(model: GPT2LMHeadModel, optimiser: torch.optim.Optimizer, state: Path | None) -> int:
    """The epoch to begin with."""
    if state is None or not state.is_file():
        return 0
    kept = torch.load(state, weights_only=True)
    model.load_state_dict(kept["model"])
    optimiser.load_state_dict(kept["optimiser"])
    return int(kept["epoch"])


def count_baselines(learned: Corpus, held_out: Corpus, vocabulary: int) -> dict[str, float]:
    """Losses of models that look at nothing, or only at the token before: guessing, frequencies, pairs of tokens."""
    single, pairs = np.ones(vocabulary), Counter[tuple[int, int]]()
    for before, after in _pairs(learned):
        single[after] += 1
        pairs[before, after] += 1
    before_V = np.bincount([before for before, _ in pairs.elements()], minlength=vocabulary)
    share_V = single / single.sum()
    seen = list(_pairs(held_out))
    # Witten-Bell would be better; a tenth of the frequencies keeps unseen pairs possible
    bigram = [0.9 * pairs[pair] / max(before_V[pair[0]], 1) + 0.1 * share_V[pair[1]] for pair in seen]
    return {
        "guessing": math.log(vocabulary),
        "frequencies": float(-np.log(share_V[[after for _, after in seen]]).mean()),
        "pairs of tokens": float(-np.log(bigram).mean()),
    }


def _pairs(corpus: Corpus) -> Iterator[tuple[int, int]]:
    for ids_BL in corpus.batches(epoch=0):
        for before, after in zip(ids_BL[:, :-1].flatten().tolist(), ids_BL[:, 1:].flatten().tolist(), strict=True):
            if after != corpus._tokenizer.pad_token_id:
                yield before, after


@torch.inference_mode()
def log_probability(model: GPT2LMHeadModel, ids_BL: torch.Tensor, *, pad: int) -> torch.Tensor:
    """(B, L - 1): of each token after those before it, in nats; 0 where there is padding."""
    logits_BLV = model(ids_BL, attention_mask=(ids_BL != pad).long()).logits[:, :-1]
    chosen_BL1 = logits_BLV.log_softmax(-1).gather(-1, ids_BL[:, 1:, None])
    return chosen_BL1[..., 0] * (ids_BL[:, 1:] != pad)


def describe_captions(captions: Sequence[str]) -> dict[str, float]:
    """Words of a caption; different pairs of words among all pairs; pairs that a caption has said before."""
    pairs = [list(itertools.pairwise(words)) for words in map(str.split, captions)]
    flat = [pair for of_one in pairs for pair in of_one]
    return {
        "words": float(np.mean([len(of_one) + 1 for of_one in pairs])),
        "distinct_pairs": len(set(flat)) / len(flat),
        "repeated_pairs": float(np.mean([1 - len(set(of_one)) / len(of_one) if of_one else 0.0 for of_one in pairs])),
    }


def compare_with_people(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, learned: Documents, held_out: Documents
) -> dict[str, dict[str, float]]:
    """Of 200 captions by people that weren't learned from, and 200 that the model samples: how they are, what is known.

    `copied` is the share that stands word for word among the captions that were learned from.
    """
    known = {caption for lines in learned for caption in lines}
    rng = np.random.default_rng(0)
    people = [str(rng.choice(held_out[n])) for n in rng.permutation(len(held_out))[:200]]
    torch.manual_seed(0)
    line = tokenizer.convert_tokens_to_ids(NEW_LINE)
    start = torch.full((200, 1), tokenizer.bos_token_id)
    made = model.eval().generate(start, do_sample=True, top_k=0, max_new_tokens=40, eos_token_id=line)
    sampled = [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]
    told = {}
    for name, captions in (("people", people), ("sampled", sampled)):
        ids = tokenizer([f"{caption}\n" for caption in captions], padding=True, return_tensors="pt")["input_ids"]
        log_BL = log_probability(model, ids, pad=tokenizer.pad_token_id)
        told[name] = {
            **describe_captions(captions),
            "log_probability": float(log_BL.sum() / (log_BL != 0).sum()),
            "copied": float(np.mean([caption in known for caption in captions])),
        }
    return told


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """In transformers' layout, in half precision on disk; loaded again it computes in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    model.float()
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions")
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=WriterConfig.epochs)
    parser.add_argument("--images", type=int, help="only so many images: to try it out")
    options = parser.parse_args(arguments)
    config = WriterConfig(epochs=options.epochs)
    learned, held_out = split(read_documents(options.captions, limit=options.images))
    tokenizer = make_tokenizer(learned, config)
    model = make_model(tokenizer, config)
    corpora = Corpus(learned, tokenizer, config), Corpus(held_out, tokenizer, config)
    options.output.mkdir(parents=True, exist_ok=True)
    state, log = options.output / "state.pt", options.output / LOG_FILE
    epochs = json.loads(log.read_text(encoding="utf-8"))["epochs"] if state.is_file() and log.is_file() else []
    told: dict[str, Any] = {
        "config": asdict(config),
        "parameters": model.num_parameters(),
        "images": [len(learned), len(held_out)],
        "captions": [sum(map(len, learned)), sum(map(len, held_out))],
        "baselines": count_baselines(*corpora, vocabulary=len(tokenizer)),
        "epochs": epochs,
    }
    for row in train(model, corpora, config, state=state):
        epochs.append(row)
        print(row, flush=True)
        log.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    told["captions_of"] = compare_with_people(model, tokenizer, learned, held_out)
    log.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    save(model, tokenizer, options.output)


if __name__ == "__main__":
    main()
