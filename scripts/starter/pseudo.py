"""Pictures of things that no captioned picture shows: some picture's cells, and a class's direction among them.

What a class without pictures is to the CLIP (`objective.Classifier.pseudo_images`), here in cells, with something to
say of it: what captions call the class, and where the picture is that it is put into. Its people are not told of.
So the captioner learns to name what the classifier is sure of, whatever else Flickr8k's pictures always show.

Shape suffixes: B pictures, N captioned pictures, K views, M cells, F features, S side of the map of cells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from concepts import LAST_ANIMAL, Concepts
from nouns import is_people, nouns_of
from numpy.typing import NDArray
from objective import Classifier
from torch import Tensor

from sightline.core.captioning.bank import choose_article

PLACES = {
    "grass": "in the grass", "field": "in a field", "water": "in the water", "snow": "in the snow",
    "street": "on the street", "road": "on a road", "sidewalk": "on a sidewalk", "building": "in front of a building",
    "wall": "in front of a wall", "table": "on a table", "room": "in a room", "floor": "on the floor",
    "beach": "on the beach", "sand": "in the sand", "mountain": "in front of a mountain", "tree": "under a tree",
    "rock": "on a rock", "bench": "on a bench", "fence": "behind a fence", "bed": "on a bed", "couch": "on a couch",
}  # fmt: skip
"""What is said of where a thing is, by a noun of the captions of the picture that it is put into."""
BARE = ("{}", "{}", "a close up of {}", "a picture of {}")
STANCES = ("standing", "sitting", "walking", "lying")
TOLD, TOO = 0.3, 0.7
"""Nothing is said of the place below this share of the picture; the second thing is told above this share of the first."""
SPARSE = 0.88
"""Share of a direction's channels that is left out: a cell has nine of ten channels at zero."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """Pseudo-pictures of a step."""

    cells_BMF: Tensor
    sentences: list[str]
    class_B: Tensor


class PseudoImages:
    """Draws pseudo-pictures; half of them are made of pictures of which nobody says that people are there."""

    def __init__(
        self, cells_NKMF: NDArray[np.float16], pooled_NKF: Tensor, captions: Sequence[Sequence[str]],
        concepts: Concepts, classifier: Classifier,
    ) -> None:  # fmt: skip
        self.cells_NKMF = cells_NKMF
        named = [{noun for text in texts for noun in nouns_of(text)} for texts in captions]
        self.places = [[PLACES[noun] for noun in sorted(own) if noun in PLACES] for own in named]
        self.lonely = torch.tensor([row for row, own in enumerate(named) if not any(map(is_people, own))])
        self.words = concepts.words[concepts.n_nouns : concepts.n_found]
        self.length = pooled_NKF[:, 0].norm(dim=1).mean()
        centred_CF = classifier.weight_CF - classifier.weight_CF.mean(0)
        least_C1 = torch.quantile(centred_CF, SPARSE, dim=1, keepdim=True)
        self.direction_CF = F.normalize((centred_CF - least_C1).clamp(min=0), dim=1)

    def draw(self, count: int, generator: torch.Generator, rng: np.random.Generator) -> Drawn:
        """As many, each of a class and, more faintly, of another, which is told of where it is strong."""
        own_B, other_B = (torch.randint(len(self.words), (count,), generator=generator) for _ in range(2))
        row_B = torch.randint(len(self.cells_NKMF), (count,), generator=generator)
        lonely_B = self.lonely[torch.randint(len(self.lonely), (count,), generator=generator)]
        row_B = torch.where(torch.rand(count, generator=generator) < 0.5, lonely_B, row_B)
        view_B = torch.randint(self.cells_NKMF.shape[1], (count,), generator=generator)
        rest_B, share_B, other_share_B = (torch.rand(count, generator=generator) for _ in range(3))
        cells_BMF = (
            torch.from_numpy(self.cells_NKMF[row_B.numpy(), view_B.numpy()]).float() * 0.8 * rest_B[:, None, None]
        )
        strength_B = self.length * (0.08 + 0.42 * share_B)
        side = round(cells_BMF.shape[1] ** 0.5)
        for class_B, length_B in ((own_B, strength_B), (other_B, strength_B * other_share_B)):
            there_BM = _spots(count, side, generator) * length_B[:, None]
            cells_BMF = cells_BMF + there_BM[..., None] * self.direction_CF[class_B][:, None]
        length_B11 = cells_BMF.mean(1).norm(dim=1)[:, None, None]
        sentences = [
            self._say(int(own), int(other) if too > TOO else None, self.places[int(row)] if rest > TOLD else [], rng)
            for own, other, too, row, rest in zip(own_B, other_B, other_share_B, row_B, rest_B, strict=True)
        ]
        return Drawn(cells_BMF=(cells_BMF * self.length / length_B11).clamp(0, 6), sentences=sentences, class_B=own_B)

    def _say(self, own: int, other: int | None, places: list[str], rng: np.random.Generator) -> str:
        thing = self._thing(own)
        if other is not None:
            return f"{thing} and {self._thing(other)}"
        if not places or rng.random() < 0.3:
            return str(rng.choice(BARE)).format(thing)
        stance = f" is {rng.choice(STANCES)}" if own <= LAST_ANIMAL else ""
        return f"{thing}{stance} {rng.choice(places)}"

    def _thing(self, one: int) -> str:
        return f"{choose_article(self.words[one])} {self.words[one]}"


def _spots(count: int, side: int, generator: torch.Generator) -> Tensor:
    """How much of each thing lies in each cell (B, M): a round spot somewhere, from a third of the map to all of it."""
    centre_B2 = torch.rand(count, 2, generator=generator)
    width_B1 = 0.25 + 0.75 * torch.rand(count, 1, generator=generator)
    line_S = (torch.arange(side) + 0.5) / side
    far_B2S = (line_S - centre_B2[..., None]) / width_B1[..., None]
    near_BSS = torch.exp(-(far_B2S[:, 0, :, None] ** 2 + far_B2S[:, 1, None, :] ** 2) / 2)
    return near_BSS.flatten(1) / near_BSS.mean((1, 2))[:, None]
