"""The demo from start to end: gather, index, caption, search, measure, write the contact sheet."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sightline.core.captioning.dual import CaptionFailure, DualCaption
from sightline.core.library import Library
from sightline.core.models.cards import ModelCard, find_card
from sightline.core.search.query import Part, parse_query
from sightline.faces.demo.gather import Gathered, gather_photos
from sightline.faces.demo.photos import load_photos
from sightline.faces.demo.relevance import measure_relevance
from sightline.faces.demo.sheet import Sheet, SheetCredit, SheetPhoto, SheetSearch, write_contact_sheet
from sightline.faces.demo.tables import WIDTH, format_table

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
_HITS = 5
_FIGURES = {
    "image_retrieval_recall@10": "text to image R@10 {:.1%}",
    "text_retrieval_recall@10": "image to text R@10 {:.1%}",
    "CIDEr": "CIDEr {:.2f}",
    "Bleu_4": "BLEU-4 {:.2f}",
}
"""Figures of a card that the demo names."""


@dataclass(frozen=True, kw_only=True)
class DemoRun:
    """What the steps of a run made."""

    sheet: Path
    seconds: Mapping[str, float]
    """Step -> time it took."""


def run_demo(out: Path, *, only_redistributable: bool = False) -> DemoRun:
    """Run the demo in folder `out`, telling on stdout what was found; a second run embeds only what is new.

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
    sheet = _lay_out(gathered, captioned, searches, facts)
    if only_redistributable:
        sheet = replace(sheet, photo_px=COMMITTED_PX)
    return DemoRun(sheet=write_contact_sheet(out / "contact-sheet.html", sheet), seconds=clock.seconds)


def caption_photos(library: Library, gathered: Gathered) -> list[SheetPhoto]:
    """Caption each photo both ways, in the order of `photos.toml`."""
    paths = [gathered.folder / photo.file for photo in gathered.photos]
    return [_to_sheet_photo(result) for result in library.caption(paths, captioner=CAPTIONER)]


def run_search(library: Library, folder: Path, title: str, parts: Sequence[str]) -> SheetSearch:
    """One of the demo's searches; `{file}` in a part is replaced by the photo's path."""
    words = [part.replace("{", f"{folder}/").replace("}", "") for part in parts]
    return SheetSearch(title=title, parts=parse_query(words), hits=library.search(*words, top=_HITS))


def _lay_out(
    gathered: Gathered, photos: Sequence[SheetPhoto], searches: Sequence[SheetSearch], facts: Sequence[str]
) -> Sheet:
    return Sheet(
        title="Contact sheet",
        lead=f"{len(photos)} pictures, indexed, captioned and searched on this machine by Sightline.",
        photos=photos,
        searches=searches,
        facts=facts,
        next_step=NEXT_STEP,
        credits=[SheetCredit(name=photo.file, credit=photo.credit, link=photo.link) for photo in gathered.photos],
    )


def _to_sheet_photo(result: DualCaption | CaptionFailure) -> SheetPhoto:
    """Of each way the chosen caption, else its first."""
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
        asked = " ".join(f"{'-' if part.weight < 0 else '+'} {_short_label(part)}" for part in search.parts)
        print(f"\n{search.title}: {asked.removeprefix('+ ')}")
        print(
            format_table(
                ("photo", "similarity", "caption"),
                [(hit.image.path.name, hit.similarity, hit.caption or "") for hit in search.hits],
            )
        )
    print()


def _short_label(part: Part) -> str:
    return part.image.name if part.image else part.label


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
