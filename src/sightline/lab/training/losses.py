"""Contrastive losses that know all captions of an image as positives, and distillation.

Image i and text t are a positive pair where `group_B[i] == group_T[t]` and that group isn't negative; all other pairs
are negatives. A text of group -1 (a hard negative) is therefore wrong for every image and asks for none itself. Where
sets of pairs are mixed (`set_B`, `set_T`), nobody knows whether a text of one fits an image of another: no such pair
counts.
Embeddings come in with rows L2-normalised; logits are computed in fp32 at least, also under autocast.

Shape suffixes: B images, T texts, D dimension of the joint space, P positive pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sightline.errors import InputError, TrainingError
from sightline.lab.training.config import LossName


def softmax_contrastive(
    image_BD: Tensor,
    text_TD: Tensor,
    group_B: Tensor,
    group_T: Tensor,
    *,
    scale: Tensor | float,
    known_BT: Tensor | None = None,
) -> Tensor:
    """Symmetric softmax loss, each positive against the negatives only: (B, D), (T, D), groups (B,), (T,) -> scalar.

    For each image and each of its positive texts p, -log(exp(s_p) / (exp(s_p) + sum of exp(s_n) over its negatives n)):
    other positives stay out of the denominator, so the optimum is 0 however many captions an image has. Mean over an
    image's positives, then over images that have one; the same from texts to images; the average of both directions.
    With one text an image this is CLIP's symmetric cross entropy (Radford et al. 2021, arXiv:2103.00020, figure 3).
    `scale` multiplies the cosines: exp(logit scale); only pairs of `known_BT` (bool, all where None) are negatives.
    Raises TrainingError where shapes disagree or no pair is positive.
    """
    positive_BT = find_positives(image_BD, text_TD, group_B, group_T)
    logits_BT = _scaled_similarities(image_BD, text_TD, scale)
    image_P, text_P = positive_BT.nonzero(as_tuple=True)
    logits_P = logits_BT[image_P, text_P]
    no_negative_BT = positive_BT if known_BT is None else positive_BT | ~known_BT
    negatives_BT = logits_BT.masked_fill(no_negative_BT, torch.finfo(logits_BT.dtype).min)
    image_to_text_P = -functional.logsigmoid(logits_P - negatives_BT.logsumexp(1)[image_P])
    text_to_image_P = -functional.logsigmoid(logits_P - negatives_BT.logsumexp(0)[text_P])
    image_to_text = _mean_of_means(image_to_text_P, image_P, positive_BT.sum(1))
    text_to_image = _mean_of_means(text_to_image_P, text_P, positive_BT.sum(0))
    return (image_to_text + text_to_image) / 2


def sigmoid_contrastive(
    image_BD: Tensor,
    text_TD: Tensor,
    group_B: Tensor,
    group_T: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | float,
    known_BT: Tensor | None = None,
) -> Tensor:
    """SigLIP's loss: every pair is a yes-or-no question of its own; (B, D), (T, D), groups (B,), (T,) -> scalar.

    -1/B * sum over all B x T pairs of log sigmoid(z * (scale * cosine + bias)), z = 1 for positives and -1 for
    negatives (Zhai et al. 2023, arXiv:2303.15343, equation 1). The divisor is the number of images, as in the paper,
    also where an image has several texts: its loss is then the sum over its texts' questions. Only pairs of `known_BT`
    (bool, all where None) are asked about.
    Raises TrainingError where shapes disagree or no pair is positive.
    """
    positive_BT = find_positives(image_BD, text_TD, group_B, group_T)
    logits_BT = _scaled_similarities(image_BD, text_TD, scale) + bias
    answer_BT = functional.logsigmoid(torch.where(positive_BT, logits_BT, -logits_BT))
    return -(answer_BT if known_BT is None else answer_BT * known_BT).sum() / len(image_BD)


def negatives_loss(
    image_BD: Tensor,
    text_TD: Tensor,
    group_B: Tensor,
    group_T: Tensor,
    *,
    caption_T: Tensor,
    scale: Tensor | float,
) -> Tensor:
    """How far hard negatives come near the captions that they falsify, by the caption's image; -> scalar.

    Texts of a group below 0 are hard negatives; `caption_T` has a number for each caption, and for each negative that
    of its caption. softplus of the negative's logit minus the caption's: ln 2 knows nothing, 0 is the least.
    """
    is_negative_T = group_T < 0
    if not is_negative_T.any():
        return text_TD.sum() * 0.0
    caption_C = caption_T[~is_negative_T]
    order_C = caption_C.argsort()
    place_N = order_C[torch.searchsorted(caption_C[order_C], caption_T[is_negative_T])]
    owner_N = (group_B[None, :] == group_T[~is_negative_T][place_N][:, None]).int().argmax(dim=1)
    with torch.autocast(image_BD.device.type, enabled=False):
        image_ND = _at_least_fp32(image_BD)[owner_N]
        text_TD = _at_least_fp32(text_TD)
        difference_ND = text_TD[is_negative_T] - text_TD[~is_negative_T][place_N]
        return functional.softplus(scale * (image_ND * difference_ND).sum(dim=-1)).mean()


def distillation(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean cosine distance of a student's embeddings to its teacher's, 0 to 2: (B, D), (B, D) -> scalar.

    Rows need not be normalised; no gradient reaches the teacher. Raises TrainingError where the shapes differ.
    """
    if student_BD.shape != teacher_BD.shape:
        raise TrainingError(
            f"The student's embeddings are {tuple(student_BD.shape)}, the teacher's {tuple(teacher_BD.shape)}; each "
            "image needs a teacher's row of the student's dimension. Choose another teacher, or set towers.dim to its."
        )
    student, teacher = _at_least_fp32(student_BD), _at_least_fp32(teacher_BD.detach())
    with torch.autocast(student_BD.device.type, enabled=False):
        return 1 - functional.cosine_similarity(student, teacher, dim=-1).mean()


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """A contrastive loss, called as `softmax_contrastive` and `sigmoid_contrastive` are, and whether it has a bias."""

    name: LossName
    has_bias: bool
    """Whether it learns a bias beside its scale; the paper starts them at -10 and 10 (SigLIP, algorithm 1)."""

    def __call__(
        self,
        image_BD: Tensor,
        text_TD: Tensor,
        group_B: Tensor,
        group_T: Tensor,
        *,
        scale: Tensor | float,
        bias: Tensor | float | None = None,
        known_BT: Tensor | None = None,
    ) -> Tensor:
        """The loss. `bias` belongs to it exactly where `has_bias`; otherwise raises TrainingError."""
        if self.has_bias != (bias is not None):
            raise TrainingError(f"The {self.name} loss {'needs a bias' if self.has_bias else 'has no bias'}.")
        if bias is None:
            return softmax_contrastive(image_BD, text_TD, group_B, group_T, scale=scale, known_BT=known_BT)
        return sigmoid_contrastive(image_BD, text_TD, group_B, group_T, scale=scale, bias=bias, known_BT=known_BT)


_SPECS: dict[str, LossSpec] = {
    "softmax": LossSpec(name="softmax", has_bias=False),
    "sigmoid": LossSpec(name="sigmoid", has_bias=True),
}


def make_loss(name: str) -> LossSpec:
    """The contrastive loss of this name. Raises InputError listing the names there are."""
    if name not in _SPECS:
        raise InputError(f"There is no loss {name!r}; the losses are {', '.join(_SPECS)}.")
    return _SPECS[name]


def chance_loss(name: str, group_B: Tensor, group_T: Tensor, *, known_BT: Tensor | None = None) -> float:
    """The loss of a model that knows nothing: the least that can be had with the same logit for every pair.

    softmax: the mean of ln(1 + negatives) over rows that have a positive, both directions averaged; ln(B) for one text
    an image. sigmoid: with a share p of all B*T pairs positive, -T * (p ln p + (1-p) ln(1-p)) = about ln(B) + 1 for one
    text an image; training starts above it, where the bias isn't that of p. A loss that stays near it is stuck.
    Raises InputError for an unknown name, TrainingError where no pair is positive.
    """
    make_loss(name)
    positive_BT = find_positives(group_B, group_T, group_B, group_T)
    known_BT = torch.ones_like(positive_BT) if known_BT is None else known_BT
    if name == "sigmoid":
        share = float(positive_BT.sum().double() / known_BT.sum())
        rest = 1 - share
        n_texts = float(known_BT.sum()) / len(group_B)
        return -n_texts * (share * math.log(share) + (rest * math.log(rest) if rest else 0.0))
    negative_BT = known_BT & ~positive_BT
    image_to_text, text_to_image = (
        (1 + negative_BT.sum(dim))[positive_BT.any(dim)].double().log().mean() for dim in (1, 0)
    )
    return float(image_to_text + text_to_image) / 2


def find_positives(image_BD: Tensor, text_TD: Tensor, group_B: Tensor, group_T: Tensor) -> Tensor:
    """Which pairs belong together, bool (B, T). Raises TrainingError where shapes disagree or no pair does."""
    if (len(image_BD), len(text_TD)) != (len(group_B), len(group_T)):
        raise TrainingError(
            f"{len(image_BD)} images have {len(group_B)} groups and {len(text_TD)} texts {len(group_T)}; "
            "each image and each text needs one group."
        )
    positive_BT: Tensor = (group_B[:, None] == group_T[None, :]) & (group_T >= 0)
    if not positive_BT.any():
        raise TrainingError(
            f"None of the {len(group_T)} texts belongs to any of the {len(group_B)} images, so there is nothing to "
            "learn from this batch; give each image the group of its captions."
        )
    return positive_BT


def _scaled_similarities(image_BD: Tensor, text_TD: Tensor, scale: Tensor | float) -> Tensor:
    with torch.autocast(image_BD.device.type, enabled=False):
        return scale * (_at_least_fp32(image_BD) @ _at_least_fp32(text_TD).T)


def _at_least_fp32(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _mean_of_means(loss_P: Tensor, owner_P: Tensor, n_positives_N: Tensor) -> Tensor:
    """Mean over owners (images, or texts) that have positives, of the mean over the positives of each."""
    return (loss_P / n_positives_N[owner_P]).sum() / (n_positives_N > 0).sum()
