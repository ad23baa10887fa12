"""What pages of results share: tables, matrices in colour, pictures inlined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

from sightline.errors import ImageError
from sightline.images.thumbnails import data_uri, make_thumbnail
from sightline.pages import escape, format_frame

if TYPE_CHECKING:
    from sightline.data.base import Dataset, Pair

THUMBNAIL_PX = 200
_QUALITY = 72


@dataclass(kw_only=True)
class Thumbnails:
    """Pictures of a data set as `<img>`, each read once. Bounded: THUMBNAIL_PX a side, some kilobytes."""

    pairs: Mapping[str, Pair]
    _made: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset) -> Thumbnails:
        """Of all pictures of a data set, by their ids; none is read yet."""
        return cls(pairs={pair.id: pair for pair in dataset})

    def well(self, id_: str) -> str:
        """One picture in its frame, or why there is none."""
        if id_ not in self._made:
            self._made[id_] = self._make(self.pairs[id_])
        return self._made[id_]

    def _make(self, pair: Pair) -> str:
        try:
            rgb_HW3 = pair.image.read(min_side_px=THUMBNAIL_PX)
        except ImageError as error:
            return f'<div class="well"><p>can’t be read: {escape(error.reason)}</p></div>'
        uri = data_uri(make_thumbnail(rgb_HW3, size_px=THUMBNAIL_PX, quality=_QUALITY), "JPEG")
        return f'<div class="well" title="{escape(pair.id)}"><img src="{uri}" alt="{escape(pair.id)}"></div>'


def format_page(title: str, *, lead: str, sections: Sequence[str]) -> str:
    """A whole page from sections that are HTML; title and lead are text."""
    style = resources.files("sightline.evaluation") / "pages.css"
    return format_frame(title, lead=lead, sections=sections, style=style)


def format_section(title: str, *parts: str, note: str = "") -> str:
    """A heading, a sentence in grey, and HTML."""
    soft = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"\n<section><h2>{escape(title)}</h2>{soft}{''.join(parts)}</section>"


def format_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in rows and columns; the first column names the row. It scrolls by itself where it is too wide."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def format_heatmap(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]], *, number: str, between: tuple[float, float]
) -> str:
    """Numbers on a ground that is stronger the higher they are between two ends; headings are HTML.

    `number` is how they are written, as in `.2f`.
    """
    low, high = between
    width = (high - low) or 1.0

    def cell(value: float) -> str:
        heat = min(1.0, max(0.0, (value - low) / width))
        return f'<td style="--heat:{heat:.2f}">{value:{number}}</td>'

    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(f"<tr><th>{name}</th>{''.join(map(cell, values))}</tr>" for name, values in rows)
    return f'<div class="scroll"><table class="heat"><tr><th></th>{head}</tr>{body}</table></div>'
