from dataclasses import replace

import numpy as np
import pytest

from experiment_runs import GRID, make_run, make_sweep
from sightline.errors import InputError
from sightline.lab.experiments.results import Study, find_factors, find_replicates, format_value


def test_levels_of_a_sweep_are_ordered_numbers():
    factors = {factor.name: factor for factor in find_factors(make_sweep(GRID, lambda **_: 0.5))}
    assert list(factors) == ["lr", "batch_size", "train_fraction"]
    assert factors["lr"].levels == ("0.0003", "0.001", "0.003")
    assert factors["batch_size"].levels == ("64", "256")


def test_the_seed_is_no_setting_but_makes_replicates():
    runs = make_sweep({"loss": ("softmax", "sigmoid"), "seed": (0, 1, 2)}, lambda **_: 0.5)
    assert [factor.name for factor in find_factors(runs)] == ["loss"]
    assert find_replicates(runs).tolist() == [0, 0, 0, 1, 1, 1]


def test_runs_of_their_own_differ_in_what_their_configs_say():
    runs = [
        make_run("conv", base=["seed=0", "log_steps=3"]),
        make_run("other seed", base=["seed=1"]),
        make_run("vit", base=["towers.architecture=vit", "towers.patch_px=8", "lr=1e-4"]),
    ]
    (factor,) = find_factors(runs)
    assert factor.name == "towers.architecture"
    assert factor.levels == ("conv", "vit")
    assert set(factor.together_with) == {"towers.patch_px", "lr"}
    assert factor.level_R.tolist() == [0, 0, 1]


def test_values_drawn_from_a_range_are_taken_in_thirds(rng):
    runs = [
        make_run(str(number), settings={"lr": float(value)})
        for number, value in enumerate(10 ** rng.uniform(-4, -2, size=30))
    ]
    (factor,) = find_factors(runs)
    assert factor.grouped
    assert np.bincount(factor.level_R).tolist() == [10, 10, 10]
    assert len(set(find_replicates(runs).tolist())) == 30


@pytest.mark.parametrize(
    ("value", "written"),
    [(1e-3, "0.001"), (True, "true"), (None, "none"), ((2, 2), "2,2"), ("a/long/path/of/some/data/set", "set")],
)
def test_values_are_written_short(value, written):
    assert format_value(value) == written


def test_levels_that_would_be_written_alike_stay_whole():
    long = "a/very/long/folder/of/{}/captions"
    runs = [make_run(name, base=[f"data=folder:{long.format(name)}"]) for name in ("one", "two")]
    (factor,) = find_factors(runs)
    assert factor.levels == tuple(f"folder:{long.format(name)}" for name in ("one", "two"))


def test_only_finished_runs_are_compared():
    runs = [
        make_run("good", value=0.4),
        make_run("better", value=0.6),
        make_run("pruned", value=0.9, state="pruned", reason="below the median"),
        make_run("failed", state="failed", reason="out of memory", metrics={}),
        make_run("empty", metrics={}),
        make_run("nan", value=float("nan")),
    ]
    study = Study.of(runs)
    assert [run.name for run in study.runs] == ["good", "better"]
    assert [run.name for run in study.left_out] == ["pruned", "failed", "empty", "nan"]
    assert study.best == 1


def test_a_trial_that_failed_before_it_had_a_config_keeps_its_settings():
    runs = make_sweep({"lr": (1e-3, 3e-3)}, lambda **_: 0.5)
    failed = replace(make_run("failed", settings={"lr": 1e-2}, state="failed", metrics={}), config=None)
    study = Study.of([*runs, failed])
    assert study.factors[0].levels == ("0.001", "0.003")
    assert study.planned[0].levels == ("0.001", "0.003", "0.01")
    assert study.everything[-1] is failed


def test_a_trial_without_a_config_makes_no_settings_of_what_runs_beside_it_share():
    runs = [make_run("one", base=["lr=1e-3"]), make_run("other", base=["lr=2e-3"])]
    failed = replace(make_run("failed", settings={"batch_size": 10**6}, state="failed", metrics={}), config=None)
    study = Study.of([*runs, failed])
    assert [factor.name for factor in study.planned] == ["lr"]
    assert study.everything[-1] is failed


def test_metrics_are_chosen_by_name_and_direction():
    runs = [make_run("a", metrics={"acc1": 0.1, "image_retrieval_median_rank": 7.0, "mean_recall": 0.2})]
    assert Study.of(runs).metric == "mean_recall"
    assert not Study.of(runs).lower_is_better
    assert Study.of(runs, metric="image_retrieval_median_rank").lower_is_better
    assert Study.of([make_run("a", metrics={"acc1": 0.1})]).metric == "acc1"
    assert Study.of([make_run("a", metrics={"mAP": 0.1})]).metric == "mAP"
    with pytest.raises(InputError, match=r"'recall'. Did you mean mean_recall.*The runs have acc1"):
        Study.of(runs, metric="recall")
    with pytest.raises(InputError, match="No run has any yet"):
        Study.of([make_run(metrics={})], metric="acc1")
    with pytest.raises(InputError, match="no run to report on"):
        Study.of([])
