"""What every step of training the CLIP asks: pictures find their captions, and ImageNet's classes their names.

A class without a picture is stood in for by a direction: its row in ImageNet's classifier points to where its pictures'
features lie. So a pseudo-picture is a little of some picture plus that direction.

Shape suffixes: N pictures, B pictures of a step, T texts, C classes, P pseudo-pictures, M kinds, F features, D joint
space, E text width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from classes import Classes
from torch import Tensor

from sightline.core.models.lite import LiteClip

PSEUDO = 512
"""Pseudo-pictures of a step."""
OTHERS = 1024
"""Captions of pictures that aren't in a step, which theirs must not be taken for."""
TAUGHT = 256
"""Pictures with a name, and as many pseudo-pictures, about which a step's teachers are asked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """ImageNet's classifier over the published tower's pooled features."""

    weight_CF: Tensor
    bias_C: Tensor

    def logits(self, feature_BF: Tensor) -> Tensor:
        """(B, F) -> (B, C)."""
        return F.linear(feature_BF, self.weight_CF, self.bias_C)

    def pseudo_images(self, source_BF: Tensor, class_P: Tensor, generator: torch.Generator) -> Tensor:
        """Features that stand for pictures of the classes (P, F), as long as those of pictures are on the average."""
        length = source_BF.norm(dim=1).mean()
        direction_CF = F.normalize(self.weight_CF - self.weight_CF.mean(0), dim=1)
        drawn_P = torch.randint(len(source_BF), class_P.shape, generator=generator)
        rest_P1, own_P1 = (torch.rand(len(class_P), 1, generator=generator) for _ in range(2))
        mixed_PF = source_BF[drawn_P] * rest_P1 * 0.8 + length * (0.6 + 0.8 * own_P1) * direction_CF[class_P]
        return F.normalize(mixed_PF, dim=1) * length


class NameFeatures:
    """What the text tower says of the classes' names and of their kinds, plain and as "a photo of a ..."."""

    def __init__(self, classes: Classes, plain_TE: Tensor, photo_TE: Tensor) -> None:
        """Rows are those of `Classes.texts`."""
        self.features_T2E = torch.stack([plain_TE, photo_TE], 1)
        rows, longest = iter(range(len(plain_TE))), max(len(names) for names in classes.names)
        named = [[next(rows) for _ in names] for names in classes.names]
        self.first_C = torch.tensor([own[0] for own in named])
        self.names_CK = torch.tensor([own + own[:1] * (longest - len(own)) for own in named])
        self.count_C = torch.tensor([len(own) for own in named])
        self.kinds_M = torch.tensor(list(rows))
        self.member_CM = torch.zeros(len(named), len(classes.kinds))
        for kind, members in enumerate(classes.kinds.values()):
            self.member_CM[members, kind] = 1

    def draw(self, generator: torch.Generator) -> Tensor:
        """One name of each class (C, E): its own in half of the cases, else any of its names."""
        count = len(self.first_C)
        place_C = (torch.rand(count, generator=generator) * self.count_C).long()
        other_C = self.names_CK[torch.arange(count), place_C]
        chosen_C = torch.where(torch.rand(count, generator=generator) < 0.5, other_C, self.first_C)
        return self.features_T2E[chosen_C, torch.randint(2, (count,), generator=generator)]

    def kinds(self, generator: torch.Generator) -> Tensor:
        """The kinds (M, E)."""
        return self.features_T2E[self.kinds_M, int(torch.randint(2, (1,), generator=generator))]


class Objective:
    """The loss of a step. Vectors of the last steps' pictures serve as more pictures that a caption isn't of."""

    def __init__(self, captions_N5E: Tensor, names: NameFeatures, classifier: Classifier, *, remembered: int) -> None:
        self.captions_N5E, self.names, self.classifier = captions_N5E, names, classifier
        self.remembered = remembered
        self.last: list[tuple[Tensor, Tensor]] = []

    def pairs(self, model: LiteClip, feature_BF: Tensor, row_B: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures against captions, both ways."""
        count = len(row_B)
        own_TE, others_TE, other_T = self.draw_captions(row_B, generator)
        image_BD = embed_features(model, feature_BF)
        text_TD = _embed_texts(model, torch.cat([own_TE, others_TE]))
        owner_T, scale = torch.cat([row_B.repeat_interleave(2), other_T]), model.logit_scale.exp().clamp(max=100)
        fits_BT = (row_B[:, None] == owner_T).float()
        chosen_B = (fits_BT / fits_BT.sum(1, keepdim=True) * F.log_softmax(scale * image_BD @ text_TD.T, 1)).sum(1)
        seen_BD = torch.cat([image_BD, *(vectors for _, vectors in self.last)])
        seen_B = torch.cat([torch.full_like(row_B, -1), *(rows for rows, _ in self.last)])
        logits_TB = scale * text_TD[: 2 * count] @ seen_BD.T
        logits_TB = logits_TB.masked_fill(owner_T[: 2 * count, None] == seen_B, -1e9)  # itself, a few steps ago
        if self.remembered:
            self.last = [*self.last, (row_B, image_BD.detach())][-self.remembered :]
        return F.cross_entropy(logits_TB, torch.arange(count).repeat_interleave(2)) / 2 - chosen_B.mean() / 2

    def draw_captions(self, row_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Two captions of each picture (2B, E), others (T, E) and the pictures that those are of (T,)."""
        drawn_B2 = torch.rand(len(row_B), 5, generator=generator).argsort(1)[:, :2]
        n_images = len(self.captions_N5E)
        other_T = torch.randint(n_images, (min(OTHERS, n_images),), generator=generator)
        others_TE = self.captions_N5E[other_T, torch.randint(5, other_T.shape, generator=generator)]
        return self.captions_N5E[row_B[:, None], drawn_B2].flatten(0, 1), others_TE, other_T

    def classes(
        self, model: LiteClip, source_BF: Tensor, generator: torch.Generator, named: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Pseudo-pictures made of `source_BF` against names and kinds; `named` are true ones, with their classes."""
        class_P = torch.randint(len(self.names.first_C), (PSEUDO,), generator=generator)
        feature_PF = self.classifier.pseudo_images(source_BF, class_P, generator)
        if named is not None:
            feature_PF, class_P = torch.cat([feature_PF, named[0]]), torch.cat([class_P, named[1]])
        image_PD, scale = embed_features(model, feature_PF), model.logit_scale.exp().clamp(max=100)
        logits_PC = scale * image_PD @ _embed_texts(model, self.names.draw(generator)).T
        loss = 0.5 * F.cross_entropy(logits_PC[:PSEUDO], class_P[:PSEUDO])
        if named is not None:
            loss = loss + 0.2 * F.cross_entropy(logits_PC[PSEUDO:], class_P[PSEUDO:])
        logits_MP = scale * _embed_texts(model, self.names.kinds(generator)) @ image_PD.T
        fits_MP = self.names.member_CM[class_P].T
        there_M = fits_MP.sum(1) > 0
        share_MP = fits_MP / fits_MP.sum(1, keepdim=True).clamp(min=1)
        return loss - 0.1 * (share_MP * F.log_softmax(logits_MP, 1)).sum(1)[there_M].mean()


class Distillation(Objective):
    """The loss of a step in which similarities of pictures and texts follow the weighted mean of teachers' own.

    The teachers are other heads over the same features: side by side they find more than each alone, and one head can
    follow them. Half of the pictures are mixed with another, since the tower knows its training pictures by heart; and
    pictures of which only a name is known, pseudo-pictures and names keep what the teachers say of other things.
    """

    def __init__(
        self, known: Objective, teachers: Sequence[tuple[LiteClip, float]], named_NF: Tensor, *, temperature: float
    ) -> None:
        """`teachers` each with its weight; `temperature` is what their cosines are multiplied with."""
        super().__init__(known.captions_N5E, known.names, known.classifier, remembered=0)
        self.teachers = [(teacher.eval(), weight) for teacher, weight in teachers]
        self.named_NF, self.temperature = named_NF, temperature

    def pairs(self, model: LiteClip, feature_BF: Tensor, row_B: Tensor, generator: torch.Generator) -> Tensor:
        """Divergence from the teachers' shares: pictures and captions, then other pictures and all texts."""
        count = len(row_B)
        own_TE, others_TE, _ = self.draw_captions(row_B, generator)
        text_TE = torch.cat([own_TE, others_TE, self.names.draw(generator)])
        n_own, n_captions = len(own_TE), len(own_TE) + len(others_TE)
        mixed_BF = _mix(feature_BF, generator)
        named_MF = self.named_NF[torch.randint(len(self.named_NF), (TAUGHT,), generator=generator)]
        class_P = torch.randint(len(self.names.first_C), (TAUGHT,), generator=generator)
        pseudo_PF = self.classifier.pseudo_images(torch.cat([mixed_BF, named_MF]), class_P, generator)
        feature_XF = torch.cat([mixed_BF, named_MF, pseudo_PF])
        total = sum(weight for _, weight in self.teachers)
        with torch.no_grad():
            taught_XT = torch.stack([
                weight / total * embed_features(teacher, feature_XF) @ _embed_texts(teacher, text_TE).T
                for teacher, weight in self.teachers
            ]).sum(0) * self.temperature  # fmt: skip
        scale = model.logit_scale.exp().clamp(max=100)
        logits_XT = scale * embed_features(model, feature_XF) @ _embed_texts(model, text_TE).T
        seen = _divergence(logits_XT[:count, :n_captions], taught_XT[:count, :n_captions])
        seen = seen + _divergence(logits_XT[:count, :n_own].T, taught_XT[:count, :n_own].T)
        other = _divergence(logits_XT[count:], taught_XT[count:])
        other = other + _divergence(logits_XT[count:, n_captions:].T, taught_XT[count:, n_captions:].T)
        return seen / 2 + other / 4


def _mix(feature_BF: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the features with up to a half of another's."""
    share_B1 = torch.rand(len(feature_BF), 1, generator=generator) / 2
    partner_B = torch.randperm(len(feature_BF), generator=generator)
    share_B1 = share_B1 * (torch.rand(len(feature_BF), 1, generator=generator) < 0.5)
    return (1 - share_B1) * feature_BF + share_B1 * feature_BF[partner_B]


def _divergence(logits: Tensor, taught: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a student's shares from its teachers', row by row."""
    return F.kl_div(F.log_softmax(logits, 1), taught.softmax(1), reduction="batchmean")


def embed_features(model: LiteClip, feature_BF: Tensor) -> Tensor:
    """Pooled features (B, F) -> unit vectors (B, D)."""
    head = model.image_projection
    with torch.autocast("cpu", torch.bfloat16):
        mapped_BD = head(head.features(feature_BF))
    return F.normalize(mapped_BD.float(), dim=-1)


def _embed_texts(model: LiteClip, text_TE: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        mapped_TD = model.text_projection(text_TE)
    return F.normalize(mapped_TD.float(), dim=-1)
