"""Recipes: functions that return a complete config; each docstring holds command, cost and the result to expect.

`smoke=True` shrinks a recipe to seconds; on rendered scenes where no data is given, so that it runs anywhere.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sightline.errors import InputError
from sightline.lab.training.config import TowersConfig, TrainConfig, did_you_mean
from sightline.lab.training.run_folder import RunFolder

_NO_DATA = ""
"""In a recipe for pairs that only the user has: `--data` must name them."""


def scenes_scratch() -> TrainConfig:
    """A small CLIP learns colours, shapes, sizes, textures, places and relations from rendered scenes.

    Command: sightline train scenes-scratch --output runs/scenes
    Cost: 8 minutes on 2 cores (AVX-512), 530 pictures/s, rendering included.
    Result on 1,000 unseen scenes, `sightline eval retrieval|compose --data scenes --split test`: text-to-image R@1
    63.5%; the true sentence is preferred over one with swapped attributes in 83.2%, with swapped things in a relation
    in 90.8% (chance 50%), with another number in 100%, with a denied thing in 42%.
    What made it work: predicting words (without it 9% after 100,000 pictures), pairs of words in the text tower,
    coordinates in the image tower, hard negatives held against their own caption only.
    Control: --set towers.text_layers=0 --set towers.text_bigrams=0 is a bag of words; --set shuffle_captions=true has
    nothing to learn.
    """
    return TrainConfig(
        recipe="scenes-scratch",
        data="scenes:0",
        limit=40_000,
        towers=TowersConfig(
            size_px=64,
            image_width=24,
            text_width=96,
            text_layers=1,
            coordinates=True,
            text_bigrams=4096,
            dim=256,
            dropout=0.0,
            vocab_size=400,
            context_length=48,
        ),
        batch_size=64,
        captions_per_image=2,
        negatives_per_caption=2,
        negatives_weight=2.0,
        words_weight=0.3,
        temperature=20.0,
        epochs=5.8,
        lr=2e-3,
        warmup_fraction=0.03,
        crop_min=1.0,
        flip=False,
        colour_jitter=0.0,
        eval_epochs=2.9,
        log_steps=50,
    )


def scenes_sweep() -> TrainConfig:
    """A minute of scenes-scratch, to try many settings at equal compute: every run sees 24,000 pictures.

    Command: sightline sweep scenes-sweep --output runs/sweep --grid lr=1e-3,2e-3,4e-3 batch_size=64,128
    train_fraction=0.1,0.3,1.0; one run of it is sightline train scenes-sweep --output runs/minute
    Cost: 91 seconds of one core's time a run (AVX-512), about a minute on two; the 10,000 scenes are rendered once for
    all runs. Result on 500 val scenes: text-to-image R@1 10.0%, R@10 58%, mean recall 40%.
    """
    return replace(
        scenes_scratch(),
        recipe="scenes-sweep",
        limit=10_000,
        val_limit=500,
        samples_seen=24_000,
        epochs=4,
        eval_epochs=1,
        checkpoint_epochs=1,
        keep_checkpoints=1,
        log_steps=10,
    )


def tiny_imagenet_names() -> TrainConfig:
    """A convolutional tower learns 200 names: a warm start for flickr8k-scratch, whose words it learns to read too.

    Command: sightline train tiny-imagenet-names --data tiny-imagenet:PATH --set vocabulary_from=flickr8k:PATH
    --output runs/names
    """
    return TrainConfig(
        recipe="tiny-imagenet-names",
        data=_NO_DATA,
        towers=TowersConfig(),
        train_px=64,
        cache_px=64,
        batch_size=256,
        captions_per_image=1,
        epochs=2,
        lr=2e-3,
        crop_min=0.6,
        val_limit=2000,
    )


def flickr8k_scratch() -> TrainConfig:
    """A convolutional CLIP from a random start (or `--init dir:runs/names`) on Flickr8k's 6,000 pictures.

    Command: sightline train flickr8k-scratch --data flickr8k:PATH --output runs/flickr8k
    Cost: 22 minutes on one core (AVX-512), 90 pictures/s. Result on the 1,000 val pictures (chance 1%): text-to-image
    R@10 14.0%, image-to-text R@10 14.3%, still rising slowly; 6,000 pictures teach a new tower little.
    With a ViT (`--set towers.architecture=vit --set towers.image_width=256`): 10.5 and 12.5%.
    """
    return TrainConfig(
        recipe="flickr8k-scratch",
        data=_NO_DATA,
        towers=TowersConfig(size_px=96),
        cache_px=112,
        batch_size=200,
        captions_per_image=2,
        epochs=20,
        lr=1e-3,
        eval_epochs=2,
    )


def flickr8k_finetune() -> TrainConfig:
    """Any pretrained CLIP or SigLIP goes on with Flickr8k, at a learning rate that doesn't destroy it.

    Command: sightline train flickr8k-finetune --init ViT-B-32/openai --data flickr8k:PATH --output runs/b32-flickr8k
    """
    return TrainConfig(
        recipe="flickr8k-finetune",
        data=_NO_DATA,
        init="ViT-B-32/openai",
        batch_size=128,
        epochs=5,
        lr=1e-5,
        layer_decay=0.75,
        crop_min=0.8,
        patience=3,
    )


def coco_finetune() -> TrainConfig:
    """A pretrained CLIP goes on with COCO's 118,000 pictures; several GPUs with torchrun.

    Command: sightline train coco-finetune --init ViT-B-32/openai --data coco:PATH --output runs/b32-coco
    """
    return replace(flickr8k_finetune(), recipe="coco-finetune", batch_size=512, chunk_size=128, val_limit=5000)


def cc3m_scratch() -> TrainConfig:
    """A ViT-S/16 from a random start on Conceptual Captions' 3 million pairs: for GPUs.

    Command: torchrun --nproc-per-node 8 -m sightline train cc3m-scratch --data cc:PATH --output runs/cc3m
    """
    return TrainConfig(
        recipe="cc3m-scratch",
        data=_NO_DATA,
        towers=TowersConfig(
            architecture="vit",
            size_px=224,
            resize_mode="crop",
            image_width=384,
            image_layers=12,
            image_heads=6,
            patch_px=16,
            text_width=384,
            text_layers=12,
            text_heads=6,
            dim=512,
            dropout=0.0,
            vocab_size=32_000,
            context_length=77,
        ),
        batch_size=4096,
        chunk_size=512,
        gradient_checkpointing=True,
        epochs=32,
        lr=1e-3,
        warmup_fraction=0.02,
        weight_decay=0.2,
        crop_min=0.9,
        colour_jitter=0.0,
        checkpoint_epochs=0.25,
        eval_epochs=0.5,
    )


_RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "scenes-scratch": scenes_scratch,
    "scenes-sweep": scenes_sweep,
    "tiny-imagenet-names": tiny_imagenet_names,
    "flickr8k-scratch": flickr8k_scratch,
    "flickr8k-finetune": flickr8k_finetune,
    "coco-finetune": coco_finetune,
    "cc3m-scratch": cc3m_scratch,
}


def known_recipes() -> dict[str, str]:
    """Name -> one line, of every recipe."""
    return {name: _doc(make).splitlines()[0] for name, make in _RECIPES.items()}


def describe_recipe(name: str) -> str:
    """A recipe's docstring and its settings, for a person."""
    make = _find(name)
    values = dataclasses.asdict(make())
    towers = values.pop("towers")
    lines = [f"  {key} = {value}" for key, value in values.items()]
    lines += [f"  towers.{key} = {value}" for key, value in towers.items()]
    return "\n".join([_doc(make), "", "Settings (--set key=value):", *lines])


def make_config(name: str, settings: Sequence[str] = (), *, smoke: bool = False) -> TrainConfig:
    """The config of a recipe with `key=value` settings, the later ones winning; `smoke` shrinks it to seconds.

    Raises InputError for an unknown recipe or setting, and where the data is the user's to name and isn't.
    """
    config = _find(name)()
    if smoke:
        config = _shrink(config)
    config = config.changed(settings)
    if config.data == _NO_DATA:
        raise InputError(
            f"{name} needs pairs to train on: --data KIND:PATH, as in --data flickr8k:PATH. "
            "`sightline train --list` shows each recipe's command."
        )
    return config


def resumed_config(name: str | None, settings: Sequence[str], output: Path) -> TrainConfig:
    """The config of the run in `output`, with settings that a resumed run may change.

    Raises InputError where it is the run of another recipe than a name that is given.
    """
    config = RunFolder(path=output).read_config()
    if name is not None and config.recipe != name:
        raise InputError(f"{output} holds a run of {config.recipe}, not of {name}.")
    return config.changed(settings)


def _shrink(config: TrainConfig) -> TrainConfig:
    """Everything as in the recipe, but tiny: a few steps of small towers on a few pictures."""
    # A recipe for pretrained models has settings for ViTs, such as chunks, which batch norm doesn't allow.
    towers = config.towers if config.init is None else replace(config.towers, architecture="vit")
    size_px = 32 if towers.architecture == "conv" else 2 * towers.patch_px
    return replace(
        config,
        data=config.data or "scenes:0",
        init=None,
        limit=32,
        train_fraction=1.0,
        val_limit=16,
        towers=replace(
            towers,
            size_px=size_px,
            image_width=8 if towers.architecture == "conv" else 16,
            image_blocks=(1, 1),
            image_layers=1,
            image_heads=2,
            text_width=16,
            text_layers=1,
            text_heads=2,
            dim=16,
            vocab_size=300,
        ),
        train_px=None,
        cache_px=None,
        batch_size=8,
        chunk_size=None if config.chunk_size is None else 4,
        epochs=2,
        samples_seen=None if config.samples_seen is None else 64,
        log_steps=1,
    )


def _find(name: str) -> Callable[[], TrainConfig]:
    if name not in _RECIPES:
        raise InputError(
            f"There is no recipe {name!r}. {did_you_mean(name, _RECIPES)}The recipes are {', '.join(_RECIPES)}."
        )
    return _RECIPES[name]


def _doc(make: Callable[[], TrainConfig]) -> str:
    return inspect.getdoc(make) or ""
