"""Small sets of pairs on disk and configs that train in a second."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import tokenizers
from PIL import Image
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from sightline.core.models.inputs import Tokenizer
from sightline.lab.training.config import TowersConfig, TrainConfig
from sightline.lab.training.towers import BOS_ID, EOS_ID, SPECIAL_TOKENS, text_spec

COLOURS = ["red", "green", "blue", "white", "black", "yellow", "purple", "orange"]
RGB = [(200, 30, 30), (30, 180, 40), (30, 40, 200), (240, 240, 240), (10, 10, 10), (230, 220, 40), (130, 30, 150)]


def write_pairs(folder, n=24, split=None):
    """Plain pictures with two captions each, as metadata.jsonl; the caption names the colour and a number."""
    target = folder if split is None else folder / split
    target.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for i in range(n):
        pixels = np.clip(np.array(RGB[i % 7]) + rng.integers(-20, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(target / f"{i:02}.png")
        texts = [f"a {COLOURS[i % 7]} square, number {i}", f"number {i} is {COLOURS[i % 7]}"]
        lines += [json.dumps({"file_name": f"{i:02}.png", "text": text}) for text in texts]
    (target / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def make_world(tmp_path, n=24):
    """A folder of pairs with a train and a val split; its address."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    write_pairs(folder, n, "train")
    write_pairs(folder, 8, "val")
    return f"folder:{folder}"


TOWERS = {
    "conv": TowersConfig(
        size_px=32, image_width=8, image_blocks=(1, 1), text_width=16, text_layers=1, text_heads=2, dim=16,
        vocab_size=200, context_length=16,
    ),
    "vit": TowersConfig(
        architecture="vit", size_px=32, patch_px=16, image_width=16, image_layers=1, image_heads=2, text_width=16,
        text_layers=1, text_heads=2, dim=16, vocab_size=200, context_length=16,
    ),
}  # fmt: skip


def small_config(data, architecture="conv", **changes):
    values: dict[str, Any] = {"batch_size": 8, "epochs": 2, "log_steps": 1, "precision": "fp32", "lr": 2e-3} | changes
    return TrainConfig(recipe="test", data=data, towers=TOWERS[architecture], **values)


def word_backend(text):
    """A tokenizer whose words have the ids 4, 5, ... in the order in which they first occur in `text`."""
    ids = {word: 4 + i for i, word in enumerate(dict.fromkeys(text.split()))}
    backend = tokenizers.Tokenizer(WordLevel({**{name: i for i, name in enumerate(SPECIAL_TOKENS)}, **ids}, "[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", BOS_ID), ("[EOS]", EOS_ID)]
    )
    return backend


def word_tokenizer(text, *, context_length=8, padding="longest"):
    """`word_backend` with a model's limits."""
    return Tokenizer(word_backend(text), replace(text_spec(context_length), padding=padding))
