"""`sightline generate` as two functions: images by CLIP's gradients, and images by a pipeline, ranked by CLIP.

The folder of a run holds images as PNG, their making as GIF and frames, `generate.json`, and a contact sheet. Shape
suffixes: N images, H W pixels.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.core.models.cards import ENDPOINT_PREFIX, find_card
from sightline.core.models.files import Runtime, find_graphs, find_local_folder, find_weights
from sightline.core.models.loading import load_encoder
from sightline.errors import InputError
from sightline.kit import files
from sightline.kit.pages import render_page, write_page
from sightline.kit.work import stop_on_interrupt
from sightline.lab.generate.config import FLOW, MOST_IMAGES, DiffusionConfig, GuidedConfig, check_prompts, load_bank
from sightline.lab.generate.diffuse import TextToImage
from sightline.lab.generate.judge import (
    Feedback,
    Judgement,
    MadeImage,
    check_judge,
    embed_images,
    give_feedback,
    judge_images,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sightline.core.models.base import Encoder
    from sightline.kit.work import Notice, Progress
    from sightline.lab.generate.flow import FlowImages

SETTINGS_FILE = "generate.json"
SHEET_FILE = "sheet.html"
FRAMES_DIR = "frames"


@dataclass(frozen=True, kw_only=True)
class _Request:
    prompts: Sequence[str]
    avoid: Sequence[str] = ()
    """Things that are not to be seen."""
    against: str | None = None
    """A text file or an address: texts that images are told from; None: see `load_bank`."""
    judge: str | None = None
    """A model that names each image's prompt among all."""
    download: bool = False


@dataclass(frozen=True, kw_only=True)
class GuidedRequest(_Request):
    """Images that one model makes, or several together."""

    models: Sequence[str]
    """Names; the mean over all decides."""
    config: GuidedConfig = dataclasses.field(default_factory=GuidedConfig)


@dataclass(frozen=True, kw_only=True)
class DiffusionRequest(_Request):
    """Images that a pipeline or a flow makes, ranked and explained by a CLIP."""

    pipeline: str
    """A folder, or a name on the hub; `flow:` and a folder of `train_flow`."""
    model: str
    """Name of the encoder that ranks."""
    config: DiffusionConfig = dataclasses.field(default_factory=DiffusionConfig)
    variants: Sequence[str] = ()
    """Other wordings, compared with the first prompt."""


@dataclass(frozen=True, kw_only=True)
class GenerateReport:
    """The outcome of a run."""

    output: Path
    engine: str
    images: Sequence[MadeImage]
    """In the order in which they were asked for."""
    stopped: str | None
    """The reason why it ended early; None where it didn't."""
    took_s: float
    judgement: Judgement | None = None
    feedback: Sequence[Feedback] = ()


def generate_guided(
    request: GuidedRequest,
    output: Path,
    *,
    report: Notice = lambda line: None,
    progress: Progress = lambda done, total, note: None,
) -> GenerateReport:
    """Make images by a model's gradients, keep them in `output`, and have them judged where a judge is named.

    The first Ctrl-C keeps the images as they are then. Raises InputError for what can't be asked or written,
    ModelError where a model has no PyTorch weights here.
    """
    from sightline.lab.generate.guided import Words, load_guide, make_guided, seed_prompts

    started = time.perf_counter()
    prompts, config = list(dict.fromkeys(check_prompts(request.prompts))), request.config
    _check_count(len(prompts) * config.seeds)
    if not request.models:
        raise InputError("Name the model that makes the pictures, as in --model dir:RUN.")
    encoders = [load_guide(name, download=request.download) for name in request.models]
    judge = _load_judge(request.judge, encoders, prompts, download=request.download)
    bank, bank_from = load_bank(request.against, request.models, limit=config.bank)
    claim_folder(output)
    report(f"{len(prompts) * config.seeds} pictures by {', '.join(request.models)}; told from {len(bank)} {bank_from}")
    with stop_on_interrupt() as interrupted:
        images = make_guided(
            seed_prompts(prompts, config),
            encoders,
            words=Words(bank=bank, avoid=check_prompts(request.avoid) if request.avoid else ()),
            config=config,
            progress=progress,
            interrupted=interrupted,
        )
        stopped = _why_stopped(images, len(prompts) * config.seeds, config.steps)
    result = GenerateReport(
        output=output,
        engine="clip",
        images=images,
        stopped=stopped,
        took_s=time.perf_counter() - started,
        judgement=judge_images(images, judge, prompts=prompts) if judge and images else None,
    )
    asked = {"models": list(request.models), "told_from": bank_from, "avoid": list(request.avoid)}
    return _keep(result, prompts, asked, config)


def generate_diffused(
    request: DiffusionRequest,
    output: Path,
    *,
    report: Notice = lambda line: None,
    progress: Progress = lambda done, total, note: None,
) -> GenerateReport:
    """Make samples of each prompt and variant with a pipeline, rank and explain them by CLIP, keep all in `output`.

    The first Ctrl-C keeps the samples that are done. Raises InputError for what can't be asked or written, ModelError
    where the pipeline or a model can't be loaded.
    """
    started = time.perf_counter()
    prompts = list(dict.fromkeys(check_prompts(request.prompts)))
    variants = [text for text in check_prompts(request.variants) if text not in prompts] if request.variants else []
    if variants and len(prompts) > 1:
        raise InputError(
            "Variants are compared with one prompt; this run has several. Leave --variant or --prompts out."
        )
    wanted = [
        (prompt, request.config.seed + k) for prompt in [*prompts, *variants] for k in range(request.config.seeds)
    ]
    _check_count(len(wanted))
    ranker = load_encoder(request.model, download=request.download, runtime=_best_runtime(request.model))
    pipeline = _load_maker(request.pipeline, download=request.download)
    judge = _load_judge(request.judge, pipeline.readers, prompts, download=request.download)
    bank, bank_from = load_bank(request.against, [request.model], limit=256)  # texts that a ranked image is told from
    claim_folder(output)
    report(f"{len(wanted)} samples by {pipeline.class_name}, ranked by {request.model}; no safety checker is run")
    with stop_on_interrupt() as interrupted:
        images = _sample(pipeline, wanted, request, progress=progress, interrupted=interrupted)
        stopped = _why_stopped(images, len(wanted), request.config.steps)
    images = _ranked(images, ranker)
    own = [image for image in images if image.prompt in prompts]
    result = GenerateReport(
        output=output,
        engine=request.pipeline if request.pipeline.startswith(FLOW) else f"diffusers:{request.pipeline}",
        images=images,
        stopped=stopped,
        took_s=time.perf_counter() - started,
        judgement=judge_images(own, judge, prompts=prompts) if judge and own else None,
        feedback=_feedback(images, prompts, variants, ranker=ranker, bank=bank, pipeline=pipeline),
    )
    asked = {
        "pipeline": request.pipeline,
        "pipeline_class": pipeline.class_name,
        "safety_checker": None,
        "models": [request.model],
        "told_from": bank_from,
        "avoid": list(request.avoid),
        "variants": variants,
    }
    return _keep(result, prompts, asked, request.config)


def _load_maker(name: str, *, download: bool) -> TextToImage | FlowImages:
    if not name.startswith(FLOW):
        return TextToImage.load(name, download=download)
    from sightline.lab.generate.flow import FlowImages

    return FlowImages.load(name.removeprefix(FLOW), download=download)


def _sample(
    pipeline: TextToImage | FlowImages,
    wanted: Sequence[tuple[str, int]],
    request: DiffusionRequest,
    *,
    progress: Progress,
    interrupted: Callable[[], bool],
) -> list[MadeImage]:
    """The samples that were finished; their similarity is not known yet."""
    steps = request.config.steps
    made: list[MadeImage] = []
    for number, (prompt, seed) in enumerate(wanted):
        started = time.perf_counter()

        def after(step: int, number: int = number) -> bool:
            progress(number * steps + step, len(wanted) * steps, f"sample {number + 1} of {len(wanted)}")
            return not interrupted()

        rgb = pipeline.draw(prompt, seed=seed, config=request.config, avoid=request.avoid, on_step=after)
        if rgb is None:
            break
        took_s = time.perf_counter() - started
        made.append(MadeImage(prompt=prompt, seed=seed, rgb=rgb, similarity=0.0, steps=steps, took_s=took_s))
        if interrupted():  # a pipeline that can't be left within an image
            break
    return made


def _ranked(images: Sequence[MadeImage], ranker: Encoder) -> list[MadeImage]:
    """The images with their similarity to their own prompt."""
    from sightline.lab.evaluation.embedding import embed_texts

    if not images:
        return []
    image_ND = embed_images(ranker, [image.rgb for image in images])
    text_ND = embed_texts(ranker, [image.prompt for image in images])
    similarity_N = (image_ND * text_ND).sum(axis=1)
    return [replace(image, similarity=float(similarity_N[n])) for n, image in enumerate(images)]


def _feedback(
    images: Sequence[MadeImage],
    prompts: Sequence[str],
    variants: Sequence[str],
    *,
    ranker: Encoder,
    bank: Sequence[str],
    pipeline: TextToImage | FlowImages,
) -> list[Feedback]:
    of = {prompt: [image for image in images if image.prompt == prompt] for prompt in [*prompts, *variants]}
    return [
        give_feedback(
            of[prompt],
            ranker,
            bank=bank,
            variants=[of[variant] for variant in variants],
            n_cut=pipeline.count_cut(prompt),
        )
        for prompt in prompts
        if of[prompt]
    ]


def _keep(
    result: GenerateReport, prompts: Sequence[str], asked: dict[str, Any], config: GuidedConfig | DiffusionConfig
) -> GenerateReport:
    """Write everything; the settings last, so that a folder with them is whole."""
    entries = write_images(result.output, result.images)
    facts = [f"Made with {', '.join(asked['models'])}, told from {asked['told_from']}."]
    if "pipeline" in asked:
        facts = [f"Made by {asked['pipeline_class']} of {asked['pipeline']}, ranked by {asked['models'][0]}."]
        facts.append("No safety checker was run.")
    if result.stopped:
        facts.append(f"Stopped early: {result.stopped}.")
    sheet = format_sheet(result.images, judgement=result.judgement, feedback=result.feedback, facts=facts)
    write_page(result.output / SHEET_FILE, sheet)
    settings = {
        "engine": result.engine,
        **asked,
        "prompts": list(prompts),
        "settings": dataclasses.asdict(config),
        "stopped": result.stopped,
        "took_s": round(result.took_s, 1),
        "pictures": entries,
        "judgement": None if result.judgement is None else result.judgement.to_dict(),
        "feedback": [feedback.to_dict() for feedback in result.feedback],
    }
    write_settings(result.output, settings)
    return result


def _load_judge(
    name: str | None, makers: Sequence[Encoder], prompts: Sequence[str], *, download: bool
) -> Encoder | None:
    if name is None:
        return None
    judge = load_encoder(name, download=download, runtime=_best_runtime(name))
    check_judge(judge, makers, prompts)
    return judge


def _best_runtime(name: str) -> Runtime:
    """PyTorch, which is loaded already, for weights that would otherwise have to be exported first."""
    if name.startswith(ENDPOINT_PREFIX):
        return "auto"
    card = find_card(name)
    folder = find_local_folder(card)
    has_weights_alone = folder is not None and find_weights(folder) and find_graphs(folder, card) is None
    return "torch" if has_weights_alone else "auto"


def _check_count(count: int) -> None:
    if count > MOST_IMAGES:
        raise InputError(f"That would be {count:,} pictures; at most {MOST_IMAGES:,} are made in one run.")


def _why_stopped(images: Sequence[MadeImage], wanted: int, steps: int) -> str | None:
    unfinished = wanted - sum(image.steps == steps for image in images)
    return f"interrupted; {unfinished} of {wanted} pictures were not finished" if unfinished else None


def claim_folder(path: Path) -> None:
    """Make the folder. Raises InputError where it is a file, holds something already, or can't be written."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; --output must name a folder.")
    if path.is_dir() and any(path.iterdir()):
        what = "pictures of another run" if (path / SETTINGS_FILE).is_file() else "other files"
        raise InputError(f"{path} holds {what}, and nothing is overwritten. Give a new folder as --output.")
    with files.explained(path, "Choose another --output.", error=InputError):
        path.mkdir(parents=True, exist_ok=True)


def name_images(images: Sequence[MadeImage]) -> list[str]:
    """Names of the images' files without ending: the prompt's number as they come, some of its words, the seed."""
    names: dict[str, str] = {}
    for number, prompt in enumerate(dict.fromkeys(image.prompt for image in images), start=1):
        words = "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))[:40].strip("-") or "prompt"
        names[prompt] = f"{number:03}-{words}"
    return [f"{names[image.prompt]}-seed{image.seed}" for image in images]


def write_images(folder: Path, images: Sequence[MadeImage]) -> list[dict[str, Any]]:
    """PNGs, and where there are frames those and a GIF; what each image's entry in `generate.json` is."""
    entries = []
    for image, name in zip(images, name_images(images), strict=True):
        entry = {"file": f"{name}.png", **image.to_dict()}
        _save(Image.fromarray(image.rgb), folder / f"{name}.png")
        if len(image.frames) > 1:
            entry |= {"gif": f"{name}.gif", "frames": []}
            _save_gif(image.frames, folder / f"{name}.gif")
            for n, frame in enumerate(image.frames):
                entry["frames"].append(f"{FRAMES_DIR}/{name}-{n:03}.png")
                _save(Image.fromarray(frame), folder / entry["frames"][-1])
        entries.append(entry)
    return entries


def write_settings(folder: Path, values: Mapping[str, Any]) -> None:
    """`generate.json`: what was asked, what was made, what was measured; bytes that are no UTF-8 as \\udcXX escapes."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    with files.explained(folder / SETTINGS_FILE, "Choose another --output.", error=InputError):
        files.write_text(folder / SETTINGS_FILE, text.encode("utf-8", "backslashreplace").decode())


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    with files.explained(path, "Choose another --output.", error=InputError):
        path.parent.mkdir(exist_ok=True)
        with files.replacing(path) as partial:
            image.save(partial, path.suffix[1:].upper(), **options)


def _save_gif(frames: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """An endless GIF that rests on its last frame; small images are enlarged by a whole factor."""
    factor = max(1, math.ceil(256 / max(frames[0].shape[:2])))
    height, width = (factor * side for side in frames[0].shape[:2])
    first, *rest = (Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames)
    _save(first, path, save_all=True, append_images=rest, duration=[120] * len(rest) + [1500], loop=0)


def format_sheet(
    images: Sequence[MadeImage],
    *,
    judgement: Judgement | None = None,
    feedback: Sequence[Feedback] = (),
    facts: Sequence[str] = (),
) -> str:
    """The contact sheet as HTML: every image with its words and figures, failures first; `facts` are last sentences."""
    prompts = list(dict.fromkeys(image.prompt for image in images))
    count = f"{len(images)} picture{'' if len(images) == 1 else 's'}"
    of = f"{len(prompts)} prompt{'' if len(prompts) == 1 else 's'}"
    return render_page(
        "lab/generate/sheet.html",
        title="Pictures from words",
        lead=f"{count} of {of}. Similarity is the cosine to the prompt.",
        images=images,
        prompts=prompts,
        few=6,  # up to so many prompts, each has a section of its own with frames of its best image
        feedback=feedback,
        facts=facts,
        judgement=judgement,
        **(_show_judgement(judgement, images) if judgement else {}),
        encode=lambda rgb, size_px: data_uri(make_thumbnail(rgb, size_px=size_px, quality=92), "JPEG"),
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


def _trace(image: MadeImage) -> str:
    """Similarity over the steps, as a line from left to right between 0 and the greatest."""
    last = image.curve[-1][0]
    top = max(max(similarity for _, similarity in image.curve), 1e-6)
    return " ".join(f"{100 * s / last:.1f},{30 - 28 * max(v, 0.0) / top:.1f}" for s, v in image.curve)


def _strip(frames: Sequence[NDArray[np.uint8]]) -> list[int]:
    """Some of the frames, evenly from noise to the end."""
    count = min(8, len(frames))  # most frames of a strip
    return [round(i * (len(frames) - 1) / (count - 1)) for i in range(count)]
