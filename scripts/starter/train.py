"""Rebuild the starter models from the shared material: one command, resumable at any point.

    python scripts/starter/train.py --data ../shared --output DIR

Each stage keeps what it made in DIR and is skipped when it is there; training stages resume at their last checkpoint.
`--smoke` shrinks everything to about a minute, to see that it runs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from captioner import CaptionerRecipe, train_captioner
from corpus import CONTEXT_LENGTH, Corpus, load_corpus, smoke_corpus
from export import export_captions, export_clip, install, write_captioner
from folders import write_start, write_teacher
from pixels import cached_pixels
from progress import Log
from student import STUDENT, smoke_student, train_student
from teacher import CACHE_PX, Trunk, Whitening, teacher_features
from tuning import Tuned, TuningRecipe, embed, tune
from words import Matcher, WordsRecipe, features_part, learn_sentences, learn_words

from sightline.data.addressing import load_dataset
from sightline.evaluation.retrieval import retrieval_metrics
from sightline.models.convolutional import ConvClip, ConvClipConfig
from sightline.training.preparation import prompted
from sightline.training.token_table import tokenize
from sightline.training.vocabulary import PAD_ID

STAGES = ("words", "clip", "captioner", "export")
TEACHER_FILE = "mobilenetv2_imagenet_trunk.npz"
NAMES = 20_000
"""Pictures of Tiny ImageNet that the teacher learns the names from."""
SMOKE_WORDS = WordsRecipe(sentence_epochs=1, sentence_batch=32, epochs=1, batch=16, names_batch=16, crops=1)
SMOKE_TUNING = TuningRecipe(epochs=1, batch=16, names_batch=8)
SMOKE_CAPTIONER = CaptionerRecipe(text_epochs=1, epochs=2, views=2, text_batch=64, batch=40, n_checked=20)


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
    output: Path = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    os.environ["SIGHTLINE_CACHE"] = str(output / "cache")  # pixels and the teacher's vectors stay with the run
    log = Log(output / "log.jsonl")
    corpus = load_corpus(arguments.data.absolute() / "data", output)
    log.write(stage="corpus", flickr=len(corpus.train), told=len(corpus.told))
    if arguments.smoke:
        corpus = smoke_corpus(corpus)
    if "words" in arguments.stages:
        recipes = (SMOKE_WORDS, SMOKE_TUNING) if arguments.smoke else (WordsRecipe(), TuningRecipe())
        make_teacher(corpus, arguments.data / "teacher" / TEACHER_FILE, *recipes, log)
    if "clip" in arguments.stages:
        phases = smoke_student() if arguments.smoke else STUDENT
        train_student(corpus, output / "start", output / "teacher", phases, log)
    student = output / f"student-{list(STUDENT)[-1]}"
    if "captioner" in arguments.stages:
        recipe = SMOKE_CAPTIONER if arguments.smoke else CaptionerRecipe()
        write_captioner(train_captioner(corpus, ConvClip.from_pretrained(student), recipe, log), corpus)
    if "export" in arguments.stages:
        coco = arguments.data.absolute() / "data" / "coco-mini"
        for folder in (export_clip(student, corpus, coco), export_captions(output / "captioner", corpus)):
            n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            log.write(stage="export", folder=str(folder), bytes=n_bytes)
            if arguments.install:
                install(folder, arguments.install / folder.name)


def make_teacher(corpus: Corpus, teacher_file: Path, recipe: WordsRecipe, tuning: TuningRecipe, log: Log) -> None:
    """Text tower and map on the teacher's features; leaves the folders `teacher` and `start`."""
    if (corpus.folder / "start" / "model.safetensors").is_file():
        return
    torch.manual_seed(recipe.seed)
    clip = ConvClip(
        ConvClipConfig(vocab_size=corpus.tokenizer.vocab_size, context_length=CONTEXT_LENGTH, pad_id=PAD_ID)
    )
    learn_sentences(corpus, clip, recipe, log)
    trunk = Trunk(teacher_file)
    names = prompted(load_dataset(corpus.tiny, split="train", limit=min(NAMES, 10 * len(corpus.told))))
    flickr_NKF, names_NKF, val_NKF = (
        teacher_features(trunk, dataset, corpus.folder, crops=crops)
        for dataset, crops in ((corpus.train, recipe.crops), (names, 0), (corpus.val, 0))
    )
    log.write(stage="features", flickr=list(flickr_NKF.shape), names=list(names_NKF.shape))
    whiten = Whitening(flickr_NKF[:, :2].astype(np.float32).mean(1))
    parts = [
        features_part(corpus.train, whiten(flickr_NKF), corpus.tokenizer, size=recipe.batch),
        features_part(names, whiten(names_NKF), corpus.tokenizer, size=recipe.names_batch),
    ]
    val_BF = torch.from_numpy(whiten(val_NKF).mean(1))
    matcher = Matcher(clip, val_BF.shape[1], recipe)
    learn_words(
        matcher, parts, lambda words: recalls(words, words.encode_features(val_BF), corpus), recipe, corpus, log
    )
    tuned = Tuned(trunk, whiten, matcher)
    val_NSS3 = cached_pixels(corpus.val, CACHE_PX)
    tune(tuned, corpus, names, lambda tuned: recalls(matcher, embed(tuned, val_NSS3), corpus), tuning, log)
    write_teacher(tuned, corpus)
    write_start(matcher, clip, corpus)


@torch.inference_mode()
def recalls(matcher: Matcher, val_BD: torch.Tensor, corpus: Corpus) -> dict[str, float]:
    """Recall@10 both ways among Flickr8k's val pictures, whose unit vectors are given."""
    table = tokenize([pair.captions for pair in corpus.val], corpus.tokenizer)
    ids_TL = torch.from_numpy(table.ids_CL.astype(np.int64))
    text_TD = torch.cat([matcher.encode_texts(part) for part in ids_TL.split(500)]).numpy()
    owner_T = np.repeat(np.arange(len(corpus.val)), np.diff(table.first_N))
    metrics = retrieval_metrics(val_BD.numpy(), text_TD, owner_T)
    return {name: round(metrics[name], 4) for name in ("image_retrieval_recall@10", "text_retrieval_recall@10")}


if __name__ == "__main__":
    main()
