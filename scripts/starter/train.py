"""Rebuild the starter models from the shared material: one command, resumable at any point.

    python scripts/starter/train.py --data ../shared --output DIR

Each stage keeps what it made in DIR and is skipped when it is there; training stages resume at their last whole epoch.
`--smoke` shrinks everything to about a minute, to see that it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from corpus import Corpus, load_corpus
from distil import DistilRecipe, learn_teacher, learn_words
from export import export_captioner, export_clip, install
from progress import Log
from teacher import teacher_features, teacher_targets
from train_captioner import CaptionerRecipe, train_decoder
from train_clip import ClipRecipe, train, warm_up

from sightline.models.convolutional import ConvCaptioner, ConvClip

STAGES = ("clip", "captioner", "export")
TEACHER_FILE = "mobilenetv2_imagenet_trunk.npz"
SMOKE_CLIP = ClipRecipe(warm_epochs=1, epochs=2, small_epochs=1, flickr_batch=40, tiny_batch=10)
SMOKE = (
    SMOKE_CLIP,
    DistilRecipe(sampling=SMOKE_CLIP, word_epochs=3, epochs=2, tiny_batch=20),
    CaptionerRecipe(text_epochs=1, epochs=2, views=2, text_batch=64, batch=40, n_checked=20),
)


def main() -> None:
    """Parse the command line and run the stages in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the shared folder, with data/ and teacher/")
    parser.add_argument("--output", type=Path, required=True, help="where caches, checkpoints, logs and models go")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="run only these stages")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--smoke", action="store_true", help="a minute's run on a few hundred images")
    parser.add_argument(
        "--install", type=Path, help="copy the finished folders here, e.g. src/sightline/models/starter"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    log = Log(output / "log.jsonl")
    recipes = SMOKE if arguments.smoke else (ClipRecipe(), DistilRecipe(), CaptionerRecipe())
    corpus = load_corpus(arguments.data / "data", output / "cache", val_px=ClipRecipe().full_px)
    log.write(stage="corpus", flickr=len(corpus.train_captions), tiny=int(corpus.tiny_is_train.sum()))
    if arguments.smoke:
        corpus = smoke_corpus(corpus)
    trained = output / "trained"
    if "clip" in arguments.stages:
        clip = make_clip(corpus, arguments.data / "teacher" / TEACHER_FILE, recipes[:2], output, log)
        clip.save_pretrained(trained / "clip")
    if "captioner" in arguments.stages:
        clip = ConvClip.from_pretrained(trained / "clip")
        train_decoder(corpus, clip, recipes[2], output, log).save_pretrained(trained / "captioner")
    if "export" in arguments.stages:
        for folder in (
            export_clip(ConvClip.from_pretrained(trained / "clip"), corpus, output / "export"),
            export_captioner(ConvCaptioner.from_pretrained(trained / "captioner"), corpus, output / "export"),
        ):
            n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            log.write(stage="export", folder=str(folder), bytes=n_bytes)
            if arguments.install:
                install(folder, arguments.install / folder.name)


def make_clip(
    corpus: Corpus, teacher_file: Path, recipes: tuple[ClipRecipe, DistilRecipe], output: Path, log: Log
) -> ConvClip:
    """Warm-up, contrastive training, then the teacher's two stages."""
    model = warm_up(corpus, recipes[0], output, log)
    cache = output / "cache"
    targets = teacher_targets(teacher_file, corpus.train_files, cache / f"teacher-{len(corpus.train_files)}.npy")
    log.write(stage="teacher", targets=list(targets.shape))
    contrastive = train(corpus, targets, model, recipes[0], output, log)
    features = teacher_features(teacher_file, corpus, cache)
    log.write(stage="teacher", features=len(features.tiny))
    words = learn_words(corpus, features, contrastive, recipes[1], output, log)
    return learn_teacher(corpus, features, words, recipes[1], output, log)


def smoke_corpus(corpus: Corpus) -> Corpus:
    """The first few hundred rows of everything."""
    n_train, n_val, n_tiny = 80, 50, 600
    return dataclasses.replace(
        corpus,
        train_pixels=corpus.train_pixels[:n_train],
        train_captions=corpus.train_captions[:n_train],
        train_files=corpus.train_files[:n_train],
        val_pixels=corpus.val_pixels[:n_val],
        val_captions=corpus.val_captions[:n_val],
        val_files=corpus.val_files[:n_val],
        tiny_pixels=corpus.tiny_pixels[:n_tiny],
        tiny_labels=corpus.tiny_labels[:n_tiny],
        tiny_is_train=np.arange(n_tiny) % 10 > 0,
        text_only=corpus.text_only[:400],
    )


if __name__ == "__main__":
    main()
