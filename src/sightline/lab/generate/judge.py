"""Made images, the judge, a second model that names the prompt of each, and feedback on which words are matched least.

The model that made an image always finds that it fits; that says little. A model of another seed has learned other
weights from the same data, so what it recognises is in the image and not in the first model's blind spots.
Shape suffixes: N images, P prompts, S samples of one prompt, W words, D joint space; in pixels S is the model's side.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Encoder
from sightline.errors import InputError, ModelError
from sightline.lab.evaluation.embedding import embed_texts
from sightline.lab.evaluation.results import rank_embeddings, require_finite_rows

_Z95 = 1.959964


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeImage:
    """One image, made from words and noise."""

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
        kept = ("prompt", "seed", "similarity", "steps", "took_s", "curve")
        return {name: rounded(getattr(self, name)) for name in kept}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judge's verdict on one image."""

    prompt: str
    seed: int
    rank: float
    """Rank of the right prompt among all, from 1; ties count by their expectation."""
    similarity: float
    """The judge's cosine to the right prompt."""
    taken_for: str
    """The prompt that the judge finds most fitting."""

    @property
    def right(self) -> bool:
        """True where the right prompt ranks first."""
        return self.rank == 1


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The rate at which a model that had no part in making the images names the words that they were made from."""

    judge: str
    n_prompts: int
    """Among how many prompts it had to find the right one."""
    verdicts: Sequence[Verdict]
    """Verdicts on the image of each prompt that its maker finds best."""
    interval: tuple[float, float]
    """95% interval of the rate (Wilson 1927)."""

    @property
    def n_right(self) -> int:
        """Images whose prompt ranks first."""
        return sum(verdict.right for verdict in self.verdicts)

    @property
    def rate(self) -> float:
        """The share of images whose prompt ranks first."""
        return self.n_right / len(self.verdicts)

    @property
    def chance(self) -> float:
        """The rate of a judge that guesses."""
        return 1 / self.n_prompts

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        values = {
            "judge": self.judge,
            "right": self.n_right,
            "pictures": len(self.verdicts),
            "prompts": self.n_prompts,
            "rate": self.rate,
            "interval": self.interval,
            "chance": self.chance,
            "verdicts": [dataclasses.asdict(verdict) for verdict in self.verdicts],
        }
        return {name: rounded(value) for name, value in values.items()}


def rounded(value: Any) -> Any:
    """A value as JSON has it, floats with four decimals."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def best_of_each(images: Sequence[MadeImage]) -> list[MadeImage]:
    """The image with the highest similarity of each prompt, in the order of the prompts."""
    best: dict[str, MadeImage] = {}
    for image in images:
        if image.prompt not in best or image.similarity > best[image.prompt].similarity:
            best[image.prompt] = image
    return list(best.values())


def check_judge(judge: Encoder, makers: Sequence[Encoder], prompts: Sequence[str]) -> None:
    """Raises InputError where the judge made the images itself, or has no two different prompts to tell apart."""
    if judge.identity in [maker.identity for maker in makers]:
        raise InputError(
            f"The judge {judge.card.name} has the weights of a model that makes the pictures; its verdict would mean "
            "nothing. Name a model of another seed: --judge dir:OTHER_RUN"
        )
    if len(set(prompts)) < 2:
        raise InputError(
            "A judge picks the right prompt among several: give at least two, as with --prompts scenes:50."
        )


def judge_images(images: Sequence[MadeImage], judge: Encoder, *, prompts: Sequence[str]) -> Judgement:
    """The prompt that the judge finds most fitting for the best image of each prompt, best by its maker's similarity.

    Raises ModelError where the judge gives vectors that aren't finite.
    """
    candidates = list(dict.fromkeys(prompts))
    chosen = best_of_each(images)
    image_ND = embed_images(judge, [image.rgb for image in chosen])
    text_PD = embed_texts(judge, candidates)
    right = [np.array([candidates.index(image.prompt)]) for image in chosen]
    ranks = rank_embeddings(image_ND, text_PD, right)
    similarity_NP = image_ND @ text_PD.T
    verdicts = [
        Verdict(
            prompt=image.prompt,
            seed=image.seed,
            rank=float(ranks.expected_ranks[n]),
            similarity=float(similarity_NP[n, right[n][0]]),
            taken_for=candidates[int(similarity_NP[n].argmax())],
        )
        for n, image in enumerate(chosen)
    ]
    n_right = sum(verdict.right for verdict in verdicts)
    return Judgement(
        judge=judge.card.name,
        n_prompts=len(candidates),
        verdicts=verdicts,
        interval=wilson_interval(n_right, len(verdicts)),
    )


def embed_images(encoder: Encoder, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Images of any size (H, W, 3) -> unit vectors (N, D). Raises ModelError where one isn't finite."""
    pixels_NSS3 = np.stack([encoder.card.preprocessing.resize(rgb) for rgb in images])
    image_ND = encoder.encode_images(pixels_NSS3)
    try:
        require_finite_rows(image_ND, what="vectors of pictures")
    except InputError as error:
        raise ModelError(f"{encoder.card.name} gives vectors that aren't finite: {error}") from error
    return image_ND


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """The 95% interval of a rate (Wilson 1927), which holds for few images and near 0 and 1 too."""
    rate = n_right / n
    spread = _Z95 * math.sqrt(rate * (1 - rate) / n + _Z95**2 / (4 * n**2))
    centre, scale = rate + _Z95**2 / (2 * n), 1 + _Z95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# fmt: off
_PLAIN = frozenset({
    "a", "an", "the", "of", "in", "on", "at", "to", "with", "and", "or", "is", "are", "was", "were", "be", "been",
    "being", "it", "its", "this", "that", "these", "those", "there", "by", "for", "from", "as", "into", "than",
    "then", "while", "which", "who", "whose", "their", "his", "her", "our", "your", "my", "some", "any",
})
# fmt: on
"""Words without which a prompt hardly means anything else."""


@dataclass(frozen=True, kw_only=True)
class WordShare:
    """The share of one word of a prompt in the similarity of images."""

    word: str
    gain: float
    """Mean over the samples: cosine to the whole prompt minus cosine to the prompt without this word."""
    helped: int
    """In how many samples it is above 0."""


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """Images of another wording, held against what the first wording asked for."""

    prompt: str
    difference: float
    """Mean over equal seeds: cosine to the first wording, of this wording's image minus the first wording's own."""
    better: int
    """Seeds at which it is above 0."""
    of: int
    """Seeds compared."""
    interval: tuple[float, float] | None
    """95% interval of the difference (Student's t over seeds); None for fewer than 3 seeds."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """Feedback on one prompt's images."""

    prompt: str
    words: Sequence[WordShare]
    """Shares of the words that mean something, the one matched least first."""
    bank_rank: int
    """Place of the prompt among the bank's texts for the best image, from 1."""
    bank_size: int
    """Texts compared, the prompt among them."""
    variants: Sequence[VariantResult]
    lines: Sequence[str]
    """Sentences for a person."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        values: dict[str, Any] = rounded(dataclasses.asdict(self))
        return values


def give_feedback(
    images: Sequence[MadeImage],
    encoder: Encoder,
    *,
    bank: Sequence[str],
    variants: Sequence[Sequence[MadeImage]] = (),
    n_cut: int = 0,
) -> Feedback:
    """Feedback on the images of one prompt; `variants` holds those of each other wording, of the same seeds.

    `n_cut` is how many tokens at the prompt's end the pipeline didn't read. Raises ModelError where a vector isn't
    finite.
    """
    prompt = images[0].prompt
    image_SD = embed_images(encoder, [image.rgb for image in images])
    similarity_S = image_SD @ embed_texts(encoder, [prompt])[0]
    words = explain_words(image_SD, encoder, prompt)
    others = [text for text in dict.fromkeys(bank) if text != prompt]
    best = int(similarity_S.argmax())
    rank = 1 + int((embed_texts(encoder, others) @ image_SD[best] > similarity_S[best]).sum()) if others else 1
    results = [_compare(images, similarity_S, some, encoder) for some in variants if some]
    lines = [
        _say_fit(rank, len(others)),
        *_say_words(words, len(images)),
        *_say_spread(images, similarity_S),
        *map(_say_variant, results),
    ]
    if n_cut:
        cut = f"The last {n_cut} tokens of the prompt are beyond what the pipeline reads; say it in fewer words."
        lines.insert(0, cut)
    return Feedback(
        prompt=prompt, words=words, bank_rank=rank, bank_size=len(others) + 1, variants=results, lines=lines
    )


def explain_words(image_SD: NDArray[np.float32], encoder: Encoder, prompt: str) -> list[WordShare]:
    """The share of each meaningful word in the similarity, the least first; none for a prompt of a single word.

    Leave-one-out: exact for what it measures, blind to words that say the same twice.
    """
    spans = [match for match in _WORD.finditer(prompt) if match[0].lower() not in _PLAIN][:24]
    if len(_WORD.findall(prompt)) < 2:
        return []
    without = [_tidy(prompt[: span.start()] + prompt[span.end() :]) for span in spans]
    text_D, *rest = embed_texts(encoder, [prompt, *without])
    gain_WS = np.array([image_SD @ (text_D - other_D) for other_D in rest]).reshape(len(spans), len(image_SD))
    shares = [
        WordShare(word=span[0], gain=float(gain_S.mean()), helped=int((gain_S > 0).sum()))
        for span, gain_S in zip(spans, gain_WS, strict=True)
    ]
    return sorted(shares, key=lambda share: share.gain)


def _compare(
    images: Sequence[MadeImage], similarity_S: NDArray[np.float32], other: Sequence[MadeImage], encoder: Encoder
) -> VariantResult:
    """A wording against the first one, seed by seed: the same noise, so that only the words differ."""
    first = {image.seed: float(similarity_S[n]) for n, image in enumerate(images)}
    shared = [image for image in other if image.seed in first]
    text_D = embed_texts(encoder, [images[0].prompt])[0]
    similarity = embed_images(encoder, [image.rgb for image in shared]) @ text_D
    differences = [float(value) - first[image.seed] for value, image in zip(similarity, shared, strict=True)]
    return VariantResult(
        prompt=shared[0].prompt,
        difference=float(np.mean(differences)),
        better=sum(difference > 0 for difference in differences),
        of=len(differences),
        interval=_t_interval(differences),
    )


_T95 = (4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t at 97.5% for 2 to 15 degrees of freedom; above that 2.1 is right to 1%."""


def _t_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    n = len(differences)
    if n < 3:
        return None
    factor = _T95[n - 3] if n - 3 < len(_T95) else 2.1
    mean, error = float(np.mean(differences)), float(np.std(differences, ddof=1)) / math.sqrt(n)
    return mean - factor * error, mean + factor * error


def _say_fit(rank: int, n_others: int) -> str:
    if rank == 1:
        return f"The best picture fits its prompt better than any of {n_others} other texts."
    return (
        f"{rank - 1} of {n_others} other texts fit the best picture better than its prompt does: try more steps or "
        "seeds, a simpler prompt, or another model."
    )


def _say_words(words: Sequence[WordShare], n: int) -> list[str]:
    if missing := [share for share in words if share.helped * 2 < n or share.gain <= 0]:
        named = ", ".join(f"'{one.word}' ({one.gain:+.3f}, helped in {one.helped} of {n})" for one in missing[:3])
        return [f"Matched least: {named}. Say it in other words, put it first, or give it a prompt of its own."]
    return [f"Every word adds to the similarity; '{one.word}' adds least ({one.gain:+.3f})." for one in words[:1]]


def _say_spread(images: Sequence[MadeImage], similarity_S: NDArray[np.float32]) -> list[str]:
    if len(images) < 2:
        return []
    best, worst = int(similarity_S.argmax()), int(similarity_S.argmin())
    return [
        f"Seed {images[best].seed} fits best ({similarity_S[best]:.3f}), seed {images[worst].seed} worst "
        f"({similarity_S[worst]:.3f}); the samples' standard deviation is {float(similarity_S.std(ddof=1)):.3f}."
    ]


def _say_variant(result: VariantResult) -> str:
    if result.interval is None:
        verdict = "too few seeds to tell (3 or more are needed)"
    elif result.interval[0] > 0:
        verdict = "use it"
    elif result.interval[1] < 0:
        verdict = "keep the first wording"
    else:
        verdict = "no difference beyond the noise of the seeds"
    return (
        f"'{result.prompt}' comes {result.difference:+.3f} nearer to the first wording, better at {result.better} of "
        f"{result.of} seeds: {verdict}."
    )


def _tidy(text: str) -> str:
    """Without the spaces and commas that a removed word leaves behind."""
    return re.sub(r"\s+([,.;:])", r"\1", re.sub(r"\s{2,}", " ", text)).strip(" ,;:")
