"""From trained folders to those that ship: graphs in int8, tokenizer, config, and a card with what was measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bank import make_bank
from captioner import TOKENIZER
from classes import load_classes
from corpus import SPEC, Corpus
from features import as_images, cached_pixels, normalise
from figures import caption_figures, clip_figures, demo_figures, images_per_s, subject_figures
from lite_captioner import LiteCaptioner, OwnParts
from numpy.typing import NDArray
from published import MEAN, STD
from shrinking import shrink
from torch import from_numpy

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.bank import BANK_FILE
from sightline.core.models.cards import ModelCard, read_card, write_card
from sightline.core.models.export import export_captioner, export_encoder
from sightline.core.models.files import compute_hash
from sightline.core.models.lite import TRANSPOSED, LiteClip
from sightline.core.models.loading import load_captioner, load_encoder
from sightline.core.models.precision import write_int8
from sightline.core.models.quantise.towers import quantise_static
from sightline.lab.evaluation.embedding import embed_images
from sightline.lab.training.towers import text_spec

N_CALIBRATION = 400
_WRAPPED = "towers.model."
"""What the exporter puts before the names."""
_WITH_ZERO_POINT = 3
"""Inputs of a node that turns whole numbers back, where it has a zero point."""
N_NAMED = 1000
"""Pictures of Tiny ImageNet that the figures are of."""
LICENCE = (
    "Not MIT: changed from EfficientNet-Lite2 and all-MiniLM-L6-v2 (Apache-2.0) with Flickr8k; "
    "for non-commercial research and education. See the LICENSE and NOTICE beside this folder."
)


def write_clip(model: LiteClip, corpus: Corpus) -> Path:
    """The trained CLIP as a model folder that PyTorch runs and `sightline train --init dir:` starts from."""
    return _write_trained(
        model, corpus.folder / "trained", corpus.tokenizer_folder, name="starter", kind="encoder",
        family="sightline-clip", text=SPEC, dim=model.config.dim, temperature=float(model.logit_scale.detach().exp()),
    )  # fmt: skip


def export_clip(trained: Path, corpus: Corpus) -> Path:
    """Write `export/clip` as it ships; the same in fp32 lies beside it in `export/fp32/clip`."""
    card, fp32, folder = _export(export_encoder, trained, corpus, "clip")
    model = LiteClip.from_pretrained(trained)
    for graph in (fp32 / "onnx").glob("*.onnx"):
        name_weights(graph, model)
    _write(fp32, card)
    _quantise_image(fp32, folder, corpus, card.preprocessing.size_px)
    _quantise_text(fp32 / "onnx" / "text.onnx", folder / "onnx" / "text.int8.onnx")
    for graph in (folder / "onnx").iterdir():
        strip(graph)
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(fp32 / name, folder / name)
    _write(folder, replace(card, weights_hash=None))
    encoder = load_encoder(f"dir:{folder}")
    images_ND = embed_images(encoder, corpus.held_out).image_BD
    make_bank(folder / BANK_FILE, encoder, corpus.told, load_classes(), images_ND=images_ND)
    _write(folder, replace(card, weights_hash=None))
    sets = {"flickr8k_val": corpus.val, "coco_mini": corpus.coco}
    figures: dict[str, Any] = {}
    for precision, path in (("int8", folder), ("fp32", fp32)):
        encoder = load_encoder(f"dir:{path}")
        measured = clip_figures(encoder, sets, corpus.tiny("val", N_NAMED))
        figures[precision] = measured | {"images_per_s": images_per_s(encoder, corpus.val)}
    shipped = load_encoder(f"dir:{folder}")
    figures |= {"subjects": subject_figures(shipped, corpus.val), "demo": demo_figures(f"dir:{folder}")}
    _write(folder, replace(card, figures=figures, weights_hash=None))
    return folder


def write_captioner(model: LiteCaptioner, corpus: Corpus) -> Path:
    """The trained captioner as a model folder that PyTorch runs."""
    return _write_trained(
        model, corpus.folder / "captioner", corpus.folder / TOKENIZER, name="starter-captioner", kind="captioner",
        family="sightline-captioner", text=text_spec(model.config.context_length),
    )  # fmt: skip


def export_captions(trained: Path, corpus: Corpus) -> Path:
    """Write `export/captioner` as it ships; the same in fp32 lies beside it in `export/fp32/captioner`."""
    card, fp32, folder = _export(_export_captioner, trained, corpus, "captioner")
    _quantise_image(fp32, folder, corpus, card.preprocessing.size_px)
    write_int8(fp32 / "onnx" / "decoder.onnx", folder / "onnx" / "decoder.int8.onnx")
    shrink(folder / "onnx" / "decoder.int8.onnx")
    for graph in (folder / "onnx").iterdir():
        strip(graph)
        shorten(graph)
    shutil.copyfile(fp32 / "config.json", folder / "config.json")
    tokenizer = json.loads((fp32 / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, separators=(",", ":")), encoding="utf-8")
    _write(folder, replace(card, weights_hash=None))
    sets = {"flickr8k_val": corpus.val, "coco_mini": corpus.coco}
    figures = {
        precision: caption_figures(load_captioner(f"dir:{path}"), sets)
        for precision, path in (("int8", folder), ("fp32", fp32))
    }
    _write(folder, replace(card, figures=figures, weights_hash=None))
    return folder


def _export_captioner(card: ModelCard, trained: Path, folder: Path) -> ModelCard:
    return export_captioner(card, trained, folder, parts=OwnParts(LiteCaptioner.from_pretrained(trained)))


def _write_trained(model: LiteClip | LiteCaptioner, folder: Path, tokenizer_folder: Path, **own: Any) -> Path:
    """Weights, tokenizer and card; `own` is what the cards of the two differ in."""
    model.save_pretrained(folder)
    shutil.copyfile(tokenizer_folder / "tokenizer.json", folder / "tokenizer.json")
    preprocessing = Preprocessing(size_px=model.config.size_px, resize_mode="squash", mean=MEAN, std=STD)
    write_card(folder, ModelCard(source="package", preprocessing=preprocessing, licence=LICENCE, **own))
    return folder


def _export(
    export: Callable[[ModelCard, Path, Path], ModelCard], trained: Path, corpus: Corpus, name: str
) -> tuple[ModelCard, Path, Path]:
    """The card, the folder of the graphs in fp32 with their weights, and the empty one of those that will ship."""
    fp32, folder = corpus.folder / "export" / "fp32" / name, corpus.folder / "export" / name
    card = export(read_card(trained), trained, fp32)
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(trained / file, fp32 / file)
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    return card, fp32, folder


def install(folder: Path, package_folder: Path) -> None:
    """Put a finished folder where it ships, each file replaced at once; the card, which holds the hashes, last."""
    files = sorted(
        (file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name == "sightline.json"
    )
    for file in files:
        target = package_folder / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(file, partial)
        partial.replace(target)


def name_weights(path: Path, model: LiteClip) -> None:
    """Give weights the names that they have in the module, by which `LiteClip.from_graphs` finds them."""
    graph = onnx.load(path)
    transposed = {name: value.T.numpy() for name, value in model.state_dict().items() if value.ndim == 2}
    renamed = {}
    for tensor in graph.graph.initializer:
        before = tensor.name
        if before.startswith(_WRAPPED):
            tensor.name = before.removeprefix(_WRAPPED)
        else:
            value = onnx.numpy_helper.to_array(tensor)
            name = next((name for name, other in transposed.items() if np.array_equal(value, other)), None)
            tensor.name = f"{name}{TRANSPOSED}" if name else before
        renamed[before] = tensor.name
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    onnx.save(graph, path)


def strip(path: Path) -> None:
    """Drop what the exporter notes of each node's origin, and zero points of weights that are zero, as none are.

    Half a megabyte that nobody runs, and five bytes for each channel.
    """
    model = onnx.load(path)
    graph = model.graph
    graph.ClearField("value_info")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for field in ("metadata_props", "doc_string", "name"):
            node.ClearField(field)
        is_weight = node.op_type == "DequantizeLinear" and len(node.input) == _WITH_ZERO_POINT
        if is_weight and node.input[0] in constants and not _values(constants[node.input[2]]).any():
            del node.input[2]
    used = {name for node in graph.node for name in node.input}
    for name in set(constants) - used:
        graph.initializer.remove(constants[name])
    onnx.save(model, path)


def _values(tensor: onnx.TensorProto) -> NDArray[Any]:
    values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    return values


def _quantise_text(fp32: Path, int8: Path) -> None:
    """Signed int8 weights for each output channel, activations measured while it runs.

    Against unsigned weights with one scale for the whole tensor this is twice as fast on ViT-B/32, and closer to fp32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(fp32)
    model.graph.ClearField("value_info")  # shapes that torch's exporter recorded: the quantiser's own contradict them
    quantize_dynamic(model, int8, per_channel=True, weight_type=QuantType.QInt8)


def _quantise_image(fp32: Path, folder: Path, corpus: Corpus, size_px: int) -> None:
    """Convolutions in int8; what comes after them computes in fp32, since it costs little and would lose most."""
    graph = folder / "onnx" / "image.int8.onnx"
    quantise_static(fp32 / "onnx" / "image.onnx", graph, _calibration(corpus, size_px))
    shrink(graph)


def shorten(path: Path) -> None:
    """Give all values but the graph's inputs and outputs short names: half a megabyte of names that nobody asks for."""
    model = onnx.load(path)
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    names = dict.fromkeys(
        [tensor.name for tensor in graph.initializer] + [name for node in graph.node for name in node.output]
    )
    short = {name: f"v{number}" for number, name in enumerate(name for name in names if name not in kept)}
    for tensor in graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)
    for node in graph.node:
        for several in (node.input, node.output):
            several[:] = [short.get(name, name) for name in several]
    onnx.save(model, path)


def _calibration(corpus: Corpus, size_px: int) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Training pictures, evenly spread over the split."""
    pixels_NSS3 = cached_pixels(corpus.train, size_px)
    chosen = pixels_NSS3[:: max(1, len(pixels_NSS3) // N_CALIBRATION)][:N_CALIBRATION]
    for start in range(0, len(chosen), 20):
        image_B3SS = normalise(as_images(from_numpy(np.array(chosen[start : start + 20]))))
        yield {"pixel_values": image_B3SS.contiguous().numpy()}


def _write(folder: Path, card: ModelCard) -> None:
    """Write the card with everyone's hash."""
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "sightline.json"
    )
    write_card(folder, replace(card, files={name: compute_hash(folder / name) for name in names}))
