"""The table of known models in `docs/models.md`, made from `cards.toml`: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from sightline.errors import InputError
from sightline.models.base import ModelCard
from sightline.models.registry import known_cards

BEGIN, END = "<!-- begin generated: make docs -->", "<!-- end generated -->"

_HEADER = (
    "| name | weights | input | dim | runs without PyTorch | licence | published figure |\n"
    "|---|---|---|---|---|---|---|"
)


def models_table() -> str:
    """Markdown: one row for each model on the hub that is known by a bare name."""
    rows = [_row(card) for card in known_cards().values() if card.source != "package"]
    return "\n".join([_HEADER, *rows])


def _row(card: ModelCard) -> str:
    source = f"[{card.source}](https://huggingface.co/{card.source})"
    preprocessing = card.preprocessing
    size = f"{preprocessing.size_px} px, {preprocessing.resize_mode}"
    export = "yes" if card.onnx else "after one export"
    cells = [f"`{card.name}`", source, size, str(card.dim or "-"), export, card.licence, _figure(card)]
    return f"| {' | '.join(cells)} |"


def _figure(card: ModelCard) -> str:
    figures = [f"{name} {value}" for name, value in card.figures.items() if name != "source"]
    return f"{', '.join(figures)} ({card.figures['source']})"


def write_table(page: Path) -> None:
    """Put the table between its marks in a page. Raises InputError where the marks are missing."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise InputError(f"{page} lacks the lines that mark the generated table: {BEGIN} and {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{models_table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
