"""A report's results and what it says of them: means over seeds, the law of data, and sentences that follow from both.

The law of data says how the error falls with the number of training images: a power law, and how sure its exponent is.
Every sentence follows from the figures, and says what they can't tell. Shape suffixes: R runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.lab.evaluation.results import format_figure
from sightline.lab.experiments.effects import (
    LEAST_NOISE_DF,
    Analysis,
    Array,
    Effect,
    LinearModel,
    additive_design,
    f_test,
    t_factor,
)
from sightline.lab.experiments.results import RunResult, Study, format_value, run_settings

_STATES = {
    "complete": "ended without a value of {metric}",
    "failed": "failed",
    "pruned": "ended early by pruning",
    "running": "didn't come to an end",
    "stopped": "stopped before the end",
}
POINTS = " points"
SCALED = ("train_fraction", "limit")
"""Settings that decide how many images are trained on."""
_FOLLOW_THE_DATA = {"epochs", "samples_seen", "eval_epochs", "checkpoint_epochs", *SCALED}
"""Settings that may change with the amount of data without hiding its effect: they keep the compute equal."""
_SHARE_WORDS = ("recall", "acc", "mAP", "compose")


def summarise(study: Study, analysis: Analysis, *, finals: Sequence[Final], scaling: Scaling | None) -> list[str]:
    """Sentences, the most important first, then cautions."""
    if not study.runs:
        return [f"No run came to its end with {study.metric} measured.", *_say_left_out(study)]
    sentences = [_say_best(study, finals)]
    settings = [run_settings(run) for run in study.runs]
    measured_on = {
        (str(own.get("val_data") or own.get("data")), str(own.get("val_split")), str(own.get("val_limit")))
        for own in settings
    }
    if len(measured_on) > 1:
        sentences.append("The runs were measured on different val pairs: their figures can't be compared as they are.")
    sentences += [*_say_effects(study, analysis), *_say_edges(study, analysis, finals)]
    sentences += _say_interactions(study, analysis)
    sentences += [] if scaling is None else _say_scaling(scaling)
    sentences += [*_say_updates(study), *_say_compute(study)]
    return [*sentences, *_say_noise(study, analysis), *_say_left_out(study), *_say_cautions(study)]


def is_share(metric: str) -> bool:
    """True where a metric is shown in percent."""
    return format_figure(metric, 0.5).endswith("%")


def difference(metric: str, value: float) -> str:
    """A difference of two values of a metric: of shares in percentage points."""
    if is_share(metric):
        return f"{100 * value:.1f}{POINTS}"
    return format_figure(metric, value)


def p_value(p: float) -> str:
    """A p-value as `p = 0.012` or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def count(n: int, noun: str) -> str:
    """`1 run`, `18 runs`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def enumerate_words(words: Sequence[str], *, most: int = 6) -> str:
    """`a, b and c`; of many the first ones and how many more."""
    shown = list(words[:most])
    if len(words) > most:
        return f"{', '.join(shown)} and {len(words) - most:,} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _say_best(study: Study, finals: Sequence[Final]) -> str:
    best = finals[0]
    value = format_figure(study.metric, best.mean)
    if len(study.runs) == 1:
        return f"The run {best.runs[0].name} reached {study.metric} {value} on its val pairs."
    within = "" if best.half_width is None else f" (95% interval ± {difference(study.metric, best.half_width)})"
    seeds = f", the mean of {count(len(best.values), 'seed')}" if len(best.values) > 1 else ""
    if len(finals) == 1:
        runs = f"{count(len(study.runs), 'run')} that differ in their seed alone"
        return f"{runs} reached {study.metric} {value}{within} on average."
    return f"Of {count(len(study.runs), 'run')}, the best is {best.label}: {study.metric} {value}{within}{seeds}."


def _say_edges(study: Study, analysis: Analysis, finals: Sequence[Final]) -> list[str]:
    """The settings, unless they made no difference, whose best value is the smallest or largest that was tried."""
    best = next(row for row, run in enumerate(study.runs) if run is finals[0].runs[0])
    sentences = []
    for factor in (effect.factor for effect in analysis.effects if effect.verdict != "within noise"):
        values = [run_settings(run).get(factor.name) for run in study.runs]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if factor.grouped or factor.name in _FOLLOW_THE_DATA or len(numbers) < len(values):
            continue
        if numbers[best] in (min(numbers), max(numbers)):
            end = "largest" if numbers[best] == max(numbers) else "smallest"
            sentences.append(
                f"The best {factor.name} is the {end} that was tried, {format_value(numbers[best])}: a better one may "
                "lie beyond it."
            )
    return sentences


def _say_updates(study: Study) -> list[str]:
    """A caution where runs that saw as many images made other numbers of updates, or the other way round."""
    batches = [run_settings(run).get("batch_size") for run in study.runs]
    seen = [run.images_seen for run in study.runs]
    if len(study.runs) < 2 or not all(batches) or not all(seen):
        return []
    updates = [round(images / batch) for images, batch in zip(seen, batches, strict=True) if batch]
    if _are_equal(seen) and not _are_equal(updates):
        return [
            f"At equal images the runs made {min(updates):,} to {max(updates):,} updates: what is said of the batch "
            "size is said of both."
        ]
    if _are_equal(updates) and not _are_equal(seen):
        return [f"At equal updates the runs saw {min(seen):,} to {max(seen):,} images."]
    return []


def _are_equal(numbers: Sequence[int]) -> bool:
    """True within a few percent: batches of different sizes don't divide the same number."""
    return min(numbers) > 0.95 * max(numbers)


def _say_effects(study: Study, analysis: Analysis) -> list[str]:
    if not analysis.effects:
        return (
            ["No setting varies between the runs, so nothing can be said of settings."] if len(study.runs) > 1 else []
        )
    sentences = []
    mattering = [effect for effect in analysis.effects if effect.verdict == "matters"]
    for effect in mattering:
        word = "mattered most" if effect is mattering[0] and len(analysis.effects) > 1 else "mattered"
        sentences.append(_say_effect(study, effect, word))
    for effect in analysis.effects:
        if effect.verdict == "within noise":
            assert effect.p_holm is not None  # a verdict was given
            apart = f"its means lie {difference(study.metric, effect.spread)} apart ({p_value(effect.p_holm)})"
            sentence = f"{effect.factor.name} made no difference beyond noise on average: {apart}"
            if effect.difference_half_width is not None:
                most = difference(study.metric, effect.spread + effect.difference_half_width)
                sentence += f"; a true difference of up to {most} isn't excluded"
            sentences.append(f"{sentence}.")
    for effect in analysis.effects:
        if effect.verdict == "can't tell":
            spread = difference(study.metric, effect.spread)
            sentences.append(
                f"Whether {effect.factor.name} matters can't be told ({effect.why}); its means lie {spread} apart."
            )
    if not mattering and all(effect.p is not None for effect in analysis.effects):
        sentences.insert(0, "No setting had an effect beyond noise.")
    return sentences


def _say_effect(study: Study, effect: Effect, word: str) -> str:
    means = sorted(effect.means, key=lambda level: level.mean, reverse=study.lower_is_better)
    worst, best = means[0], means[-1]
    ends = ""
    if (half := effect.difference_half_width) is not None:
        low, high = max(0.0, effect.spread - half), effect.spread + half
        low_text = difference(study.metric, low).removesuffix(POINTS)
        ends = f" (95% interval {low_text} to {difference(study.metric, high)})"
    assert effect.p_holm is not None  # a verdict was given
    apart = difference(study.metric, effect.spread)
    return (
        f"{effect.factor.name} {word}: from {format_figure(study.metric, worst.mean)} at {worst.label} to "
        f"{format_figure(study.metric, best.mean)} at {best.label}, a difference of {apart}{ends}, beyond noise "
        f"({p_value(effect.p_holm)} after Holm's correction)."
    )


def _say_interactions(study: Study, analysis: Analysis) -> list[str]:
    pairs = analysis.interactions
    sentences = [
        f"The effect of {pair.first.name} depends on {pair.second.name}: cells lie up to "
        f"{difference(study.metric, pair.size)} off the sum of both effects ({p_value(pair.p_holm)})."
        for pair in pairs
        if pair.verdict == "matters" and pair.p_holm is not None
    ]
    quiet = [pair.name for pair in pairs if pair.verdict == "within noise"]
    unknown = [pair.name for pair in pairs if pair.verdict == "can't tell"]
    if quiet:
        sentences.append(f"No interaction beyond noise shows for {enumerate_words(quiet)}.")
    if unknown:
        why = enumerate_words(list(dict.fromkeys(pair.why for pair in pairs if pair.verdict == "can't tell")))
        sentences.append(f"Interactions of {enumerate_words(unknown)} can't be told: {why}.")
    return sentences


def _say_scaling(scaling: Scaling) -> list[str]:
    what = "training images" if scaling.in_images else "part of the training images"
    together = "Runs on more images also took more steps, so this is the effect of data and compute together."
    if scaling.bends:
        sentence = (
            f"{scaling.error_name} follows no power law of the number of {what}: the points lie off one by more than "
            "noise, so none is fitted."
        )
        return [sentence] if scaling.at_equal_compute else [sentence, together]
    fall = f"{scaling.error_name} goes with the number of {what} to the power of {-scaling.exponent:.3f}"
    if scaling.interval is None:
        sentence = f"{fall}; too few runs for an interval."
    else:
        low, high = scaling.interval
        beyond = "beyond noise" if scaling.is_beyond_noise else "not beyond noise"
        sentence = f"{fall} (95% interval {-high:.3f} to {-low:.3f}), {beyond}."
    sentences = [sentence]
    if scaling.bends is not None:
        sentences.append("A power law fits within noise.")
    return sentences if scaling.at_equal_compute else [*sentences, together]


def _say_compute(study: Study) -> list[str]:
    times = [run.took_s for run in study.everything if run.took_s is not None]
    seen = sum(run.images_seen for run in study.everything)
    if not times:
        return [f"{seen:,} pictures were seen in all; how long it took isn't known."] if seen else []
    unknown = len(study.everything) - len(times)
    but = f" ({count(unknown, 'run')} without a time)" if unknown else ""
    spread = f", {duration(min(times))} to {duration(max(times))} a run" if len(times) > 1 else ""
    return [f"Training took {duration(sum(times))} in all{spread}{but}, over {seen:,} pictures seen."]


def _say_noise(study: Study, analysis: Analysis) -> list[str]:
    noise = analysis.noise
    if len(study.runs) < 2 or not study.factors:
        return []
    if noise.source == "seeds":
        return [
            f"Noise is the variation between seeds: a standard deviation of {difference(study.metric, noise.sd)} "
            f"({count(noise.df, 'degree')} of freedom)."
        ]
    if noise.source == "residual":
        return [
            "Too few runs differ in their seed alone, so noise is what an additive model of the settings leaves over "
            f"(a standard deviation of {difference(study.metric, noise.sd)}, {count(noise.df, 'degree')} of freedom): "
            "interactions count as noise, and small effects may be missed. Several seeds for each combination would "
            "tell more."
        ]
    return ["The noise isn't known: there are too few runs for a statement on any setting. Add seeds: seed=0,1,2."]


def _say_left_out(study: Study) -> list[str]:
    sentences = []
    states = Counter(run.state for run in study.left_out)
    for state, number in states.items():
        reasons = Counter(run.reason.rstrip(".") for run in study.left_out if run.state == state and run.reason)
        shown = [f"{why} ({times} times)" if times > 1 else why for why, times in reasons.most_common(3)]
        because = f": {'; '.join(shown)}" if shown else ""
        are = "is" if number == 1 else "are"
        sentences.append(
            f"{count(number, 'run')} {_STATES[state].format(metric=study.metric)} and {are} left out{because}."
        )
    if states["pruned"]:
        sentences.append("Pruned runs were the weak ones, so settings that were pruned look better here than they are.")
    cells, present = _count_present(study)
    if present < cells:
        have = "has" if cells - present == 1 else "have"
        sentences.append(f"{cells - present:,} of {cells:,} combinations of settings {have} no finished run.")
    return sentences


def _count_present(study: Study) -> tuple[int, int]:
    """Combinations of levels of all runs, and how many of them a finished run has."""
    if not study.planned or any(factor.grouped for factor in study.planned):
        return 1, 1
    cells = math.prod(len(factor.levels) for factor in study.planned)
    finished = [factor.level_R[: len(study.runs)] for factor in study.planned]
    return cells, len({tuple(levels) for levels in np.array(finished).T.tolist()})


def _say_cautions(study: Study) -> list[str]:
    sentences = []
    if grouped := [factor.name for factor in study.factors if factor.grouped]:
        sentences.append(
            f"Values of {enumerate_words(grouped)} were drawn from a range and are taken together in thirds."
        )
    for factor in study.factors:
        if factor.together_with:
            others = enumerate_words(factor.together_with)
            sentences.append(
                f"{factor.name} changed together with {others}: what is said of it is said of all of them."
            )
    return sentences


@dataclass(frozen=True, kw_only=True)
class Final:
    """Runs that differ in their seed alone."""

    label: str
    """The settings that differ from those of other groups."""
    runs: tuple[RunResult, ...]
    values: tuple[float, ...]
    half_width: float | None
    """Half the mean's 95% t-interval; None where no two runs of the study differ in their seed alone."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.values))


def summarise_finals(study: Study) -> list[Final]:
    """All groups, the best first.

    The interval's standard deviation is pooled over all groups: that of two or three seeds would be too uncertain.
    """
    groups = [np.flatnonzero(study.replicate_R == number) for number in np.unique(study.replicate_R)]
    df = len(study.runs) - len(groups)
    squares = sum(float(((study.value_R[rows] - study.value_R[rows].mean()) ** 2).sum()) for rows in groups)
    labels = _labels(study, [study.runs[rows[0]] for rows in groups])
    finals = [
        Final(
            label=label,
            runs=tuple(study.runs[row] for row in rows),
            values=tuple(study.value_R[rows].tolist()),
            half_width=t_factor(df) * math.sqrt(squares / df / len(rows)) if df else None,
        )
        for label, rows in zip(labels, groups, strict=True)
    ]
    return sorted(finals, key=lambda final: final.mean if study.lower_is_better else -final.mean)


def short_name(setting: str) -> str:
    """A setting without what it lies in: `towers.dim` -> `dim`."""
    return setting.rpartition(".")[2]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """error = factor x amount ^ -exponent (Hestness et al. 2017, arXiv:1712.00409).

    The other settings are averaged out on the logarithm.
    """

    amount_R: NDArray[np.float64]
    """Training images of each run, or its fraction of them."""
    error_R: NDArray[np.float64]
    """1 - metric for shares; the metric itself where lower is better. Adjusted for the other settings."""
    in_images: bool
    error_name: str
    exponent: float
    factor: float
    half_width: float | None
    """Half the exponent's 95% t-interval; None with fewer than 3 degrees of freedom."""
    df: int
    bends: bool | None
    """True where the levels lie off a straight line by more than noise; None where that can't be told."""
    at_equal_compute: bool
    """True where every run saw about as many images in all, so that more data doesn't mean more steps."""

    def predict(self, amount: float) -> float:
        """The error that the fitted law gives."""
        return self.factor * math.pow(amount, -self.exponent)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the exponent's 95% interval."""
        return None if self.half_width is None else (self.exponent - self.half_width, self.exponent + self.half_width)

    @property
    def is_beyond_noise(self) -> bool | None:
        """True where the interval leaves out 0; None where there is no interval."""
        return None if self.interval is None else self.interval[0] > 0 or self.interval[1] < 0


def fit_scaling(study: Study) -> Scaling | None:
    """The law over the runs of a study.

    None where the amount of data doesn't vary, where other settings change with it, or errors aren't above 0.
    """
    scaled = [factor for factor in study.factors if factor.name in SCALED]
    if not scaled or not all(set(factor.together_with) <= _FOLLOW_THE_DATA for factor in scaled):
        return None
    settings = [run_settings(run) for run in study.runs]
    in_images = all(values.get("limit") is not None for values in settings)  # else only the share of them is known
    fractions = [float(values.get("train_fraction", 1.0)) for values in settings]
    amount_R = np.array(fractions) * ([values["limit"] for values in settings] if in_images else 1)
    is_share = any(word in study.metric for word in _SHARE_WORDS) and not study.lower_is_better
    error_R, error_name = (1 - study.value_R, f"1 - {study.metric}") if is_share else (study.value_R, study.metric)
    if len(np.unique(amount_R)) < 2 or error_R.min() <= 0:
        return None
    return _fit(study, amount_R, error_R, error_name=error_name, in_images=in_images)


def _labels(study: Study, runs: Sequence[RunResult]) -> list[str]:
    names = [factor.name for factor in study.planned or study.factors]
    if not names:
        return ["all runs" if len(study.runs) > 1 and len(runs) == 1 else run.name for run in runs]
    labels = [
        ", ".join(f"{short_name(name)} {format_value(run_settings(run).get(name))}" for name in names) for run in runs
    ]
    return labels if len(set(labels)) == len(labels) else [run.name for run in runs]


def _fit(study: Study, amount_R: Array, error_R: Array, *, error_name: str, in_images: bool) -> Scaling | None:
    n_runs = len(study.runs)
    # Settings that change with the amount of data can't be averaged out beside it.
    others = [factor for factor in study.factors if factor.name not in SCALED]
    base_RC = additive_design(others, n_runs)
    log_amount_R, log_error_R = np.log(amount_R), np.log(error_R)
    model = LinearModel(design_RC=np.column_stack([base_RC, log_amount_R]), value_R=log_error_R)
    last_C = np.zeros(model.design_RC.shape[1])
    last_C[-1] = 1.0
    found = model.estimate(last_C)
    if found is None:
        return None
    slope, variance = found
    df = model.residual_df
    seen = [run.images_seen for run in study.runs]
    half_width = None
    if df >= LEAST_NOISE_DF:
        half_width = t_factor(df) * math.sqrt(model.residual_squares / df * variance)
    offset_R = base_RC[:, 1:] @ model.coefficient_C[1:-1]
    return Scaling(
        amount_R=amount_R,
        error_R=np.exp(log_error_R - offset_R),
        in_images=in_images,
        error_name=error_name,
        exponent=-slope,
        factor=math.exp(model.coefficient_C[0]),
        half_width=half_width,
        df=df,
        bends=_bends(model, base_RC, amount_R),
        at_equal_compute=_are_equal(seen),
    )


def _bends(line: LinearModel, base_RC: Array, amount_R: Array) -> bool | None:
    """True where a mean for each amount fits better than a straight line, by more than noise."""
    levels, level_R = np.unique(amount_R, return_inverse=True)
    if len(levels) < 3:
        return None
    free = LinearModel(design_RC=np.column_stack([base_RC, np.eye(len(levels))[level_R]]), value_R=line.value_R)
    if free.residual_df < LEAST_NOISE_DF:
        return None
    squares = line.residual_squares - free.residual_squares
    if squares < 1e-16 * len(amount_R):  # rounding
        return False
    variance = free.residual_squares / free.residual_df
    _, p = f_test(squares, free.rank - line.rank, noise_variance=variance, noise_df=free.residual_df)
    return p < 0.05
