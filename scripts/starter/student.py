"""The starter CLIP itself: a small image tower that follows the teacher's vectors, trained by `sightline.training`.

First at 64 pixels, where a step costs a third, then at the size it is used at. Its texts are the teacher's and stand
still until the last phase, in which both towers settle on each other.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from corpus import Corpus
from progress import Log

from sightline.training.config import TrainConfig
from sightline.training.journal import RUN_FILE
from sightline.training.loop import train

STUDENT = {
    "small": TrainConfig(
        recipe="starter-small",
        data="",
        data_repeats=4,
        train_px=64,
        cache_px=160,
        epochs=6,
        lr=2e-3,
        batch_size=256,
        captions_per_image=2,
        teacher_weight=10.0,
        freeze_text=True,
        crops=8,
        crop_min=0.5,
        aspect_jitter=1.5,
        checkpoint_epochs=0.5,
        eval_epochs=1,
    ),
}
STUDENT["whole"] = replace(STUDENT["small"], recipe="starter-whole", train_px=112, epochs=3, lr=1e-3)
STUDENT["settled"] = replace(
    STUDENT["whole"], recipe="starter-settled", freeze_text=False, text_lr_factor=0.2,
    data_repeats=10, epochs=2, lr=6e-4,
)  # fmt: skip
"""Phases by name, in order; the next starts from the one before."""


def train_student(corpus: Corpus, start: Path, teacher: Path, phases: dict[str, TrainConfig], log: Log) -> Path:
    """All phases, each resumed where it was interrupted; the folder of the last one."""
    for name, phase in phases.items():
        config = replace(
            phase, data=corpus.flickr, more_data=(corpus.tiny,), init=f"dir:{start}",
            teacher=f"dir:{teacher}", teacher_map=False,
        )  # fmt: skip
        output = corpus.folder / f"student-{name}"
        resume = (output / RUN_FILE).is_file()
        done = train(config, output, resume=resume, report=lambda line: print(line, flush=True))
        log.write(stage="student", phase=name, images_per_s=round(done.images_per_s), **_rounded(done.metrics))
        start = output
    return start


def smoke_student() -> dict[str, TrainConfig]:
    """The same in a minute."""
    return {
        name: replace(phase, limit=64, epochs=2, crops=2, batch_size=32, val_limit=50, eval_epochs=1)
        for name, phase in STUDENT.items()
    }


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in metrics.items()}
