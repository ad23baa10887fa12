"""What a run minimises: the contrastive loss, and beside it the distance to a teacher.

Shape suffixes: B images, T texts, D joint space, K frequent words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sightline.core.models.torch_models import Towers
from sightline.errors import TrainingError
from sightline.lab.training.config import LossName, TrainConfig
from sightline.lab.training.losses import chance_loss, distillation, make_loss, negatives_loss
from sightline.lab.training.words import WordsHead, words_loss


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the features of a step are held against, over all ranks and chunks."""

    group_B: Tensor
    group_T: Tensor
    set_B: Tensor
    set_T: Tensor
    caption_T: Tensor
    teacher_BD: Tensor | None
    word_BK: Tensor | None

    def chance(self, loss: LossName) -> float:
        """The contrastive loss of a model that knows nothing."""
        is_caption_T = self.group_T >= 0
        known_BC = self.known_BT[:, is_caption_T]
        return chance_loss(loss, self.group_B, self.group_T[is_caption_T], known_BT=known_BC)

    @property
    def known_BT(self) -> Tensor:
        """Whether an image and a text are of one set, so that it is known whether they fit."""
        return self.set_B[:, None] == self.set_T[None, :]


class Objective(nn.Module):
    """The loss of a whole batch's features, with the parameters that only training needs.

    Those are a bias for the sigmoid loss, unless the model has one of its own, a linear map to the teacher's space, and
    one from the image map's cells to words.
    """

    def __init__(self, config: TrainConfig, towers: Towers, *, teacher_dim: int | None, words_count: int) -> None:
        super().__init__()
        self.config = config
        self._model = [towers.model]  # in a list, so that it isn't a part of this module
        self._contrast = make_loss(config.loss)
        needs_bias = self._contrast.has_bias and not hasattr(towers.model, "logit_bias")
        self.bias = nn.Parameter(torch.tensor(config.bias)) if needs_bias else None
        self.teacher_head = _lead_to_teacher(config, towers.dim, teacher_dim)
        if words_count and not towers.has_maps:
            raise TrainingError("words_weight needs a model that gives a map of its image's cells; this one has none.")
        self.words_head = WordsHead(towers.dim, words_count) if words_count else None
        self.words_fade = 1.0
        """What is left of the weight of the words, which fades to nothing: at the end only what is used counts."""
        self.parts: dict[str, float] = {}
        """The terms of the last call, for the log."""

    @property
    def scale(self) -> Tensor:
        """exp(logit scale): the factor on cosines, also called the temperature's inverse."""
        scale: Tensor = self._model[0].logit_scale.exp().squeeze()
        return scale

    def forward(self, features: Sequence[Tensor], targets: Targets) -> Tensor:
        """Unit image and text features of all ranks and chunks, and with a words head its logits -> the loss."""
        image_BD, text_TD, *words = features
        group_B, group_T = targets.group_B, targets.group_T
        is_caption_T = group_T >= 0
        caption_TD, caption_group_T = text_TD[is_caption_T], group_T[is_caption_T]
        known_BC = targets.known_BT[:, is_caption_T]
        bias = self._model[0].logit_bias if self._contrast.has_bias and self.bias is None else self.bias
        loss = self._contrast(
            image_BD, caption_TD, group_B, caption_group_T, scale=self.scale, bias=bias, known_BT=known_BC
        )
        self.parts = {"contrast": float(loss.detach())}
        loss = self.config.contrast_weight * loss
        if self.config.negatives_per_caption:
            mistaken = negatives_loss(
                image_BD, text_TD, group_B, group_T, caption_T=targets.caption_T, scale=self.scale
            )
            self.parts["negatives_loss"] = float(mistaken.detach())
            loss = loss + self.config.negatives_weight * mistaken
        if self.teacher_head is not None and targets.teacher_BD is not None:
            distance = distillation(self.teacher_head(image_BD), targets.teacher_BD)
            self.parts["teacher_distance"] = float(distance.detach())
            loss = loss + self.config.teacher_weight * distance
        if words and targets.word_BK is not None:
            missed = words_loss(words[0], targets.word_BK)
            self.parts["words_loss"] = float(missed.detach())
            loss = loss + self.words_fade * self.config.words_weight * missed
        return loss

    def clamp(self) -> None:
        """Keep the temperature where CLIP's authors kept it (Radford et al. 2021, section 2.5)."""
        with torch.no_grad():
            self._model[0].logit_scale.clamp_(max=math.log(self.config.max_temperature))


def _lead_to_teacher(config: TrainConfig, dim: int, teacher_dim: int | None) -> nn.Module | None:
    """What leads from image vectors to the teacher's. Raises TrainingError where their sizes differ and nothing may."""
    if teacher_dim is None:
        return None
    if config.teacher_map:
        return nn.Linear(dim, teacher_dim)
    if dim != teacher_dim:
        raise TrainingError(
            f"teacher_map=false needs a teacher of the model's own dimension, {dim}; {config.teacher} has "
            f"{teacher_dim}. Leave the map on, or start from the teacher's sizes."
        )
    return nn.Identity()
