"""Metrics against other implementations, and against the definitions of CLIP_benchmark written out."""

import numpy as np
import pytest

from evaluation_fakes import random_units
from sightline.lab.evaluation.classification import rank_classes
from sightline.lab.evaluation.comparison_quality import measure_agreement
from sightline.lab.evaluation.results import rank_similarities
from sightline.lab.evaluation.retrieval import retrieval_metrics


def noisy_captions(rng, n_images, counts):
    images = random_units(rng, n_images, dim=16)
    owner = np.repeat(np.arange(n_images), counts)
    texts = images[owner] + rng.normal(0, 0.35, (len(owner), 16))
    order = rng.permutation(len(owner))
    return images, (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32)[order], owner[order]


def recall_of_positive_pairs(similarity_QC, positive_QC, k):
    """CLIP_benchmark's: any positive pair among the k greatest of a row counts the query as found."""
    top_Qk = np.argsort(-similarity_QC, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(positive_QC, top_Qk, axis=1).any(axis=1).mean()


@pytest.mark.parametrize("ragged", [False, True])
def test_recall_is_that_of_clip_benchmark(rng, ragged):
    counts = rng.integers(1, 9, 120) if ragged else np.full(120, 5)
    images, texts, owner = noisy_captions(rng, 120, counts)
    metrics = retrieval_metrics(images, texts, owner)
    similarity_TB = texts @ images.T
    positive_TB = owner[:, None] == np.arange(120)
    for k in (1, 5, 10):
        to_image = recall_of_positive_pairs(similarity_TB, positive_TB, k)
        to_text = recall_of_positive_pairs(similarity_TB.T, positive_TB.T, k)
        assert 0.2 < to_image < 1
        assert metrics[f"image_retrieval_recall@{k}"] == pytest.approx(to_image)
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(to_text)


def test_mean_average_precision_is_that_of_scikit_learn(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    images, texts, owner = noisy_captions(rng, 60, rng.integers(1, 7, 60))
    found = retrieval_metrics(images, texts, owner)
    similarity_BT = images @ texts.T
    precisions = [metrics.average_precision_score(owner == b, similarity_BT[b]) for b in range(60)]
    assert found["text_retrieval_mAP"] == pytest.approx(np.mean(precisions))
    reciprocal = metrics.label_ranking_average_precision_score(owner[:, None] == np.arange(60), similarity_BT.T)
    assert found["image_retrieval_mAP"] == pytest.approx(reciprocal)


def test_accuracies_are_those_of_scikit_learn(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    classes = random_units(rng, 12, dim=16)
    labels = rng.integers(0, 12, 400)
    images = (classes[labels] + rng.normal(0, 0.4, (400, 16))).astype(np.float32)
    found = rank_classes(images, classes, labels).metrics()
    logits = images @ classes.T
    for k in (1, 5):
        assert found[f"acc{k}"] == pytest.approx(metrics.top_k_accuracy_score(labels, logits, k=k))
    assert found["mean_per_class_recall"] == pytest.approx(metrics.balanced_accuracy_score(labels, logits.argmax(1)))


def test_rank_correlation_is_that_of_scipy(rng):
    stats = pytest.importorskip("scipy.stats")
    queries, candidates = [random_units(rng, 9, dim=d) for d in (8, 3)], [random_units(rng, 40, dim=d) for d in (8, 3)]
    candidates[0][5] = candidates[0][6]
    _, correlation = measure_agreement(tuple(queries), tuple(candidates), k=10)
    rows = [(q[i] @ c.T).round(6) for i in range(9) for q, c in zip(queries, candidates, strict=True)]
    expected = [stats.spearmanr(rows[2 * i], rows[2 * i + 1]).statistic for i in range(9)]
    assert correlation == pytest.approx(np.mean(expected))


def test_average_precision_of_the_textbook():
    """Croft, Metzler and Strohman 2010, "Search Engines", section 8.4: relevant at 1, 3, 6, 9, 10, and at 2, 5, 7."""
    similarity = -np.arange(10, dtype=np.float32)[None].repeat(2, axis=0)
    ranks = rank_similarities(similarity, [np.array([0, 2, 5, 8, 9]), np.array([1, 4, 6])], 1e-6)
    assert ranks.average_precision_Q.round(2).tolist() == [0.62, 0.44]
    assert ranks.average_precision_Q.mean().round(2) == 0.53
