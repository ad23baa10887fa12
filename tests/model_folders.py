"""Model folders with random weights, in the layouts that real models have: what the tests of the models room load."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

CLIP_BOS, CLIP_EOS = "<|startoftext|>", "<|endoftext|>"
TEXTS = [
    "a dog",
    "",
    "A photograph of two dogs running through fresh snow at the edge of a dark forest",
    "naïve café, 東京, 🦉",
    "word " * 200,
]
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def random_pixels(count, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def cosines(a, b):
    return (a * b).sum(axis=1)


def write_clip_tokenizer(folder, vocab_size, *, as_json=False):
    """CLIP's byte-level BPE with every byte, some merges, and its two special tokens as the highest ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("d", "o"), ("do", "g</w>"), ("t", "h"), ("th", "e</w>"), ("s", "n"), ("sn", "o"), ("sno", "w</w>")]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    assert len(tokens) + 2 <= vocab_size
    vocab = {token: index for index, token in enumerate(tokens)}
    vocab |= {CLIP_BOS: vocab_size - 2, CLIP_EOS: vocab_size - 1}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if as_json:
        from transformers import CLIPTokenizer

        CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))._tokenizer.save(
            str(folder / "tokenizer.json")
        )
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()


def write_clip(folder, *, hidden_act="quick_gelu", legacy_eos=False, seed=0, true_shapes=False, as_json=False):
    """A folder as transformers' CLIPModel saves it: tiny, or at ViT-B/32's shapes."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    side = 224 if true_shapes else 32
    vocab_size = 49408 if true_shapes else 600
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {} if true_shapes else {**tiny, "vocab_size": vocab_size, "max_position_embeddings": 24}
    vision = {} if true_shapes else {**tiny, "image_size": side, "patch_size": 8}
    ids = {"bos_token_id": 0, "eos_token_id": 2} if legacy_eos else ids_of(vocab_size)
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config={**text, **ids, "hidden_act": hidden_act},
        vision_config={**vision, "hidden_act": hidden_act},
        projection_dim=512 if true_shapes else 16,
    )
    model = CLIPModel(config)
    with torch.no_grad():  # a fresh model's activations are so small that all GELUs are nearly linear there
        for name, parameter in model.named_parameters():
            if name.endswith(("fc1.weight", "fc2.weight")):
                parameter *= 4  # type: ignore[misc]
    model.save_pretrained(folder)
    values = {"do_center_crop": True, "crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    write_preprocessor(folder, {**values, "resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD})
    write_clip_tokenizer(folder, vocab_size, as_json=as_json)
    return folder


def ids_of(vocab_size):
    return {"bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1, "pad_token_id": vocab_size - 1}


def write_siglip(folder, *, seed=0):
    """A folder as transformers' SiglipModel saves it, tiny, with a tokenizer that ends and pads as SigLIP's do."""
    import torch
    from transformers import SiglipConfig, SiglipModel

    folder.mkdir(parents=True, exist_ok=True)
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(seed)
    config = SiglipConfig(
        text_config={**tiny, "vocab_size": 300, "max_position_embeddings": 16},
        vision_config={**tiny, "image_size": 32, "patch_size": 8},
    )
    SiglipModel(config).save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    write_preprocessor(
        folder, {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": half, "image_std": half}
    )
    vocab = {"<pad>": 0, "<eos>": 1} | {
        letter: index + 2 for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    backend = tokenizers.Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<pad>", "<eos>"])
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}), encoding="utf-8")
    return folder


def write_preprocessor(folder: Path, values):
    (folder / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")


@contextlib.contextmanager
def own_cache(folder):
    """Fixtures that outlive a test don't see the test's own home; they keep their cache here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", str(folder))
        yield


_MADE = {}


def source_and_export(tmp_path_factory, kind):
    """A tiny transformers folder of a kind and its ONNX export, made once in a run of the tests; don't change them."""
    if kind not in _MADE:
        from sightline.core.models.cards import read_card
        from sightline.core.models.export import export_encoder

        base = tmp_path_factory.mktemp(kind)
        with own_cache(base / "cache"):
            source = {"clip": write_clip, "siglip": write_siglip}[kind](base / "source")
            export_encoder(read_card(source), source, base / "export")
        _MADE[kind] = source, base / "export"
    return _MADE[kind]


def write_published_layout(folder, source, export):
    """The layout of the hub's Xenova repositories: two graphs under their names, one tokenizer.json, configurations."""
    from transformers import CLIPTokenizer

    (folder / "onnx").mkdir(parents=True)
    shutil.copyfile(export / "onnx" / "image.onnx", folder / "onnx" / "vision_model.onnx")
    shutil.copyfile(export / "onnx" / "text.onnx", folder / "onnx" / "text_model.onnx")
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(source / name, folder / name)
    tokenizer = CLIPTokenizer(str(source / "vocab.json"), str(source / "merges.txt"))
    tokenizer._tokenizer.save(str(folder / "tokenizer.json"))
    return folder
