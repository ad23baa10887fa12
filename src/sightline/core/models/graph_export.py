"""What exporting encoders and captioners shares: one graph, and a model folder that appears complete or not at all.

Needs the extra `torch`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sightline.core.models.base import ModelCard
from sightline.core.models.cards import CARD_FILE, write_card
from sightline.core.models.hashes import compute_hash, hash_files
from sightline.core.models.layout import TOKENIZER_FILES, find_weights
from sightline.errors import ModelError

_OPSET = 18
BATCH = torch.export.Dim("batch", min=1)


def export_graph(
    module: torch.nn.Module,
    examples: tuple[torch.Tensor, ...],
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
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (partial / "onnx").mkdir()
        yield partial
        if folder.exists():
            if any(folder.iterdir()) and not (folder / CARD_FILE).is_file():
                raise ModelError(f"{folder} is not empty and holds no model; give an empty or a new folder.")
            shutil.rmtree(folder)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
