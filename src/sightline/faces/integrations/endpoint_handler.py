"""The models of an exported folder behind `EndpointHandler`, as Hugging Face's inference endpoints call it.

Runs without torch, and without any part of Sightline but what is exported with it. Shape suffixes: B images, S side in
pixels, T texts, D dimension of the joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import ModelCard, card_to_json, read_card
from sightline.core.models.files import CARD_FILE, verify_files
from sightline.core.models.onnx_captioner import OnnxCaptioner
from sightline.core.models.onnx_runtime import OnnxEncoder
from sightline.errors import InputError, ModelError
from sightline.faces.integrations.endpoint_inputs import take_images, take_options, take_text_lists, take_texts
from sightline.faces.integrations.endpoint_limits import EndpointLimits

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENCODER_FOLDER, CAPTIONER_FOLDER = "encoder", "captioner"
_TEMPLATE = "a photo of {}"
_DECIMALS = 7
"""Of a unit vector's numbers: half the bytes of all digits, and a cosine that differs by less than 1e-10."""


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
        options = take_options(request.options, {"candidate_labels": [], "hypothesis_template": _TEMPLATE})
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
    return np.round(values.astype(np.float64), _DECIMALS).tolist()


def _rank_labels(labels: list[str], cosines_T: NDArray[np.float32], temperature: float) -> list[dict[str, Any]]:
    nats_T = temperature * cosines_T.astype(np.float64)
    shares_T = np.exp(nats_T - nats_T.max())
    shares_T /= shares_T.sum()
    order = np.argsort(-shares_T, kind="stable")
    return [{"label": labels[i], "score": float(shares_T[i])} for i in order]
