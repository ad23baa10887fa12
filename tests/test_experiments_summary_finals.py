from dataclasses import replace

import numpy as np
import pytest

from experiment_runs import GRID, make_run, make_sweep
from sightline.lab.experiments.effects import analyse
from sightline.lab.experiments.results import Study
from sightline.lab.experiments.summary import fit_scaling, summarise, summarise_finals

WIDE = {"train_fraction": (0.05, 0.1, 0.2, 0.4, 0.8), "lr": (1e-3, 3e-3)}


def test_the_exponent_is_recovered(rng):
    def truth(lr, train_fraction, **_):
        return 1 - 0.2 * (1.3 if lr == 1e-3 else 1.0) * train_fraction**-0.3 * (1 + 0.02 * rng.standard_normal())

    scaling = fit_scaling(Study.of(make_sweep(WIDE, truth)))
    assert scaling.exponent == pytest.approx(0.3, abs=0.03)
    assert scaling.interval[0] < 0.3 < scaling.interval[1]
    assert scaling.is_beyond_noise
    assert scaling.df == 7
    assert scaling.in_images
    assert sorted(set(scaling.amount_R)) == pytest.approx([2000, 4000, 8000, 16000, 32000])
    assert scaling.predict(40_000) == pytest.approx(0.2 * 1.3**0.5, rel=0.05)
    assert scaling.at_equal_compute


def refit(grid, count, rng):
    """Fits of many sweeps under the same law with an exponent of 0.2."""
    study = Study.of(make_sweep(grid, lambda **_: 0.5))
    amount_R = np.array([run.settings["train_fraction"] for run in study.runs])
    for _ in range(count):
        error_R = 0.3 * amount_R**-0.2 * (1 + 0.03 * rng.standard_normal(len(amount_R)))
        yield fit_scaling(replace(study, value_R=1 - error_R))


def test_intervals_of_the_exponent_hold_in_95_of_100_sweeps(rng):
    intervals = [scaling.interval for scaling in refit(GRID, 100, rng)]
    assert 90 <= sum(low <= 0.2 <= high for low, high in intervals) < 100


def test_a_straight_line_is_seldom_called_bent(rng):
    assert sum(scaling.bends for scaling in refit(WIDE, 100, rng)) <= 12


def test_data_without_effect_has_no_exponent_beyond_noise(rng):
    scaling = fit_scaling(Study.of(make_sweep(GRID, lambda **_: 0.5 + 0.01 * rng.standard_normal())))
    assert scaling.is_beyond_noise is False


def test_a_bent_curve_is_told(rng):
    def truth(train_fraction, **_):
        return 1 - (0.3 + 0.4 * (train_fraction < 0.15)) * (1 + 0.01 * rng.standard_normal())

    study = Study.of(make_sweep(WIDE, truth))
    assert fit_scaling(study).bends is True
    sentences = summarise(study, analyse(study), finals=summarise_finals(study), scaling=fit_scaling(study))
    assert any("follows no power law" in sentence and "none is fitted" in sentence for sentence in sentences)
    assert not any("to the power of" in sentence for sentence in sentences)


def test_few_runs_have_an_exponent_without_an_interval():
    scaling = fit_scaling(
        Study.of(make_sweep({"train_fraction": (0.1, 1.0)}, lambda train_fraction: train_fraction / 2))
    )
    assert scaling.interval is None
    assert scaling.is_beyond_noise is None
    assert scaling.bends is None


def test_without_a_limit_the_amount_is_a_fraction():
    runs = [
        make_run(str(fraction), settings={"train_fraction": fraction}, base=["limit=none"], value=fraction / 2)
        for fraction in (0.1, 0.3, 1.0)
    ]
    scaling = fit_scaling(Study.of(runs))
    assert not scaling.in_images
    assert scaling.amount_R.tolist() == [0.1, 0.3, 1.0]


def test_lower_is_better_metrics_are_errors_themselves():
    runs = [
        make_run(str(fraction), settings={"train_fraction": fraction}, value=10 / fraction, metric="text_median_rank")
        for fraction in (0.1, 0.3, 1.0)
    ]
    scaling = fit_scaling(Study.of(runs))
    assert scaling.error_name == "text_median_rank"
    assert scaling.exponent == pytest.approx(1.0)


def test_there_is_no_law_where_data_does_not_vary_or_nothing_is_left_to_gain():
    assert fit_scaling(Study.of([make_run()])) is None
    assert fit_scaling(Study.of(make_sweep({"lr": (1e-3, 3e-3)}, lambda **_: 0.5))) is None
    assert fit_scaling(Study.of(make_sweep({"train_fraction": (0.1, 1.0)}, lambda **_: 1.0))) is None


def test_other_settings_that_change_with_the_data_leave_it_undetermined():
    rows = [(0.1, 1e-3), (0.3, 2e-3), (1.0, 2e-3), (0.1, 1e-3)]
    runs = [
        make_run(str(row), settings={"train_fraction": fraction, "lr": lr, "seed": row}, value=0.5)
        for row, (fraction, lr) in enumerate(rows)
    ]
    assert fit_scaling(Study.of(runs)).interval is None
    runs = [run for run in runs if run.settings["train_fraction"] != 1.0]
    assert fit_scaling(Study.of(runs)) is None  # the learning rate changed with the data


def test_epochs_that_keep_the_compute_equal_may_change_with_the_data():
    rows = [(0.1, 20), (0.3, 6), (1.0, 2)]
    runs = [
        make_run(str(fraction), settings={"train_fraction": fraction, "epochs": epochs}, value=fraction / 2)
        for fraction, epochs in rows
    ]
    assert fit_scaling(Study.of(runs)) is not None
