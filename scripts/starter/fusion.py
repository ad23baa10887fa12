"""Where the choice between ranked and generated captions comes from: `captioning.fuse.FusionWeights`, and `gain_nats`.

And `captioning.rank.PEOPLE_SLOPE` and `PEOPLE_OFFSET`, a logistic regression of whether people are there.

For several weights of the generator's log-probability: agreement of the chosen captions with people's, on the 500
pictures of Flickr8k train that no training saw, and on pictures of Tiny ImageNet, of which only names and kinds are
known. The generator learned from pictures like the former, so they alone would always choose it. The weight to take is
the smallest that costs nothing on them: more say for the candidates, which know more things.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from classes import load_classes
from corpus import held_out_rows
from nouns import agreement, is_people, nouns_of
from numpy.typing import NDArray

from sightline.core.captioning.dual import CaptionConfig, DualCaption, caption_image
from sightline.core.captioning.fuse import FusionWeights, fuse
from sightline.core.captioning.rank import PEOPLE_OFFSET, PEOPLE_SLOPE, BankRanker, ComposeConfig
from sightline.core.models.loading import load_captioner, load_encoder
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.base import Dataset
from sightline.lab.evaluation.captions.metrics import score_words
from sightline.lab.evaluation.embedding import embed_images

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the shared folder, with data/")
    parser.add_argument("--limit", type=int, default=500, help="pictures of either set")
    given = parser.parse_args()
    train = load_dataset(f"flickr8k:{given.data / 'data/flickr8k'}", split="train")
    held_out = train.take(held_out_rows([pair.id for pair in train])[: given.limit], why="held out")
    named = load_dataset(f"tiny-imagenet:{given.data / 'data/tiny-imagenet'}", split="val", limit=given.limit)
    names = _names(named)
    print(f"gain_nats {ComposeConfig().gain_nats:g}")
    people_of: list[NDArray[np.float32]] = []
    for what, dataset, people in (
        ("held out", held_out, [list(pair.captions) for pair in held_out]),
        ("Tiny ImageNet", named, names),
    ):
        results, people_N = _caption(dataset)
        people_of.append((people_N - PEOPLE_OFFSET) / PEOPLE_SLOPE)
        _judge(what, results, people_N, people)
    there_N = [any(is_people(noun) for text in pair.captions for noun in nouns_of(text)) for pair in held_out]
    slope, offset = fit_people(people_of[0], np.array(there_N), people_of[1])
    print(f"log-odds of people: {slope:.2f} x margin + {offset:.2f}")


def fit_people(
    margin_N: NDArray[np.float32], there_N: NDArray[np.bool_], none_N: NDArray[np.float32]
) -> tuple[float, float]:
    """Slope and offset of a logistic regression: margins of images with and without people, and of others without.

    Both sets weigh the same, so half of the images are of Flickr8k's kind. By Newton's method.
    """
    x_N2 = np.stack([np.concatenate([margin_N, none_N]), np.ones(len(margin_N) + len(none_N))], 1).astype(np.float64)
    y_N = np.concatenate([there_N, np.zeros(len(none_N))])
    weight_N = np.repeat([1 / len(margin_N), 1 / len(none_N)], [len(margin_N), len(none_N)])
    found_2 = np.zeros(2)
    for _ in range(20):
        p_N = 1 / (1 + np.exp(-x_N2 @ found_2))
        curvature_22 = (x_N2 * (weight_N * p_N * (1 - p_N))[:, None]).T @ x_N2
        found_2 += np.linalg.solve(curvature_22, x_N2.T @ (weight_N * (y_N - p_N)))
    return float(found_2[0]), float(found_2[1])


def _names(named: Dataset) -> list[list[str]]:
    """All that a picture's label may be called, kinds included."""
    classes = load_classes()
    row_of = {name: row for row, own in enumerate(classes.names) for name in own}
    called = []
    for own in named.class_names or ():
        rows = {row_of[name] for name in own if name in row_of}
        kinds = [kind for kind, members in classes.kinds.items() if rows & set(members)]
        called.append([f"a {name.lower()}" for name in (*own, *kinds)])
    return [called[pair.label or 0] for pair in named]


def _caption(dataset: Dataset) -> tuple[list[DualCaption], NDArray[np.float32]]:
    """Captions of both kinds, and the log-odds that people are there."""
    encoder, captioner = load_encoder("starter"), load_captioner("starter-captioner")
    results = [
        caption_image(pair.image.read(), encoder=encoder, captioner=captioner, config=CaptionConfig())
        for pair in dataset
    ]
    return results, BankRanker(encoder).weigh_people(embed_images(encoder, dataset).image_BD)


def _judge(what: str, results: Sequence[DualCaption], people_N: NDArray[np.float32], people: list[list[str]]) -> None:
    temperature = load_encoder("starter").card.nats_per_cosine
    candidates = [result.clip[0].text for result in results]
    print(f"{what}: candidates alone: {_figures(candidates, people)}")
    for weight in WEIGHTS:
        weights = FusionWeights(log_prob=weight)
        best = [
            fuse(r.clip[:1], r.generated, temperature=temperature, weights=weights, people_nats=float(nats))[0]
            for r, nats in zip(results, people_N, strict=True)
        ]
        share = np.mean([caption.source == "generated" for caption in best])
        figures = _figures([caption.text for caption in best], people)
        print(f"{what}: log_prob {weight:g}: {figures}, the generator's sentence chosen in {share:.0%}")


def _figures(captions: list[str], people: list[list[str]]) -> str:
    agrees = agreement(captions, people)
    cider = float(np.mean(score_words(captions, people).cider_N))
    return f"CIDEr {cider:.3f}, head noun {agrees['head_noun']:.3f}, nouns {agrees['nouns']:.3f}"


if __name__ == "__main__":
    main()
