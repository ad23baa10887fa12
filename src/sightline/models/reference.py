"""The table of known models in `docs/models.md`, made from `cards.toml`: `python -m sightline.models.reference`."""

from __future__ import annotations

from sightline.models.base import ModelCard
from sightline.models.registry import known_cards

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


if __name__ == "__main__":
    print(models_table())
