"""The models of an exported folder behind `EndpointHandler`, as Hugging Face's inference endpoints call it.

Runs without torch, and without any part of Sightline but what is exported with it. A request comes from anybody: its
text is data, its images are bytes of a bounded size, and no address is fetched. Shape suffixes: B images, S side in
pixels, H W height and width, T texts, D dimension of the joint space.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.colours import flatten_to_rgb
from sightline.core.images.decode import read_image, read_info
from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import ModelCard, card_to_json, read_card
from sightline.core.models.files import CARD_FILE, verify_files
from sightline.core.models.onnx_runtime import OnnxCaptioner, OnnxEncoder
from sightline.errors import ImageError, InputError, ModelError

ENCODER_FOLDER, CAPTIONER_FOLDER = "encoder", "captioner"


@dataclass(frozen=True, kw_only=True)
class EndpointLimits:
    """Bounds of one request. They are told with the card, so that clients keep to them."""

    max_images: int = 64
    max_texts: int = 256
    max_maps: int = 4
    """Images whose feature maps are given at once: these are large."""
    max_text_chars: int = 2_000
    max_image_bytes: int = 20_000_000
    max_request_bytes: int = 64_000_000
    """All images of a request together."""
    max_image_pixels: int = 50_000_000
    max_candidates: int = 8
    """Captions of an image, and width of the beam."""

    def check_count(self, what: str, count: int, limit: int) -> None:
        """Raises InputError for more than the limit."""
        if count > limit:
            raise InputError(f"{count:,} {what} are too many for one request; at most {limit:,} are taken.")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call: what to do with which inputs. `options` are the parameters besides `task` and `expects`."""

    task: str
    inputs: Any
    options: Mapping[str, Any]


class EndpointHandler:
    """The handler of an exported folder: an encoder, a captioner or both."""

    def __init__(self, path: str = "", *, limits: EndpointLimits | None = None) -> None:
        """Load the models below `path`. Raises ModelError where there is none or a file was changed."""
        self.limits = limits or EndpointLimits()
        folder = Path(path)
        self._encoder = _load_encoder(folder / ENCODER_FOLDER)
        self._captioner = _load_captioner(folder / CAPTIONER_FOLDER)
        if self._encoder is None and self._captioner is None:
            raise ModelError(f"{folder} holds no model: it needs the folder {ENCODER_FOLDER} or {CAPTIONER_FOLDER}.")
        self._tasks = self._make_tasks()

    def __call__(self, data: dict[str, Any]) -> Any:
        """Answer one request: `{"inputs": ..., "parameters": {"task": ..., ...}}`; plain values come back.

        Raises InputError, whose message the toolkit gives to the client, for anything that can't be answered.
        """
        request = self._parse(data)
        if request.task not in self._tasks:
            raise InputError(f"There is no task {request.task!r} here. Tasks: {', '.join(self._tasks)}.")
        return self._tasks[request.task](request)

    def _make_tasks(self) -> dict[str, Callable[[Request], Any]]:
        tasks: dict[str, Callable[[Request], Any]] = {"card": self._tell}
        if (encoder := self._encoder) is not None:
            tasks |= {
                "image-feature-extraction": lambda request: self._embed_images(encoder, request),
                "feature-extraction": lambda request: self._embed_texts(encoder, request),
                "zero-shot-image-classification": lambda request: self._classify(encoder, request),
                "image-feature-maps": lambda request: self._map(encoder, request),
            }
        if (captioner := self._captioner) is not None:
            tasks |= {
                "image-to-text": lambda request: self._caption(captioner, request),
                "caption-scores": lambda request: self._score(captioner, request),
            }
        return tasks

    def _parse(self, data: Any) -> Request:
        if not isinstance(data, dict) or "inputs" not in data:
            raise InputError('A request is a JSON object: {"inputs": ..., "parameters": {"task": ...}}.')
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict) or not all(isinstance(name, str) for name in parameters):
            raise InputError("parameters must be a JSON object.")
        options = {name: value for name, value in parameters.items() if name not in ("task", "expects")}
        task = parameters.get("task") or self._guess_task(data["inputs"], options)
        self._check_expectation(parameters.get("expects"))
        return Request(task=str(task), inputs=data["inputs"], options=options)

    def _guess_task(self, inputs: Any, options: Mapping[str, Any]) -> str:
        """For clients that know only `inputs`: pictures are described, words are embedded."""
        if "candidate_labels" in options:
            return "zero-shot-image-classification"
        first = inputs[0] if isinstance(inputs, list) and inputs else inputs
        if isinstance(first, str):
            return "feature-extraction"
        return "image-to-text" if self._captioner is not None else "image-feature-extraction"

    def _check_expectation(self, expected: Any) -> None:
        """A client that collects vectors names their weights, so that a new deployment doesn't mix into them."""
        hashes = {model.card.weights_hash for model in (self._encoder, self._captioner) if model is not None}
        if expected is not None and expected not in hashes:
            raise InputError("The model of this endpoint was exchanged. Connect anew to go on with the new one.")

    def _tell(self, request: Request) -> dict[str, Any]:
        take_options(request.options, {})
        answer: dict[str, Any] = {"tasks": list(self._tasks), "limits": asdict(self.limits)}
        if (encoder := self._encoder) is not None:
            answer |= {
                "encoder": card_to_json(encoder.card),
                "precision": encoder.precision,
                "runtime": encoder.runtime,
            }
        if self._captioner is not None:
            answer["captioner"] = card_to_json(self._captioner.card)
        return answer

    def _pixels(self, inputs: Any, card: ModelCard) -> NDArray[np.uint8]:
        """Pictures -> (B, S, S, 3). A picture that has the model's size already comes through unchanged."""
        side = card.preprocessing.size_px
        images = take_images(inputs, min_side_px=side, limits=self.limits)
        pixels_BSS3 = np.zeros((len(images), side, side, 3), np.uint8)
        for row, image_HW3 in zip(pixels_BSS3, images, strict=True):
            row[:] = card.preprocessing.resize(image_HW3)
        return pixels_BSS3

    def _embed_images(self, encoder: OnnxEncoder, request: Request) -> Any:
        take_options(request.options, {})
        vectors = _to_plain(encoder.encode_images(self._pixels(request.inputs, encoder.card)))
        return vectors if isinstance(request.inputs, list) else vectors[0]

    def _embed_texts(self, encoder: OnnxEncoder, request: Request) -> Any:
        take_options(request.options, {"normalize": True, "truncate": True})  # what is done in any case
        return _to_plain(encoder.encode_texts(take_texts(request.inputs, what="inputs", limits=self.limits)))

    def _map(self, encoder: OnnxEncoder, request: Request) -> Any:
        take_options(request.options, {})
        pixels_BSS3 = self._pixels(request.inputs, encoder.card)
        self.limits.check_count("images", len(pixels_BSS3), self.limits.max_maps)
        maps_BHWD = encoder.encode_maps(pixels_BSS3)
        return None if maps_BHWD is None else _to_plain(maps_BHWD)

    def _classify(self, encoder: OnnxEncoder, request: Request) -> Any:
        """For each picture its labels with probabilities, softmax(temperature * cosine), the most probable first."""
        options = take_options(request.options, {"candidate_labels": [], "hypothesis_template": "a photo of {}"})
        labels = take_texts(options["candidate_labels"], what="candidate_labels", limits=self.limits)
        if not labels or "{}" not in options["hypothesis_template"]:
            raise InputError("candidate_labels needs a label, and hypothesis_template {} where the label goes.")
        sentences = [options["hypothesis_template"].replace("{}", label) for label in labels]
        text_TD = encoder.encode_texts(take_texts(sentences, what="candidate_labels", limits=self.limits))
        image_BD = encoder.encode_images(self._pixels(request.inputs, encoder.card))
        answers = [_rank_labels(labels, row, encoder.card.nats_per_cosine) for row in image_BD @ text_TD.T]
        return answers if isinstance(request.inputs, list) else answers[0]

    def _caption(self, captioner: OnnxCaptioner, request: Request) -> Any:
        """For each picture its captions, the most probable first."""
        defaults = {field.name: field.default for field in fields(GenerationConfig)}
        config = GenerationConfig(**take_options(request.options, defaults))
        self.limits.check_count("captions", max(config.num_candidates, config.beams), self.limits.max_candidates)
        take_texts(config.prompt, what="prompt", limits=self.limits)
        captions = captioner.generate(self._pixels(request.inputs, captioner.card), config)
        answers = [[{"generated_text": one.text, "log_prob": one.log_prob} for one in several] for several in captions]
        return answers if isinstance(request.inputs, list) else answers[0]

    def _score(self, captioner: OnnxCaptioner, request: Request) -> list[list[float]]:
        options = take_options(request.options, {"texts": []})
        pixels_BSS3 = self._pixels(request.inputs, captioner.card)
        return captioner.score(pixels_BSS3, take_text_lists(options["texts"], len(pixels_BSS3), limits=self.limits))


def _load_encoder(folder: Path) -> OnnxEncoder | None:
    if not (folder / CARD_FILE).is_file():
        return None
    card = _read_checked(folder)
    return OnnxEncoder(card, folder, weights_hash=str(card.weights_hash))


def _load_captioner(folder: Path) -> OnnxCaptioner | None:
    return OnnxCaptioner(_read_checked(folder), folder) if (folder / CARD_FILE).is_file() else None


def _read_checked(folder: Path) -> ModelCard:
    card = read_card(folder)
    if card.weights_hash is None:
        raise ModelError(f"The card in {folder} lacks weights_hash; export the endpoint again.")
    verify_files(folder, card.files)
    return card


def _to_plain(values: NDArray[np.float32]) -> Any:
    # Decimals of a unit vector's numbers: half the bytes of all digits, and a cosine that differs by less than 1e-10.
    return np.round(values.astype(np.float64), 7).tolist()


def _rank_labels(labels: list[str], cosines_T: NDArray[np.float32], temperature: float) -> list[dict[str, Any]]:
    nats_T = temperature * cosines_T.astype(np.float64)
    shares_T = np.exp(nats_T - nats_T.max())
    shares_T /= shares_T.sum()
    order = np.argsort(-shares_T, kind="stable")
    return [{"label": labels[i], "score": float(shares_T[i])} for i in order]


def take_texts(values: Any, *, what: str, limits: EndpointLimits) -> list[str]:
    """A text or a list of them. Raises InputError for anything else, too many or too long ones."""
    texts = [values] if isinstance(values, str) else values
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{what} must be a text or a list of texts.")
    limits.check_count("texts", len(texts), limits.max_texts)
    longest = max(map(len, texts), default=0)
    if longest > limits.max_text_chars:
        raise InputError(f"A text has {longest:,} characters; at most {limits.max_text_chars:,} are taken.")
    return texts


def take_images(values: Any, *, min_side_px: int, limits: EndpointLimits) -> list[NDArray[np.uint8]]:
    """Upright pictures (H, W, 3) uint8 of base64 strings, bytes or Pillow images, one or a list.

    JPEGs much larger than `min_side_px` are decoded at a smaller scale. Raises InputError for what can't be read, too
    many, and too large ones.
    """
    images = values if isinstance(values, list) else [values]
    limits.check_count("images", len(images), limits.max_images)
    total_bytes = sum(len(image) for image in images if isinstance(image, str | bytes | bytearray))
    if total_bytes * 3 // 4 > limits.max_request_bytes:
        raise InputError(f"The images are too large: at most {limits.max_request_bytes:,} bytes together are taken.")
    return [_decode(image, number, min_side_px, limits) for number, image in enumerate(images, start=1)]


def _decode(value: Any, number: int, min_side_px: int, limits: EndpointLimits) -> NDArray[np.uint8]:
    try:
        if hasattr(value, "getexif") and hasattr(value, "convert"):  # the toolkit decodes bodies that are pictures
            return _flatten(value, limits)
        content = _bytes_of(value, limits)
        info = read_info(content)
        _check_pixels(info.width, info.height, limits)
        return read_image(content, min_side_px=min_side_px).rgb
    except ImageError as error:
        raise InputError(f"Image {number} can't be read: {error.reason}.") from error


def _bytes_of(value: Any, limits: EndpointLimits) -> bytes:
    if isinstance(value, str):
        return _from_base64(value, limits)
    if not isinstance(value, bytes | bytearray):
        raise ImageError(f"it is {type(value).__name__}, not a base64 string")
    if len(value) > limits.max_image_bytes:
        raise ImageError(f"it has more than {limits.max_image_bytes:,} bytes")
    return bytes(value)


def _from_base64(text: str, limits: EndpointLimits) -> bytes:
    if text[:8].lower().startswith(("http://", "https://", "file:/")):
        raise ImageError("it is an address, and none is fetched; send the picture itself as base64")
    if text.startswith("data:"):
        text = text.partition(",")[2] if "," in text[:100] else text
    if len(text) * 3 // 4 > limits.max_image_bytes:
        raise ImageError(f"it has more than {limits.max_image_bytes:,} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("it is no valid base64") from error


def _flatten(image: Any, limits: EndpointLimits) -> NDArray[np.uint8]:
    from PIL import ImageOps

    width, height = image.size
    _check_pixels(width, height, limits)
    try:
        return flatten_to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise ImageError("damaged") from error


def _check_pixels(width: int, height: int, limits: EndpointLimits) -> None:
    if width * height > limits.max_image_pixels:
        raise ImageError(f"it has {width} x {height} pixels; at most {limits.max_image_pixels:,} are taken")


def take_options(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, of the same types as their defaults. Raises InputError for an unknown name or another type."""
    if unknown := sorted(set(given) - set(defaults)):
        raise InputError(f"Unknown parameters: {', '.join(unknown[:5])}. Allowed: {', '.join(sorted(defaults))}.")
    options = dict(defaults)
    for name, value in given.items():
        wanted = type(defaults[name])
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{name} must be {wanted.__name__}, not {value!r}.")
        options[name] = value
    return options


def take_text_lists(values: Any, count: int, *, limits: EndpointLimits) -> list[list[str]]:
    """A list of texts for each of `count` images. Raises InputError for anything else."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise InputError(f"texts must be a list with a list of texts for each of the {count} images.")
    lists = [take_texts(several, what="Each of texts", limits=limits) for several in values]
    limits.check_count("texts", sum(map(len, lists)), limits.max_texts)
    return lists
