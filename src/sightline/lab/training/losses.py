"""The objective of a run: a contrastive loss that knows all captions of an image as positives, and its companions.

Image i and text t are a positive pair where `group_B[i] == group_T[t]` and that group isn't negative; all other pairs
are negatives. A text of group -1 (a hard negative) is therefore wrong for every image and asks for none itself. Where
sets of pairs are mixed (`set_B`, `set_T`), nobody knows whether a text of one fits an image of another: no such pair
counts.
Groups and sets may lie on the CPU beside embeddings on a GPU, so that reading them waits for nothing.
Embeddings come in with rows L2-normalised; logits are computed in fp32 at least, also under autocast.

Shape suffixes: B images, T texts, C captions, D dimension of the joint space, P positive pairs, H W cells of an image
map, K frequent words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sightline.core.models.torch_models import Towers
from sightline.errors import TrainingError
from sightline.lab.training.config import MAX_TEMPERATURE, LossName, TrainConfig


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
    device = logits_BT.device
    positive_BT, image_P, text_P = positive_BT.to(device), image_P.to(device), text_P.to(device)
    logits_P = logits_BT[image_P, text_P]
    no_negative_BT = positive_BT if known_BT is None else positive_BT | ~known_BT.to(device)
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
    logits_BT = _scaled_similarities(image_BD, text_TD, scale) + bias
    positive_BT = find_positives(image_BD, text_TD, group_B, group_T).to(logits_BT.device)
    answer_BT = functional.logsigmoid(torch.where(positive_BT, logits_BT, -logits_BT))
    return -(answer_BT if known_BT is None else answer_BT * known_BT.to(answer_BT.device)).sum() / len(image_BD)


def negatives_loss(
    image_BD: Tensor, text_TD: Tensor, group_B: Tensor, group_T: Tensor, *, caption_T: Tensor, scale: Tensor | float
) -> Tensor:
    """The nearness of hard negatives to the captions that they falsify, by the caption's image; -> scalar.

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


def contrastive(
    *features_and_groups: Tensor,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    known_BT: Tensor | None = None,
) -> Tensor:
    """The softmax loss, or with a bias the sigmoid loss."""
    if bias is None:
        return softmax_contrastive(*features_and_groups, scale=scale, known_BT=known_BT)
    return sigmoid_contrastive(*features_and_groups, scale=scale, bias=bias, known_BT=known_BT)


def chance_loss(name: LossName, group_B: Tensor, group_T: Tensor, *, known_BT: Tensor | None = None) -> float:
    """The loss of a model that knows nothing: the least that can be had with the same logit for every pair.

    softmax: the mean of ln(1 + negatives) over rows that have a positive, both directions averaged; ln(B) for one text
    an image. sigmoid: with a share p of all B*T pairs positive, -T * (p ln p + (1-p) ln(1-p)) = about ln(B) + 1 for one
    text an image; training starts above it, where the bias isn't that of p. A loss that stays near it is stuck.
    Raises TrainingError where no pair is positive.
    """
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
    """The pairs that belong together, bool (B, T). Raises TrainingError where shapes disagree or no pair does."""
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


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The targets of a step's features, over all chunks and ranks: known before anything is computed.

    Image i and text t belong together where `group_B[i] == group_T[t]`; a hard negative has a group below 0.
    """

    group_B: Tensor
    group_T: Tensor
    caption_T: Tensor
    """A number for each caption; a hard negative has that of the caption it falsifies."""
    set_B: Tensor | None = None
    """The set that each image is of, where several are mixed; of two sets it isn't known what fits."""
    set_T: Tensor | None = None
    teacher_BD: Tensor | None = None
    word_BK: Tensor | None = None
    """1 where an image's captions contain a frequent word."""

    @cached_property
    def place_C(self) -> Tensor:
        """The captions among the texts: all that are no hard negatives."""
        return (self.group_T >= 0).nonzero().squeeze(1)

    @cached_property
    def known_BC(self) -> Tensor | None:
        """True where it is known if an image and a caption fit, bool; None where it always is."""
        if self.set_B is None or self.set_T is None:
            return None
        return self.set_B[:, None] == self.set_T[self.place_C][None, :]

    def chance(self, loss: LossName) -> float:
        """The contrastive loss of a model that knows nothing."""
        return chance_loss(loss, self.group_B, self.group_T[self.place_C], known_BT=self.known_BC)


class WordsHead(nn.Module):
    """The image map -> a logit for each word: the evidence of the cell that shows it best.

    It makes a small image tower see things within minutes. A contrastive loss tells an image tower nothing that its
    text tower doesn't know yet, and the other way round; both are slow to find out that colour and shape belong
    together. The words of the captions tell it at once: this is SuperClass (Huang et al. 2024, arXiv:2411.03313), here
    with pairs of words too and with the largest cell's evidence.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, count)
        nn.init.constant_(self.linear.bias, -3.0)  # a frequent word is in few captions

    def forward(self, map_BHWD: Tensor) -> Tensor:
        """(B, H, W, D) -> (B, K)."""
        logit_BK: Tensor = self.linear(map_BHWD).amax(dim=(1, 2))
        return logit_BK


def words_loss(logit_BK: Tensor, label_BK: Tensor) -> Tensor:
    """Binary cross-entropy, summed over words and averaged over images."""
    return functional.binary_cross_entropy_with_logits(logit_BK.float(), label_BK, reduction="none").sum(1).mean()


class Objective(nn.Module):
    """The loss of a whole batch's features, with the parameters that only training needs.

    Those are a bias for the sigmoid loss, unless the model has one of its own, a linear map to the teacher's space, and
    one from the image map's cells to words.
    """

    def __init__(self, config: TrainConfig, towers: Towers, *, teacher_dim: int | None, words_count: int) -> None:
        super().__init__()
        self.config = config
        self._model = [towers.model]  # in a list, so that it isn't a part of this module
        needs_bias = config.loss == "sigmoid" and not hasattr(towers.model, "logit_bias")
        # The start of the sigmoid loss's bias (SigLIP, algorithm 1).
        self.bias = nn.Parameter(torch.tensor(-10.0)) if needs_bias else None
        self.teacher_head = _lead_to_teacher(config, towers.dim, teacher_dim)
        if words_count and not towers.has_maps:
            raise TrainingError("words_weight needs a model that gives a map of its image's cells; this one has none.")
        self.words_head = WordsHead(towers.dim, words_count) if words_count else None
        self.words_fade = 1.0
        """The rest of the weight of the words, which fades to nothing: at the end only what is used counts."""
        self.terms: dict[str, Tensor] = {}
        """The terms of the last call by their names in the log, on its device, without a graph."""

    @property
    def scale(self) -> Tensor:
        """The logit scale, the factor on cosines: 1 / temperature, and exp of the parameter `logit_scale`."""
        scale: Tensor = self._model[0].logit_scale.exp().squeeze()
        return scale

    def forward(self, features: Sequence[Tensor], targets: Targets) -> Tensor:
        """Unit image and text features of all ranks and chunks, and with a words head its logits -> the loss."""
        image_BD, text_TD, *words = features
        place_C, group_B = targets.place_C, targets.group_B
        loss = contrastive(
            image_BD,
            text_TD[place_C],
            group_B,
            targets.group_T[place_C],
            scale=self.scale,
            bias=self._bias,
            known_BT=targets.known_BC,
        )
        self.terms = {"contrast": loss.detach()}
        if self.config.negatives_per_caption:
            mistaken = negatives_loss(
                image_BD, text_TD, group_B, targets.group_T, caption_T=targets.caption_T, scale=self.scale
            )
            self.terms["negatives_loss"] = mistaken.detach()
            loss = loss + self.config.negatives_weight * mistaken
        if self.teacher_head is not None and targets.teacher_BD is not None:
            distance = distillation(self.teacher_head(image_BD), targets.teacher_BD)
            self.terms["teacher_distance"] = distance.detach()
            loss = loss + self.config.teacher_weight * distance
        if words and targets.word_BK is not None:
            missed = words_loss(words[0], targets.word_BK)
            self.terms["words_loss"] = missed.detach()
            loss = loss + self.words_fade * self.config.words_weight * missed
        return loss

    @torch.no_grad()
    def measure(
        self, image_BD: NDArray[np.float32], text_TD: NDArray[np.float32], owner_T: NDArray[np.int64]
    ) -> dict[str, float]:
        """`loss` and `chance_loss` of val pairs, in the batches that training takes; `owner_T` is each text's image.

        A batch is `batch_size` images in a row (all, where there are fewer) with their first `captions_per_image`
        captions; the mean over whole batches is comparable with the training loss, whose images are changed at random.
        """
        size = min(self.config.batch_size, len(image_BD))
        first_T = np.concatenate([[True], owner_T[1:] != owner_T[:-1]])
        nth_T = np.arange(len(owner_T)) - np.maximum.accumulate(np.where(first_T, np.arange(len(owner_T)), 0))
        device, losses = self.scale.device, []
        for start in range(0, len(image_BD) - size + 1, size):
            own_T = (owner_T >= start) & (owner_T < start + size) & (nth_T < self.config.captions_per_image)
            group_B, group_T = torch.arange(start, start + size), torch.from_numpy(owner_T[own_T])
            image, text = torch.from_numpy(image_BD[start : start + size]), torch.from_numpy(text_TD[own_T])
            loss = contrastive(image.to(device), text.to(device), group_B, group_T, scale=self.scale, bias=self._bias)
            losses.append((float(loss), chance_loss(self.config.loss, group_B, group_T)))
        mean, chance = np.mean(losses, axis=0).tolist()
        return {"loss": mean, "chance_loss": chance}

    @property
    def _bias(self) -> Tensor | None:
        return self._model[0].logit_bias if self.config.loss == "sigmoid" and self.bias is None else self.bias

    def clamp(self) -> None:
        """Keep the logit scale below its limit."""
        with torch.no_grad():
            self._model[0].logit_scale.clamp_(max=math.log(MAX_TEMPERATURE))


def _lead_to_teacher(config: TrainConfig, dim: int, teacher_dim: int | None) -> nn.Module | None:
    """The map from image vectors to the teacher's. Raises TrainingError where their sizes differ and nothing may."""
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
