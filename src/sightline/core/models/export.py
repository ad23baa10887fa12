"""PyTorch weights -> a model folder with ONNX graphs that the core runs. Needs the extra `torch`.

An encoder's graphs are its two towers. A captioner's are `pixel_values` float (B, 3, S, S) -> `encoder_hidden_states`
(B, M, C), run once an image, and the decoder, run once a token, whose shapes are those of `CachedDecoder`.

Shape suffixes: B images, R rows of each, L tokens, T texts, M cells of an image's memory, C its width, S side.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.core.models.cached_decoder import CachedDecoder, CaptionerParts
from sightline.core.models.cards import ModelCard, write_card
from sightline.core.models.files import CARD_FILE, TOKENIZER_FILES, compute_hash, find_weights, hash_files
from sightline.core.models.torch_models import load_blip, load_towers
from sightline.errors import ModelError
from sightline.kit.files import replacing

_OPSET = 18
BATCH = torch.export.Dim("batch", min=1)


def export_encoder(card: ModelCard, folder_in: Path, folder_out: Path) -> ModelCard:
    """Write `onnx/image.onnx`, `onnx/text.onnx` (fp32), card and tokenizer of an encoder; gives the new card.

    `folder_out` appears complete or not at all, and replaces what stood there. The card records the hash of the
    source's weights, so vectors of both runtimes are of one identity. Raises ModelError where the export fails.
    """
    towers = load_towers(card, folder_in)
    outputs = ("image_embeds", "feature_map") if towers.has_maps else ("image_embeds",)
    with complete_or_absent(folder_out) as partial:
        _export_image(_Part(towers.embed_images, towers=towers), card, partial / "onnx" / "image.onnx", outputs=outputs)
        _export_text(_Part(towers.embed_texts, towers=towers), card, partial / "onnx" / "text.onnx")
        return finish_folder(replace(card, temperature=towers.temperature), folder_in, partial)


def export_captioner(
    card: ModelCard, folder_in: Path, folder_out: Path, *, parts: CaptionerParts | None = None
) -> ModelCard:
    """Write `onnx/image.onnx`, `onnx/decoder.onnx` (fp32), card and tokenizer of a captioner; gives the new card.

    `parts` are those of a captioner that isn't BLIP. `folder_out` appears complete or not at all, and replaces what
    stood there. Raises ModelError where the weights can't be loaded or the export fails.
    """
    parts = parts or load_blip(card, folder_in)
    with complete_or_absent(folder_out) as partial:
        image = _Part(parts.see, model=parts.model)
        path = partial / "onnx" / "image.onnx"
        example_B3SS = _export_image(image, card, path, outputs=("encoder_hidden_states",))
        with torch.inference_mode():
            memory_BMC = image(example_B3SS)
        decoder = CachedDecoder(parts).eval()
        _export_decoder(decoder, card, partial / "onnx" / "decoder.onnx", memory_BMC=memory_BMC)
        return finish_folder(card, folder_in, partial)


class _Part(nn.Module):
    """A function of a model's as a module of its own, which is what the exporter takes.

    The name under which it gets the model begins the names of the weights in the graph.
    """

    def __init__(self, function: Callable[[Tensor], Any], **model: nn.Module) -> None:
        super().__init__()
        for name, module in model.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def _export_image(module: _Part, card: ModelCard, path: Path, *, outputs: Sequence[str]) -> Tensor:
    """Export the image side and give the example that it was traced with."""
    example_B3SS = torch.zeros(2, 3, card.preprocessing.size_px, card.preprocessing.size_px)
    export_graph(module, (example_B3SS,), path, names=(("pixel_values",), outputs), dynamic=({0: BATCH},))
    return example_B3SS


def _export_text(module: _Part, card: ModelCard, path: Path) -> None:
    length = card.text.context_length
    dynamic: dict[int, Any] = {0: BATCH}
    if card.text.padding == "longest":
        dynamic[1] = torch.export.Dim("length", min=2, max=length)
        length = min(length, 7)  # traced at another length than the longest, which would be taken for a constant
    example_TL = torch.full((2, length), card.text.pad_id, dtype=torch.int64)
    export_graph(module, (example_TL,), path, names=(("input_ids",), ("text_embeds",)), dynamic=(dynamic,))


def _export_decoder(module: CachedDecoder, card: ModelCard, path: Path, *, memory_BMC: Tensor) -> None:
    images, rows, earlier, new = len(memory_BMC), 3, 4, 5  # all different, so that none is taken for another
    ids_BRL = torch.full((images, rows, new), card.text.pad_id, dtype=torch.int64)
    past = module.empty_past(images, rows, earlier)
    states = [f"{kind}_{layer}" for layer in range(len(past) // 2) for kind in ("key", "value")]
    names = (
        ("input_ids", "encoder_hidden_states", *(f"past_{state}" for state in states)),
        ("logits", *(f"present_{state}" for state in states)),
    )
    row = torch.export.Dim("rows", min=1)
    length = torch.export.Dim("length", min=1, max=card.text.context_length)
    past_length = torch.export.Dim("past", min=0, max=card.text.context_length)
    past_dynamic = tuple({0: BATCH, 1: row, 3: past_length} for _ in past)
    dynamic: Any = ({0: BATCH, 1: row, 2: length}, {0: BATCH}, past_dynamic)
    export_graph(module, (ids_BRL, memory_BMC.clone(), *past), path, names=names, dynamic=dynamic)


def export_graph(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    path: Path,
    *,
    names: tuple[Sequence[str], Sequence[str]],
    dynamic: tuple[dict[int, Any], ...],
) -> None:
    """Write one ONNX graph; `names` are those of inputs and of outputs, `dynamic` the free dimensions of each input.

    Raises ModelError where the export fails.
    """
    inputs, outputs = names
    try:
        with _quiet():
            torch.onnx.export(
                module.eval(),
                examples,
                str(path),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dynamic,
                opset_version=_OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever went wrong in classes of its own
        raise ModelError(
            f"The ONNX export of {path.stem} failed: {type(error).__name__}: {str(error).splitlines()[0]}. "
            "In Python, load_encoder and load_captioner with runtime='torch' run the weights themselves."
        ) from error


@contextlib.contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when the block ends well, and is removed otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as partial:
        (partial / "onnx").mkdir(parents=True)
        yield partial
        if folder.exists() and any(folder.iterdir()) and not (folder / CARD_FILE).is_file():
            raise ModelError(f"{folder} is not empty and holds no model; give an empty or a new folder.")


def finish_folder(card: ModelCard, folder_in: Path, partial: Path) -> ModelCard:
    """Add tokenizer and card to a folder with graphs; the card, with the hashes of the graphs and of the weights."""
    for name in TOKENIZER_FILES:
        if (folder_in / name).is_file():
            shutil.copyfile(folder_in / name, partial / name)
    files = {f"onnx/{path.name}": compute_hash(path) for path in sorted((partial / "onnx").iterdir())}
    weights_hash = card.weights_hash or hash_files(find_weights(folder_in))
    finished = replace(card, weights_hash=weights_hash, onnx=None, files=files)
    write_card(partial, finished)
    return finished


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks about its own passes on stdout, in warnings and in logs; none of it is the user's business."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
