"""What a report says in words: every sentence follows from the figures, and says what they can't tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sightline.lab.evaluation.comparison_report import figure
from sightline.lab.experiments.effects import Analysis, Effect, Interaction
from sightline.lab.experiments.finals import Final, Scaling
from sightline.lab.experiments.results import RunResult
from sightline.lab.experiments.study import Study, count_cells, run_settings

_REASONS_NAMED = 3
_STATES = {
    "complete": "ended without a value of {metric}",
    "failed": "failed",
    "pruned": "ended early by pruning",
    "running": "didn't come to an end",
    "stopped": "stopped before the end",
}
POINTS = " points"


def summarise(study: Study, analysis: Analysis, *, finals: Sequence[Final], scaling: Scaling | None) -> list[str]:
    """Sentences, the most important first, then cautions."""
    if not study.runs:
        return [f"No run came to its end with {study.metric} measured.", *_say_left_out(study)]
    sentences = [_say_best(study, finals), *_say_val_pairs(study)]
    sentences += [*_say_effects(study, analysis), *_say_interactions(study, analysis)]
    sentences += [] if scaling is None else _say_scaling(scaling)
    sentences += _say_compute(study)
    return [*sentences, *_say_noise(study, analysis), *_say_left_out(study), *_say_cautions(study)]


def is_share(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return figure(metric, 0.5).endswith("%")


def difference(metric: str, value: float) -> str:
    """A difference of two values of a metric: of shares in percentage points."""
    if is_share(metric):
        return f"{100 * value:.1f}{POINTS}"
    return figure(metric, value)


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
    value = figure(study.metric, best.mean)
    if len(study.runs) == 1:
        return f"The run {best.runs[0].name} reached {study.metric} {value} on its val pairs."
    within = "" if best.half_width is None else f" (95% interval ± {difference(study.metric, best.half_width)})"
    seeds = f", the mean of {count(len(best.values), 'seed')}" if len(best.values) > 1 else ""
    if len(finals) == 1:
        runs = f"{count(len(study.runs), 'run')} that differ in their seed alone"
        return f"{runs} reached {study.metric} {value}{within} on average."
    return f"Of {count(len(study.runs), 'run')}, the best is {best.label}: {study.metric} {value}{within}{seeds}."


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
            sentences.append(_say_no_effect(study, effect))
    for effect in analysis.effects:
        if effect.verdict == "can't tell":
            spread = difference(study.metric, effect.spread)
            sentences.append(
                f"Whether {_name(effect)} matters can't be told ({effect.why}); its means lie {spread} apart."
            )
    if not mattering and all(effect.p is not None for effect in analysis.effects):
        sentences.insert(0, "No setting had an effect beyond noise.")
    return sentences


def _say_effect(study: Study, effect: Effect, word: str) -> str:
    means = sorted(effect.means, key=lambda level: level.mean, reverse=study.lower_is_better)
    worst, best = means[0], means[-1]
    ends = _difference_ends(study, effect)
    assert effect.p_holm is not None  # a verdict was given
    apart = difference(study.metric, effect.spread)
    return (
        f"{_name(effect)} {word}: from {figure(study.metric, worst.mean)} at {worst.label} to "
        f"{figure(study.metric, best.mean)} at {best.label}, a difference of {apart}{ends}, beyond noise "
        f"({p_value(effect.p_holm)} after Holm's correction)."
    )


def _difference_ends(study: Study, effect: Effect) -> str:
    half = effect.difference_half_width
    if half is None:
        return ""
    low, high = max(0.0, effect.spread - half), effect.spread + half
    return f" (95% interval {difference(study.metric, low).removesuffix(POINTS)} to {difference(study.metric, high)})"


def _say_no_effect(study: Study, effect: Effect) -> str:
    assert effect.p_holm is not None  # a verdict was given
    apart = difference(study.metric, effect.spread)
    p = p_value(effect.p_holm)
    sentence = f"{_name(effect)} made no difference beyond noise on average: its means lie {apart} apart ({p})"
    if effect.difference_half_width is None:
        return f"{sentence}."
    most = difference(study.metric, effect.spread + effect.difference_half_width)
    return f"{sentence}; a true difference of up to {most} isn't excluded."


def _say_interactions(study: Study, analysis: Analysis) -> list[str]:
    pairs = analysis.interactions
    sentences = [
        f"The effect of {pair.first.name} depends on {pair.second.name}: cells lie up to "
        f"{difference(study.metric, pair.size)} off the sum of both effects ({p_value(pair.p_holm)})."
        for pair in pairs
        if pair.verdict == "matters" and pair.p_holm is not None
    ]
    quiet = [_pair(pair) for pair in pairs if pair.verdict == "within noise"]
    unknown = [_pair(pair) for pair in pairs if pair.verdict == "can't tell"]
    if quiet:
        sentences.append(f"No interaction beyond noise shows for {enumerate_words(quiet)}.")
    if unknown:
        why = enumerate_words(list(dict.fromkeys(pair.why for pair in pairs if pair.verdict == "can't tell")))
        sentences.append(f"Interactions of {enumerate_words(unknown)} can't be told: {why}.")
    return sentences


def _say_scaling(scaling: Scaling) -> list[str]:
    what = "training pictures" if scaling.in_pictures else "part of the training pictures"
    fall = f"{scaling.error_name} goes with the number of {what} to the power of {-scaling.exponent:.3f}"
    if scaling.interval is None:
        sentence = f"{fall}; too few runs for an interval."
    else:
        low, high = scaling.interval
        beyond = "beyond noise" if scaling.is_beyond_noise else "not beyond noise"
        sentence = f"{fall} (95% interval {-high:.3f} to {-low:.3f}), {beyond}."
    sentences = [sentence]
    if scaling.bends is not None:
        bent = (
            "The points lie off that power law by more than noise."
            if scaling.bends
            else "A power law fits within noise."
        )
        sentences.append(bent)
    if not scaling.at_equal_compute:
        sentences.append(
            "Runs on more pictures also took more steps, so this is the effect of data and compute together."
        )
    return sentences


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
        reasons = _reasons([run for run in study.left_out if run.state == state])
        are = "is" if number == 1 else "are"
        sentences.append(
            f"{count(number, 'run')} {_STATES[state].format(metric=study.metric)} and {are} left out{reasons}."
        )
    if states["pruned"]:
        sentences.append("Pruned runs were the weak ones, so settings that were pruned look better here than they are.")
    cells, present = _count_present(study)
    if present < cells:
        have = "has" if cells - present == 1 else "have"
        sentences.append(f"{cells - present:,} of {cells:,} combinations of settings {have} no finished run.")
    return sentences


def _reasons(runs: Sequence[RunResult]) -> str:
    reasons = Counter(run.reason.rstrip(".") for run in runs if run.reason)
    shown = [
        f"{reason} ({number} times)" if number > 1 else reason for reason, number in reasons.most_common(_REASONS_NAMED)
    ]
    return f": {'; '.join(shown)}" if shown else ""


def _count_present(study: Study) -> tuple[int, int]:
    """Combinations of levels of all runs, and how many of them a finished run has."""
    if not study.planned or any(factor.grouped for factor in study.planned):
        return 1, 1
    cells, _ = count_cells(study.planned)
    finished = [factor.level_R[: len(study.runs)] for factor in study.planned]
    return cells, len({tuple(levels) for levels in np.array(finished).T.tolist()})


def _say_val_pairs(study: Study) -> list[str]:
    if len({_val_pairs(run) for run in study.runs}) < 2:
        return []
    return ["The runs were measured on different val pairs: their figures can't be compared as they are."]


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


def _val_pairs(run: RunResult) -> tuple[str, ...]:
    settings = run_settings(run)
    address = settings.get("val_data") or settings.get("data")
    return (str(address), str(settings.get("val_split")), str(settings.get("val_limit")))


def _name(effect: Effect) -> str:
    return effect.factor.name


def _pair(pair: Interaction) -> str:
    return f"{pair.first.name} x {pair.second.name}"
