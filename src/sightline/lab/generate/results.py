"""What a run makes: pictures, what was measured of them, and a judge's verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class MadePicture:
    """One picture, made from words and noise."""

    prompt: str
    seed: int
    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    similarity: float
    """Cosine to its prompt under the model that made it (the mean of several), or that ranks it."""
    steps: int
    took_s: float
    curve: tuple[tuple[int, float], ...] = ()
    """Steps and similarities on the way."""
    frames: tuple[NDArray[np.uint8], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "similarity": round(self.similarity, 4),
            "steps": self.steps,
            "took_s": round(self.took_s, 3),
            "curve": [[step, round(similarity, 4)] for step, similarity in self.curve],
        }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge says of one picture."""

    prompt: str
    seed: int
    rank: float
    """Of the right prompt among all, from 1; ties count by their expectation."""
    similarity: float
    """The judge's cosine to the right prompt."""
    taken_for: str
    """The prompt that the judge finds most fitting."""

    @property
    def right(self) -> bool:
        """Whether the right prompt ranks first."""
        return self.rank == 1


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How often a model that had no part in making the pictures names the words that they were made from."""

    judge: str
    n_prompts: int
    """Among how many prompts it had to find the right one."""
    verdicts: Sequence[Verdict]
    """Of the picture of each prompt that its maker finds best."""
    interval: tuple[float, float]
    """95% interval of the rate (Wilson 1927)."""

    @property
    def n_right(self) -> int:
        """Pictures whose prompt ranks first."""
        return sum(verdict.right for verdict in self.verdicts)

    @property
    def rate(self) -> float:
        """The share of pictures whose prompt ranks first."""
        return self.n_right / len(self.verdicts)

    @property
    def chance(self) -> float:
        """The rate of a judge that guesses."""
        return 1 / self.n_prompts

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "judge": self.judge,
            "right": self.n_right,
            "pictures": len(self.verdicts),
            "prompts": self.n_prompts,
            "rate": round(self.rate, 4),
            "interval": [round(end, 4) for end in self.interval],
            "chance": round(self.chance, 4),
            "verdicts": [
                {
                    "prompt": verdict.prompt,
                    "seed": verdict.seed,
                    "rank": verdict.rank,
                    "similarity": round(verdict.similarity, 4),
                    "taken_for": verdict.taken_for,
                }
                for verdict in self.verdicts
            ],
        }


def best_of_each(pictures: Sequence[MadePicture]) -> list[MadePicture]:
    """Of each prompt the picture with the highest similarity, in the order of the prompts."""
    best: dict[str, MadePicture] = {}
    for picture in pictures:
        if picture.prompt not in best or picture.similarity > best[picture.prompt].similarity:
            best[picture.prompt] = picture
    return list(best.values())
