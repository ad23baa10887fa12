import sys
from dataclasses import replace

import numpy as np
import pytest

from experiment_runs import GRID, SEEDED, make_run, make_sweep
from sightline.errors import TrainingError
from sightline.lab.experiments.effects import LinearModel, adjust_holm, analyse, f_test, seed_noise, t_factor
from sightline.lab.experiments.results import Study

SEEDED_RUNS = make_sweep(SEEDED, lambda **_: 0.5)
LR = {3e-4: -0.05, 1e-3: 0.0, 3e-3: 0.05}


def study_of(grid, truth):
    return Study.of(make_sweep(grid, truth))


def effects_of(grid, truth):
    return {effect.factor.name: effect for effect in analyse(study_of(grid, truth)).effects}


@pytest.fixture(scope="module", params=[GRID, SEEDED], ids=["no replicates", "three seeds"])
def null_analyses(request):
    """200 sweeps in which nothing matters."""
    rng = np.random.default_rng(1)
    base = study_of(request.param, lambda **_: 0.5)
    return [analyse(replace(base, value_R=0.5 + 0.02 * rng.standard_normal(len(base.runs)))) for _ in range(200)]


def test_settings_without_effect_are_not_called_important(null_analyses):
    alarms = [any(effect.verdict == "matters" for effect in analysis.effects) for analysis in null_analyses]
    assert 0 < np.mean(alarms) <= 0.10


def test_pairs_without_interaction_are_not_called_important(null_analyses):
    alarms = [any(pair.verdict == "matters" for pair in analysis.interactions) for analysis in null_analyses]
    assert 0 < np.mean(alarms) <= 0.10


def test_unequal_cells_raise_no_false_alarms(rng):
    alarms = [
        any(effect.verdict == "matters" for effect in analyse(Study.of(make_uneven(rng))).effects) for _ in range(80)
    ]
    assert np.mean(alarms) <= 0.10


def make_uneven(rng, truth=lambda **_: 0.5):
    """The seeded sweep with a third of its runs failed, other ones every time."""
    kept = rng.permutation(len(SEEDED_RUNS))[:12]
    values = [truth(**run.settings) + 0.02 * rng.standard_normal() for run in SEEDED_RUNS]
    return [replace(SEEDED_RUNS[row], metrics={"mean_recall": values[row]}) for row in sorted(kept)]


@pytest.mark.parametrize("grid", [GRID, SEEDED])
def test_a_planted_effect_is_found_and_its_size_is_right(grid, rng):
    effects = effects_of(grid, lambda lr, **_: 0.5 + LR[lr] + 0.01 * rng.standard_normal())
    assert effects["lr"].verdict == "matters"
    assert [level.label for level in effects["lr"].means] == ["0.0003", "0.001", "0.003"]
    assert effects["lr"].spread == pytest.approx(0.1, abs=0.03)
    level = effects["lr"].means[0]
    low, high = level.mean - level.half_width, level.mean + level.half_width
    assert low < 0.45 < high
    assert effects["batch_size"].verdict == "within noise"


def test_a_planted_effect_is_found_where_a_third_of_the_runs_failed(rng):
    found = [
        {effect.factor.name: effect.verdict for effect in analyse(Study.of(make_uneven(rng, shifted))).effects}
        for _ in range(20)
    ]
    assert np.mean([verdicts["lr"] == "matters" for verdicts in found]) > 0.9
    assert np.mean([verdicts["batch_size"] == "matters" for verdicts in found]) <= 0.2


def shifted(lr, **_):
    return 0.5 + 2 * LR[lr]


def test_missing_cells_do_not_turn_one_effect_into_another():
    """The high learning rate lacks its large batches, which are the good ones: plain means would blame it."""
    grid = {"lr": (1e-3, 3e-3), "batch_size": (64, 256), "seed": (0, 1, 2, 3)}
    rng = np.random.default_rng(0)
    runs = make_sweep(grid, lambda batch_size, **_: 0.3 + 0.2 * (batch_size == 256) + 0.01 * rng.standard_normal())
    runs = [run for run in runs if not (run.settings["lr"] == 3e-3 and run.settings["batch_size"] == 256)]
    effects = {effect.factor.name: effect for effect in analyse(Study.of(runs)).effects}
    assert effects["lr"].verdict == "within noise"
    assert effects["lr"].spread < 0.03
    assert effects["batch_size"].verdict == "matters"
    assert effects["batch_size"].spread == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("grid", [GRID, SEEDED])
def test_a_planted_interaction_is_found(grid, rng):
    def truth(lr, batch_size, **_):
        return 0.5 + LR[lr] * (1 if batch_size == 64 else -1) + 0.01 * rng.standard_normal()

    pairs = {(pair.first.name, pair.second.name): pair for pair in analyse(study_of(grid, truth)).interactions}
    assert pairs["lr", "batch_size"].verdict == "matters"
    assert pairs["lr", "batch_size"].size == pytest.approx(0.05, abs=0.02)
    assert [pair.verdict for names, pair in pairs.items() if names != ("lr", "batch_size")].count("matters") == 0


def test_balanced_means_are_the_plain_means_over_the_others():
    values = {}
    rng = np.random.default_rng(0)

    def truth(**settings):
        return values.setdefault(tuple(settings.values()), rng.random())

    effects = effects_of(GRID, truth)
    for level, lr in zip(effects["lr"].means, GRID["lr"], strict=True):
        assert level.mean == pytest.approx(np.mean([value for key, value in values.items() if key[0] == lr]))
        assert level.n_runs == 6


def test_noise_of_seeds_is_the_pooled_deviation_within_cells():
    runs = [make_run(f"{lr}{seed}", settings={"lr": lr, "seed": seed}, value=value) for lr, seed, value in CELLS]
    noise = seed_noise(Study.of(runs))
    assert (noise.source, noise.df) == ("seeds", 3)
    assert noise.sd == pytest.approx(np.sqrt((2 * 0.1**2 + 2 * 0.05**2 + 2 * 0.02**2) / 3))


CELLS = [
    (1e-3, 0, 0.4),
    (1e-3, 1, 0.6),
    (2e-3, 0, 0.5),
    (2e-3, 1, 0.6),
    (3e-3, 0, 0.50),
    (3e-3, 1, 0.54),
]


def test_without_replicates_noise_is_what_the_additive_model_leaves(rng):
    analysis = analyse(study_of(GRID, lambda **_: 0.5 + 0.02 * rng.standard_normal()))
    assert (analysis.noise.source, analysis.noise.df) == ("residual", 12)
    assert (analysis.pair_noise.source, analysis.pair_noise.df) == ("residual", 4)
    assert analysis.noise.sd == pytest.approx(0.02, rel=0.5)


def test_too_few_runs_can_tell_nothing():
    analysis = analyse(study_of({"lr": (1e-3, 3e-3), "batch_size": (64, 256)}, lambda lr, **_: 100 * lr))
    assert analysis.noise.source == "none"
    assert {effect.verdict for effect in analysis.effects} == {"can't tell"}
    assert analysis.effects[0].why == "too few runs to know the noise"
    assert analysis.effects[0].means[0].half_width is None
    assert analysis.interactions[0].verdict == "can't tell"


def test_settings_that_were_mixed_up_are_not_told_apart(rng):
    """The dimension follows from the other two: no combination of its levels is free."""
    rows = [(1e-3, 64, 32), (1e-3, 256, 64), (3e-3, 64, 128), (3e-3, 256, 256)]
    runs = [
        make_run(f"{row}{seed}", settings={"lr": lr, "batch_size": batch, "towers.dim": dim, "seed": seed}, value=value)
        for row, (lr, batch, dim) in enumerate(rows)
        for seed, value in enumerate(rng.random(3))
    ]
    effects = {effect.factor.name: effect for effect in analyse(Study.of(runs)).effects}
    assert effects["lr"].verdict == effects["towers.dim"].verdict == "can't tell"
    assert "changed together" in effects["lr"].why
    assert not effects["lr"].means[0].adjusted


def test_exact_results_have_no_noise_to_exceed():
    effects = effects_of(GRID, lambda lr, **_: 0.5 + LR[lr])
    assert effects["lr"].verdict == "matters"
    assert effects["batch_size"].verdict == effects["train_fraction"].verdict == "within noise"


def test_equal_results_have_no_effects():
    assert {effect.verdict for effect in effects_of(GRID, lambda **_: 0.5).values()} == {"within noise"}


def test_a_single_run_has_no_effects():
    analysis = analyse(Study.of([make_run()]))
    assert analysis.effects == analysis.interactions == ()


def test_no_finished_run_has_no_effects():
    analysis = analyse(Study.of([make_run(state="failed")]))
    assert analysis.effects == ()


def test_p_values_and_intervals_are_those_of_tables():
    assert f_test(2 * 3.885, 2, noise_variance=1.0, noise_df=12)[1] == pytest.approx(0.05, abs=1e-4)
    assert t_factor(3) == pytest.approx(3.182, abs=1e-3)
    assert t_factor(10) == pytest.approx(2.228, abs=1e-3)


def test_nothing_above_no_noise_is_nothing():
    assert f_test(0.0, 2, noise_variance=0.0, noise_df=5) == (0.0, 1.0)
    assert f_test(0.1, 2, noise_variance=0.0, noise_df=5) == (float("inf"), 0.0)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    assert adjust_holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert adjust_holm([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_holm([]) == []


def test_what_the_runs_do_not_determine_has_no_estimate():
    model = LinearModel(design_RC=np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]), value_R=np.array([3.0, 1.0]))
    assert (model.rank, model.residual_df) == (2, 0)
    assert model.estimate(np.array([0.0, 1.0, 0.0])) is None
    value, variance = model.estimate(np.array([0.0, 1.0, 1.0]))
    assert (value, variance) == pytest.approx((2.0, 2.0))


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(TrainingError, match=r"sightline-images\[train\]"):
        t_factor(3)
