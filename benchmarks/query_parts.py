"""How well negative parts, words taught by example and marked hits rank, beside simpler ways.

    python benchmarks/query_parts.py --scenes-model dir:runs/scenes --flickr8k PATH --tiny-imagenet PATH

Each part is run where it is given what it needs. Scenes: "a red circle - a blue square" and 200 like it, on scenes
that the model never saw, with the truth from their description; in the hard library each query has as many images with
both as with the subject alone. Flickr8k: pairs of nouns, the truth being what captions name. Tiny ImageNet: 200
classes, whose names are replaced by nonsense where words are taught. Shape suffixes: N images, D dimension, C classes,
K examples.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sightline.core.models.base import Encoder
from sightline.core.models.loading import load_encoder
from sightline.core.search.background import SAMPLED_ROWS, Background
from sightline.core.search.engine import aim, correct
from sightline.core.search.teaching import aim_alone
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.base import Dataset
from sightline.lab.data.scenes.dataset import SceneImage
from sightline.lab.data.scenes.grammar import COLOURS, SHAPES, ObjectKind, fits
from sightline.lab.evaluation.embedding import embed_images

Truth = dict[str, np.ndarray]
"""A text -> for which images (N,) it is true."""
Way = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A subject's and a negative part's vectors (D,) -> where the query points (D,)."""

QUERIES = 200
SCENES = 6000
MARKS = 5
NOUNS = re.findall(
    "[a-z]+",
    "dog man woman boy girl child people snow beach water grass ball bike car street mountain rock tree crowd bench "
    "horse field pool ocean sand sky dress shirt hat camera baby skateboard snowboard soccer football stick toy "
    "building tent fence",
)
_IRREGULAR = {"man": "men", "woman": "women", "child": "children", "people": "person"}


def main() -> None:
    """Print a table for each part that can be run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes-model", help="a run of scenes-scratch, as dir:runs/scenes")
    parser.add_argument("--model", default="starter", help="the model of the other parts")
    parser.add_argument("--flickr8k", type=Path)
    parser.add_argument("--tiny-imagenet", type=Path)
    parser.add_argument("--vectors", type=Path, help="a folder that keeps vectors for the next time")
    asked = parser.parse_args()
    if asked.scenes_model:
        compare_on_scenes(load_encoder(asked.scenes_model))
    if asked.flickr8k or asked.tiny_imagenet:
        encoder = load_encoder(asked.model)
        if asked.flickr8k:
            compare_on_captions(encoder, asked.flickr8k, asked.vectors)
        if asked.tiny_imagenet:
            compare_on_classes(encoder, asked.tiny_imagenet, asked.vectors)


# --- negative parts ---------------------------------------------------------------------------------------------


def compare_on_scenes(encoder: Encoder) -> None:
    """Negative parts on rendered scenes."""
    images = [SceneImage(seed=0, split="test", number=number) for number in range(SCENES)]
    resize = encoder.card.preprocessing.resize
    chunks = (images[start : start + 64] for start in range(0, SCENES, 64))
    vectors_ND = np.concatenate(
        [encoder.encode_images(np.stack([resize(i.read()) for i in chunk])) for chunk in chunks]
    )
    kinds = {f"a {colour} {shape}": ObjectKind(None, None, colour, shape) for colour in COLOURS for shape in SHAPES}
    scenes = [image.scene() for image in images]
    truth = {
        text: np.array([any(fits(kind, thing) for thing in scene.objects) for scene in scenes])
        for text, kind in kinds.items()
    }
    print(f"negative parts, {SCENES:,} scenes, {encoder.card.name}")
    compare_ways(encoder, vectors_ND, truth, truth)


def compare_on_captions(encoder: Encoder, path: Path, folder: Path | None) -> None:
    """Negative parts on photographs, by what their captions name."""
    photos = load_dataset(f"flickr8k:{path}", split="val")
    vectors_ND, captions = embed(encoder, photos, folder), [pair.captions for pair in photos]
    words = [[set(re.findall("[a-z]+", caption.lower())) for caption in five] for five in captions]
    named = {noun: {noun, f"{noun}s", f"{noun}es", _IRREGULAR.get(noun, noun)} for noun in NOUNS}
    count = {
        noun: np.array([sum(bool(forms & one) for one in five) for five in words]) for noun, forms in named.items()
    }
    print(f"\nnegative parts, {len(photos):,} pictures of Flickr8k's val, {encoder.card.name}")
    surely = {noun: count_N >= 2 for noun, count_N in count.items()}
    compare_ways(encoder, vectors_ND, {noun: count_N >= 1 for noun, count_N in count.items()}, surely)


def compare_ways(encoder: Encoder, vectors_ND: np.ndarray, truth: Truth, surely: Truth) -> None:
    """Precision at 10 of ways to subtract, over pairs of texts that are true of enough images together and apart."""
    background = Background.of(vectors_ND[:: max(1, len(vectors_ND) // SAMPLED_ROWS)])
    vectors = dict(zip(truth, encoder.encode_texts(list(truth)).astype(np.float64), strict=True))

    def ours(subject_D: np.ndarray, away_D: np.ndarray) -> np.ndarray:
        return aim(background, np.stack([background.scale(subject_D), background.scale(away_D)]), np.array([1, -1]))

    ways: dict[str, Way] = {
        "the subject alone": lambda subject_D, _: subject_D,
        "plain subtraction": lambda subject_D, away_D: subject_D - away_D,
        "less its part along the subject, before 0.2": lambda s_D, a_D: s_D - (a_D - (a_D @ s_D) * s_D),
        "less what the subject tells in the library": ours,
    }
    pairs = [
        (subject, away)
        for subject, away in itertools.permutations(truth, 2)
        if (surely[subject] & truth[away]).sum() >= 10 and (surely[subject] & ~truth[away]).sum() >= 15
    ]
    pairs = [pairs[at] for at in np.random.default_rng(0).permutation(len(pairs))[:QUERIES]]
    print(f"  {len(pairs)} queries; precision at 10 in the whole library, and where half of the subjects are unwanted")
    for name, way in ways.items():
        scores = [vectors_ND @ way(vectors[subject], vectors[away]) for subject, away in pairs]
        whole = [_precision(score_N, truth[s] & ~truth[a]) for score_N, (s, a) in zip(scores, pairs, strict=True)]
        hard = [_hard_precision(score_N, truth[s], truth[a]) for score_N, (s, a) in zip(scores, pairs, strict=True)]
        print(f"  {name:<48} {np.mean(whole):.3f}  {np.mean(hard):.3f}", flush=True)


def _precision(score_N: np.ndarray, right_N: np.ndarray) -> float:
    return float(right_N[np.argsort(-score_N, kind="stable")[:10]].mean())


def _hard_precision(score_N: np.ndarray, subject_N: np.ndarray, away_N: np.ndarray) -> float:
    """In a library with as many images of both as of the subject alone."""
    rng = np.random.default_rng(0)
    both, alone = np.flatnonzero(subject_N & away_N), np.flatnonzero(subject_N & ~away_N)
    size = min(len(both), len(alone))
    kept = np.concatenate([rng.permutation(both)[:size], rng.permutation(alone)[:size], np.flatnonzero(~subject_N)])
    return _precision(score_N[kept], (subject_N & ~away_N)[kept])


# --- words that are taught, hits that are marked ----------------------------------------------------------------


def compare_on_classes(encoder: Encoder, path: Path, folder: Path | None) -> None:
    """Taught words and marked hits on the classes of Tiny ImageNet."""
    val = load_dataset(f"tiny-imagenet:{path}", split="val")
    val = val.take(range(0, len(val), 2), why="half of each class")
    val_ND, val_N = embed(encoder, val, folder), np.array([pair.label for pair in val])
    train = load_dataset(f"tiny-imagenet:{path}", split="train")
    rows = defaultdict[int, list[int]](list)
    for row, pair in enumerate(train):
        if len(rows[pair.label or 0]) < 10:
            rows[pair.label or 0].append(row)
    examples = train.take([row for label in range(len(rows)) for row in rows[label]], why="ten of each class")
    examples_CKD = embed(encoder, examples, folder).reshape(len(rows), 10, -1)
    background = Background.of(val_ND[:: max(1, len(val_ND) // SAMPLED_ROWS)])
    assert val.class_names is not None
    names_CD = encoder.encode_texts([names[0] for names in val.class_names]).astype(np.float64)
    teach_classes(encoder, background, (val_ND, val_N), examples_CKD, names_CD)
    mark_hits(background, (val_ND, val_N), names_CD)


def teach_classes(
    encoder: Encoder,
    background: Background,
    library: tuple[np.ndarray, np.ndarray],
    examples_CKD: np.ndarray,
    names_CD: np.ndarray,
) -> None:
    """Mean average precision of classes from 1, 3 and 10 examples."""
    val_ND, val_N = library
    rng = np.random.default_rng(1)
    syllables = ["ba", "ko", "ri", "zu", "mel", "tra", "fo", "ni", "gex", "wob"]
    nonsense_CD = encoder.encode_texts(["".join(rng.choice(syllables, 3)) for _ in names_CD]).astype(np.float64)

    def mean_ap(score: Callable[[int], np.ndarray]) -> float:
        return float(np.mean([_average_precision(score(c), val_N == c) for c in range(len(names_CD))]))

    print(f"\nwords taught by example, {len(val_ND):,} pictures, {len(names_CD)} classes; mean average precision")
    print(f"  {'the name itself, without examples':<48} {mean_ap(lambda c: val_ND @ names_CD[c]):.3f}")
    for count in (1, 3, 10):
        few_CKD = examples_CKD[:, :count]
        ways: dict[str, Callable[[int], np.ndarray]] = {
            "nearest neighbour": lambda c, few=few_CKD: (val_ND @ few[c].T).max(axis=1),
            "mean of the examples": lambda c, few=few_CKD: val_ND @ few[c].mean(axis=0),
            "taught, named by nonsense": lambda c, few=few_CKD: val_ND @ aim_alone(background, few[c], nonsense_CD[c]),
            "taught, with the true name": lambda c, few=few_CKD: val_ND @ aim_alone(background, few[c], names_CD[c]),
        }
        for name, way in ways.items():
            print(f"  {count:>2} examples: {name:<35} {mean_ap(way):.3f}", flush=True)


def mark_hits(background: Background, library: tuple[np.ndarray, np.ndarray], names_CD: np.ndarray) -> None:
    """What one round of marks on the first hits gains among the images that weren't marked."""
    val_ND, val_N = library
    figures = defaultdict[str, list[tuple[float, float]]](list)
    for label, name_D in enumerate(names_CD):
        right_N, first = val_N == label, np.argsort(-(val_ND @ name_D), kind="stable")[:MARKS]
        marked_KD, is_right_K = val_ND[first].astype(np.float64), right_N[first]
        rocchio_D = name_D + 0.5 * _mean(marked_KD[is_right_K]) - 0.25 * _mean(marked_KD[~is_right_K])
        ways = {
            "before": name_D,
            "Rocchio with means of the marked": rocchio_D,
            "marked": correct(background, background.scale(name_D), marked_KD, is_right_K),
        }
        rest = np.setdiff1d(np.arange(len(val_ND)), first)
        for way, direction_D in ways.items():
            score = val_ND[rest] @ direction_D
            figures[way].append((_average_precision(score, right_N[rest]), _precision(score, right_N[rest])))
    print(f"\none round of {MARKS} marks, judged on images without a mark; mean average precision, precision at 10")
    for way, found in figures.items():
        precision, first_ten = np.mean(found, axis=0)
        print(f"  {way:<48} {precision:.3f}  {first_ten:.3f}", flush=True)


def _mean(vectors_KD: np.ndarray) -> np.ndarray:
    if not len(vectors_KD):
        return np.zeros(vectors_KD.shape[1])
    mean_D = vectors_KD.mean(axis=0)
    return mean_D / np.linalg.norm(mean_D)


def _average_precision(score_N: np.ndarray, right_N: np.ndarray) -> float:
    ordered_N = right_N[np.argsort(-score_N, kind="stable")]
    precision_N = np.cumsum(ordered_N) / np.arange(1, len(ordered_N) + 1)
    return float(precision_N[ordered_N].mean())


def embed(encoder: Encoder, dataset: Dataset, folder: Path | None) -> np.ndarray:
    """Vectors (N, D) of a data set, kept in a folder if there is one."""
    kept = folder / f"{dataset.fingerprint[:16]}-{encoder.identity.weights_hash[:8]}.npy" if folder else None
    if kept and kept.is_file():
        return np.load(kept)
    embedded = embed_images(encoder, dataset)
    if len(embedded.row_B) < len(dataset):
        raise SystemExit(f"{len(dataset) - len(embedded.row_B)} pictures of {dataset.name} can't be read.")
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, embedded.image_BD)
    return embedded.image_BD


if __name__ == "__main__":
    main()
