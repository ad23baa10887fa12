"""Models with the shapes of real ones and random weights, made once: how long they take doesn't depend on values.

Needs the extra `torch`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from sightline.kit.config import cache_dir

WORDS = ["the", "dog", "in", "the", "snow"]
"""A query; each is one token of the tokenizer made here, as it would be of CLIP's own."""
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def vit_b32_folder() -> Path:
    """A folder with fp32 ONNX graphs of CLIP ViT-B/32's shapes, kept in the cache."""
    folder = cache_dir() / "benchmarks" / "ViT-B-32-random"
    if not (folder / "sightline.json").is_file():
        print("Making a model of ViT-B/32's shapes; this is done once and takes a minute or two.")
        from sightline.core.models.cards import find_card
        from sightline.core.models.export import export_encoder

        with tempfile.TemporaryDirectory() as scratch:
            weights = Path(scratch) / "weights"
            _write_weights(weights)
            export_encoder(find_card(f"dir:{weights}"), weights, folder)
    return folder


def _write_weights(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    special = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    config = CLIPConfig(text_config=special, projection_dim=512)
    CLIPModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    values = {**size, "resample": 3, "image_mean": mean, "image_std": std}
    (folder / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")
    _write_tokenizer(folder)


def _write_tokenizer(folder: Path) -> None:
    """`tokenizer.json` of a byte-level BPE as CLIP's, with no more merges than `WORDS` need."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(WORDS):
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
    tokens = dict.fromkeys([*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges)])
    vocab = {token: index for index, token in enumerate(tokens)} | {_BOS: 49406, _EOS: 49407}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=list(dict.fromkeys(merges)))
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
