"""What a run minimises: the contrastive loss, and beside it the distance to a teacher.

Shape suffixes: B images, T texts, D joint space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sightline.models.torch_encoder import Towers
from sightline.training.config import TrainConfig
from sightline.training.losses import distillation, sigmoid_contrastive, softmax_contrastive


class Objective(nn.Module):
    """The loss of a whole batch's features, with the parameters that only training needs.

    Those are a bias for the sigmoid loss, unless the model has one of its own, and a linear map to the teacher's space.
    """

    def __init__(self, config: TrainConfig, towers: Towers, *, teacher_dim: int | None) -> None:
        super().__init__()
        self.config = config
        self._model = [towers.model]  # in a list, so that it isn't a part of this module
        needs_bias = config.loss == "sigmoid" and not hasattr(towers.model, "logit_bias")
        self.bias = nn.Parameter(torch.tensor(config.bias)) if needs_bias else None
        self.teacher_head = None if teacher_dim is None else nn.Linear(towers.dim, teacher_dim)
        self.parts: dict[str, float] = {}
        """The terms of the last call, for the log."""

    @property
    def scale(self) -> Tensor:
        """exp(logit scale): the factor on cosines, also called the temperature's inverse."""
        scale: Tensor = self._model[0].logit_scale.exp().squeeze()
        return scale

    def forward(
        self, image_BD: Tensor, text_TD: Tensor, group_B: Tensor, group_T: Tensor, teacher_BD: Tensor | None
    ) -> Tensor:
        """Unit features of all ranks and chunks -> the loss."""
        if self.config.loss == "sigmoid":
            bias = self.bias if self.bias is not None else self._model[0].logit_bias
            loss = sigmoid_contrastive(image_BD, text_TD, group_B, group_T, scale=self.scale, bias=bias)
        else:
            loss = softmax_contrastive(image_BD, text_TD, group_B, group_T, scale=self.scale)
        self.parts = {"contrast": float(loss.detach())}
        if self.teacher_head is not None and teacher_BD is not None:
            distance = distillation(self.teacher_head(image_BD), teacher_BD)
            self.parts["teacher_distance"] = float(distance.detach())
            loss = loss + self.config.teacher_weight * distance
        return loss

    def clamp(self) -> None:
        """Keep the temperature where CLIP's authors kept it (Radford et al. 2021, section 2.5)."""
        with torch.no_grad():
            self._model[0].logit_scale.clamp_(max=math.log(self.config.max_temperature))
