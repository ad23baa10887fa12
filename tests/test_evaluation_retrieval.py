import tracemalloc

import numpy as np
import pytest

from captioning_fakes import FakeEncoder
from evaluation_fakes import dataset, pair, random_units, unit
from sightline.errors import InputError
from sightline.lab.evaluation import results
from sightline.lab.evaluation.results import Bootstrap, Figures, mean_of
from sightline.lab.evaluation.retrieval import (
    RetrievalConfig,
    RetrievalEvaluator,
    rank_retrieval,
    retrieval_metrics,
)


def test_a_hand_computed_case_with_ragged_captions():
    # image 0 at 0 degrees has texts at 5 and 80, image 1 at 90 has one at 70, image 2 at 180 has one at 100
    images, texts, owner = unit(0, 90, 180), unit(5, 80, 70, 100), np.array([0, 0, 1, 2])
    metrics = retrieval_metrics(images, texts, owner, ks=(1, 2, 3))
    # texts: 5 -> images 0; 80 -> 1, 0, 2; 70 -> 1; 100 -> 1, 2, 0
    assert metrics["image_retrieval_recall@1"] == 0.5
    assert metrics["image_retrieval_recall@2"] == 1
    assert metrics["image_retrieval_mean_rank"] == 1.5
    assert metrics["image_retrieval_median_rank"] == 1.5
    assert metrics["image_retrieval_mAP"] == 0.75
    # images: 0 -> 5, 70, 80, 100 (own at 1 and 3); 90 -> 80 and 100 tied, then 70; 180 -> 100
    assert metrics["text_retrieval_recall@1"] == pytest.approx(2 / 3)
    assert metrics["text_retrieval_recall@2"] == pytest.approx(2 / 3)
    assert metrics["text_retrieval_recall@3"] == 1
    assert metrics["text_retrieval_mean_rank"] == pytest.approx((1 + 3 + 1) / 3)
    assert metrics["text_retrieval_median_rank"] == 1
    assert metrics["text_retrieval_mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3 + 1) / 3)


def test_text_order_does_not_matter(rng):
    images, texts, owner = random_units(rng, 6), random_units(rng, 14), np.arange(14) % 6
    order = rng.permutation(14)
    assert retrieval_metrics(images, texts, owner) == pytest.approx(
        retrieval_metrics(images, texts[order], owner[order])
    )


def test_an_image_counts_as_found_by_its_best_caption():
    images, texts = unit(0, 90), unit(170, 1, 95)
    metrics = retrieval_metrics(images, texts, np.array([0, 0, 1]))
    assert metrics["text_retrieval_recall@1"] == 1


def test_collapsed_embeddings_score_what_chance_scores():
    images, texts = np.tile(unit(30), (40, 1)), np.tile(unit(30), (200, 1))
    metrics = retrieval_metrics(images, texts, np.repeat(np.arange(40), 5))
    assert metrics["image_retrieval_recall@1"] == pytest.approx(1 / 40)
    assert metrics["image_retrieval_recall@10"] == pytest.approx(10 / 40)
    assert metrics["image_retrieval_mean_rank"] == pytest.approx(20.5)
    assert metrics["text_retrieval_recall@1"] == pytest.approx(5 / 200)
    assert metrics["text_retrieval_mean_rank"] == pytest.approx(201 / 6)


def test_embeddings_that_are_nearly_collapsed_do_too(rng, monkeypatch):
    monkeypatch.setattr(results, "_CHUNK_BYTES", 7 * 4 * 50)  # seven rows
    point = random_units(rng, 1, dim=256)
    images, texts = (np.tile(point, (n, 1)) + rng.normal(0, 1e-9, (n, 256)) for n in (50, 50))
    metrics = retrieval_metrics(images, texts, np.arange(50))
    assert metrics["image_retrieval_recall@5"] == pytest.approx(0.1)


def test_one_image_with_one_text():
    ranks = rank_retrieval(unit(0), unit(50), np.array([0]))
    assert set(ranks.figures().metrics().values()) == {1.0}
    assert ranks.figures().intervals() == {}


@pytest.mark.parametrize("owner", [[0, 0, 2], [1, 1, 2]])
def test_an_image_without_a_text_is_refused(owner):
    with pytest.raises(InputError, match=r"Image [01] has no text \(1 of 3 have none\)"):
        retrieval_metrics(unit(0, 90, 180), unit(0, 90, 180), np.array(owner))


@pytest.mark.parametrize(
    ("images", "texts", "owner", "message"),
    [
        (unit(0), unit(0), [1], "owner_T must lie in 0 to 0"),
        (unit(0), unit(0), [-1], "owner_T must lie in 0 to 0"),
        (unit(0), unit(0), [0.0], "owner_T must name the image"),
        (unit(0), unit(0), [0, 0], "owner_T must name the image"),
        (unit(0), np.ones((1, 3)), [0], "of one space"),
        (np.zeros((0, 2)), np.zeros((0, 2)), [], "no images"),
        (unit(0, np.nan), unit(0, 1), [0, 1], "Row 1 of the image embeddings"),
        (unit(0, 1), unit(np.nan, 1), [0, 1], "Row 0 of the text embeddings"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images, texts, owner, message):
    with pytest.raises(InputError, match=message):
        retrieval_metrics(images, texts, np.array(owner))


@pytest.mark.parametrize("ks", [(), (0, 1), (1, 1)])
def test_wrong_ks_are_refused(ks):
    with pytest.raises(InputError, match="k of recall@k"):
        RetrievalConfig(ks=ks)


def test_memory_does_not_grow_with_the_product(rng, monkeypatch):
    monkeypatch.setattr(results, "_CHUNK_BYTES", 20 * 4 * 1200)
    images, texts = random_units(rng, 1200), random_units(rng, 1200)
    tracemalloc.start()
    rank_retrieval(images, texts, np.arange(1200))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1200 * 1200 * 4 / 4  # the whole matrix of similarities has 5.8 MB


def test_intervals_hold_the_figure_and_repeat(rng):
    images = random_units(rng, 80)
    texts = (np.repeat(images, 3, axis=0) + rng.normal(0, 0.4, (240, 8))).astype(np.float32)
    ranks = rank_retrieval(images, texts, np.repeat(np.arange(80), 3))
    metrics, config = ranks.figures().metrics(), Bootstrap(resamples=300)
    intervals = ranks.figures().intervals(config)
    assert set(intervals) == set(metrics)
    for name, (low, high) in intervals.items():
        assert low <= metrics[name] <= high, name
        assert low < high or name.endswith("median_rank"), name
    assert intervals == ranks.figures().intervals(config)
    assert intervals != ranks.figures().intervals(Bootstrap(resamples=300, seed=1))


def test_captions_are_resampled_with_their_image(rng):
    # the five captions of an image find it all, or all find its neighbour
    images = random_units(rng, 60, dim=64)
    found = rng.random(60) < 0.5
    texts = images[np.where(found, np.arange(60), (np.arange(60) + 1) % 60)]
    ranks = rank_retrieval(images, np.repeat(texts, 5, axis=0), np.repeat(np.arange(60), 5))
    per_image = {"x": mean_of(found.astype(float), np.arange(60), 60)}
    expected = Figures(statistics=per_image, n_groups=60).intervals()["x"]
    assert ranks.figures().intervals()["image_retrieval_recall@1"] == pytest.approx(expected)


COLOURED = dataset(
    pair("a.jpg", "red", "red", "a red wall"),
    pair("b.jpg", "blue", "blue"),
    pair("c.jpg", "green", "green", "grass", "the green"),
)


def test_the_evaluator_measures_an_encoder():
    result = RetrievalEvaluator(RetrievalConfig(ks=(1, 2))).run(FakeEncoder(), COLOURED)
    assert (result.model, result.data, result.split) == ("fake", "fake:colours", "val")
    assert (result.n_images, result.n_texts) == (3, 6)
    assert result.metrics["image_retrieval_recall@1"] == 1
    assert result.metrics["text_retrieval_mAP"] == 1
    assert result.to_dict()["intervals"]["image_retrieval_recall@1"] == [1, 1]
    assert result.details["runtime"] == "fake"
    assert result.took_s > 0


def test_the_evaluator_refuses_an_image_without_caption():
    with pytest.raises(InputError, match="fake:colours: bare has no caption"):
        RetrievalEvaluator().run(FakeEncoder(), dataset(pair("bare", "red")))


def test_an_image_that_cannot_be_read_is_left_out_with_its_captions():
    broken = dataset(*COLOURED.pairs[:2], pair("x.jpg", "broken", "red", "blue"), COLOURED.pairs[2])
    result = RetrievalEvaluator().run(FakeEncoder(), broken)
    assert result.metrics == RetrievalEvaluator().run(FakeEncoder(), COLOURED).metrics
    assert (result.n_images, result.n_texts) == (3, 6)
    assert result.to_dict()["left_out"] == [{"id": "x.jpg", "reason": "truncated JPEG"}]
