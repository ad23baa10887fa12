"""What the captioner looks for in a picture and can be told: nouns of captions, and ImageNet's classes.

Shape suffixes: N pictures, V views, F features, K concepts, T those of a picture, W tokens of a word.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from classes import Classes
from nouns import noun, nouns_of
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.core.models.inputs import Tokenizer

N_NOUNS = 400
N_OTHERS = 2500
_SEEN, _TOLD, _KIND_TOLD = 25, 3, 10
"""A noun of so many pictures is looked for; a class is called by a name, else a kind, that captions say so often."""
LAST_ANIMAL = 397
"""ImageNet's classes begin with the animals."""
_FOLDS = 5
_WORD_TOKENS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Concepts:
    """All concepts: the nouns that are looked for, the classes, then nouns that only sentences bring."""

    names: list[str]
    words: list[str]  # what a caption calls it: "beagle" -> "dog"
    n_nouns: int
    n_found: int  # nouns and classes; those after them are never found in a picture
    rows_of: dict[str, list[int]]  # a caption's noun -> concepts that it may stand for

    def ids(self, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
        """Tokens of the names and of the words (K, W), -1 where there are fewer."""
        return _ids(self.names, tokenizer), _ids(self.words, tokenizer)


def collect_concepts(pairs: Sequence[Sequence[str]], told: Sequence[Sequence[str]], classes: Classes) -> Concepts:
    """From the captions of pictures, sentences without pictures and the classes' names."""
    seen = Counter(one for texts in pairs for one in {one for text in texts for one in nouns_of(text)})
    said = Counter(one for texts in [*pairs, *told] for one in {one for text in texts for one in nouns_of(text)})
    looked_for = [word for word, count in seen.most_common(N_NOUNS) if count >= min(_SEEN, len(pairs) // 40)]
    words = [_caption_word(row, classes, said) for row in range(len(classes.names))]
    others = [word for word, count in said.most_common(N_OTHERS + N_NOUNS) if word not in set(looked_for)]
    names = [*looked_for, *(own[0].lower() for own in classes.names), *others[:N_OTHERS]]
    calls = [*looked_for, *words, *others[:N_OTHERS]]
    rows_of: dict[str, list[int]] = {}
    for row, word in enumerate(calls):
        rows_of.setdefault(word.split()[-1], []).append(row)
    n_found = len(looked_for) + len(words)
    return Concepts(names=names, words=calls, n_nouns=len(looked_for), n_found=n_found, rows_of=rows_of)


def _caption_word(row: int, classes: Classes, said: Counter[str]) -> str:
    """What people call a thing of this class: a name that captions say, else the kind of an animal, else its name."""
    own = [name.lower() for name in classes.names[row]]
    kinds = [kind for kind, members in classes.kinds.items() if row in members and said[kind] >= _TOLD]
    kind = min(kinds, key=lambda kind: len(classes.kinds[kind]), default=None)
    living = row <= LAST_ANIMAL
    if said[own[0]] or (living and any(said[name] >= _TOLD for name in own)):
        return next(name for name in own if said[name])
    if living:
        last_words = [name.split()[-1] for name in own]  # "polar bear" -> bear
        return next((word for word in last_words if word in classes.kinds), kind or own[0])
    last = noun(own[0].split()[-1])  # "electric guitar" -> guitar
    return last if last and said[last] >= _KIND_TOLD else own[0]


def _ids(words: Sequence[str], tokenizer: Tokenizer) -> Tensor:
    table = torch.full((len(words), _WORD_TOKENS), -1)
    for row, ids in enumerate(tokenizer.ids_of(list(words))):
        inner = list(ids)[1:-1][:_WORD_TOKENS]
        table[row, : len(inner)] = torch.tensor(inner)
    return table


def learn_nouns(
    features_NVF: Tensor, captions: Sequence[Sequence[str]], concepts: Concepts, *, epochs: int = 30
) -> tuple[nn.Linear, Tensor]:
    """A layer that finds nouns in pooled features, and what layers that never saw a picture find in it (N, V, nouns).

    The latter is what the captioner learns from: on new pictures nouns are found no more surely than that.
    """
    there_NK = torch.zeros(len(captions), concepts.n_nouns)
    place = {word: row for row, word in enumerate(concepts.names[: concepts.n_nouns])}
    for row, texts in enumerate(captions):
        for text in texts:
            for one in nouns_of(text):
                if one in place:
                    there_NK[row, place[one]] += 1 / len(texts)
    there_NK = (there_NK * 1.5).clamp(max=1)
    fold_N = torch.randperm(len(captions), generator=torch.Generator().manual_seed(0)) % _FOLDS
    found_NVK = torch.empty(*features_NVF.shape[:2], concepts.n_nouns)
    for fold in range(_FOLDS):
        layer = _fit(features_NVF[fold_N != fold], there_NK[fold_N != fold], epochs)
        with torch.no_grad():
            found_NVK[fold_N == fold] = torch.sigmoid(layer(features_NVF[fold_N == fold]))
    return _fit(features_NVF, there_NK, epochs), found_NVK


def _fit(features_NVF: Tensor, there_NK: Tensor, epochs: int) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(features_NVF.shape[-1], there_NK.shape[1])
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.logit(there_NK.mean(0).clamp(1e-3, 1 - 1e-3)))
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.3)
    generator, batch = torch.Generator().manual_seed(0), min(256, len(features_NVF))
    n_steps = epochs * (len(features_NVF) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, n_steps)
    for step in range(n_steps):
        if step % (len(features_NVF) // batch) == 0:
            order = torch.randperm(len(features_NVF), generator=generator)
        row_B = order[(step % (len(features_NVF) // batch)) * batch :][:batch]
        view_B = torch.randint(features_NVF.shape[1], row_B.shape, generator=generator)
        feature_BF = F.dropout(features_NVF[row_B, view_B], 0.2)
        loss = F.binary_cross_entropy_with_logits(layer(feature_BF), there_NK[row_B], reduction="sum") / len(row_B)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return layer


class Teller:
    """Concepts for sentences without pictures, as surely and as wrongly as they are found in pictures."""

    def __init__(self, concepts: Concepts, told: Sequence[Sequence[str]], *, n_told: int) -> None:
        self.concepts, self.n_told = concepts, n_told
        self.nouns_of_group = [sorted({one for text in texts for one in nouns_of(text)}) for texts in told]

    def tell(self, group: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Concepts (T,) of a group of sentences and their probabilities: some of its nouns, others not there."""
        chosen: list[int] = []
        for one in self.nouns_of_group[group]:
            rows = self.concepts.rows_of.get(one)
            if rows and rng.random() < 0.65:
                found = [row for row in rows if row >= self.concepts.n_nouns]
                chosen.append(int(rng.choice(found if found and rng.random() < 0.5 else rows)))
        rng.shuffle(chosen)
        chosen = chosen[: self.n_told]
        n_wrong = self.n_told - len(chosen)
        wrong = rng.integers(0, self.concepts.n_found, n_wrong)
        sure = np.concatenate([rng.uniform(0.15, 1.0, len(chosen)), rng.beta(1, 8, n_wrong)])
        return np.array([*chosen, *wrong], np.int64), sure.astype(np.float32)
