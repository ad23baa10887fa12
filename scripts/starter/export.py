"""From trained modules to the folders that ship: ONNX graphs in int8, the card, the config and the tokenizer."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from augment import MEAN, STD, normalise
from beam import beam_search
from corpus import BOS_ID, CONTEXT_LENGTH, EOS_ID, PAD_ID, Corpus, squash, token_rows, with_plain_accents
from measure import caption_figures, retrieval
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sightline.models.convolutional import ConvCaptioner, ConvClip
from sightline.models.quantise import quantise_dynamic, quantise_static

LICENCE = (
    "Not MIT: weights trained on Flickr8k, Tiny ImageNet and Flickr30k's captions; "
    "for non-commercial research and education. See the LICENSE beside this folder."
)
N_CALIBRATION = 400


class _ImageGraph(nn.Module):
    """The CLIP's image side as a graph: pixels -> unit vectors and the joint-space map."""

    def __init__(self, model: ConvClip) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_images(pixel_values)


class _TextGraph(nn.Module):
    """The CLIP's text side as a graph."""

    def __init__(self, model: ConvClip) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model.encode_texts(input_ids)


class _CellsGraph(nn.Module):
    """The captioner's image side as a graph."""

    def __init__(self, model: ConvCaptioner) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_images(pixel_values)


class _DecoderGraph(nn.Module):
    """The captioner's decoder as a graph."""

    def __init__(self, model: ConvCaptioner) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.model.decode(input_ids, encoder_hidden_states)


def export_clip(model: ConvClip, corpus: Corpus, output: Path) -> Path:
    """Write `output/clip` as it ships, and the fp32 graphs and weights into `output/fp32/clip`; return the first."""
    model.eval()
    model.save_pretrained(output / "fp32" / "clip")
    fp32, folder = output / "fp32" / "clip" / "onnx", output / "clip"
    pixels, ids = torch.zeros(3, 3, model.config.size_px, model.config.size_px), torch.full((3, 7), BOS_ID)
    _export(_ImageGraph(model), {"pixel_values": pixels}, ["image_embeds", "feature_map"], fp32 / "image.onnx")
    _export(_TextGraph(model), {"input_ids": ids}, ["text_embeds"], fp32 / "text.onnx")
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    quantise_static(
        fp32 / "image.onnx", folder / "onnx" / "image.int8.onnx", _calibration(corpus, model.config.size_px)
    )
    quantise_dynamic(fp32 / "text.onnx", folder / "onnx" / "text.int8.onnx")
    figures = {
        "measured_on": f"Flickr8k val, {len(corpus.val_captions)} images, {len(corpus.val_captions) * 5} captions",
        "int8": clip_figures(folder / "onnx" / "image.int8.onnx", folder / "onnx" / "text.int8.onnx", corpus),
        "fp32": clip_figures(fp32 / "image.onnx", fp32 / "text.onnx", corpus),
    }
    card = {"name": "starter", "kind": "encoder", "family": "sightline-clip", "dim": model.config.dim}
    rest = {"figures": figures, "temperature": round(model.logit_scale.exp().item(), 4)}
    _finish(folder, model.config.to_dict(), card, rest, corpus)
    return folder


def export_captioner(model: ConvCaptioner, corpus: Corpus, output: Path) -> Path:
    """Write `output/captioner` as it ships, and the fp32 graphs and weights into `output/fp32/captioner`."""
    model.eval()
    model.save_pretrained(output / "fp32" / "captioner")
    fp32, folder = output / "fp32" / "captioner" / "onnx", output / "captioner"
    config = model.config
    n_cells = (config.size_px // 2 ** len(config.image_blocks)) ** 2
    pixels = torch.zeros(3, 3, config.size_px, config.size_px)
    ids, cells = torch.full((3, 7), BOS_ID), torch.zeros(3, n_cells, config.cell_width)
    _export(_CellsGraph(model), {"pixel_values": pixels}, ["encoder_hidden_states"], fp32 / "image.onnx")
    _export(_DecoderGraph(model), {"input_ids": ids, "encoder_hidden_states": cells}, ["logits"], fp32 / "decoder.onnx")
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    quantise_static(fp32 / "image.onnx", folder / "onnx" / "image.int8.onnx", _calibration(corpus, config.size_px))
    quantise_dynamic(fp32 / "decoder.onnx", folder / "onnx" / "decoder.int8.onnx")
    int8, captions = captioner_figures(
        folder / "onnx" / "image.int8.onnx", folder / "onnx" / "decoder.int8.onnx", corpus
    )
    full, _ = captioner_figures(fp32 / "image.onnx", fp32 / "decoder.onnx", corpus)
    (output / "val-captions.json").write_text(json.dumps(captions, indent=1), encoding="utf-8")
    figures = {
        "measured_on": f"Flickr8k val, {len(corpus.val_captions)} images, beam 3, no repeated 3-gram",
        "int8": int8,
        "fp32": full,
    }
    card = {"name": "starter-captioner", "kind": "captioner", "family": "sightline-captioner"}
    _finish(folder, config.to_dict(), card, {"figures": figures}, corpus)
    return folder


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


def clip_figures(image_graph: Path, text_graph: Path, corpus: Corpus) -> dict[str, float]:
    """Recall both ways among the val images, and images a second in batches of 32, decoding left out."""
    image, text = session(image_graph), session(text_graph)
    ids = token_rows(corpus.tokenizer, [caption for captions in corpus.val_captions for caption in captions])
    embeds_BD, images_per_s = _timed(lambda pixels: image.run(["image_embeds"], {"pixel_values": pixels})[0], corpus)
    texts = [
        text.run(None, {"input_ids": ids[start : start + 64, : int((ids[start : start + 64] != PAD_ID).sum(1).max())]})[
            0
        ]
        for start in range(0, len(ids), 64)
    ]
    owners = np.repeat(np.arange(len(corpus.val_captions)), 5)
    return {**retrieval(embeds_BD, np.concatenate(texts), owners), "images_per_s": images_per_s}


def captioner_figures(image_graph: Path, decoder_graph: Path, corpus: Corpus) -> tuple[dict[str, float], list[str]]:
    """CIDEr and BLEU-4 of beam-3 captions of the val images, images captioned a second, and the captions."""
    image, decoder = session(image_graph), session(decoder_graph)
    cells_BNC, _ = _timed(lambda pixels: image.run(None, {"pixel_values": pixels})[0], corpus)
    started = time.perf_counter()
    captions = []
    for start in range(0, len(cells_BNC), 50):
        batch = cells_BNC[start : start + 50]

        def logits(
            ids: NDArray[np.int64], rows: NDArray[np.int64], batch: NDArray[np.float32] = batch
        ) -> NDArray[np.float32]:
            run: NDArray[np.float32] = decoder.run(None, {"input_ids": ids, "encoder_hidden_states": batch[rows]})[0]
            return run[:, -1]

        captions += [corpus.tokenizer.decode(ids) for ids in beam_search(logits, len(batch))]
    seconds = time.perf_counter() - started
    figures = caption_figures(captions, corpus.val_captions)
    return {**figures, "captions_per_s": round(len(captions) / seconds, 1)}, captions


def session(graph: Path) -> onnxruntime.InferenceSession:
    """A CPU session on two threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path) -> None:
    """Export with every batch and length dynamic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1, max=CONTEXT_LENGTH)
    shapes = {name: {0: batch, 1: length} if name == "input_ids" else {0: batch} for name in inputs}
    torch.onnx.export(
        module.eval(), (), path, kwargs=inputs, input_names=list(inputs), output_names=outputs, dynamo=True,
        dynamic_shapes=shapes, external_data=False, verbose=False,
    )  # fmt: skip


def _calibration(corpus: Corpus, size_px: int) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Training images, squashed as the runtime does it, evenly spread over the split."""
    files = corpus.train_files[:: max(1, len(corpus.train_files) // N_CALIBRATION)][:N_CALIBRATION]
    for start in range(0, len(files), 20):
        pixels = []
        for file in files[start : start + 20]:
            with Image.open(file) as image:
                pixels.append(squash(image, size_px))
        yield {"pixel_values": normalise(np.stack(pixels)).contiguous().numpy()}


def _timed(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], corpus: Corpus
) -> tuple[NDArray[np.float32], float]:
    """The outputs for all val images, and the images a second in the fastest tenth of the batches."""
    outputs, rates = [], []
    for start in range(0, len(corpus.val_pixels), 32):
        pixels = normalise(corpus.val_pixels[start : start + 32]).contiguous().numpy()
        started = time.perf_counter()
        outputs.append(run(pixels))
        rates.append(len(pixels) / (time.perf_counter() - started))
    return np.concatenate(outputs), round(float(np.quantile(rates, 0.9)), 1)


def _finish(folder: Path, config: dict[str, Any], card: dict[str, Any], rest: dict[str, Any], corpus: Corpus) -> None:
    """Write tokenizer, config and, with everyone's hash, the card."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with_plain_accents(corpus.tokenizer).save(str(folder / "tokenizer.json"))
    names = sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.name != "sightline.json"
    )
    image = {"size_px": config["size_px"], "resize": "squash", "interpolation": "bicubic", "mean": MEAN, "std": STD}
    text = {"context_length": CONTEXT_LENGTH, "pad_id": PAD_ID, "bos_id": BOS_ID, "eos_id": EOS_ID}
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    whole = {
        **card,
        "image": image,
        "text": text,
        "licence": LICENCE,
        "source": "package",
        "paper": None,
        **rest,
        "files": hashes,
    }
    (folder / "sightline.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
