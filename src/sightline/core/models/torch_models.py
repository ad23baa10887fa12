"""Encoders, captioners and matchers run by PyTorch: transformers' CLIP, SigLIP, BLIP, our own. Needs the extra `torch`.

Shape suffixes: B images, T texts, L tokens, S side in pixels, H W height and width, D joint space, N rows of the
decoder, V vocabulary, M cells of an image's memory, C its width.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from sightline.core.models.cached_decoder import BlipParts, CachedDecoder
from sightline.core.models.cards import ModelCard
from sightline.core.models.files import find_weights, hash_files
from sightline.core.models.generation import Decoder, SentenceWriter
from sightline.core.models.inputs import TextReading, Tokenizer, normalise_rows, normalised_batches, text_batches
from sightline.core.models.lite import load_own_clip
from sightline.core.types import ModelIdentity, Precision
from sightline.errors import ModelError

SCORED_ROWS = 16
"""Sequences scored at once: their logits (N, L, V) are the largest array here."""


class TorchEncoder:
    """A CLIP-like encoder in PyTorch, fp32; see `models.base.Encoder` for the contract."""

    precision: Precision = "fp32"

    def __init__(self, card: ModelCard, towers: Towers, tokenizer: Tokenizer, *, weights_hash: str) -> None:
        """Run towers where they are; while they are trained, each call runs the weights of that moment."""
        self.card = card
        self.towers = towers
        self.dim = towers.dim
        self.device = next(towers.parameters()).device
        self.runtime = f"torch:{self.device.type}"
        self.tokenizer = tokenizer
        self._weights_hash = weights_hash

    @classmethod
    def load(cls, card: ModelCard, folder: Path, *, weights_hash: str, device: str = "auto") -> TorchEncoder:
        """From a model folder's safetensors. Raises ModelError where they are missing or don't fit the card."""
        towers = load_towers(card, folder).to(choose_device(device))
        return cls(card, towers, Tokenizer.load(folder, card.text), weights_hash=weights_hash)

    @property
    def identity(self) -> ModelIdentity:
        return self.card.make_identity(self._weights_hash)

    @property
    def temperature(self) -> float:
        """exp(logit scale) of the weights."""
        return self.towers.temperature

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        return normalise_rows(self._run_images(lambda x_B3SS: self.towers.embed_images(x_B3SS)[0], pixels_BHW3))

    def read_text(self, text: str) -> TextReading:
        return self.tokenizer.read(text)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        embeds_TD = np.zeros((len(texts), self.dim), np.float32)
        with torch.inference_mode():
            for chosen, ids_TL in text_batches(self.tokenizer, texts):
                embeds_TD[chosen] = _array(self.towers.embed_texts(torch.from_numpy(ids_TL).to(self.device)))
        return normalise_rows(embeds_TD)

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        if not self.towers.has_maps:
            return None
        return self._run_images(lambda x_B3SS: self.towers.embed_images(x_B3SS)[1], pixels_BHW3)

    def encode_features(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Image features before the projection to the joint space (B, F), not normalised; None for our own models."""
        if isinstance(self.towers, ConvTowers):  # their map is in the joint space already
            return None
        return self._run_images(self.towers.embed_features, pixels_BHW3)

    @torch.inference_mode()
    def _run_images(
        self, embed: Callable[[torch.Tensor], torch.Tensor], pixels_BHW3: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        batches = normalised_batches(self.card, pixels_BHW3)
        parts = [_array(embed(torch.from_numpy(batch_B3SS).to(self.device))) for batch_B3SS in batches]
        return np.concatenate(parts)[: len(pixels_BHW3)]


class Towers(torch.nn.Module):
    """The two towers of a model behind one interface, for running and for exporting: here transformers' SiglipModel."""

    has_maps = False

    def __init__(self, model: Any, *, dim: int) -> None:
        super().__init__()
        self.model = model
        self.dim = dim

    @property
    def temperature(self) -> float:
        """exp(logit scale) of the weights."""
        return math.exp(float(self.model.logit_scale.detach()))

    def embed_images(self, pixels_B3SS: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Normalised pixels (B, 3, S, S) -> (B, D), not normalised, and with `has_maps` the map (B, H, W, D)."""
        return (self.model.get_image_features(pixel_values=pixels_B3SS).pooler_output,)

    def embed_features(self, pixels_B3SS: torch.Tensor) -> torch.Tensor:
        """Normalised pixels -> features before the projection (B, F); SigLIP has none, so they are its embeddings."""
        return self.embed_images(pixels_B3SS)[0]

    def embed_texts(self, ids_TL: torch.Tensor) -> torch.Tensor:
        """Token ids (T, L) -> (T, D), not normalised."""
        embeds_TD: torch.Tensor = self.model.get_text_features(input_ids=ids_TL).pooler_output
        return embeds_TD


class ClipTowers(Towers):
    """transformers' CLIPModel."""

    has_maps = True

    def embed_images(self, pixels_B3SS: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Embeddings, and for the map the patch tokens through the class token's own last norm and projection.

        CLIP trains that projection for the class token only; that it also places patches near fitting texts is an
        observation (Zhou et al. 2022, MaskCLIP, arXiv:2112.01071).
        """
        vision = self.model.vision_model
        output = vision(pixel_values=pixels_B3SS)
        patches_BND = self.model.visual_projection(vision.post_layernorm(output.last_hidden_state[:, 1:]))
        side = math.isqrt(patches_BND.shape[1])
        return self.model.visual_projection(output.pooler_output), patches_BND.unflatten(1, (side, side))

    def embed_features(self, pixels_B3SS: torch.Tensor) -> torch.Tensor:
        """The class token after its norm (B, F)."""
        features_BF: torch.Tensor = self.model.vision_model(pixel_values=pixels_B3SS).pooler_output
        return features_BF


class ConvTowers(Towers):
    """Our own: ConvClip of `models.convolutional`, LiteClip of `models.lite`."""

    has_maps = True

    def embed_images(self, pixels_B3SS: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model.encode_images(pixels_B3SS))

    def embed_texts(self, ids_TL: torch.Tensor) -> torch.Tensor:
        embeds_TD: torch.Tensor = self.model.encode_texts(ids_TL)
        return embeds_TD


def load_towers(card: ModelCard, folder: Path) -> Towers:
    """The PyTorch modules of a card, in fp32 and evaluation mode, on the CPU.

    Raises ModelError where the folder has no safetensors weights, or they don't fit the card.
    """
    if card.family == "sightline-clip":
        conv = load_own_clip(folder)
        return ConvTowers(conv, dim=_checked_dim(card, folder, conv.config.dim)).eval()
    from transformers import CLIPModel, SiglipModel

    classes: dict[str, Any] = {"clip": CLIPModel, "siglip": SiglipModel}
    if card.family not in classes:
        raise ModelError(f"{card.name} is a {card.kind} of family {card.family}; an encoder is needed.")
    model = load_pretrained(classes[card.family], folder, what="encoder")
    if card.family == "clip":
        hidden_act = model.config.text_config.hidden_act
        if card.activation not in (None, hidden_act):
            raise ModelError(
                f"{folder}: config.json says hidden_act {hidden_act!r}, the card of {card.name} {card.activation!r}; "
                "with the wrong one embeddings are silently worse. Correct config.json, or fetch the model again."
            )
        return ClipTowers(model, dim=_checked_dim(card, folder, model.config.projection_dim)).eval()
    return Towers(model, dim=_checked_dim(card, folder, model.config.text_config.projection_size)).eval()


def choose_device(name: str) -> str:
    """`auto` -> `cuda`, `mps` or `cpu`, the first that is there; another name is taken as it is."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_pretrained(model_class: Any, folder: Path, *, what: str) -> Any:
    """A model of transformers in fp32 and evaluation mode, on the CPU; only safetensors are read.

    Raises ModelError where weights are missing, damaged, or of another kind of model than `what`.
    """
    if not find_weights(folder):
        raise ModelError(
            f"{folder} has no model.safetensors, which the runtime torch needs. Pickled weights (.bin, .pt) are not "
            "loaded; use the runtime onnx if the folder has graphs."
        )
    try:
        with quiet_transformers():
            model, report = model_class.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder} can't be loaded as {model_class.__name__}: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder} lacks {len(missing)} of the {what}'s weights ({', '.join(missing[:3])}, ...): it holds another "
            f"kind of model, or is incomplete. Sightline needs a {model_class.__name__}."
        )
    return model.eval()


@contextlib.contextmanager
def quiet_transformers(library: str = "transformers") -> Iterator[None]:
    """No progress bar for what takes a second, and no remarks on settings that we check ourselves; diffusers' too."""
    logging: Any = import_module(f"{library}.utils").logging  # not typed
    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


def _checked_dim(card: ModelCard, folder: Path, dim: int) -> int:
    if card.dim != dim:
        raise ModelError(f"{folder} gives {dim} dimensions, the card of {card.name} says {card.dim}.")
    return dim


class TorchCaptioner(SentenceWriter[torch.Tensor]):
    """BLIP from a folder with `config.json`, safetensors and tokenizer.

    `device` is one of torch's; `auto` takes a GPU if there is one.
    """

    def __init__(self, card: ModelCard, folder: Path, *, device: str = "auto") -> None:
        """Load the safetensors weights of a model folder. Raises ModelError where they are missing or don't fit."""
        self._device = choose_device(device)
        self._parts = load_blip(card, folder).to(self._device)
        self._decoder = CachedDecoder(self._parts).eval()
        super().__init__(card, Tokenizer.load(folder, card.text))
        self.runtime = f"torch:{self._device}"

    @torch.inference_mode()
    def _see(self, pixel_values: NDArray[np.float32]) -> torch.Tensor:
        return self._parts.see(torch.from_numpy(pixel_values).to(self._device))

    def _describe(self, memory_BMC: torch.Tensor) -> Decoder:
        return _TorchDecoder(self._decoder, memory_BMC)


def load_blip(card: ModelCard, folder: Path) -> BlipParts:
    """The torch module of a captioner's folder, in fp32 and evaluation mode.

    Raises ModelError where the weights are missing, don't fit, or are no BLIP's.
    """
    if card.family != "blip":
        raise ModelError(f"{card.name} is of family {card.family!r}, no captioner that PyTorch runs; blip is.")
    from transformers import BlipForConditionalGeneration

    return BlipParts(load_pretrained(BlipForConditionalGeneration, folder, what="captioner"))


class _TorchDecoder:
    """A decoder bound to the memory of a batch of images, with the keys and values of its last call.

    Where every row goes on from a row of the last call by one token, as in decoding, only that token is computed.
    """

    scored_rows = SCORED_ROWS

    def __init__(self, decoder: CachedDecoder, memory_BMC: torch.Tensor) -> None:
        self._decoder = decoder
        self._memory_BMC = memory_BMC
        self._past: Sequence[torch.Tensor] = ()
        self._place_of: dict[tuple[int, ...], int] = {}

    def next_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = [(int(image), *ids) for image, ids in zip(images_N, ids_NL.tolist(), strict=True)]
        places = [self._place_of.get(row[:-1]) for row in rows]
        if None in places:
            logits_NLV, self._past = self._run(ids_NL, images_N)
        else:
            chosen_N = torch.tensor(places, device=self._memory_BMC.device)
            logits_NLV, self._past = self._run(ids_NL[:, -1:], images_N, [state[chosen_N] for state in self._past])
        self._place_of = {row: place for place, row in enumerate(rows)}
        return logits_NLV[:, -1]

    def all_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._run(ids_NL, images_N)[0]

    @torch.inference_mode()
    def _run(
        self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64], past: Sequence[torch.Tensor] = ()
    ) -> tuple[NDArray[np.float32], Sequence[torch.Tensor]]:
        """Logits (N, L, V), and what is to be kept; each row is an image of its own to the decoder."""
        device = self._memory_BMC.device
        ids_N1L = torch.from_numpy(np.ascontiguousarray(ids_NL)).to(device)[:, None]
        memory_NMC = self._memory_BMC[torch.from_numpy(images_N).to(device)]
        past = past or self._decoder.empty_past(len(ids_NL), 1, 0)
        logits_N1LV, *present = self._decoder(ids_N1L, memory_NMC, *past)
        return _array(logits_N1LV[:, 0]), present


def _array(x: torch.Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = x.float().cpu().numpy()
    return values


IMAGES_PER_RUN = 8
"""Images that are seen or matched at once: a memory of BLIP-base has 1.8 MB, and its activations several times that."""


class TorchMatcher:
    """BLIP's image encoder, text encoder and matching head; see `models.base.Matcher` for the contract.

    The text encoder reads the words while it attends to the image, and the head on its first token tells a match from a
    mismatch. As in BLIP's own evaluation (Li et al. 2022, arXiv:2201.12086) that token is `[ENC]`, the last of the
    vocabulary, in place of the tokenizer's `[CLS]`.
    """

    def __init__(self, card: ModelCard, folder: Path, *, device: str = "auto") -> None:
        """Load the safetensors weights of a model folder. Raises ModelError where they are missing or don't fit."""
        from transformers import BlipForImageTextRetrieval

        model = load_pretrained(BlipForImageTextRetrieval, folder, what="matcher")
        self.card = card
        self.image_side = hash_files(find_weights(folder))
        self._device = choose_device(device)
        self._model = model.to(self._device)
        self._tokenizer = Tokenizer.load(folder, card.text)
        self.runtime = f"torch:{self._device}"

    @torch.inference_mode()
    def see(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = []
        for batch_B3SS in normalised_batches(self.card, pixels_BHW3, per_run=IMAGES_PER_RUN):
            memory_BMC = self._model.vision_model(pixel_values=torch.from_numpy(batch_B3SS).to(self._device))[0]
            parts.append(memory_BMC.float().cpu().numpy())
        return np.concatenate(parts)[: len(pixels_BHW3)]

    @torch.inference_mode()
    def match(self, memory_BMC: NDArray[np.float32], text: str) -> NDArray[np.float32]:
        """Log-odds (B,) of a match over a mismatch, in nats. A text longer than the context is read to its end."""
        ids_1L = torch.from_numpy(self._tokenizer.encode([text]))
        ids_1L[:, 0] = self._model.config.text_config.vocab_size - 1
        parts = []
        for first in range(0, len(memory_BMC), IMAGES_PER_RUN):
            part = torch.from_numpy(np.ascontiguousarray(memory_BMC[first : first + IMAGES_PER_RUN])).to(self._device)
            ids_BL = ids_1L.expand(len(part), -1).to(self._device)
            states_BLC = self._model.text_encoder(
                input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), encoder_hidden_states=part
            )[0]
            mismatch_match_B2 = self._model.itm_head(states_BLC[:, 0])
            parts.append((mismatch_match_B2[:, 1] - mismatch_match_B2[:, 0]).float().cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
