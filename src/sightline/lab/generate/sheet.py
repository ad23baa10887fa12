"""The contact sheet of a run: every image with its words and figures, failures first, in one file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.kit.pages import render_page
from sightline.lab.generate.feedback import Feedback
from sightline.lab.generate.judge import Judgement, MadeImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """All that a sheet shows."""

    images: Sequence[MadeImage]
    judgement: Judgement | None = None
    feedback: Sequence[Feedback] = ()
    facts: Sequence[str] = ()
    """Sentences at the end."""


def format_sheet(sheet: Sheet) -> str:
    """The sheet as HTML."""
    prompts = list(dict.fromkeys(image.prompt for image in sheet.images))
    count = f"{len(sheet.images)} picture{'' if len(sheet.images) == 1 else 's'}"
    of = f"{len(prompts)} prompt{'' if len(prompts) == 1 else 's'}"
    return render_page(
        "lab/generate/sheet.html",
        title="Pictures from words",
        lead=f"{count} of {of}. Similarity is the cosine to the prompt.",
        images=sheet.images,
        prompts=prompts,
        few=6,  # up to so many prompts, each has a section of its own with frames of its best image
        feedback=sheet.feedback,
        facts=sheet.facts,
        judgement=sheet.judgement,
        **(_show_judgement(sheet.judgement, sheet.images) if sheet.judgement else {}),
        encode=_encode,
        trace=_trace,
        strip=_strip,
    )


def _show_judgement(judgement: Judgement, images: Sequence[MadeImage]) -> dict[str, Any]:
    """The rate, then what the judge took for something else, the worst first, then what it recognised."""
    low, high = judgement.interval
    wrong = sorted((v for v in judgement.verdicts if not v.right), key=lambda v: -v.rank)
    return {
        "summary": f"{judgement.judge} had no part in making these pictures. Among {judgement.n_prompts} prompts it "
        f"names the right one for {judgement.n_right} of {len(judgement.verdicts)} pictures: {judgement.rate:.0%} (95% "
        f"interval {low:.0%} to {high:.0%}; a guess would be right in {judgement.chance:.1%}).",
        "judged": [("Not recognised", wrong), ("Recognised", [v for v in judgement.verdicts if v.right])],
        "image_of": {(image.prompt, image.seed): image for image in images},
    }


def _encode(rgb: NDArray[np.uint8], size_px: int) -> str:
    return data_uri(make_thumbnail(rgb, size_px=size_px, quality=92), "JPEG")


def _trace(image: MadeImage) -> str:
    """Similarity over the steps, as a line from left to right between 0 and the greatest."""
    last = image.curve[-1][0]
    top = max(max(similarity for _, similarity in image.curve), 1e-6)
    return " ".join(f"{100 * s / last:.1f},{30 - 28 * max(v, 0.0) / top:.1f}" for s, v in image.curve)


def _strip(frames: Sequence[NDArray[np.uint8]]) -> list[int]:
    """Some of the frames, evenly from noise to the end."""
    count = min(8, len(frames))  # most frames of a strip
    return [round(i * (len(frames) - 1) / (count - 1)) for i in range(count)]
