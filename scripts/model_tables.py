"""Tables of pages, made from `cards.toml` and the starter's own cards: `python scripts/model_tables.py PAGE ...`.

So no figure of the starter stands in a page that its next version would make wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
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
    lines = [retrieval_table(), "", "| | int8 | fp32 |", "|---|---|---|"]
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


def retrieval_table() -> str:
    """Markdown: the starter's recalls."""
    header = ["| R@1 / R@5 / R@10, % | text to image | image to text |", "|---|---|---|"]
    return _by_set(
        header, STARTER, lambda found: [_recalls(found, way) for way in ("image_retrieval", "text_retrieval")]
    )


def captions_table() -> str:
    """Markdown: the starter captioner's metrics, three beams."""
    header = ["| three beams | Bleu_4 | ROUGE_L | CIDEr |", "|---|---|---|---|"]
    names = ("Bleu_4", "ROUGE_L", "CIDEr")
    return _by_set(header, STARTER_CAPTIONER, lambda found: [f"{found[name]:.3f}" for name in names])


def _by_set(header: list[str], model: str, cells: Callable[[Mapping[str, Any]], list[str]]) -> str:
    """A table of the figures in a model's card: a row for each precision and set of pairs."""
    figures, lines = find_card(model).figures, list(header)
    for precision in ("int8", "fp32"):
        for data, shown in (("flickr8k_val", "Flickr8k val, 1,000 images"), ("coco_mini", "coco-mini, 80 images")):
            lines.append(f"| {shown}, {precision} | {' | '.join(cells(figures[precision][data]))} |")
    return "\n".join(lines)


def zeroshot_table() -> str:
    """Markdown: the starter's zero-shot accuracy with the default prompts."""
    clip = find_card(STARTER).figures
    lines = ["| Tiny ImageNet val, 200 classes | acc1, % | acc5, % |", "|---|---|---|"]
    for precision in ("int8", "fp32"):
        found = clip[precision]["tiny_imagenet_val"]
        lines.append(f"| starter, {precision} | {_percent(found['acc1'])} | {_percent(found['acc5'])} |")
    return "\n".join(lines)


def _recalls(figures: Mapping[str, Any], way: str) -> str:
    return " / ".join(_percent(figures[f"{way}_recall@{k}"]) for k in (1, 5, 10))


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


_TABLES = {
    "models": models_table,
    "starter": starter_tables,
    "retrieval": retrieval_table,
    "captions": captions_table,
    "zeroshot": zeroshot_table,
}
"""Name between a page's marks -> what makes the table."""


def write_tables(page: Path) -> None:
    """Put the tables between their marks in a page. Raises InputError for a page without marks or without their end."""
    text = page.read_text(encoding="utf-8")
    names = [name for name in _TABLES if _BEGIN.format(name=name) in text]
    for name in names:
        begin, end = _BEGIN.format(name=name), _END.format(name=name)
        if end not in text:
            raise InputError(f"{page} lacks the line that ends a generated table: {end}")
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n{_TABLES[name]()}\n{end}{after}"
    if not names:
        known = ", ".join(_BEGIN.format(name=name) for name in _TABLES)
        raise InputError(f"{page} lacks the lines that mark generated tables, such as {known}")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write_tables(Path(argument))
