"""Everything that decides a training run, in frozen dataclasses that a recipe returns and `--set` changes."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from sightline.core.images.preprocess import ResizeMode
from sightline.errors import InputError

Architecture = Literal["conv", "vit"]
LossName = Literal["softmax", "sigmoid"]
DecodeMode = Literal["auto", "once", "anew"]
TrainingPrecision = Literal["fp32", "bf16"]

LARGEST = 10**15
"""No setting is further from 0: up to here floats count whole steps."""
MAX_TEMPERATURE = 100.0
"""The factor on cosines is kept below it, as CLIP's authors did (Radford et al. 2021, section 2.5)."""
_FORMER: Mapping[str, Any] = {
    "max_temperature": MAX_TEMPERATURE,
    "bias": -10.0,
    "contrast_weight": 1.0,
    "schedule": "cosine",
    "beta2": 0.98,
    "max_gradient_norm": 1.0,
    "aspect_jitter": 1.0,
}
"""Settings that earlier versions had, with the value that is fixed now; an old run may still name them."""


@dataclass(frozen=True, kw_only=True)
class TowersConfig:
    """Sizes of two towers that start from random weights. Widths are channels or features, `size_px` a side."""

    architecture: Architecture = "conv"
    """`conv`: our ResNet and bidirectional text transformer; `vit`: transformers' CLIPModel."""
    size_px: int = 112
    resize_mode: ResizeMode = "squash"
    image_width: int = 32
    """conv: channels of the first stage, which each later stage doubles; vit: width of the transformer."""
    image_blocks: tuple[int, ...] = (2, 2, 2, 2)
    """conv: residual blocks of each stage."""
    image_layers: int = 6
    """vit: transformer layers."""
    image_heads: int = 4
    """vit: attention heads."""
    patch_px: int = 16
    """vit: side of a patch."""
    text_width: int = 256
    text_layers: int = 3
    """conv: 0 makes a bag of words, without order and without attention."""
    text_heads: int = 4
    coordinates: bool = False
    """conv: whether the image tower sees where each pixel lies."""
    text_bigrams: int = 0
    """conv: rows of a table of embeddings for pairs of neighbouring tokens."""
    dim: int = 256
    """Dimension of the joint space."""
    dropout: float = 0.1
    vocab_size: int = 5000
    context_length: int = 32
    """Longest text in tokens, with those that mark its start and end."""

    def __post_init__(self) -> None:
        """Raises InputError for sizes that no model can have."""
        check_finite(self)
        check_choice(self, "architecture", get_args(Architecture))
        check_choice(self, "resize_mode", get_args(ResizeMode))
        check_least(self, 1, "size_px", "image_width", "image_layers", "image_heads", "patch_px", "text_width")
        check_least(self, 1, "text_heads", "dim", "vocab_size", "image_blocks")
        check_least(self, 4, "context_length")
        check_least(self, 0, "text_bigrams")
        check_least(self, 0 if self.architecture == "conv" else 1, "text_layers")
        check_range(self, 0.0, 1.0, "dropout")
        if self.text_bigrams and not self.text_layers:
            raise InputError("towers.text_bigrams must be 0 where towers.text_layers is: a bag of words has no order.")
        if self.architecture == "vit" and self.size_px % self.patch_px:
            raise InputError(f"towers.patch_px ({self.patch_px}) must divide towers.size_px ({self.size_px}).")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training run. Learning rates are AdamW's; fractions lie in [0, 1]."""

    recipe: str
    """Name of the recipe that it came from."""

    # --- data
    data: str
    """Address of the pairs, as in `flickr8k:PATH`; their `train` split is trained on."""
    more_data: tuple[str, ...] = ()
    """Addresses of further pairs that are mixed in. Texts of one set are never held against images of another, of
    which nobody knows whether they fit."""
    data_repeats: int = 1
    """Number of times an epoch takes each image of `data` while it takes those of `more_data` once."""
    val_data: str | None = None
    """Address of the pairs that are measured on; None takes those of `data`."""
    val_split: str = "val"
    limit: int | None = None
    """Train on so many images of each set only, chosen by `seed`."""
    train_fraction: float = 1.0
    """Train on this fraction of the images only."""
    val_limit: int | None = 1000
    captions_per_image: int = 1
    """Captions drawn for each image and step; all of them are positives of the image."""
    negatives_per_caption: int = 0
    """Hard negatives drawn for each caption of a step, where the data has some: told from that caption only."""
    vocabulary_from: tuple[str, ...] = ()
    """Addresses of further pairs whose words the tokenizer of a new model learns too."""
    negatives_weight: float = 1.0
    shuffle_captions: bool = False
    """Control: give each image the captions of another, so that there is nothing to learn."""

    # --- model
    init: str | None = None
    """Name of a model to start from; None starts from random weights of the sizes in `towers`."""
    towers: TowersConfig = field(default_factory=TowersConfig)
    freeze_image: bool = False
    """Train the text tower only (LiT)."""
    freeze_text: bool = False
    """Train the image tower only, as towards a teacher that knows the words already."""
    freeze_norm: bool = False
    """Keep batch norm's statistics as they are: needed for several ranks or chunks."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank instead of all weights; 0 trains all."""
    gradient_checkpointing: bool = False

    # --- loss
    loss: LossName = "softmax"
    temperature: float = 14.3
    """The logit scale at the start of a new model, the factor on cosines: 1 / temperature of the softmax, whose name
    this setting has kept. 14.3 is CLIP's temperature of 0.07."""
    teacher: str | None = None
    """An encoder's name, or a `.npy` of one row for each image of the train split: image embeddings to follow."""
    teacher_weight: float = 1.0
    teacher_map: bool = True
    """True where a linear map, thrown away afterwards, leads from the image vectors to the teacher's; false holds the
    vectors themselves against those of a teacher with the same joint space."""
    words_weight: float = 0.0
    """Weight of predicting, from the image map's cells, the frequent words and word pairs of an image's captions.
    It fades linearly to nothing over the run."""
    words_count: int = 512
    """Number of these words."""

    # --- optimiser
    batch_size: int = 256
    """Images a step, over all ranks."""
    chunk_size: int | None = None
    """Images that are in memory at once (gradient caching); None takes the whole batch."""
    epochs: float = 10.0
    samples_seen: int | None = None
    """Images seen in all, so that batch sizes and parts of the data are compared at equal compute; None sees each
    image `epochs` times. Where it is set, `epochs` only says how `eval_epochs` and `checkpoint_epochs` divide it."""
    lr: float = 1e-3
    warmup_fraction: float = 0.1
    """Part of all steps over which the learning rate rises."""
    weight_decay: float = 0.05
    image_lr_factor: float = 1.0
    text_lr_factor: float = 1.0
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one below it."""
    average_decay: float = 0.0
    """Decay of the weights' moving average, which is what is measured and kept; 0 turns it off."""
    precision: TrainingPrecision = "bf16"

    # --- pixels
    decode: DecodeMode = "auto"
    """Train images are decoded `once`, and kept on the disk, or `anew` in every epoch; auto is once, unless that would
    take more than 32 GB or half of what is free. Both train the same weights."""
    cache_px: int | None = None
    """Side of the decoded pixels that are kept; None takes the model's size."""
    train_px: int | None = None
    """Side of the crops that are trained on, where the image tower takes another than the model's (conv only)."""
    crop_min: float = 0.7
    """Smallest side of a random crop, as a part of the image's; 1 turns cropping off."""
    flip: bool = True
    """Mirror half of the images; false where left and right are told apart."""
    crops: int = 0
    """Fixed crops of each image of `data` (and a `data_repeats`-th of them of the others), the first being the whole;
    0 draws another crop every time. A teacher sees each of them once, so that it sees what its student sees."""
    colour_jitter: float = 0.2

    # --- measuring and keeping
    eval_epochs: float = 1.0
    """Epochs between two measurements on the val pairs."""
    patience: int | None = None
    """Measurements without a better one after which the run ends; None never ends it early."""
    checkpoint_epochs: float = 1.0
    keep_checkpoints: int = 2
    log_steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_finite(self)
        check_choice(self, "loss", get_args(LossName))
        check_choice(self, "precision", get_args(TrainingPrecision))
        check_choice(self, "decode", get_args(DecodeMode))
        check_least(self, 1, "captions_per_image", "batch_size", "keep_checkpoints", "log_steps", "words_count")
        check_least(self, 1, "data_repeats")
        check_least(self, 0, "negatives_per_caption", "negatives_weight", "lora_rank", "seed", "teacher_weight")
        check_least(self, 0, "crops", "weight_decay", "words_weight", "image_lr_factor", "text_lr_factor")
        for name in ("limit", "val_limit", "chunk_size", "cache_px", "train_px", "patience", "samples_seen"):
            if getattr(self, name) is not None:
                check_least(self, 1, name)
        for name in ("lr", "epochs", "eval_epochs", "checkpoint_epochs", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}.")
        check_range(self, 0.0, 1.0, "warmup_fraction", "average_decay", "colour_jitter")
        for name in ("train_fraction", "crop_min", "layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in (0, 1], got {getattr(self, name)}.")
        if self.temperature > MAX_TEMPERATURE:
            raise InputError(f"temperature must be at most {MAX_TEMPERATURE:g}, got {self.temperature}.")
        if self.freeze_image and self.freeze_text:
            raise InputError("freeze_image and freeze_text together leave nothing to train; set one of them.")
        if not self.teacher_map and (self.teacher is None or self.teacher.endswith(".npy")):
            raise InputError("teacher_map=false needs a teacher that is a model: its words and pictures share a space.")
        if self.batch_size < 2:
            raise InputError("batch_size must be at least 2: a contrastive loss needs something to tell apart.")

    def changed(self, settings: Iterable[str]) -> Self:
        """This config with `key=value` settings applied; `towers.dim=128` reaches into the towers.

        Raises InputError for an unknown key (with the nearest ones) or a value of another type.
        """
        changes: dict[str, Any] = {}
        towers: dict[str, Any] = {}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals:
                raise InputError(f"{setting!r} is no setting; write key=value, as in lr=1e-3.")
            inner = key.removeprefix("towers.")
            owner, target = (TowersConfig, towers) if inner != key else (type(self), changes)
            target[inner] = parse_field(owner, inner, text)
        if towers:
            changes["towers"] = dataclasses.replace(self.towers, **towers)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The config as plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config that `to_dict` gave. Raises InputError for unknown keys and former settings that were changed."""
        values = {key: value for key, value in values.items() if key not in _FORMER or value != _FORMER[key]}
        for key in _FORMER.keys() & values.keys():
            raise InputError(
                f"The run has {key}={values[key]!r}; this setting is gone, and {_FORMER[key]!r} is fixed. Go on with "
                "the version of Sightline that began it, or train these weights further in another run (--init)."
            )
        towers = dict(values.pop("towers", {}))
        for owner, given in ((cls, values), (TowersConfig, towers)):
            for key in given:
                _field_type(owner, key)
        lists: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        sizes: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in towers.items()
        }
        return cls(**{**values, **lists, "towers": TowersConfig(**sizes)})


def parse_setting(key: str, text: str) -> Any:
    """The value that `key=text` sets, of the setting's type; `towers.dim` reaches into the towers.

    Raises InputError for an unknown key (with the nearest ones) or a value of another type.
    """
    inner = key.removeprefix("towers.")
    return parse_field(TowersConfig if inner != key else TrainConfig, inner, text)


def setting_options(key: str) -> tuple[Any, ...] | None:
    """All values that a setting of words or of true and false can have; None for another one."""
    inner = key.removeprefix("towers.")
    kind = _field_type(TowersConfig if inner != key else TrainConfig, inner)
    if kind is bool:
        return (False, True)
    return get_args(kind) if typing.get_origin(kind) is Literal else None


@functools.cache
def _types_of(owner: type) -> dict[str, Any]:
    """Each field's type; working it out takes longer than all else that a setting needs."""
    return typing.get_type_hints(owner)


def _field_type(owner: type, key: str) -> Any:
    hints = _types_of(owner)
    names = [f.name for f in dataclasses.fields(owner) if f.name not in ("recipe", "towers")]
    if key in ("recipe", "towers") and owner is not TowersConfig:
        return hints[key]
    if key not in names:
        prefix = "towers." if owner is TowersConfig else ""
        raise InputError(f"There is no setting {prefix}{key}. {did_you_mean(key, names)}Valid: {', '.join(names)}.")
    return hints[key]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known words that are spelt nearly so, as a question before what else a message says; empty for none."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"Did you mean {', '.join(near)}? " if near else ""


def parse_field(owner: type, key: str, text: str) -> Any:
    """The value that `key=text` sets in a config of any class. Raises InputError as `parse_setting` does."""
    kind = _field_type(owner, key)
    if key in ("recipe", "towers"):
        raise InputError(f"{key} can't be set; set its parts, as in towers.dim=128.")
    options = get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    if type(None) in options and text.lower() in ("none", ""):
        return None
    kind = next(option for option in options if option is not type(None))
    try:
        return _convert(kind, text)
    except ValueError:
        wanted = getattr(kind, "__name__", None) if not get_args(kind) else str(kind)
        prefix = "towers." if owner is TowersConfig else ""
        raise InputError(f"{prefix}{key}={text!r}: this is no {wanted}.") from None


def _convert(kind: Any, text: str) -> Any:
    if typing.get_origin(kind) is tuple:
        return tuple(_convert(get_args(kind)[0], part.strip()) for part in text.split(",") if part.strip())
    if typing.get_origin(kind) is Literal:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return kind(text)


def _key(config: Any, name: str) -> str:
    """The name of a setting for `--set`."""
    return f"towers.{name}" if isinstance(config, TowersConfig) else name


def check_choice(config: Any, name: str, allowed: tuple[str, ...]) -> None:
    """Refuse a setting that is none of some words. Raises InputError, as all checks here."""
    if getattr(config, name) not in allowed:
        raise InputError(f"{_key(config, name)} is {getattr(config, name)!r}; it must be one of {', '.join(allowed)}.")


def check_finite(config: Any) -> None:
    """Refuse NaN, which passes a check for too small ones, and numbers that no count of steps can be made of."""
    for entry in dataclasses.fields(config):
        for number in _numbers(config, entry.name):
            if isinstance(number, int | float) and not abs(number) <= LARGEST:
                raise InputError(
                    f"{_key(config, entry.name)} must be a number between -{LARGEST:g} and {LARGEST:g}, got {number}."
                )


def _numbers(config: Any, name: str) -> tuple[Any, ...]:
    value = getattr(config, name)
    return value if isinstance(value, tuple) else (value,)


def check_least(config: Any, least: int, *names: str) -> None:
    """Refuse settings, numbers or several, that are too small."""
    for name in names:
        numbers = _numbers(config, name)
        if not numbers:
            raise InputError(f"{_key(config, name)} needs at least one number.")
        if min(numbers) < least:
            raise InputError(f"{_key(config, name)} must be at least {least}, got {min(numbers)}.")


def check_range(config: Any, low: float, high: float, *names: str) -> None:
    """Refuse settings below `low`, or not below `high`."""
    for name in names:
        if not low <= getattr(config, name) < high:
            raise InputError(f"{_key(config, name)} must lie in [{low:g}, {high:g}), got {getattr(config, name)}.")
