import csv
import json
import math
from typing import Any

import numpy as np
import pytest

from sightline.errors import InputError
from sightline.lab.evaluation.results import (
    Bootstrap,
    EvalResult,
    Figures,
    Problem,
    append_benchmark_row,
    mean_of,
    mean_of_classes,
    median_of,
)

BASE: dict[str, Any] = {"model": "m", "data": "scenes:0", "split": "val", "n_images": 2, "n_texts": 3}


def test_the_json_has_the_fixed_keys_and_nothing_empty():
    values = EvalResult(**BASE, metrics={"acc1": 1 / 3}).to_dict()
    assert list(values) == ["model", "data", "split", "n_images", "n_texts", "metrics"]
    assert json.loads(json.dumps(values)) == {**BASE, "metrics": {"acc1": 0.333333}}


def test_the_json_says_more_where_there_is_more():
    values = EvalResult(
        **BASE,
        metrics={"acc1": 0.5},
        intervals={"acc1": (0.25, 0.75)},
        details={"prompts": ["{}"]},
        problems=(Problem(id="a", reason="truncated JPEG"),),
        took_s=1.234,
    ).to_dict()
    assert values["intervals"] == {"acc1": [0.25, 0.75]}
    assert values["details"] == {"prompts": ["{}"]}
    assert values["left_out"] == [{"id": "a", "reason": "truncated JPEG"}]
    assert values["took_s"] == 1.23


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_no_result(bad):
    with pytest.raises(InputError, match=r"acc1 of m on scenes:0 is (nan|inf)"):
        EvalResult(**BASE, metrics={"acc1": bad})


def test_an_interval_needs_its_metric():
    with pytest.raises(InputError, match="unknown metrics: acc5"):
        EvalResult(**BASE, metrics={"acc1": 0.1}, intervals={"acc5": (0, 1)})


def counts(*rows):
    return np.array(rows, np.float64)


def test_a_mean_weighs_results_of_drawn_groups():
    mean = mean_of(np.array([1.0, 0, 0, 1]), np.array([0, 0, 1, 2]), 3)
    assert mean(counts([1, 1, 1], [2, 1, 0], [0, 0, 3])).tolist() == pytest.approx([0.5, 2 / 5, 1])


def test_a_mean_of_nothing_is_unknown():
    assert np.isnan(mean_of(np.array([1.0]), np.array([0]), 2)(counts([0, 2]))).all()


def test_a_median_follows_the_drawn_groups():
    median = median_of(np.array([5.0, 1, 3]), np.array([0, 1, 2]))
    assert median(counts([1, 1, 1], [3, 0, 0], [0, 2, 1], [1, 1, 0])).tolist() == [3, 5, 1, 3]


def test_the_mean_of_classes_leaves_out_classes_that_were_not_drawn():
    mean = mean_of_classes(np.array([1.0, 0, 1, 0]), np.array([7, 2, 2, 7]))
    assert mean(counts([1, 1, 1, 1], [1, 1, 2, 0], [2, 0, 0, 2])).tolist() == pytest.approx([0.5, 5 / 6, 0.5])


def test_the_interval_of_a_share_is_the_one_of_statistics():
    # 100 groups, share 0.3: standard error sqrt(0.3 * 0.7 / 100) = 0.0458, 95% at +- 1.96 of them
    share = mean_of(np.repeat([1.0, 0.0], [30, 70]), np.arange(100), 100)
    (low, high) = Figures(statistics={"x": share}, n_groups=100).intervals(Bootstrap(resamples=4000))["x"]
    assert low == pytest.approx(0.3 - 1.96 * 0.0458, abs=0.015)
    assert high == pytest.approx(0.3 + 1.96 * 0.0458, abs=0.015)


def test_captions_of_one_image_count_as_one_observation():
    result, group = np.repeat([1.0, 0.0], [150, 350]), np.repeat(np.arange(100), 5)
    config = Bootstrap(resamples=1000)
    alone = Figures(statistics={"x": mean_of(result, np.arange(500), 500)}, n_groups=500).intervals(config)["x"]
    together = Figures(statistics={"x": mean_of(result, group, 100)}, n_groups=100).intervals(config)["x"]
    assert together[1] - together[0] > 1.8 * (alone[1] - alone[0])


def test_more_confidence_is_a_wider_interval():
    mean = mean_of(np.arange(50.0), np.arange(50), 50)
    narrow, wide = (
        Figures(statistics={"x": mean}, n_groups=50).intervals(Bootstrap(confidence=c))["x"] for c in (0.5, 0.99)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_chunks_of_resamples_change_nothing(monkeypatch):
    mean = {"x": mean_of(np.arange(50.0), np.arange(50), 50)}
    whole = Figures(statistics=mean, n_groups=50).intervals(Bootstrap())
    monkeypatch.setattr("sightline.lab.evaluation.results._CHUNK_CELLS", 130)
    assert Figures(statistics=mean, n_groups=50).intervals(Bootstrap()) == whole


def test_without_resamples_or_with_one_group_there_is_no_interval():
    mean = {"x": mean_of(np.array([1.0]), np.array([0]), 1)}
    assert Figures(statistics=mean, n_groups=1).intervals(Bootstrap()) == {}
    assert Figures(statistics=mean, n_groups=5).intervals(Bootstrap(resamples=0)) == {}


def test_a_figure_that_no_resample_knows_has_no_interval():
    rare = {"rare": mean_of(np.array([1.0]), np.array([0]), 100)}
    assert Figures(statistics=rare, n_groups=100).intervals(Bootstrap(resamples=1, seed=1)) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"resamples": -1}, "resamples"), ({"confidence": 1}, "confidence"), ({"seed": -1}, "seed")],
)
def test_settings_that_make_no_interval_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Bootstrap(**settings)


def test_rows_have_the_columns_of_clip_benchmark(tmp_path):
    path = tmp_path / "benchmark.csv"
    for model, data, measure, metrics in (
        ("ViT-B-32/openai", "imagenet:/data/in", "zeroshot", {"acc1": 0.633}),
        ("dir:runs/a", "flickr8k:x", "retrieval", {"image_retrieval_recall@5": 0.5}),
        ("starter", "cifar10:x", "linear-probe", {"acc1": 0.25}),
    ):
        result = EvalResult(**{**BASE, "model": model, "data": data, "metrics": metrics})
        append_benchmark_row(path, result, measure=measure)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["model"], row["pretrained"], row["dataset"], row["task"]) for row in rows] == [
        ("ViT-B-32", "openai", "imagenet1k", "zeroshot_classification"),
        ("dir:runs/a", "", "flickr8k", "zeroshot_retrieval"),
        ("starter", "", "cifar10", "linear_probe"),
    ]
    assert (rows[0]["model_fullname"], rows[0]["language"]) == ("ViT-B-32 openai", "en")
    assert [row["acc1"] for row in rows] == ["0.633000", "", ""]
    assert [row["lp_acc1"] for row in rows] == ["", "", "0.250000"]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="has other columns than model, pretrained"):
        append_benchmark_row(tmp_path / "other.csv", EvalResult(**BASE, metrics={"acc1": 1.0}), measure="zeroshot")
