"""PyTorch weights -> a model folder with ONNX graphs that the core runs without torch. Needs the extra `torch`."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sightline.errors import ModelError
from sightline.models.base import ModelCard
from sightline.models.cards import CARD_FILE, write_card
from sightline.models.hashes import compute_hash, hash_files
from sightline.models.layout import TOKENIZER_FILES, find_weights
from sightline.models.torch_encoder import Towers, load_towers

_OPSET = 18


def export_encoder(card: ModelCard, folder_in: Path, folder_out: Path) -> ModelCard:
    """Write `onnx/image.onnx`, `onnx/text.onnx` (fp32), card and tokenizer of an encoder; gives the new card.

    `folder_out` appears complete or not at all, and replaces what stood there. The card records the hash of the
    source's weights, so vectors of both runtimes are of one identity. Raises ModelError where the export fails.
    """
    towers = load_towers(card, folder_in)
    exported = replace(
        card,
        temperature=towers.temperature,
        weights_hash=card.weights_hash or hash_files(find_weights(folder_in)),
        onnx=None,
        files={},
    )
    with _complete_or_absent(folder_out) as partial:
        (partial / "onnx").mkdir()
        _export_image(towers, card, partial / "onnx" / "image.onnx")
        _export_text(towers, card, partial / "onnx" / "text.onnx")
        for name in TOKENIZER_FILES:
            if (folder_in / name).is_file():
                shutil.copyfile(folder_in / name, partial / name)
        files = {f"onnx/{path.name}": compute_hash(path) for path in sorted((partial / "onnx").iterdir())}
        exported = replace(exported, files=files)
        write_card(partial, exported)
    return exported


class _Method(torch.nn.Module):
    """One method of the towers as a module of its own, which is what the exporter takes."""

    def __init__(self, towers: Towers, method: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.towers = towers
        self.method = method

    def forward(self, x: torch.Tensor) -> Any:
        return self.method(x)


def _export_image(towers: Towers, card: ModelCard, path: Path) -> None:
    side = card.preprocessing.size_px
    example = torch.zeros(2, 3, side, side)
    _export(
        _Method(towers, towers.embed_images),
        example,
        path,
        inputs=["pixel_values"],
        outputs=["image_embeds", "feature_map"] if towers.has_maps else ["image_embeds"],
        dynamic={0: torch.export.Dim("batch", min=1)},
    )


def _export_text(towers: Towers, card: ModelCard, path: Path) -> None:
    length = card.text.context_length
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if card.text.padding == "longest":
        dynamic[1] = torch.export.Dim("length", min=2, max=length)
        length = min(length, 7)  # traced at another length than the longest, which would be taken for a constant
    example = torch.full((2, length), card.text.pad_id, dtype=torch.int64)
    _export(
        _Method(towers, towers.embed_texts),
        example,
        path,
        inputs=["input_ids"],
        outputs=["text_embeds"],
        dynamic=dynamic,
    )


def _export(
    module: torch.nn.Module,
    example: torch.Tensor,
    path: Path,
    *,
    inputs: list[str],
    outputs: list[str],
    dynamic: Mapping[int, Any],
) -> None:
    try:
        with _quiet():
            torch.onnx.export(
                module.eval(),
                (example,),
                str(path),
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=(dict(dynamic),),
                opset_version=_OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever went wrong in classes of its own
        raise ModelError(
            f"The ONNX export of {path.stem} failed: {type(error).__name__}: {str(error).splitlines()[0]}. "
            "Run the model in PyTorch instead: runtime `torch`."
        ) from error


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


@contextlib.contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when the block ends well, and is removed otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        if folder.exists():
            if any(folder.iterdir()) and not (folder / CARD_FILE).is_file():
                raise ModelError(f"{folder} is not empty and holds no model; give an empty or a new folder.")
            shutil.rmtree(folder)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
