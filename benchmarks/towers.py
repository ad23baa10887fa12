"""The two towers of CLIP ViT-B/32's shapes alone, without decoding: ours against transformers called plainly.

Ours is the encoder as indexing and searching use it, from uint8 pixels and from words to unit vectors. The other is
`CLIPModel` in PyTorch fp32 under `inference_mode`, pixels normalised by the same numpy code, token ids padded to CLIP's
77 and its tokenizer's time left out. Weights are random: time doesn't depend on them. The limit is a large product of
matrices in the same run, in the same arithmetic.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from int8_graphs import int8_encoder
from model_shapes import WORDS, vit_b32_folder
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from report import Row, paired, seconds, show
from transformers import CLIPConfig, CLIPModel

from sightline.core.models.base import Encoder
from sightline.core.models.loading import load_encoder
from sightline.core.models.onnx_runtime import run_in_memory

_IMAGE_GMAC = 4.41
"""Multiplications (1e9) of ViT-B/32's image tower for a picture, in products with weights and in attention."""
_CONTEXT_LENGTH = 77
_SIDE_PX = 224


def main() -> None:
    """Measure and show all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds")
    quick = parser.parse_args().quick
    folder = vit_b32_folder()
    encoders: dict[str, Encoder] = {
        "fp32": load_encoder(f"dir:{folder}", precision="fp32"),
        "int8": int8_encoder(folder),
    }
    plain = _Plain()
    giga_s = {"fp32": _giga_s("MatMul"), "int8": _giga_s("MatMulInteger")}
    rows = []
    for precision, encoder in encoders.items():
        rows.append(_images(precision, encoder, plain, giga_s[precision], quick=quick))
    for precision, encoder in encoders.items():
        rows += _texts(precision, encoder, plain, quick=quick)
    rows.append(_starter(encoders["int8"], quick=quick))
    show("towers", rows)


class _Plain:
    """transformers, called as its documentation does."""

    def __init__(self) -> None:
        ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
        torch.manual_seed(0)
        self.model = CLIPModel(CLIPConfig(text_config=ids, projection_dim=512)).eval()

    @torch.inference_mode()
    def encode_images(self, planes_B3SS: NDArray[np.float32]) -> None:
        """Normalised pixels -> features."""
        self.model.get_image_features(pixel_values=torch.from_numpy(planes_B3SS))

    @torch.inference_mode()
    def encode_texts(self, ids_TL: NDArray[np.int64]) -> None:
        """Token ids, padded to 77 -> features."""
        padded_TL = np.full((len(ids_TL), _CONTEXT_LENGTH), 49407, np.int64)
        padded_TL[:, : ids_TL.shape[1]] = ids_TL
        self.model.get_text_features(input_ids=torch.from_numpy(padded_TL))


def _images(precision: str, encoder: Encoder, plain: _Plain, giga_s: float, *, quick: bool) -> Row:
    count, pairs = (8, 1) if quick else (64, 5)
    pixels = np.random.default_rng(0).integers(0, 256, (count, _SIDE_PX, _SIDE_PX, 3), dtype=np.uint8)
    normalise = encoder.card.preprocessing.normalise

    def transformers_way() -> None:
        for start in range(0, count, 32):
            plain.encode_images(normalise(pixels[start : start + 32]))

    ours_s, other_s, ratio = paired(lambda: encoder.encode_images(pixels), transformers_way, pairs=pairs)
    goal = {"fp32": 1.3, "int8": 3.0}[precision]
    limit = giga_s / _IMAGE_GMAC
    return Row(
        journey=f"image tower, ViT-B/32 shapes, {precision}",
        unit="images/s",
        ours=count / ours_s,
        other=count / other_s,
        alternative="transformers, PyTorch fp32",
        ratio=ratio,
        goal=f">= {goal:g}",
        reached=ratio >= goal,
        limit=f"{limit:.0f} images/s at the {giga_s:,.0f} GMAC/s of a large product in {precision}",
    )


def _starter(other: Encoder, *, quick: bool) -> Row:
    """The starter's image tower beside that of ViT-B/32 in int8, from pixels that are already of each one's size."""
    count, pairs = (8, 1) if quick else (64, 5)
    starter = load_encoder("starter")
    given = {
        encoder: np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        for encoder in (starter, other)
        for side in (encoder.card.preprocessing.size_px,)
    }
    ours_s, other_s, ratio = paired(
        lambda: starter.encode_images(given[starter]), lambda: other.encode_images(given[other]), pairs=pairs
    )
    return Row(
        journey="image tower, the starter",
        unit="images/s",
        ours=count / ours_s,
        other=count / other_s,
        alternative="ViT-B/32 shapes, int8",
        ratio=ratio,
        goal=">= 1.3",
        reached=ratio >= 1.3,
    )


def _texts(precision: str, encoder: Encoder, plain: _Plain, *, quick: bool) -> list[Row]:
    several = [" ".join(WORDS[: 2 + number % 4]) for number in range(8 if quick else 64)]
    return [
        _text_row(f"text tower, a query of {len(WORDS)} words, {precision}", encoder, plain, [" ".join(WORDS)], quick),
        _text_row(f"text tower, {len(several)} captions, {precision}", encoder, plain, several, quick),
    ]


def _text_row(journey: str, encoder: Encoder, plain: _Plain, texts: list[str], quick: bool) -> Row:
    ids_TL = np.full((len(texts), 7), 49407, np.int64)  # what they are doesn't matter to a causal tower's time
    repeats = 1 if quick or len(texts) > 1 else 10
    ours, other = (
        _repeated(run, repeats) for run in (lambda: encoder.encode_texts(texts), lambda: plain.encode_texts(ids_TL))
    )
    ours_s, other_s, ratio = paired(ours, other, pairs=1 if quick else 7)
    return Row(
        journey=journey,
        unit="ms",
        ours=1e3 * ours_s / repeats,
        other=1e3 * other_s / repeats,
        alternative=f"transformers, PyTorch fp32, padded to {_CONTEXT_LENGTH}",
        ratio=ratio,
    )


def _repeated(run: Callable[[], Any], times: int) -> Callable[[], None]:
    def all_of_them() -> None:
        for _ in range(times):
            run()

    return all_of_them


def _giga_s(operator: str, *, size: int = 1536, products: int = 6) -> float:
    """Multiplications a second (1e9) of an operator's product of two square matrices: the best of several runs.

    A run holds several products, with other weights each, so that feeding it counts little.
    """
    kinds = (np.float32, np.float32) if operator == "MatMul" else (np.uint8, np.int8)
    weights = [numpy_helper.from_array(np.full((size, size), n + 1, kinds[1]), f"w{n}") for n in range(products)]
    nodes = []
    for n in range(products):
        nodes.append(helper.make_node(operator, ["x", f"w{n}"], [f"p{n}"]))
        nodes.append(helper.make_node("ReduceMax", [f"p{n}"], [f"m{n}"], keepdims=0))
        nodes.append(helper.make_node("Cast", [f"m{n}"], [f"f{n}"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Sum", [f"f{n}" for n in range(products)], ["y"]))
    declared = helper.np_dtype_to_tensor_dtype(np.dtype(kinds[0]))
    inputs = [helper.make_tensor_value_info("x", declared, [size, size])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    runs = run_in_memory(model, itertools.repeat({"x": np.full((size, size), 3, kinds[0])}), ["y"])
    next(runs)
    return products * size**3 / min(seconds(lambda: next(runs)) for _ in range(8)) / 1e9


if __name__ == "__main__":
    main()
