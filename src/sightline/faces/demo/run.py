"""The demo from start to end: gather, index, caption, search, measure, print tables, write the contact sheet."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.core.captioning.dual import CaptionFailure, DualCaption
from sightline.core.library import Library
from sightline.core.models.cards import ModelCard, find_card
from sightline.core.search.query import parse_query
from sightline.faces.demo.photos import DemoPhoto, Gathered, gather_photos, load_photos
from sightline.faces.demo.sheet import PHOTO_PX, Sheet, SheetPhoto, SheetSearch, write_contact_sheet

WIDTH = 100
"""Columns of text that a table may take."""
DEPTH = 3
"""A query counts as answered where its photo is among this many first results."""
MODEL = "starter"
CAPTIONER = "starter-captioner"
COMMITTED_PX = 320
"""Longest side of any photo in a picture that is committed."""
NEXT_STEP = (
    "The starter models are small, so that they fit into the package. The real CLIP sees far more:",
    "sightline models pull ViT-B-32/openai",
)

_SEARCHES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("By words", ("close-up of a flower",)),
    ("By a photo", ("{astronaut.png}",)),
    ("By a photo and words", ("{hopper.jpg}", "- a woman", "+ a man with a camera")),
)
"""Title and parts; `{file}` stands for a photo of the demo, a leading sign adds or takes away."""
_FIGURES = {
    "image_retrieval_recall@10": "text to image R@10 {:.1%}",
    "text_retrieval_recall@10": "image to text R@10 {:.1%}",
    "CIDEr": "CIDEr {:.2f}",
    "Bleu_4": "BLEU-4 {:.2f}",
}
"""Figures of a card that the demo names."""


def run_demo(out: Path, *, only_redistributable: bool = False) -> Path:
    """Run the demo in folder `out`, telling on stdout what was found; its page. A second run embeds only what is new.

    With `only_redistributable` the photos are those that may be committed, at the size that is allowed.
    Raises InputError where the extra `demo` is missing.
    """
    photos = [photo for photo in load_photos() if photo.redistributable or not only_redistributable]
    clock = _Clock()
    gathered = gather_photos(photos, out / "photos")
    clock.lap("gather")
    _print_gathered(gathered)
    with Library.open(out / "library", model=MODEL) as library:
        print(library.index(gathered.folder).summary())
        clock.lap("index")
        captioned = caption_photos(library, gathered)
        clock.lap("caption")
        _print_captions(captioned)
        searches = [run_search(library, gathered.folder, title, parts) for title, parts in _SEARCHES]
        clock.lap("search")
        _print_searches(searches)
        relevance = measure_relevance(library, gathered.photos)
        clock.lap("relevance")
        facts = [*_describe_models(library), relevance.summary(), clock.summary()]
    print("\n".join(textwrap.fill(fact, WIDTH, subsequent_indent="  ") for fact in facts))
    sheet = Sheet(
        title="Contact sheet",
        lead=f"{len(captioned)} pictures, indexed, captioned and searched on this machine by Sightline.",
        photos=captioned,
        searches=searches,
        facts=facts,
        next_step=NEXT_STEP,
        credits=gathered.photos,
        photo_px=COMMITTED_PX if only_redistributable else PHOTO_PX,
    )
    return write_contact_sheet(out / "contact-sheet.html", sheet)


def caption_photos(library: Library, gathered: Gathered) -> list[SheetPhoto]:
    """Caption each photo both ways, in the order of `photos.toml`."""
    paths = [gathered.folder / photo.file for photo in gathered.photos]
    return [_to_sheet_photo(result) for result in library.caption(paths, captioner=CAPTIONER)]


def run_search(library: Library, folder: Path, title: str, parts: Sequence[str]) -> SheetSearch:
    """One of the demo's searches; `{file}` in a part is replaced by the photo's path."""
    words = [part.replace("{", f"{folder}/").replace("}", "") for part in parts]
    return SheetSearch(title=title, parts=parse_query(words), hits=library.search(*words, top=5))


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """Queries that found the photo that they were written for, of all that were asked."""

    answered: int
    asked: int
    photos: int
    """Photos that each query chose from."""
    missed: tuple[tuple[str, str], ...] = ()
    """(file, query) of those that didn't."""

    @property
    def share(self) -> float:
        """Answered of asked, in [0, 1]."""
        return self.answered / self.asked

    @property
    def chance(self) -> float:
        """The share that a random order of the photos would reach."""
        return min(1.0, DEPTH / self.photos)

    def summary(self) -> str:
        """One sentence with the figure and what chance would give."""
        return (
            f"{self.answered} of {self.asked} queries ({self.share:.0%}) found their photo among the first {DEPTH} "
            f"of {self.photos}; chance would give {self.chance:.0%}."
        )


def measure_relevance(library: Library, photos: Sequence[DemoPhoto]) -> Relevance:
    """Ask each photo's queries of a library that holds exactly these photos."""
    missed = []
    for photo in photos:
        for query in photo.queries:
            hits = library.search(query, top=DEPTH, match="pictures")  # names would give them away
            if photo.file not in [hit.image.path.name for hit in hits]:
                missed.append((photo.file, query))
    asked = sum(len(photo.queries) for photo in photos)
    return Relevance(answered=asked - len(missed), asked=asked, photos=len(photos), missed=tuple(missed))


def _to_sheet_photo(result: DualCaption | CaptionFailure) -> SheetPhoto:
    """The chosen caption of each way, else its first."""
    if isinstance(result, CaptionFailure):
        return SheetPhoto(path=result.path, problem=result.reason)
    ways = [way for way in (result.clip, result.generated) if way]
    return SheetPhoto(
        path=result.path, captions=[next((caption for caption in way if caption.best), way[0]) for way in ways]
    )


def _describe_models(library: Library) -> list[str]:
    encoder = library.encoder
    what = f"{encoder.precision}, {encoder.dim} dimensions, {encoder.runtime}"
    return [
        f"Vectors: {MODEL} ({what}). {_describe_figures(encoder.card, encoder.precision)}",
        f"Sentences: {CAPTIONER}. {_describe_figures(find_card(CAPTIONER), encoder.precision)}",
    ]


def _describe_figures(card: ModelCard, precision: str) -> str:
    measured = card.figures.get(precision, {}).get("flickr8k_val", {})
    shown = ", ".join(_FIGURES[name].format(value) for name, value in measured.items() if name in _FIGURES)
    return f"On Flickr8k val: {shown}." if shown else "Its card holds no figures."


def _print_gathered(gathered: Gathered) -> None:
    libraries = ", ".join(sorted({photo.library for photo in gathered.photos}))
    print(f"{len(gathered.photos)} photos from {libraries} in {gathered.folder}")
    for photo in gathered.missing:
        print(f"  not in the installed {photo.library}: {photo.file}")


def _print_captions(photos: Sequence[SheetPhoto]) -> None:
    rows = [
        (
            photo.path.name if first else "",
            "*" if caption.best else "",
            caption.author,
            caption.similarity if caption.similarity is not None else "",
            caption.log_prob if caption.log_prob is not None else "",
            caption.text,
        )
        for photo in photos
        for first, caption in zip((True, False, False), photo.captions, strict=False)
    ]
    print(f"\nCaptions (* chosen): ranked by CLIP, generated by {CAPTIONER}")
    print(format_table(("photo", "", "by", "similarity", "log p", "caption"), rows))


def _print_searches(searches: Sequence[SheetSearch]) -> None:
    for search in searches:
        names = [part.image.name if part.image else part.label for part in search.parts]
        asked = " ".join(f"{'-' if p.weight < 0 else '+'} {name}" for p, name in zip(search.parts, names, strict=True))
        print(f"\n{search.title}: {asked.removeprefix('+ ')}")
        rows = [(hit.image.path.name, hit.similarity, hit.caption or "") for hit in search.hits]
        print(format_table(("photo", "similarity", "caption"), rows))
    print()


def format_table(header: Sequence[str], rows: Sequence[Sequence[str | float]], *, width: int = WIDTH) -> str:
    """Aligned text: numbers to the right with three decimals; the widest column is wrapped to keep within `width`."""
    cells = [list(header), *([f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    widest = max(range(len(widths)), key=widths.__getitem__)
    spare = width - 2 * (len(widths) - 1) - (sum(widths) - widths[widest])
    widths[widest] = min(widths[widest], max(spare, 1))
    right = [any(isinstance(row[column], float) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(
            text.rjust(size) if side else text.ljust(size) for text, size, side in zip(line, widths, right, strict=True)
        )
        for row in (cells[0], ["-" * size for size in widths], *cells[1:])
        for line in _wrap_cell(row, widest, widths[widest])
    ]
    return "\n".join(line.rstrip() for line in lines)


def _wrap_cell(row: Sequence[str], column: int, size: int) -> Iterator[list[str]]:
    """A row as one line, or as several whose other cells are empty from the second on."""
    first, *others = textwrap.wrap(row[column], size) or [""]
    yield [*row[:column], first, *row[column + 1 :]]
    for text in others:
        yield [text if place == column else "" for place in range(len(row))]


class _Clock:
    """Seconds of each step, measured from lap to lap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now

    def summary(self) -> str:
        steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in self.seconds.items())
        return f"Time: {steps}; {sum(self.seconds.values()):.1f} s together."
