"""Groups of pictures, and names for them from the captions of what they hold.

Shape suffixes: N pictures, K clusters, D dimension of the joint space.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.faces.integrations import text_generation as writing
from sightline.faces.integrations.rewriting import content_words, require_supported, stem
from sightline.faces.integrations.text_generation import TextGenerator, Written

_CAPTIONS_TOLD = 12
_WORDS_IN_NAME = 3
_ROUNDS = 50


def cluster_vectors(vectors_ND: NDArray[np.float32], count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Unit vectors -> the cluster (N,) of each, 0 to count - 1, the largest first; none is empty.

    Spherical k-means (Dhillon and Modha 2001) from k-means++ seeds. Raises InputError for more clusters than pictures.
    """
    if not 1 <= count <= len(vectors_ND):
        raise InputError(f"{len(vectors_ND)} pictures make 1 to {len(vectors_ND)} clusters, not {count}.")
    rng = np.random.default_rng(seed)
    centre_KD = vectors_ND[_spread(vectors_ND, count, rng)].astype(np.float64)
    cluster_N = np.full(len(vectors_ND), -1)
    for _ in range(_ROUNDS):
        cosine_NK = vectors_ND @ centre_KD.T
        nearest_N = cosine_NK.argmax(axis=1)
        for empty in np.setdiff1d(np.arange(count), nearest_N):  # takes the picture that fits its own least
            shared_N = np.bincount(nearest_N, minlength=count)[nearest_N] > 1
            own_N = np.where(shared_N, cosine_NK[np.arange(len(nearest_N)), nearest_N], np.inf)
            nearest_N[own_N.argmin()] = empty
        if (nearest_N == cluster_N).all():
            break
        cluster_N = nearest_N
        for k in range(count):
            mean_D = vectors_ND[cluster_N == k].sum(axis=0)
            centre_KD[k] = mean_D / max(float(np.linalg.norm(mean_D)), 1e-12)
    order_K = np.argsort(-np.bincount(cluster_N, minlength=count), kind="stable")
    place_K = np.empty(count, np.int64)
    place_K[order_K] = np.arange(count)
    placed_N: NDArray[np.int64] = place_K[cluster_N]
    return placed_N


def _spread(vectors_ND: NDArray[np.float32], count: int, rng: np.random.Generator) -> list[int]:
    """Rows far from each other: each is drawn by its distance to the nearest that was drawn (Arthur, Vassilvitskii)."""
    chosen = [int(rng.integers(len(vectors_ND)))]
    distance_N = np.full(len(vectors_ND), np.inf)
    while len(chosen) < count:
        to_last_N = np.maximum(1 - vectors_ND @ vectors_ND[chosen[-1]], 0).astype(np.float64)
        distance_N = np.minimum(distance_N, to_last_N)
        distance_N[chosen] = 0
        total = distance_N.sum()
        left = np.setdiff1d(np.arange(len(vectors_ND)), chosen)
        chosen.append(int(rng.choice(len(vectors_ND), p=distance_N / total) if total > 0 else rng.choice(left)))
    return chosen


def name_groups(groups: Mapping[str, Sequence[str]], generator: TextGenerator | None) -> dict[str, Written]:
    """A short name for each group of captions.

    Without a model, and wherever its answer can't be used, the words stand that tell the group from the others. Raises
    InputError for a group without captions.
    """
    if empty := next((key for key, captions in groups.items() if not captions), None):
        raise InputError(f"{empty} has no captions to be named by; caption its pictures first.")
    plain = _telling_words(groups)
    asked = [
        (_make_prompt(captions), partial(_take_name, captions=captions), plain[key]) for key, captions in groups.items()
    ]
    return dict(zip(groups, writing.write(generator, asked, writing.WritingConfig(max_tokens=24)), strict=True))


def _make_prompt(captions: Sequence[str]) -> str:
    """A prompt with a dozen captions at most, evenly over the group."""
    step = max(1, math.ceil(len(captions) / _CAPTIONS_TOLD))
    return (
        f"An album holds pictures with these captions, as JSON: {writing.quote(list(captions[::step]))}\n"
        "Write a name for the album, of two to five words, on one line, that fits most of them."
    )


def _take_name(answer: str, *, captions: Sequence[str]) -> str:
    text = writing.first_line(answer).rstrip(".")
    return require_supported(text, captions, max_chars=60, least=0.5)


def _telling_words(groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Three words each: frequent in the group's captions, and rarer in those of the others."""
    counted = {key: _count_words(captions) for key, captions in groups.items()}
    everywhere = Counter(one for counts, _ in counted.values() for one in counts)
    names = {}
    for key, (counts, spelt) in counted.items():
        weight = {one: n * (1 + math.log(len(groups) / everywhere[one])) for one, n in counts.items()}
        best = sorted(weight, key=lambda one: (-weight[one], one))[:_WORDS_IN_NAME]
        names[key] = ", ".join(spelt[one].most_common(1)[0][0] for one in best) or "pictures"
    return names


def _count_words(captions: Sequence[str]) -> tuple[Counter[str], dict[str, Counter[str]]]:
    """In how many captions a word occurs, up to its ending, and how it is spelt there."""
    counts: Counter[str] = Counter()
    spelt: dict[str, Counter[str]] = {}
    for caption in captions:
        words = content_words(caption)
        counts.update({stem(word) for word in words})
        for word in words:
            spelt.setdefault(stem(word), Counter())[word] += 1
    return counts, spelt
