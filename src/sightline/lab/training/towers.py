"""The towers of a run and their tokenizer: made anew or loaded, adapted, and written into a model folder."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import ModelCard, TextSpec, find_card, write_card
from sightline.core.models.convolutional import ConvClip, ConvClipConfig, Saved
from sightline.core.models.files import TOKENIZER_FILES, WEIGHTS_FILE, find_weights, resolve_folder
from sightline.core.models.inputs import Tokenizer
from sightline.core.models.lite import comes_as_graphs
from sightline.core.models.torch_models import ClipTowers, ConvTowers, Towers, load_towers
from sightline.errors import TrainingError
from sightline.kit.files import replacing, share_as_others, write_json
from sightline.lab.training.config import TowersConfig, TrainConfig
from sightline.lab.training.log import import_train

SPECIAL_TOKENS = ("[PAD]", "[BOS]", "[UNK]", "[EOS]")
"""EOS isn't 2: transformers' CLIP takes an end id of 2 for the mark of its configurations of 2021."""
PAD_ID, BOS_ID, UNK_ID, EOS_ID = range(4)

_LORA_FAMILIES = ("clip", "siglip")
_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""The projections of attention and MLP in each layer of a tower, by transformers' names."""
_ALWAYS_TRAINED = re.compile(r"(?:^|\.)logit_(?:scale|bias)$")
_ACTIVATION = "gelu"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> tokenizers.Tokenizer:
    """A lower-casing byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) of at most `vocab_size` entries.

    Punctuation and accents are dropped, so "A dog." equals "a dog"; a small model can't afford two ways to say it.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNK_ID]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace("\u2019", "'"),
            normalizers.Replace(Regex(r"[^\w\s']|_"), " "),
        ]
    )
    # A mark before each word, not a suffix after it: with suffixes the trainer's order, and so the ids, is random.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", BOS_ID), ("[EOS]", EOS_ID)]
    )
    return tokenizer


def write_tokenizer(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` into a folder, which is made when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def text_spec(context_length: int) -> TextSpec:
    """The way a model with such a tokenizer takes text."""
    return TextSpec(context_length=context_length, pad_id=PAD_ID, bos_id=BOS_ID, eos_id=EOS_ID)


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model in training: the towers, the card that describes them, and the folder that has their tokenizer."""

    towers: Towers
    card: ModelCard
    tokenizer: Tokenizer
    tokenizer_folder: Path


def make_towers(train: TrainConfig, tokenizer_folder: Path) -> TrainedModel:
    """Towers with random weights, and their card; `tokenizer_folder` has the tokenizer that they will read with."""
    torch.manual_seed(train.seed)
    config = train.towers
    text = text_spec(config.context_length)
    tokenizer = Tokenizer.load(tokenizer_folder, text)
    make = _make_conv if config.architecture == "conv" else _make_vit
    towers = make(dataclasses.replace(config, vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        towers.model.logit_scale.fill_(math.log(train.temperature))
    card = ModelCard(
        name="trained",
        kind="encoder",
        family="sightline-clip" if config.architecture == "conv" else "clip",
        source="trained with Sightline",
        preprocessing=Preprocessing(size_px=config.size_px, resize_mode=config.resize_mode),
        text=text,
        dim=config.dim,
        licence="that of the data it was trained on",
        activation=None if config.architecture == "conv" else _ACTIVATION,
    )
    return TrainedModel(towers=towers, card=card, tokenizer=tokenizer, tokenizer_folder=tokenizer_folder)


def load_trained(name: str) -> TrainedModel:
    """The towers of any encoder that has PyTorch weights here: `dir:PATH`, `hf:ORG/NAME` once pulled, a known name.

    Raises ModelError where it isn't on this machine, TrainingError where it has no weights that can be trained.
    """
    card = find_card(name)
    if card.kind != "encoder":
        raise TrainingError(f"{name} is a {card.kind}; training starts from an encoder (CLIP, SigLIP or our own).")
    folder = resolve_folder(card, runtime="torch")
    if not find_weights(folder) and not comes_as_graphs(folder):
        raise TrainingError(
            f"{name} has no {WEIGHTS_FILE} in {folder}, only graphs, which can't be trained further. "
            "Start from a model that has its weights, such as dir:RUN of an earlier run."
        )
    tokenizer = Tokenizer.load(folder, card.text)
    return TrainedModel(towers=load_towers(card, folder), card=card, tokenizer=tokenizer, tokenizer_folder=folder)


def write_settings(model: TrainedModel, folder: Path, *, figures: dict[str, Any]) -> None:
    """Write all of a model folder but the weights: config, tokenizer, preprocessor and card.

    Raises TrainingError where it can't be written, as on a full disk.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            source = model.tokenizer_folder / name
            if source.is_file() and source.resolve() != (folder / name).resolve():
                shutil.copyfile(source, folder / name)
        inner = model.towers.model
        if isinstance(inner, Saved):
            write_json(folder / "config.json", inner.config.to_dict(), indent=2)
        else:
            inner.config.save_pretrained(folder)
            write_json(folder / "preprocessor_config.json", _preprocessor(model.card), indent=2)
        write_card(folder, dataclasses.replace(model.card, figures=figures, files={}, weights_hash=None))


def write_weights(module: nn.Module, path: Path) -> None:
    """Write a module's tensors as safetensors, so that a reader sees the old file or the new one.

    Raises TrainingError where it can't be written, as on a full disk; the old file stays.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with _explained(path), replacing(path) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
        share_as_others(partial)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A disk's refusal as an error that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"The model can't be written to {path}: {error}. Checkpoints and what was written before are whole: free "
            "some space and go on with --resume."
        ) from error


def _make_conv(config: TowersConfig) -> Towers:
    names = {entry.name for entry in dataclasses.fields(ConvClipConfig)} - {"pad_id"}
    sizes: dict[str, Any] = {name: getattr(config, name) for name in names}
    return ConvTowers(ConvClip(ConvClipConfig(**sizes, pad_id=PAD_ID)), dim=config.dim)


def _make_vit(config: TowersConfig) -> Towers:
    from transformers import CLIPConfig, CLIPModel

    def sizes(width: int, layers: int, heads: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "attention_dropout": config.dropout,
            "hidden_act": _ACTIVATION,
            "projection_dim": config.dim,
        }

    text = {
        **sizes(config.text_width, config.text_layers, config.text_heads),
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
    }
    vision = {
        **sizes(config.image_width, config.image_layers, config.image_heads),
        "image_size": config.size_px,
        "patch_size": config.patch_px,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.dim))
    return ClipTowers(model, dim=config.dim)


def _preprocessor(card: ModelCard) -> dict[str, Any]:
    """The settings that transformers' CLIPImageProcessor reads: the same pixels as our own preprocessing."""
    image = card.preprocessing
    side = {"height": image.size_px, "width": image.size_px}
    crops = image.resize_mode == "crop"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image.size_px} if crops else side,
        "resample": 3 if image.interpolation == "bicubic" else 2,
        "do_center_crop": crops,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }


def add_lora(model: nn.Module, *, rank: int) -> None:
    """Put low-rank adapters into both towers, and freeze all else but the logit scale and bias.

    LoRA (Hu et al. 2021, arXiv:2106.09685): small trainable matrices beside the frozen projections of transformers'
    CLIP and SigLIP towers, `W x + 2 * B A x`, with B zero at the start, so that a model with new adapters gives the
    very vectors that it gave before. A's start is drawn from torch's generator. The model is changed in place.

    Raises TrainingError where peft isn't installed, or the model isn't transformers' CLIP or SigLIP, or has adapters.
    """
    _check_model(model)
    peft = _import_peft()
    # SigLIP's pooling attention is left out: it is torch's fused module, which reads its weights past any adapter.
    pattern = rf".*\.encoder\.layers\.\d+\.(?:self_attn|mlp)\.(?:{'|'.join(_LORA_TARGETS)})"
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pattern), model)
    model.train(model.training)  # peft's new modules would be in training in a model that is set to evaluation
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(".lora_" in name or _ALWAYS_TRAINED.search(name)))


def merge_lora(model: nn.Module) -> nn.Module:
    """A copy whose weights hold what the adapters learned: a plain model again, in transformers' own layout.

    The model itself stays as it is, so that training goes on after a checkpoint. Every tensor of the copy requires a
    gradient, as in a model that was loaded.

    Raises TrainingError where peft isn't installed, or the model has no adapters.
    """
    layer_class = _import_peft().tuners.lora.LoraLayer
    merged: Any = copy.deepcopy(model)
    layers = {name: module for name, module in merged.named_modules() if isinstance(module, layer_class)}
    if not layers:
        raise TrainingError(f"{type(model).__name__} has no LoRA adapters to merge.")
    for name, layer in layers.items():
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(merged.get_submodule(parent), child, layer.get_base_layer())
    merged.__dict__.pop("peft_config", None)
    plain: nn.Module = merged.requires_grad_(True)
    return plain


def has_lora(model: nn.Module) -> bool:
    """True where `add_lora` put adapters into the model."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def _import_peft() -> Any:
    return import_train("peft", "LoRA needs peft", error=TrainingError)


def _check_model(model: nn.Module) -> None:
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family in ("sightline-clip", "sightline-lite-clip"):
        raise TrainingError(
            "LoRA adapts the linear projections of transformer towers; a convolutional image tower has none, and is so "
            "small that training it wholly costs little. Train without LoRA, or freeze the image tower."
        )
    if family not in _LORA_FAMILIES:
        raise TrainingError(
            f"LoRA is for transformers' {' and '.join(_LORA_FAMILIES)} models; this is a {type(model).__name__}."
        )
    if has_lora(model):
        raise TrainingError("The model has LoRA adapters already; merge them first.")
