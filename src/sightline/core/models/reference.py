"""Tables of `docs/models.md`, made from `cards.toml` and the starter's own cards: `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.core.models.cards import STARTER, STARTER_CAPTIONER, ModelCard, find_card, known_cards
from sightline.core.models.files import resolve_folder
from sightline.errors import InputError

_BEGIN, _END = "<!-- begin generated {name}: make docs -->", "<!-- end generated {name} -->"

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
    export = "no" if card.kind == "matcher" else "yes" if card.onnx else "after one export"
    figures = ", ".join(f"{name} {value}" for name, value in card.figures.items() if name != "source")
    published = f"{figures} ({card.figures['source']})" if figures else "-"
    cells = [f"`{card.name}`", source, size, str(card.dim or "-"), export, card.licence, published]
    return f"| {' | '.join(cells)} |"


def starter_tables() -> str:
    """Markdown: what was measured of the pair that ships, from its cards."""
    clip, captioner = (find_card(name).figures for name in (STARTER, STARTER_CAPTIONER))
    lines = ["| R@1 / R@5 / R@10, % | text to image | image to text |", "|---|---|---|"]
    for precision in ("int8", "fp32"):
        for data, shown in (("flickr8k_val", "Flickr8k val, 1,000 pictures"), ("coco_mini", "coco-mini, 80 pictures")):
            cells = [_recalls(clip[precision][data], way) for way in ("image_retrieval", "text_retrieval")]
            lines.append(f"| {shown}, {precision} | {' | '.join(cells)} |")
    lines += ["", "| | int8 | fp32 |", "|---|---|---|"]
    for label, data, name in (
        ("zero-shot top-1 over 200 names, Tiny ImageNet val", "tiny_imagenet_val", "acc1"),
        ("the same, top-5", "tiny_imagenet_val", "acc5"),
        ("generated captions' CIDEr on Flickr8k val, beam 3", "flickr8k_val", "CIDEr"),
        ("their BLEU-4", "flickr8k_val", "Bleu_4"),
        ("their CIDEr on coco-mini", "coco_mini", "CIDEr"),
        ("those whose head noun people use of the picture, Flickr8k val", "flickr8k_val", "head_noun"),
        ('the same for the constant caption "a man"', "flickr8k_val", "head_noun_constant"),
        ("those whose head noun people use of the picture, coco-mini", "coco_mini", "head_noun"),
        ('the same for the constant caption "a man"', "coco_mini", "head_noun_constant"),
        ("their nouns that people use of the picture, Flickr8k val", "flickr8k_val", "nouns"),
        ("their nouns that people use of the picture, coco-mini", "coco_mini", "nouns"),
    ):
        figures = clip if name.startswith("acc") else captioner
        lines.append(f"| {label} | {' | '.join(_percent(figures[p][data][name]) for p in ('int8', 'fp32'))} |")
    for label, figures, name in (
        ("images a second, 2 cores", clip, "images_per_s"),
        ("captions a second, 2 cores, beam 3", captioner, "captions_per_s"),
    ):
        lines.append(f"| {label} | {' | '.join(f'{figures[p][name]:,.0f}' for p in ('int8', 'fp32'))} |")
    sizes = []
    for name in (STARTER, STARTER_CAPTIONER):
        files = resolve_folder(find_card(name)).rglob("*")
        sizes.append(f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e6:.1f} MB")
    lines.append(f"| on disk, as shipped: CLIP, captioner | {', '.join(sizes)} | |")
    lines += ["", "| captions about | of 5,000 | text-to-image R@10, % |", "|---|---|---|"]
    lines += [
        f"| {subject} | {found['captions']:,} | {_percent(found['recall@10'])} |"
        for subject, found in sorted(clip["subjects"].items(), key=lambda item: -item[1]["recall@10"])
    ]
    demo = clip["demo"]
    lines += [
        "",
        f"Demo: {demo['answered']} of {demo['asked']} queries found their photo among the first three of "
        f"{demo['photos']}; chance would give {3 / demo['photos']:.0%}.",
    ]
    return "\n".join(lines)


def _recalls(figures: Mapping[str, Any], way: str) -> str:
    return " / ".join(_percent(figures[f"{way}_recall@{k}"]) for k in (1, 5, 10))


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def write_tables(page: Path) -> None:
    """Put the tables between their marks in a page. Raises InputError where marks are missing."""
    text = page.read_text(encoding="utf-8")
    for name, made in (("models", models_table()), ("starter", starter_tables())):
        begin, end = _BEGIN.format(name=name), _END.format(name=name)
        if begin not in text or end not in text:
            raise InputError(f"{page} lacks the lines that mark the generated tables: {begin} and {end}")
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n{made}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]))
