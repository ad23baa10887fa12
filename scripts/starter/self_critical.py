"""The captioner learns from its own sentences: those that agree with people's better than its others become likelier.

Self-critical sequence training (Rennie et al. 2017, arXiv:1612.00563) on CIDEr-D, with the mean of a picture's other
samples as the baseline (Luo 2020, arXiv:2003.09971). Document frequencies are those of the training captions.

Shape suffixes: B pictures, S samples of each, R = B * S rows, N rows of the memory, C its width, L tokens, E width,
K heads, F = E / K, X tokens of all of a picture's sentences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from lite_captioner import LiteCaptioner
from nouns import nouns_of, synonyms
from numpy.typing import NDArray
from torch import Tensor

from sightline.core.models.convolutional import Attention
from sightline.core.models.inputs import Tokenizer
from sightline.lab.evaluation.captions.metrics import DocumentFrequencies, Words, cider, count_documents
from sightline.lab.evaluation.captions.tokenizing import tokenize_caption
from sightline.lab.training.towers import BOS_ID, EOS_ID, PAD_ID, UNK_ID

_END = "<end>"
"""Counted as a word, or sentences that stop in their middle ("a dog on a") would lose nothing."""
_BANNED = torch.tensor([PAD_ID, BOS_ID, UNK_ID])


OTHER_NOUN = 0.15
Reward = Callable[[Tensor, Sequence[int]], NDArray[np.float64]]
"""Ids of sentences (R, L) and the row of the picture that each is of -> how good each is (R,)."""


class Agreement:
    """How well sentences agree with what people said of the training pictures."""

    def __init__(self, captions: Sequence[Sequence[str]], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.references: list[list[Words]] = [[_words(text) for text in texts] for texts in captions]
        self.frequencies: DocumentFrequencies = count_documents(self.references)

    def __call__(self, ids_RL: Tensor, rows: Sequence[int]) -> NDArray[np.float64]:
        """CIDEr-D of each sentence (R,) against the captions of the picture it is of."""
        sentences = [self.tokenizer.decode(ids) for ids in _until_end(ids_RL)]
        references = [self.references[row] for row in rows]
        return cider([_words(text) for text in sentences], references, frequencies=self.frequencies)


class Naming:
    """Whether sentences name what is in a picture of which nothing but a name is known, and little else."""

    def __init__(self, words: Sequence[str], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.named: list[frozenset[str]] = [
            frozenset().union(*(synonyms(one) for one in (word, *nouns_of(word)))) for word in words
        ]

    def __call__(self, ids_RL: Tensor, rows: Sequence[int]) -> NDArray[np.float64]:
        """1 where one of the nouns is the picture's, less a little for each of the others."""
        rewards = []
        for ids, row in zip(_until_end(ids_RL), rows, strict=True):
            said = set(nouns_of(self.tokenizer.decode(ids)))
            right = said & self.named[row]
            rewards.append(bool(right) - OTHER_NOUN * len(said - right))
        return np.array(rewards, np.float64)


def self_critical_loss(
    model: LiteCaptioner, memory_BNC: Tensor, rows: Sequence[int], agreement: Reward, *,
    samples: int, generator: torch.Generator,
) -> tuple[Tensor, float]:  # fmt: skip
    """Minus the advantage-weighted mean log-probability of sampled sentences, and their mean reward."""
    model.eval()  # a sentence is drawn from what will be used, without dropout
    ids_RL = draw_sentences(model, memory_BNC, samples=samples, generator=generator)
    model.train()
    rewards_BS = agreement(ids_RL, np.repeat(rows, samples).tolist()).reshape(-1, samples)
    others_BS = (rewards_BS.sum(1, keepdims=True) - rewards_BS) / (samples - 1)
    advantage_R = torch.from_numpy(rewards_BS - others_BS).float().flatten()
    logits_RLV = decode_several(model, ids_RL[:, :-1], memory_BNC)
    logits_RLV[:, :, _BANNED] = -torch.inf
    target_RL = ids_RL[:, 1:]
    counted_RL = target_RL != PAD_ID
    nats_RL = F.cross_entropy(logits_RLV.flatten(0, 1), target_RL.flatten(), ignore_index=PAD_ID, reduction="none")
    loss = (nats_RL.view_as(target_RL) * advantage_R[:, None]).sum() / counted_RL.sum()
    return loss, float(rewards_BS.mean())


def decode_several(model: LiteCaptioner, ids_RL: Tensor, memory_BNC: Tensor) -> Tensor:
    """What `decode` gives for as many sentences of each picture, one picture's after the other: logits (R, L, V).

    Keys and values of a picture are computed once for all of its sentences, which is most of the work. In fp32: bf16
    takes CPUs twice as long at these widths.
    """
    normed_BNC = model.memory_norm(memory_BNC)
    x_RLE = model.dropout(model.tokens(ids_RL) + model.positions[: ids_RL.shape[1]])
    for layer in model.layers:
        y_RLE = layer.self_norm(x_RLE)
        x_RLE = x_RLE + layer.dropout(layer.self_attention(y_RLE, y_RLE, causal=True))
        y_BXE = layer.cross_norm(x_RLE).reshape(len(memory_BNC), -1, x_RLE.shape[-1])
        x_RLE = x_RLE + layer.dropout(layer.cross_attention(y_BXE, normed_BNC).view_as(x_RLE))
        x_RLE = x_RLE + layer.dropout(layer.mlp(layer.mlp_norm(x_RLE)))
    return F.linear(model.norm(x_RLE), model.tokens.weight)


@torch.no_grad()
def draw_sentences(
    model: LiteCaptioner, memory_BNC: Tensor, *, samples: int, generator: torch.Generator, max_tokens: int = 24
) -> Tensor:
    """Sentences drawn token by token (R, L), BOS first, padded after their EOS. Keys and values are kept."""
    normed_BNC = model.memory_norm(memory_BNC)
    crossed = [layer.cross_attention.key_value(normed_BNC).chunk(2, dim=-1) for layer in model.layers]
    past: list[tuple[Tensor, Tensor] | None] = [None] * len(model.layers)
    ids = torch.full((len(memory_BNC) * samples, 1), BOS_ID)
    for place in range(max_tokens):
        x_R1E = model.tokens(ids[:, -1:]) + model.positions[place]
        for index, layer in enumerate(model.layers):
            own = layer.self_attention
            y_R1E = layer.self_norm(x_R1E)
            new = own.key_value(y_R1E).chunk(2, dim=-1)
            kept = past[index]
            past[index] = new if kept is None else (torch.cat([kept[0], new[0]], 1), torch.cat([kept[1], new[1]], 1))
            x_R1E = x_R1E + _attend(own, y_R1E, *past[index])
            y_BSE = layer.cross_norm(x_R1E).view(len(memory_BNC), samples, -1)
            x_R1E = x_R1E + _attend(layer.cross_attention, y_BSE, *crossed[index]).view_as(x_R1E)
            x_R1E = x_R1E + layer.mlp(layer.mlp_norm(x_R1E))
        logits_RV = F.linear(model.norm(x_R1E[:, 0]), model.tokens.weight)
        logits_RV[:, _BANNED] = -torch.inf
        chosen_R1 = torch.multinomial(logits_RV.softmax(-1), 1, generator=generator)
        over_R1 = (ids[:, -1:] == EOS_ID) | (ids[:, -1:] == PAD_ID)
        ids = torch.cat([ids, torch.where(over_R1, PAD_ID, chosen_R1)], dim=1)
        if bool((over_R1 | (chosen_R1 == EOS_ID)).all()):
            break
    return ids


def _attend(attention: Attention, query_BLE: Tensor, key_BNE: Tensor, value_BNE: Tensor) -> Tensor:
    """(B, L, E) over keys and values (B, N, E) that are already projected -> (B, L, E)."""

    def split(x_BLE: Tensor) -> Tensor:
        return x_BLE.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

    query_BKLF = split(attention.query(query_BLE))
    mixed_BKLF = F.scaled_dot_product_attention(query_BKLF, split(key_BNE), split(value_BNE))
    mixed_BLE: Tensor = attention.out(mixed_BKLF.transpose(1, 2).flatten(2))
    return mixed_BLE


def _until_end(ids_RL: Tensor) -> list[list[int]]:
    return [[token for token in row if token not in (BOS_ID, EOS_ID, PAD_ID)] for row in ids_RL.tolist()]


def _words(text: str) -> Words:
    return (*tokenize_caption(text), _END)
