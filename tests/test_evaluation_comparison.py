import numpy as np
import pytest

from comparison_fakes import InProcess, bare, captioned, install, labelled
from sightline.errors import InputError, ModelError
from sightline.lab.evaluation.comparison import ComparisonConfig, compare_models
from sightline.lab.evaluation.comparison_quality import Quality, choose_metric, interval_of_difference
from sightline.lab.evaluation.comparison_report import comparison_to_dict
from sightline.lab.evaluation.measured_model import MeasuredModel, ModelFacts
from sightline.lab.evaluation.results import Bootstrap, Figures


@pytest.fixture
def start(monkeypatch, tmp_path):
    return install(monkeypatch, tmp_path)


CONFIG = ComparisonConfig(rounds=3, seconds=0.001, bootstrap=Bootstrap(resamples=50))


def compare(models, data, start, **options):
    return compare_models(models, data, start=start, config=options.pop("config", CONFIG), **options)


def test_quality_is_that_of_the_evaluators(start):
    comparison = compare(["fast", "blind"], captioned(), start)
    fast, blind = comparison.rows
    assert fast.quality.metrics["image_retrieval_recall@1"] == 1
    assert fast.quality.metrics["text_retrieval_recall@1"] == 1
    assert fast.quality.metrics["compose_mean"] == 1
    assert blind.quality.metrics["image_retrieval_recall@1"] == pytest.approx(1 / 3)
    assert blind.quality.metrics["compose_mean"] == 0.5
    assert set(fast.quality.intervals) == set(fast.quality.metrics)
    assert comparison.metric == "image_retrieval_recall@5"
    assert comparison.n_images == 3


def test_images_with_classes_are_classified_and_names_are_no_captions_to_find_them_by(start):
    comparison = compare(["fast", "blind"], labelled(), start)
    fast, blind = (row.quality.metrics for row in comparison.rows)
    assert fast == {"acc1": 1, "mean_per_class_recall": 1}
    assert blind["acc1"] == pytest.approx(1 / 3)
    assert comparison.metric == "acc1"


def test_a_model_that_is_worse_and_slower_is_dominated(start):
    config = ComparisonConfig(rounds=1, seconds=0.001, quality="acc1", bootstrap=Bootstrap(resamples=200))
    fast, slow, blind = compare(["fast", "slow", "blind"], labelled(), start, config=config).rows
    assert fast.dominated_by == ()
    assert slow.dominated_by == ("fast",)
    assert blind.dominated_by == ("fast", "slow")
    assert fast.behind == 0
    assert fast.behind_interval is None
    assert slow.behind_interval == (0, 0)  # right on the same pictures: no resample tells them apart
    assert blind.behind == pytest.approx(2 / 3)
    low, high = blind.behind_interval
    assert low <= 2 / 3 <= high


def test_random_weights_have_speed_and_no_quality(start):
    comparison = compare(["fast"], captioned(), start, random=["noise"])
    fast, noise = comparison.rows
    assert (fast.random_weights, noise.random_weights) == (False, True)
    assert noise.images.per_s == 5000
    assert noise.quality is None
    assert noise.dominated_by == fast.dominated_by == ()
    assert comparison.agreement == {}
    assert list(comparison.similarities.models) == ["fast"]
    values = comparison_to_dict(comparison)
    assert "metrics" not in values["models"][1]
    assert values["pareto"] == ["fast"]


def test_only_random_weights_are_timed_on_images_of_any_kind(start):
    comparison = compare([], captioned(), start, random=["noise"])
    assert comparison.metric is None
    assert comparison.similarities is None
    assert comparison_to_dict(comparison)["pareto"] == []


def test_own_images_have_agreement_and_no_quality(start):
    data = bare("red", "blue", "blue", "red", "red", "red")
    comparison = compare(["fast", "slow", "blind"], data, start)
    assert comparison.metric is None
    assert all(row.quality is None for row in comparison.rows)
    texts = comparison.agreement["text_to_image"]
    assert (texts.k, texts.n_queries, texts.n_candidates, texts.chance) == (6, 2, 6, 1.0)
    images = comparison.agreement["image_to_image"]
    assert (images.n_queries, images.n_candidates) == (3, 3)
    assert images.correlation[0][1] == pytest.approx(1)
    assert images.correlation[0][2] == 0
    assert images.correlation == tuple(zip(*images.correlation, strict=True))


def test_the_first_places_are_compared(start):
    data = bare("red", "blue", "green", "white", "pink", "brown")
    config = ComparisonConfig(rounds=1, seconds=0.001, neighbours=1)
    overlap = compare(["fast", "slow", "blind"], data, start, config=config).agreement["text_to_image"].overlap
    assert overlap[0][:2] == (1, 1)
    assert overlap[0][2] == pytest.approx(1 / 6)  # all tied: each picture has a sixth of the first place


def test_models_take_turns_and_another_begins_each_round(start):
    compare(["fast", "slow", "blind"], bare("red", "blue"), start)
    assert InProcess.timed == ["fast", "slow", "blind", "slow", "blind", "fast", "blind", "fast", "slow"]


def test_speed_is_the_median_of_the_rounds(start, monkeypatch):
    rates = iter([10.0, 500.0, 30.0])
    monkeypatch.setattr(InProcess, "time_images", lambda self, seconds: next(rates))
    (row,) = compare(["fast"], bare("red"), start).rows
    assert (row.images.per_s, row.images.range_per_s) == (30.0, (10.0, 500.0))
    assert row.texts.per_s == 9000


def test_facts_name_what_the_runtime_reads(start):
    (row,) = compare(["fast"], bare("red"), start).rows
    assert row.facts == ModelFacts(
        dim=16,
        precision="fp32",
        runtime="fake",
        weights_hash="w1",
        input_px=16,
        disk_bytes=1024,
        exported=False,
    )


def test_a_model_that_was_exported_just_now_is_measured_in_a_fresh_process(start, monkeypatch):
    load = MeasuredModel.load

    def first_exports(self, images, queries):
        from dataclasses import replace

        return replace(load(self, images, queries), exported=InProcess.started.count(self.name) == 1)

    monkeypatch.setattr(InProcess, "load", first_exports)
    comparison = compare(["fast"], bare("red"), start)
    assert InProcess.started == ["fast", "fast"]
    assert not comparison.rows[0].facts.exported


def test_every_model_is_closed_also_after_an_error(start, monkeypatch):
    def refuse(self, images, queries):
        if self.name == "slow":
            raise ModelError("no such weights")
        return MeasuredModel.load(self, images, queries)

    monkeypatch.setattr(InProcess, "load", refuse)
    with pytest.raises(ModelError, match="no such weights"):
        compare(["fast", "slow"], bare("red"), start)
    assert set(InProcess.closed) == {"fast", "slow"}


def test_images_that_cannot_be_read_are_named_once(start):
    comparison = compare(["fast", "slow"], bare("red", "broken", "blue"), start)
    assert [problem.id for problem in comparison.problems] == ["1.jpg"]
    assert comparison.n_images == 2
    assert comparison_to_dict(comparison)["left_out"] == [{"id": "1.jpg", "reason": "truncated JPEG"}]


def test_images_that_only_some_models_could_read_are_no_comparison(start, monkeypatch):
    embed = MeasuredModel.embed_images

    def lose_one(self, dataset, **options):
        from dataclasses import replace

        found = embed(self, dataset, **options)
        return replace(found, row_B=found.row_B[1:], image_BD=found.image_BD[1:]) if self.name == "slow" else found

    monkeypatch.setattr(InProcess, "embed_images", lose_one)
    with pytest.raises(InputError, match="Compare again"):
        compare(["fast", "slow"], bare("red", "blue"), start)


def test_nothing_readable_is_an_error(start):
    with pytest.raises(InputError, match="None of 2 pictures can be read, so no model can be timed: truncated JPEG"):
        compare(["fast"], bare("broken", "broken"), start)


@pytest.mark.parametrize(("models", "random"), [([], []), (["a", "a"], []), (["a"], ["a"])])
def test_each_model_takes_part_once(start, models, random):
    with pytest.raises(InputError, match="each once"):
        compare(models, bare("red"), start, random=random)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"neighbours": 0}, {"seconds": 0}, {"batch_size": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(InputError, match="at least 1"):
        ComparisonConfig(**wrong)


def test_a_prompt_without_a_hole_is_refused():
    with pytest.raises(InputError, match="exactly once"):
        ComparisonConfig(templates=("a photo",))


def test_progress_says_what_is_done(start):
    said = []
    compare(["fast"], bare("red", "blue"), start, report=lambda *what: said.append(what))
    assert said[0] == ("loading fast", 0, 1)
    assert ("timing", 2, 3) in said
    assert said[-1] == ("embedding with fast", 2, 2)


def test_the_quality_asked_for_must_have_been_measured():
    assert choose_metric(["acc1", "acc5"], None) == "acc1"
    assert choose_metric(["acc1", "acc5"], "acc5") == "acc5"
    assert choose_metric([], None) is None
    with pytest.raises(InputError, match="the metrics are acc1, acc5"):
        choose_metric(["acc1", "acc5"], "recall")
    with pytest.raises(InputError, match="neither captions nor classes"):
        choose_metric([], "acc1")


def test_a_difference_on_the_same_queries_is_surer_than_two_intervals(rng):
    found_N = (rng.random(400) < 0.5).astype(float)
    better_N = found_N.copy()
    better_N[np.flatnonzero(found_N == 0)[:12]] = 1
    better, found = (Quality(parts=[Figures.means({"acc1": result_N})]) for result_N in (better_N, found_N))
    ends = interval_of_difference(better, found, "acc1", bootstrap=Bootstrap(resamples=500))
    assert 0 < ends[0] < 0.03 < ends[1] < 0.06  # 12 of 400; each alone is uncertain by 0.05


def test_json_has_the_names_of_clip_benchmark(start):
    values = comparison_to_dict(compare(["fast", "blind"], captioned(), start))
    assert values["models"][0]["metrics"]["image_retrieval_recall@5"] == 1
    assert values["models"][0]["images_per_s"] == {"median": 900.0, "range": [900.0, 900.0]}
    assert values["models"][0]["random_weights"] is False
    assert values["split"] == "val"
    assert values["agreement"]["text_to_image"]["models"] == ["fast", "blind"]
    assert values["similarities"]["texts"] == ["red", "blue", "green"]
    assert values["similarities"]["images"] == ["a.jpg", "b.jpg", "c.jpg"]
    assert np.diag(values["similarities"]["models"]["fast"]) == pytest.approx([1, 1, 1], abs=0.01)
    assert np.array(values["similarities"]["models"]["blind"]).shape == (3, 3)
    assert values["published"]["coco"]["metrics"]["ViT-B-32/openai"]["text_retrieval_recall@1"] == 0.5012


def test_a_model_is_dominated_by_those_that_are_no_worse_and_somewhere_better(start, monkeypatch):
    rates = {"fast": 10.0, "slow": 10.0, "blind": 100.0}
    monkeypatch.setattr(InProcess, "time_images", lambda self, seconds: rates[self.name])
    fast, slow, blind = compare(["fast", "slow", "blind"], labelled(), start).rows
    assert fast.dominated_by == slow.dominated_by == blind.dominated_by == ()  # equal twins, and a faster one
    rates |= {"slow": 9.0, "blind": 10.0}
    fast, slow, blind = compare(["fast", "slow", "blind"], labelled(), start).rows
    assert [row.dominated_by for row in (fast, slow, blind)] == [(), ("fast",), ("fast",)]
