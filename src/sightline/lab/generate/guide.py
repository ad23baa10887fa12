"""What a CLIP wants of a picture: the loss that falls as its words fit better than other texts.

Shape suffixes: N pictures, B views, T texts of the bank, A texts to avoid, D joint space, H W S pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sightline.core.models.cards import ENDPOINT_PREFIX, find_card
from sightline.core.models.files import find_weights, resolve_folder, torch_installed
from sightline.core.models.loading import load_encoder
from sightline.core.models.torch_models import TorchEncoder
from sightline.errors import ModelError, install_advice
from sightline.lab.generate.config import GuidedConfig
from sightline.lab.generate.views import draw_views, fit_size

_ADVICE = (
    "Use a model that you trained (`sightline train scenes-scratch --output RUN`, then --model dir:RUN), or another "
    "with PyTorch weights, such as ViT-B-32/openai once it is pulled."
)


def load_guide(name: str, *, download: bool = False) -> TorchEncoder:
    """The model as PyTorch modules, for their gradients. Raises ModelError where it has no such weights here."""
    if name.startswith(ENDPOINT_PREFIX):
        raise ModelError(f"{name} runs elsewhere, and pictures are made by a model's gradients. {_ADVICE}")
    if not torch_installed():
        raise ModelError(f"Making pictures needs PyTorch: {install_advice('torch')}")
    card = find_card(name)
    if card.kind == "encoder" and not find_weights(resolve_folder(card, download=download, runtime="torch")):
        raise ModelError(f"{name} has ONNX graphs only, and pictures are made by a model's gradients. {_ADVICE}")
    encoder = load_encoder(name, runtime="torch", download=download)
    assert isinstance(encoder, TorchEncoder)  # what runtime="torch" gives
    return encoder


@dataclass(frozen=True, kw_only=True)
class Words:
    """The texts that all pictures of a run are told from."""

    bank: Sequence[str]
    avoid: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What one model makes of the words of a run."""

    prompt_ND: Tensor
    """Of each picture."""
    bank_TD: Tensor
    avoid_AD: Tensor


class Guide:
    """One model and the words, as a loss of pictures."""

    def __init__(self, encoder: TorchEncoder, prompts: Sequence[str], *, words: Words) -> None:
        """`prompts` has one text for each picture; `words` hold for all."""
        self.encoder = encoder
        self.size_px = encoder.card.preprocessing.size_px
        self.temperature = encoder.temperature
        self._towers = encoder.towers.requires_grad_(False)
        texts_TD = torch.from_numpy(encoder.encode_texts([*prompts, *words.bank, *words.avoid])).to(encoder.device)
        prompt_ND, bank_TD, avoid_AD = torch.split(texts_TD, [len(prompts), len(words.bank), len(words.avoid)])
        self.texts = Texts(prompt_ND=prompt_ND, bank_TD=bank_TD, avoid_AD=avoid_AD)
        # A text of the bank that says the same as a prompt must not be held against it.
        self._same_NT = prompt_ND @ bank_TD.T > 1 - 1e-4
        preprocessing = encoder.card.preprocessing
        self._mean_311 = torch.tensor(preprocessing.mean, device=encoder.device)[:, None, None]
        self._std_311 = torch.tensor(preprocessing.std, device=encoder.device)[:, None, None]

    def embed(self, image_B3SS: Tensor) -> Tensor:
        """Pixels in [0, 1] at the model's size -> unit vectors (B, D)."""
        embeds_BD = self._towers.embed_images((image_B3SS - self._mean_311) / self._std_311)[0]
        return F.normalize(embeds_BD.float(), dim=-1)

    def loss(self, image_N3HW: Tensor, config: GuidedConfig, chances: Sequence[torch.Generator]) -> Tensor:
        """The loss of each picture (N,), the mean over its views.

        It is 1 minus the cosine to the prompt, plus `config.contrast` times the cross-entropy of the prompt among the
        bank's texts at the model's own temperature. A text to avoid counts as much as the whole bank.
        """
        view_B3SS = draw_views(image_N3HW, self.size_px, config, chances)
        is_bf16 = config.precision == "bf16"
        with torch.autocast(view_B3SS.device.type, dtype=torch.bfloat16, enabled=is_bf16):
            view_BD = self.embed(view_B3SS)
        prompt_BD = self.texts.prompt_ND.repeat_interleave(config.views, dim=0)
        cosine_B = (view_BD * prompt_BD).sum(dim=-1)
        same_BT = self._same_NT.repeat_interleave(config.views, dim=0)
        others_BT = (view_BD @ self.texts.bank_TD.T).masked_fill(same_BT, -1e4)
        avoided_BA = view_BD @ self.texts.avoid_AD.T
        extra = math.log(len(self.texts.bank_TD))
        logits_BC = torch.cat([cosine_B[:, None], others_BT, avoided_BA + extra / self.temperature], dim=1)
        told_apart_B = -F.log_softmax(self.temperature * logits_BC, dim=1)[:, 0]
        loss_B = 1 - cosine_B + config.contrast * told_apart_B
        return loss_B.reshape(-1, config.views).mean(dim=1)

    @torch.no_grad()
    def similarity(self, image_N3HW: Tensor) -> Tensor:
        """The cosine of each picture, as it is, to its own prompt (N,)."""
        return (self.embed(fit_size(image_N3HW, self.size_px)) * self.texts.prompt_ND).sum(dim=-1)
