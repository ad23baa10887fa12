"""Captions of BLIP-base's shapes, 20 tokens each, beside transformers' own `generate`.

python benchmarks/captioning.py [--quick]

Both write greedily from pixels at the model's size. Every caption has 20 tokens, as long as a long one, since random
weights end none. transformers gets batches of 8, with which it is faster than with one picture at a time. `--quick`
takes a toy. Needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from report import Row, paired, show
from transformers import BlipConfig, BlipForConditionalGeneration

from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import find_card
from sightline.core.models.files import resolve_folder
from sightline.core.models.loading import fp32_graphs
from sightline.core.models.onnx_runtime import OnnxCaptioner
from sightline.core.models.precision import make_int8
from sightline.kit.config import cache_dir

TOKENS = 20
GREEDY = GenerationConfig(beams=1, min_tokens=TOKENS, max_tokens=TOKENS, no_repeat_ngram=0)
BEAM = GenerationConfig(beams=3, min_tokens=TOKENS, max_tokens=TOKENS, no_repeat_ngram=0)
BATCH = 8
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
TOY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy, one pair of runs")
    quick = parser.parse_args().quick
    folder = blip_folder(quick=quick)
    card, exported, graphs = fp32_graphs(find_card(f"dir:{folder}"), resolve_folder(find_card(f"dir:{folder}")))
    captioners = {
        "fp32": OnnxCaptioner(card, exported, graphs=graphs),
        "int8": OnnxCaptioner(card, exported, graphs=make_int8(graphs)),
    }
    model = BlipForConditionalGeneration.from_pretrained(folder, use_safetensors=True).eval()
    side = card.preprocessing.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (2 if quick else 16, side, side, 3), np.uint8)
    values = torch.from_numpy(card.preprocessing.normalise(pixels))
    rows = [
        compare(
            captioner, model, pixels, values, settings=(precision, config, 3 if config is GREEDY and not quick else 1)
        )
        for config in (GREEDY, BEAM)
        for precision, captioner in captioners.items()
    ]
    show("captioning", rows)


def compare(
    captioner: OnnxCaptioner,
    model: Any,
    pixels: NDArray[np.uint8],
    values: torch.Tensor,
    *,
    settings: tuple[str, GenerationConfig, int],
) -> Row:
    precision, config, pairs = settings
    numbers = iter(range(1000))

    def ours() -> Sequence[object]:
        shifted = pixels + np.uint8(next(numbers))  # other pictures each time: the last ones seen are remembered
        return captioner.generate(shifted, config)

    def theirs() -> None:
        for first in range(0, len(values), BATCH):
            batch = values[first : first + BATCH]
            with torch.inference_mode():
                ids = model.generate(batch, min_new_tokens=TOKENS, max_new_tokens=TOKENS, num_beams=config.beams)
            assert ids.shape == (len(batch), TOKENS + 1)

    ours_s, theirs_s, ratio = paired(ours, theirs, pairs=pairs, warm_up=config.beams == 1)
    goal = precision == "int8" and config.beams == 1
    return Row(
        journey=f"caption, BLIP-base {precision}, {TOKENS} tokens, {'greedy' if config.beams == 1 else 'beam 3'}",
        unit="images/s",
        ours=len(pixels) / ours_s,
        other=len(pixels) / theirs_s,
        alternative="transformers generate",
        ratio=ratio,
        goal=">= 3 times" if goal else "",
        reached=ratio >= 3 if goal else None,
    )


def blip_folder(*, quick: bool) -> Path:
    """A folder of blip-image-captioning-base's shapes with random weights, kept in the cache."""
    folder = cache_dir() / "benchmarks" / ("blip-toy-random" if quick else "blip-base-random")
    if not (folder / "preprocessor_config.json").is_file():
        print(f"Making {folder.name}; this is done once.", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            _write(Path(scratch) / "made", quick=quick)
            (Path(scratch) / "made").replace(folder)
    return folder


def _write(folder: Path, *, quick: bool) -> None:
    torch.manual_seed(0)
    side = 64 if quick else 384
    text = {"vocab_size": 30524, "bos_token_id": 30522, "sep_token_id": 102, "pad_token_id": 0, "eos_token_id": 2}
    text |= {"encoder_hidden_size": 64 if quick else 768, **(TOY if quick else {})}
    vision = {"image_size": side, "patch_size": 16, **(TOY if quick else {})}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    names = {number: name for name, number in SPECIAL.items()}
    tokens = [names.get(number, f"word{number}") for number in range(30522)]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    size = {"do_resize": True, "size": {"height": side, "width": side}, "resample": 3}
    values = {**size, "image_mean": mean, "image_std": std}
    (folder / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")


if __name__ == "__main__":
    main()
