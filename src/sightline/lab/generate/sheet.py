"""The contact sheet of a run: every picture with its words and figures, failures first, in one file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.kit.pages import escape, format_frame, write_page
from sightline.lab.generate.feedback import Feedback, WordShare
from sightline.lab.generate.results import Judgement, MadePicture, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PICTURE_PX = 384
_FRAME_PX = 112
_STRIP = 8
"""Most frames of a strip."""
_FEW_PROMPTS = 6
"""Up to so many prompts, each has a section of its own with frames of its best picture."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """All that a sheet shows."""

    pictures: Sequence[MadePicture]
    judgement: Judgement | None = None
    feedback: Sequence[Feedback] = ()
    facts: Sequence[str] = ()
    """Sentences at the end."""


def write_sheet(target: Path, sheet: Sheet) -> Path:
    """Write the sheet as one file; its path. Raises InputError where it can't be written."""
    return write_page(target, format_sheet(sheet))


def format_sheet(sheet: Sheet) -> str:
    """The sheet as HTML."""
    prompts = list(dict.fromkeys(picture.prompt for picture in sheet.pictures))
    sections = [_format_judgement(sheet.judgement, sheet.pictures)] if sheet.judgement else []
    feedback = {each.prompt: each for each in sheet.feedback}
    if len(prompts) <= _FEW_PROMPTS:
        sections += [_format_prompt(prompt, sheet.pictures, feedback.get(prompt)) for prompt in prompts]
    elif sheet.judgement is None:
        sections.append(_section("Pictures", _grid(_card(picture, titled=True) for picture in sheet.pictures)))
    if sheet.feedback and len(prompts) > _FEW_PROMPTS:
        sections += [_section(each.prompt, _format_feedback(each)) for each in sheet.feedback]
    sections.append(_section("How they were made", _list("facts", map(escape, sheet.facts))))
    count = f"{len(sheet.pictures)} picture{'' if len(sheet.pictures) == 1 else 's'}"
    lead = (
        f"{count} of {len(prompts)} prompt{'' if len(prompts) == 1 else 's'}. Similarity is the cosine to the prompt."
    )
    style = resources.files("sightline.lab.generate") / "sheet.css"
    return format_frame("Pictures from words", lead=lead, sections=sections, style=style)


def _format_judgement(judgement: Judgement, pictures: Sequence[MadePicture]) -> str:
    """The rate, then what the judge took for something else, the worst first, then what it recognised."""
    low, high = judgement.interval
    summary = (
        f"{judgement.judge} had no part in making these pictures. Among {judgement.n_prompts} prompts it names the "
        f"right one for {judgement.n_right} of {len(judgement.verdicts)} pictures: {judgement.rate:.0%} (95% interval "
        f"{low:.0%} to {high:.0%}; a guess would be right in {judgement.chance:.1%})."
    )
    of = {(picture.prompt, picture.seed): picture for picture in pictures}
    wrong = sorted((v for v in judgement.verdicts if not v.right), key=lambda v: -v.rank)
    right = [v for v in judgement.verdicts if v.right]
    body = f'<p class="big">{escape(summary)}</p>'
    for title, verdicts in ((f"Not recognised ({len(wrong)})", wrong), (f"Recognised ({len(right)})", right)):
        if verdicts:
            cards = (_card(of[verdict.prompt, verdict.seed], verdict=verdict, titled=True) for verdict in verdicts)
            body += f"<h3>{title}</h3>" + _grid(cards)
    return _section("What another model sees in them", body)


def _format_prompt(prompt: str, pictures: Sequence[MadePicture], feedback: Feedback | None) -> str:
    """One prompt's pictures, the best first, how the best came about, and what is to be said of them."""
    own = sorted((p for p in pictures if p.prompt == prompt), key=lambda p: -p.similarity)
    return _section(prompt, _grid(map(_card, own)) + _strip(own[0]) + (_format_feedback(feedback) if feedback else ""))


def _card(picture: MadePicture, *, verdict: Verdict | None = None, titled: bool = False) -> str:
    title = f'<p class="prompt">{escape(picture.prompt)}</p>' if titled else ""
    kind, said = "", ""
    if verdict is not None:
        kind = " right" if verdict.right else " wrong"
        taken = (
            "recognised" if verdict.right else f"rank {verdict.rank:g}; taken for <b>{escape(verdict.taken_for)}</b>"
        )
        said = f'<p class="verdict">{taken}</p>'
    figures = f'<p class="number">similarity {picture.similarity:.3f} · seed {picture.seed}</p>'
    return (
        f'<article class="made{kind}">{_image(picture.rgb, _PICTURE_PX, alt=picture.prompt, well=True)}'
        f'<div class="about">{title}{figures}{said}{_curve(picture)}</div></article>'
    )


def _curve(picture: MadePicture) -> str:
    """Similarity over the steps, as a line from left to right between 0 and the greatest."""
    if len(picture.curve) < 2:
        return ""
    last = picture.curve[-1][0]
    top = max(max(similarity for _, similarity in picture.curve), 1e-6)
    points = " ".join(f"{100 * s / last:.1f},{30 - 28 * max(v, 0.0) / top:.1f}" for s, v in picture.curve)
    label = f"Similarity over {last} steps, from {picture.curve[0][1]:.3f} to {picture.curve[-1][1]:.3f}"
    return (
        f'<svg class="curve" viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<line x1="0" x2="100" y1="30" y2="30"/><polyline points="{points}"/></svg>'
    )


def _strip(picture: MadePicture) -> str:
    """Some of a picture's frames, from noise to the end."""
    if len(picture.frames) < 2:
        return ""
    count = min(_STRIP, len(picture.frames))
    shown = [round(i * (len(picture.frames) - 1) / (count - 1)) for i in range(count)]
    items = [_image(picture.frames[n], _FRAME_PX, alt=f"frame {n}") for n in shown]
    return f"<h3>How seed {picture.seed} came about</h3>" + _list("strip", items)


def _format_feedback(feedback: Feedback) -> str:
    most = max((abs(share.gain) for share in feedback.words), default=0.0) or 1.0
    words = "".join(_word_row(share, most) for share in feedback.words)
    table = f"<h3>What each word adds to the similarity</h3><div class='words'>{words}</div>" if words else ""
    return table + "<h3>What to do</h3>" + _list("advice", map(escape, feedback.lines))


def _word_row(share: WordShare, most: float) -> str:
    kind = "bar" if share.gain > 0 else "bar less"
    width = 100 * abs(share.gain) / most
    return (
        f'<span>{escape(share.word)}</span><span class="number">{share.gain:+.3f}</span>'
        f'<div><div class="{kind}" style="width:{width:.0f}%"></div></div>'
    )


def _image(rgb: NDArray[np.uint8], size_px: int, *, alt: str, well: bool = False) -> str:
    source = data_uri(make_thumbnail(rgb, size_px=size_px, quality=92), "JPEG")
    image = f'<img src="{source}" alt="{escape(alt)}" loading="lazy">'
    return f'<div class="well">{image}</div>' if well else image


def _grid(cards: Iterable[str]) -> str:
    return _list("grid", cards)


def _list(kind: str, items: Iterable[str]) -> str:
    return f'<ul class="{kind}">' + "".join(f"\n<li>{item}</li>" for item in items) + "</ul>"


def _section(title: str, body: str) -> str:
    return f"\n<section><h2>{escape(title)}</h2>{body}</section>"
