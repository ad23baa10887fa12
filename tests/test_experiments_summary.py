from dataclasses import replace

import numpy as np
import pytest

from experiment_runs import GRID, SEEDED, make_run, make_sweep
from sightline.lab.experiments.effects import analyse
from sightline.lab.experiments.results import Study
from sightline.lab.experiments.summary import (
    count,
    difference,
    duration,
    enumerate_words,
    fit_scaling,
    p_value,
    summarise,
    summarise_finals,
)


def say(runs, metric=None):
    study = Study.of(runs, metric=metric)
    return summarise(study, analyse(study), finals=summarise_finals(study), scaling=fit_scaling(study))


def test_the_summary_of_a_planted_effect_names_it_and_nothing_else(rng):
    truth = {3e-4: 0.2, 1e-3: 0.3, 3e-3: 0.25}
    sentences = say(make_sweep(GRID, lambda lr, **_: truth[lr] + 0.003 * rng.standard_normal()))
    text = "\n".join(sentences)
    assert sentences[0].startswith("Of 18 runs, the best is lr 0.001")
    assert sentences[1].startswith("lr mattered most: from 20.")
    assert "at 0.0003 to 30." in sentences[1] or "at 0.0003 to 29." in sentences[1]
    assert "beyond noise (p < 0.001 after Holm's correction)" in sentences[1]
    assert "batch_size made no difference beyond noise on average" in text
    assert "train_fraction made no difference beyond noise on average" in text
    (quiet,) = [sentence for sentence in sentences if sentence.startswith("No interaction beyond noise shows for ")]
    assert all(pair in quiet for pair in ("lr x batch_size", "lr x train_fraction", "batch_size x train_fraction"))
    assert "not beyond noise." in text  # the exponent
    assert "noise is what an additive model of the settings leaves over" in text
    assert "Training took 18.0 min in all, 60 s to 60 s a run, over 115,200 pictures seen." in sentences


def test_where_nothing_matters_the_summary_says_so():
    rng = np.random.default_rng(3)
    sentences = say(make_sweep(SEEDED, lambda **_: 0.3 + 0.01 * rng.standard_normal()))
    assert "No setting had an effect beyond noise." in sentences
    assert not any(" mattered" in sentence for sentence in sentences)
    assert "the mean of 3 seeds" in sentences[0]
    assert "(95% interval ±" in sentences[0]
    assert any("Noise is the variation between seeds" in s and "12 degrees of freedom" in s for s in sentences)


def test_an_interaction_is_said(rng):
    def truth(lr, batch_size, **_):
        return 0.3 + (0.05 if (lr == 3e-3) == (batch_size == 64) else -0.05) + 0.003 * rng.standard_normal()

    assert any("The effect of lr depends on batch_size: cells lie up to" in s for s in say(make_sweep(SEEDED, truth)))


def test_failed_pruned_and_running_runs_are_said_with_their_reasons():
    runs = make_sweep({"lr": (1e-3, 2e-3, 3e-3), "seed": (0, 1, 2)}, lambda **_: 0.3)
    runs = [
        *runs[:6],
        replace(runs[6], state="failed", reason="out of memory.", metrics={}),
        replace(runs[7], state="failed", reason="out of memory.", metrics={}),
        replace(runs[8], state="pruned", reason="below the median"),
        make_run("now", settings={"lr": 1e-3}, state="running", metrics={}),
        make_run("none", settings={"lr": 1e-3}, metrics={}),
    ]
    sentences = say(runs)
    assert "2 runs failed and are left out: out of memory (2 times)." in sentences
    assert "1 run ended early by pruning and is left out: below the median." in sentences
    assert "1 run didn't come to an end and is left out." in sentences
    assert "1 run ended without a value of mean_recall and is left out." in sentences
    assert "1 of 3 combinations of settings has no finished run." in sentences
    assert any("Pruned runs were the weak ones" in sentence for sentence in sentences)


def test_a_single_run_says_what_it_reached_and_nothing_of_settings():
    sentences = say([make_run("scenes", value=0.642)])
    assert sentences[0] == "The run scenes reached mean_recall 64.2% on its val pairs."
    assert sentences[1:] == ["Training took 60 s in all, over 6,400 pictures seen."]


def test_seeds_alone_have_an_interval_and_no_settings():
    sentences = say(make_sweep({"seed": (0, 1, 2)}, lambda seed: 0.5 + 0.01 * seed))
    assert sentences[0].startswith(
        "3 runs that differ in their seed alone reached mean_recall 51.0% (95% interval ± 2.5"
    )
    assert "nothing can be said of settings" in sentences[1]


def test_no_finished_run_says_so():
    sentences = say([make_run(state="failed", reason="no room", metrics={})])
    assert sentences[0] == "No run came to its end with mean_recall measured."
    assert "1 run failed and is left out: no room." in sentences


def test_few_runs_say_that_nothing_can_be_told():
    text = "\n".join(say(make_sweep({"lr": (1e-3, 3e-3), "batch_size": (64, 256)}, lambda **_: 0.3)))
    assert "Whether lr matters can't be told (too few runs to know the noise)" in text
    assert "Interactions of lr x batch_size can't be told" in text
    assert "Add seeds" in text


def test_cautions_name_other_val_pairs_joint_changes_and_ranges(rng):
    runs = [
        make_run(f"{name}{seed}", base=[f"data=scenes:{data}", f"lr={lr}", f"seed={seed}"])
        for name, data, lr in (("a", 0, 1e-3), ("b", 1, 2e-3))
        for seed in (0, 1)
    ]
    text = "\n".join(say(runs))
    assert "measured on different val pairs" in say(runs)[1]  # before anything is compared
    assert "data changed together with lr: what is said of it is said of all of them." in text
    drawn = [make_run(str(row), settings={"lr": float(lr)}) for row, lr in enumerate(10 ** rng.uniform(-4, -2, 12))]
    assert any("lr were drawn from a range and are taken together in thirds" in sentence for sentence in say(drawn))


def test_lower_is_better_metrics_have_their_smallest_value_as_the_best():
    runs = [
        make_run(
            f"{lr}{seed}",
            settings={"lr": lr, "seed": seed},
            value=10 * (1 + (lr > 2e-3)) + seed / 10,
            metric="median_rank",
        )
        for lr in (1e-3, 3e-3)
        for seed in (0, 1, 2)
    ]
    sentences = say(runs)
    assert sentences[0].startswith("Of 6 runs, the best is lr 0.001: median_rank 10.1")
    assert sentences[1].startswith("lr mattered: from 20.1 at 0.003 to 10.1 at 0.001, a difference of 10.0")


def test_more_data_with_more_steps_is_no_effect_of_data_alone():
    runs = make_sweep({"train_fraction": (0.1, 0.5, 1.0)}, lambda train_fraction: 0.3 + train_fraction / 10)
    assert not any("compute together" in sentence for sentence in say(runs))
    longer = [replace(run, images_seen=int(1e5 * run.settings["train_fraction"])) for run in runs]
    assert any("data and compute together" in sentence for sentence in say(longer))
    assert any("too few runs for an interval" in sentence for sentence in say(longer))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (count(1, "run"), "1 run"),
        (count(1200, "run"), "1,200 runs"),
        (difference("mean_recall", 0.0123), "1.2 points"),
        (difference("loss", 0.0123), "0.012"),
        (p_value(0.0001), "p < 0.001"),
        (p_value(0.0345), "p = 0.035"),
        (p_value(0.345), "p = 0.34"),
        (duration(59), "59 s"),
        (duration(600), "10.0 min"),
        (duration(7200), "2.0 h"),
        (enumerate_words([]), ""),
        (enumerate_words(["a"]), "a"),
        (enumerate_words(["a", "b", "c"]), "a, b and c"),
        (enumerate_words(["a", "b", "c"], most=2), "a, b and 1 more"),
    ],
)
def test_figures_are_written_for_people(written, expected):
    assert written == expected


def test_a_best_value_at_the_edge_of_what_was_tried_is_said(rng):
    def say_best(best):
        truth = dict(zip((3e-4, 1e-3, 3e-3), (0.3 - 0.05 * abs(place - best) for place in range(3)), strict=True))
        return "\n".join(say(make_sweep(SEEDED, lambda lr, **_: truth[lr] + 0.003 * rng.standard_normal())))

    assert "The best lr is the largest that was tried, 0.003: a better one may lie beyond it." in say_best(2)
    assert "The best lr is the smallest that was tried, 0.0003" in say_best(0)
    assert "that was tried" not in say_best(1)


def test_other_numbers_of_updates_at_equal_images_are_said():
    runs = make_sweep({"batch_size": (32, 64), "seed": (0, 1)}, lambda **_: 0.3)
    equal_images = [replace(run, images_seen=6400) for run in runs]
    equal_updates = [replace(run, images_seen=100 * run.settings["batch_size"]) for run in runs]
    assert any("At equal images the runs made 100 to 200 updates" in sentence for sentence in say(equal_images))
    assert any("At equal updates the runs saw 3,200 to 6,400 images." in sentence for sentence in say(equal_updates))
