"""BLIP folders as transformers saves them, with random weights that write varied sentences, and what they make."""

import atexit
import functools
import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval

from sightline.core.models.cards import read_card
from sightline.core.models.export import export_captioner

WORDS = [
    "a",
    "an",
    "the",
    "of",
    "on",
    "in",
    "with",
    "and",
    "to",
    "at",
    "by",
    "over",
    "under",
    "near",
    "some",
    "two",
    "three",
    "man",
    "woman",
    "dog",
    "cat",
    "child",
    "bird",
    "horse",
    "ball",
    "boat",
    "car",
    "bike",
    "tree",
    "water",
    "snow",
    "grass",
    "street",
    "beach",
    "mountain",
    "field",
    "table",
    "red",
    "blue",
    "green",
    "black",
    "white",
    "brown",
    "small",
    "large",
    "young",
    "old",
    "running",
    "standing",
    "sitting",
    "jumping",
    "playing",
    "holding",
    "riding",
    "wearing",
    "looking",
    "picture",
    "image",
    "photo",
]
BOILERPLATE_WORDS = ("picture", "image", "photo")

TINY = {"hidden": 32, "layers": 2, "heads": 2, "size_px": 32, "words_from": 5, "special_from": 0}
BASE = {"hidden": 768, "layers": 12, "heads": 12, "size_px": 384, "words_from": 1996, "special_from": 99}
"""Sizes of a toy, and of blip-image-captioning-base, whose special ids are those of BERT."""


def make_vocabulary(sizes):
    """Tokens by id, as in `vocab.txt`; the decoder's own [DEC] and [ENC] follow and are not in it."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    length = 30522 if sizes is BASE else sizes["words_from"] + len(WORDS)
    tokens = ["[PAD]"] + [f"[unused{i}]" for i in range(1, length)]
    first = sizes["special_from"] + 1
    tokens[first : first + len(special)] = special
    tokens[sizes["words_from"] : sizes["words_from"] + len(WORDS)] = WORDS
    return tokens


def make_blip_folder(folder, sizes=TINY, *, seed=0, end_bias=2.0):
    """Save a BlipForConditionalGeneration with weights at a scale where attention, images and words all matter."""
    tokens = make_vocabulary(sizes)
    model = BlipForConditionalGeneration(make_config(sizes, tokens)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.dim() >= 2:
                fan_in = values[0].numel() if "embedding" not in name else values.shape[-1]
                values.normal_(std=1.5 / math.sqrt(fan_in), generator=generator)
        embedding = model.text_decoder.bert.embeddings.word_embeddings.weight
        embedding.normal_(std=3.0 / math.sqrt(sizes["hidden"]), generator=generator)
        bias = model.text_decoder.cls.predictions.bias
        bias.fill_(-100.0)
        bias[sizes["words_from"] : sizes["words_from"] + len(WORDS)] = 0.0
        for word in BOILERPLATE_WORDS:  # sentences then equal their tokens: nothing is stripped
            bias[tokens.index(word)] = -100.0
        bias[tokens.index("[SEP]")] = end_bias
        model.text_decoder.cls.predictions.decoder.bias.copy_(bias)
    _save(model, folder, sizes)
    return folder


def make_matcher_folder(folder, sizes=TINY, *, seed=0):
    """Save a BlipForImageTextRetrieval, in the layout of Salesforce/blip-itm-base-coco, with random weights."""
    model = BlipForImageTextRetrieval(make_config(sizes, make_vocabulary(sizes))).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.dim() >= 2:
                fan_in = values[0].numel() if "embedding" not in name else values.shape[-1]
                values.normal_(std=1.5 / math.sqrt(fan_in), generator=generator)
    _save(model, folder, sizes)
    return folder


def _save(model, folder, sizes):
    """Weights, vocabulary and preprocessing, as transformers saves them."""
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in make_vocabulary(sizes)), encoding="utf-8")
    side = {"height": sizes["size_px"], "width": sizes["size_px"]}
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    preprocessor = {"do_resize": True, "size": side, "image_mean": mean, "image_std": std, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")


def make_config(sizes, tokens):
    shared = {
        "hidden_size": sizes["hidden"],
        "intermediate_size": 4 * sizes["hidden"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
    }
    text = {
        **shared,
        "vocab_size": len(tokens) + 2,
        "bos_token_id": len(tokens),
        "sep_token_id": tokens.index("[SEP]"),
        "pad_token_id": 0,
        "encoder_hidden_size": sizes["hidden"],
        "max_position_embeddings": 512 if sizes is BASE else 40,
    }
    vision = {**shared, "image_size": sizes["size_px"], "patch_size": 16}
    return BlipConfig(text_config=text, vision_config=vision)


@functools.cache
def _kept_folder():
    """A folder for the whole test run, since exporting takes seconds."""
    folder = Path(tempfile.mkdtemp(prefix="sightline-blip-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def tiny_blip():
    """Folder of a toy BLIP."""
    return make_blip_folder(_kept_folder() / "tiny")


@functools.cache
def tiny_blip_onnx():
    """Folder of the same toy, exported to ONNX."""
    folder = _kept_folder() / "tiny-onnx"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tracing toys is slower with more
    export_captioner(read_card(tiny_blip()), tiny_blip(), folder)
    torch.set_num_threads(threads)
    return folder


def make_pixels(count, size_px, *, seed=0):
    """Images (count, S, S, 3) uint8 that differ in colour and texture."""
    rng = np.random.default_rng(seed)
    colours = rng.uniform(0, 255, size=(count, 1, 1, 3))
    texture = rng.normal(0, 60, size=(count, size_px, size_px, 3))
    return np.clip(colours + texture, 0, 255).astype(np.uint8)


def precision_of(captioner):
    """Precision of a captioner of graphs; the protocol asks for none."""
    return captioner.precision
