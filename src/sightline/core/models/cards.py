"""Model cards: what is known of a model before its weights are loaded, as JSON, and by its name.

A name stands for a model of `cards.toml`, one in the package, `hf:org/name`, `dir:path` or `endpoint:URL`. The card of
a folder in transformers' layout comes from its configuration files, which omit values that equal a class's default:
those defaults are repeated here.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from sightline.core.images.preprocess import PREPROCESSING_VERSION, Preprocessing
from sightline.core.models.files import CARD_FILE, METADATA_PATTERNS, PACKAGE_FOLDERS, read_json
from sightline.core.types import ModelIdentity
from sightline.errors import InputError, ModelError

CARDS_FILE = Path(__file__).with_name("cards.toml")
ENDPOINT_PREFIX = "endpoint:"
STARTER = "starter"
STARTER_CAPTIONER = "starter-captioner"
_PACKAGE_NAMES = {STARTER: PACKAGE_FOLDERS["encoder"], STARTER_CAPTIONER: PACKAGE_FOLDERS["captioner"]}

ModelKind = Literal["encoder", "captioner", "matcher"]
Family = Literal["clip", "siglip", "blip", "sightline-clip", "sightline-captioner"]
_REQUIRED = ("name", "kind", "family", "image", "text")
_OBJECTS = ("relevance", "figures", "files")
_DESCRIPTION = (
    *("source", "revision", "licence", "paper", "activation", "temperature", "size_bytes"),
    *(*_OBJECTS, "weights_hash"),
)
_IMAGE_KEYS = ("size_px", "resize", "interpolation", "mean", "std")
_TEXT_KEYS = ("context_length", "pad_id", "bos_id", "eos_id", "padding", "lowercase")


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """Texts as a model takes them. Ids are the tokenizer's."""

    context_length: int
    pad_id: int
    bos_id: int | None = None
    eos_id: int | None = None
    padding: Literal["longest", "fixed"] = "longest"
    """`longest` pads to the longest text of a batch (exact for causal towers); `fixed` to the context length."""
    lowercase: bool = False
    """Texts are lowercased before the tokenizer sees them (SigLIP 2 was trained so)."""


@dataclass(frozen=True, kw_only=True)
class OnnxExport:
    """A published ONNX export of a card's weights, usable without torch."""

    repo: str
    revision: str = "main"
    image: str = "onnx/vision_model.onnx"
    text: str = "onnx/text_model.onnx"
    tokenizer: str = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Facts about a model, before its weights are loaded. `sightline.json` of a model folder is this, as JSON."""

    name: str
    kind: ModelKind
    family: Family
    source: str
    """Hub repository (`openai/clip-vit-base-patch32`), folder, or `package` for what ships with Sightline."""
    preprocessing: Preprocessing
    text: TextSpec
    dim: int | None = None
    """Dimension of the joint space; None for captioners."""
    revision: str = "main"
    licence: str = "unknown"
    paper: str | None = None
    activation: str | None = None
    """`quick_gelu` for OpenAI's weights: with plain GELU they are silently wrong."""
    temperature: float | None = None
    """exp(logit scale), where known: softmax(temperature * cosine) gives the model's own probabilities."""
    size_bytes: int | None = None
    """Download size where known."""
    onnx: OnnxExport | None = None
    relevance: Mapping[str, Any] = field(default_factory=dict)
    """What turns its cosines into probabilities (`core.search.relevance`); empty where none was fitted."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Published or measured quality, with what it was measured on."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Relative path -> SHA-256, where known; checked on loading."""
    weights_hash: str | None = None
    """Identity of the weights where it is known beforehand, so that all runtimes and exports of them share one."""

    @property
    def nats_per_cosine(self) -> float:
        """Log-odds that a difference of cosines is worth: the temperature, or CLIP's 100 where it isn't known."""
        return self.temperature or 100.0

    def make_identity(self, weights_hash: str) -> ModelIdentity:
        """All that decides this model's vectors: its weights, and what is done to pixels before and inside it.

        A corrected mean, resize mode or activation gives other vectors from the same weights. Needs `dim`.
        """
        image = self.preprocessing
        pixels = (image.size_px, image.resize_mode, image.interpolation, image.mean, image.std, self.activation)
        digest = hashlib.blake2b(repr((PREPROCESSING_VERSION, pixels)).encode(), digest_size=6).digest()
        assert self.dim is not None  # encoders check this when they are made
        return ModelIdentity(
            name=self.name, weights_hash=weights_hash, preprocessing_version=int.from_bytes(digest, "big"), dim=self.dim
        )


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder, from `sightline.json` or derived from transformers' configuration files.

    Raises ModelError where the folder holds no model, a key is missing or unknown, or the model type isn't supported.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}; `dir:PATH` must name an existing folder.")
    card_path = folder / CARD_FILE
    if card_path.is_file():
        return card_from_json(read_json(card_path), origin=str(card_path))
    if (folder / "config.json").is_file():
        return card_from_json(describe_transformers_folder(folder), origin=str(folder))
    raise ModelError(
        f"{folder} is no model folder: it has neither {CARD_FILE} nor config.json. "
        "Give a folder saved by Sightline or by transformers' `save_pretrained`."
    )


def write_card(folder: Path, card: ModelCard) -> None:
    """Write the card as `folder/sightline.json`, in UTF-8 with a line for each key."""
    text = json.dumps(card_to_json(card), indent=2, ensure_ascii=False)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")


def card_to_json(card: ModelCard) -> dict[str, Any]:
    """The card as plain JSON values: what `sightline.json` holds and `models info --json` prints."""
    image = card.preprocessing
    return {
        **{key: getattr(card, key) for key in ("name", "kind", "family", "dim")},
        "image": {
            "size_px": image.size_px,
            "resize": image.resize_mode,
            "interpolation": image.interpolation,
            "mean": list(image.mean),
            "std": list(image.std),
        },
        "text": {key: getattr(card.text, key) for key in _TEXT_KEYS},
        **{key: getattr(card, key) for key in _DESCRIPTION},
        **{key: dict(getattr(card, key)) for key in _OBJECTS},
    }


def card_from_json(values: Any, *, origin: str) -> ModelCard:
    """Plain JSON values -> the card; `origin` names where they came from in the ModelError of a bad key or value."""
    _check_keys(values, required=_REQUIRED, optional=("dim", *_DESCRIPTION), origin=origin)
    _check_choice(values["kind"], get_args(ModelKind), f"{origin}: kind")
    _check_choice(values["family"], get_args(Family), f"{origin}: family")
    dim = values.get("dim")
    for key in _OBJECTS:
        if not isinstance(values.get(key) or {}, Mapping):
            raise ModelError(f"{origin}: {key} is {values[key]!r}; it must be a JSON object.")
    if values["kind"] == "encoder" and not (isinstance(dim, int) and dim > 0):
        raise ModelError(f"{origin}: dim is {dim!r}; an encoder's card needs a positive whole number.")
    text = values["text"]
    _check_keys(text, required=("context_length", "pad_id"), optional=_TEXT_KEYS, origin=f"{origin}: text")
    _check_choice(text.get("padding", "longest"), ("longest", "fixed"), f"{origin}: text.padding")
    described = {key: values[key] for key in _DESCRIPTION if values.get(key) not in (None, "")}
    return ModelCard(
        name=values["name"],
        kind=values["kind"],
        family=values["family"],
        dim=dim,
        preprocessing=_preprocessing_from_json(values["image"], origin=f"{origin}: image"),
        text=TextSpec(**text),
        **{"source": "unknown", **described},
    )


def _preprocessing_from_json(values: Any, *, origin: str) -> Preprocessing:
    """The `image` part of a card -> Preprocessing. Raises ModelError naming `origin`."""
    _check_keys(values, required=("size_px", "resize"), optional=_IMAGE_KEYS, origin=origin)
    given = {key: value for key, value in values.items() if key != "resize" and value is not None}
    try:
        given |= {key: tuple(map(float, given[key])) for key in ("mean", "std") if key in given}
        return Preprocessing(resize_mode=values["resize"], **given)
    except (InputError, TypeError, ValueError) as error:
        raise ModelError(f"{origin}: {error}") from error


def _check_keys(values: Any, *, required: tuple[str, ...], optional: tuple[str, ...], origin: str) -> None:
    if not isinstance(values, Mapping):
        raise ModelError(f"{origin} must be a JSON object, but is {type(values).__name__}.")
    valid = sorted({*required, *optional})
    for key in values:
        if key not in valid:
            raise ModelError(f"{origin}: unknown key {key!r}. Valid keys: {', '.join(valid)}.")
    if missing := [key for key in required if key not in values]:
        raise ModelError(f"{origin}: missing {', '.join(missing)}. Required keys: {', '.join(required)}.")


def _check_choice(value: Any, choices: tuple[str, ...], origin: str) -> None:
    if value not in choices:
        raise ModelError(f"{origin} is {value!r}; it must be one of {', '.join(choices)}.")


def known_cards() -> dict[str, ModelCard]:
    """Name -> card of every model known by a bare name, those of the package first."""
    package = {name: _package_card(name) for name, folder in _PACKAGE_NAMES.items() if (folder / CARD_FILE).is_file()}
    return {**package, **_hub_cards()}


def find_card(name: str, *, fetch: bool = True) -> ModelCard:
    """The card of a model name.

    `hf:` looks into the cache first and else fetches the repository's configuration files, never its weights;
    `endpoint:` asks the address. Without `fetch` neither happens. Raises ModelError for a bare name that isn't known
    (with the nearest ones), a folder without a model, or a repository that isn't there.
    """
    if name.startswith("dir:"):
        path = Path(name.removeprefix("dir:")).expanduser().resolve()
        return replace(read_card(path), name=f"dir:{path}", source=str(path))
    if name.startswith("hf:"):
        return _repository_card(name, fetch=fetch)
    if name.startswith(ENDPOINT_PREFIX):
        if not fetch:
            raise ModelError("An endpoint is opened at the command line, with --model endpoint:URL, and not from here.")
        return _endpoint_card(name)
    if name in _PACKAGE_NAMES:
        return _package_card(name)
    cards = _hub_cards()
    if name in cards:
        return cards[name]
    names = [*_PACKAGE_NAMES, *cards]
    suggestions = _close_names(name, names)
    hint = f"Did you mean {', '.join(suggestions)}? " if suggestions else ""
    raise ModelError(
        f"There is no model {name!r}. {hint}Known models: {', '.join(names)}. "
        "Others: hf:ORG/NAME for a repository on the Hugging Face hub, dir:PATH for a model folder, "
        "endpoint:URL for one that computes elsewhere."
    )


def resolve_name(name: str, *, kind: ModelKind) -> str:
    """The full name of a model, under which libraries keep its vectors: a relative `dir:` becomes absolute.

    Raises ModelError for a name that isn't known, or that is a model of another kind.
    """
    card = find_card(name)
    if card.kind != kind:
        raise ModelError(f"{name} is {article_of(card.kind)} {card.kind}, and this needs {kind}s, such as {STARTER!r}.")
    return card.name


def article_of(kind: ModelKind) -> str:
    """The article before a kind's name."""
    return "an" if kind == "encoder" else "a"


def _close_names(name: str, names: Sequence[str]) -> list[str]:
    """Known names that start like the one asked for, then those spelt nearly so."""
    wanted = name.lower()
    starting = [known for known in names if wanted and known.lower().startswith(wanted)]
    near = difflib.get_close_matches(wanted, [known.lower() for known in names], n=3, cutoff=0.5)
    return [*starting, *(known for known in names if known.lower() in near and known not in starting)]


@cache
def _hub_cards() -> dict[str, ModelCard]:
    cards = {}
    for name, table in tomllib.loads(CARDS_FILE.read_text(encoding="utf-8")).items():
        onnx = table.pop("onnx", None)
        card = card_from_json({"name": name, **table}, origin=f"{CARDS_FILE.name}: {name}")
        cards[name] = replace(card, onnx=None if onnx is None else OnnxExport(**onnx))
    return cards


def _package_card(name: str) -> ModelCard:
    folder = _PACKAGE_NAMES[name]
    if not (folder / CARD_FILE).is_file():
        raise ModelError(f"This installation lacks the model {name!r} ({folder}); install sightline again.")
    return replace(read_card(folder), name=name, source="package")


def _endpoint_card(name: str) -> ModelCard:
    """The card that an endpoint tells, of its encoder where it has one."""
    from sightline.core.models.remote import Endpoint

    endpoint = Endpoint(name)
    try:
        return endpoint.card("encoder" if endpoint.serves("encoder") else "captioner")
    finally:
        endpoint.close()


def _repository_card(name: str, *, fetch: bool) -> ModelCard:
    from sightline.core.models import hub  # only these names need huggingface_hub, which is slow to import

    repo, _, revision = name.removeprefix("hf:").partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ModelError(f"{name!r} is no repository name; write hf:ORG/NAME or hf:ORG/NAME@REVISION.")
    revision = revision or "main"
    folder = hub.cached_snapshot(repo, revision=revision, patterns=METADATA_PATTERNS)
    if folder is None or not (folder / "config.json").is_file():
        if not fetch:
            raise ModelError(f"The files of {name} are not on this machine. Fetch them: sightline models pull {name}")
        folder = hub.download_snapshot(repo, revision=revision, patterns=METADATA_PATTERNS)
    return replace(read_card(folder), name=name, source=repo, revision=revision)


_MODEL_TYPES = ("clip", "siglip", "blip")

_MATCHER_CLASS = "BlipForImageTextRetrieval"
"""The class of a BLIP with a matching head, as `architectures` names it; the others write captions."""

_LEGACY_CLIP_EOS_ID = 2
"""End id of CLIP texts in configurations of 2021; it means "the highest id of the vocabulary"."""

_RESAMPLINGS = {2: "bilinear", 3: "bicubic"}
_DEFAULT_IMAGE_SIZES_PX = {"clip": 224, "siglip": 224, "blip": 384}
_HALF = [0.5, 0.5, 0.5]


def describe_transformers_folder(folder: Path) -> dict[str, Any]:
    """The card of a CLIP, SigLIP or BLIP folder from its own JSON files, as `sightline.json` would hold it.

    Raises ModelError for another model type, or where preprocessing isn't the scaling and cropping that we do.
    """
    config = read_json(folder / "config.json")
    family = config.get("model_type")
    if family not in _MODEL_TYPES:
        raise ModelError(
            f"{folder}: model_type {family!r} is not supported. Supported: {', '.join(_MODEL_TYPES)} "
            "(SigLIP 2 of fixed resolution has model_type siglip), and folders that Sightline made."
        )
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    kinds = {"blip": "matcher" if _MATCHER_CLASS in config.get("architectures", ()) else "captioner"}
    dims = {"clip": config.get("projection_dim", 512), "siglip": vision.get("hidden_size", 768)}
    return {
        "name": folder.name,
        "kind": kinds.get(family, "encoder"),
        "family": family,
        "dim": dims.get(family),
        "source": str(folder),
        "image": _describe_image(folder, family, vision),
        "text": _describe_text(folder, family, text),
        "activation": text.get("hidden_act", "quick_gelu") if family == "clip" else None,
    }


def _describe_image(folder: Path, family: str, vision: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing from `preprocessor_config.json` or `processor_config.json`; the family's own where both lack.

    Raises ModelError where the model's image size and the preprocessor's differ, or the steps aren't ours.
    """
    values = _image_processor_values(folder)
    model_size_px = _side(vision.get("image_size", _DEFAULT_IMAGE_SIZES_PX[family]), folder)
    size, crop_size = values.get("size", model_size_px), values.get("crop_size", model_size_px)
    crops = values.get("do_center_crop", family == "clip")
    size_px, crop_px = _side(size, folder), _side(crop_size, folder)
    if size_px != model_size_px or (crops and crop_px != size_px):
        raise ModelError(
            f"{folder}: the preprocessor scales to {size!r} and crops to {crop_size!r}, the model takes "
            f"{model_size_px} pixels; Sightline needs all of them equal. Check the folder's JSON files."
        )
    resample = values.get("resample", 3)
    if resample not in _RESAMPLINGS:
        raise ModelError(f"{folder}: resample {resample!r} is not supported; it must be 2 (bilinear) or 3 (bicubic).")
    squashes = not crops or (isinstance(size, Mapping) and "height" in size)
    default_mean, default_std = (_HALF, _HALF) if family == "siglip" else (Preprocessing.mean, Preprocessing.std)
    return {
        "size_px": size_px,
        "resize": "squash" if squashes else "crop",
        "interpolation": _RESAMPLINGS[resample],
        "mean": values.get("image_mean", default_mean),
        "std": values.get("image_std", default_std),
    }


def _image_processor_values(folder: Path) -> Mapping[str, Any]:
    """Version 5 writes one `processor_config.json` with the image processor inside; before, a file of its own."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            values: Mapping[str, Any] = read_json(folder / name)
            nested: Mapping[str, Any] = values.get("image_processor", values)
            if "image_mean" in nested or "size" in nested:
                return nested
    return {}


def _side(size: Any, folder: Path) -> int:
    """One side in pixels of `224`, `{"shortest_edge": 224}` or `{"height": 224, "width": 224}`."""
    sides = set(size.values()) if isinstance(size, Mapping) else {size}
    if len(sides) == 1 and isinstance(side := sides.pop(), int):
        return side
    raise ModelError(f"{folder}: image size {size!r} is not supported; it must be one square of a fixed size.")


def _describe_text(folder: Path, family: str, text: Mapping[str, Any]) -> dict[str, Any]:
    if family == "clip":
        eos_id, bos_id = text.get("eos_token_id", 49407), text.get("bos_token_id", 49406)
        if eos_id == _LEGACY_CLIP_EOS_ID:
            eos_id = text.get("vocab_size", 49408) - 1
            bos_id = eos_id - 1
        # The causal tower never looks past EOS, so EOS pads too, as OpenAI's tokenizer does.
        length = text.get("max_position_embeddings", 77)
        return {"context_length": length, "pad_id": eos_id, "bos_id": bos_id, "eos_id": eos_id}
    if family == "siglip":
        length, pad_id = text.get("max_position_embeddings", 64), _pad_id(folder, text)
        return {"context_length": length, "pad_id": pad_id, "padding": "fixed", "lowercase": True}
    return {
        "context_length": text.get("max_position_embeddings", 512),
        "pad_id": text.get("pad_token_id", 0),
        "bos_id": text.get("bos_token_id", 30522),
        "eos_id": text.get("sep_token_id", 102),
    }


def _pad_id(folder: Path, text: Mapping[str, Any]) -> int:
    """Id of the tokenizer's own pad token: SigLIP reads its padding, and its model configuration often has it wrong."""
    settings_path = folder / "tokenizer_config.json"
    settings = read_json(settings_path) if settings_path.is_file() else {}
    token = settings.get("pad_token")
    if isinstance(token, Mapping):
        token = token.get("content")
    for id_text, added in settings.get("added_tokens_decoder", {}).items():
        if added.get("content") == token:
            return int(id_text)
    if token is not None and (folder / "tokenizer.json").is_file():
        tokenizer = read_json(folder / "tokenizer.json")
        for added in tokenizer.get("added_tokens", []):
            if added["content"] == token:
                return int(added["id"])
    if (configured := text.get("pad_token_id")) is not None:
        return int(configured)
    raise ModelError(
        f"{folder}: no pad token found in tokenizer_config.json, tokenizer.json or config.json's text_config."
    )
