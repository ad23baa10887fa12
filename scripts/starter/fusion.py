"""CIDEr of the fused captions on Flickr8k's val pictures for several weights of the generator's log-probability.

This is where the default of `captioning.fuse.FusionWeights` comes from: run it anew for new starter models.
"""

from __future__ import annotations

import argparse

import numpy as np

from sightline.captioning.dual import caption_picture
from sightline.captioning.fuse import FusionWeights, fuse
from sightline.data.addressing import load_dataset
from sightline.evaluation.captions.metrics import score_words
from sightline.models.captioners import load_captioner
from sightline.models.encoders import load_encoder

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="pairs, as flickr8k:PATH")
    parser.add_argument("--limit", type=int, default=250)
    given = parser.parse_args()
    dataset = load_dataset(given.data, split="val", limit=given.limit)
    encoder, captioner = load_encoder("starter"), load_captioner("starter-captioner")
    results = [caption_picture(pair.image.read(), encoder=encoder, captioner=captioner) for pair in dataset]
    references = [pair.captions for pair in dataset]
    temperature = encoder.card.nats_per_cosine
    for name, captions in (("candidates", [r.clip for r in results]), ("generator", [r.generated for r in results])):
        print(f"{name} alone: CIDEr {_cider([several[0].text for several in captions], references):.3f}")
    for weight in WEIGHTS:
        weights = FusionWeights(log_prob=weight)
        best = [fuse(r.clip, r.generated, temperature=temperature, weights=weights)[0] for r in results]
        share = np.mean([caption.source == "generated" for caption in best])
        cider = _cider([caption.text for caption in best], references)
        print(f"log_prob {weight:g}: CIDEr {cider:.3f}, the generator's sentence chosen in {share:.0%}")


def _cider(captions: list[str], references: list[tuple[str, ...]]) -> float:
    return float(np.mean(score_words(captions, references).cider_N))


if __name__ == "__main__":
    main()
