"""The report on runs and sweeps: what was measured, what the settings did, what the models make of the val pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sightline.lab.evaluation.results import format_figure
from sightline.lab.experiments import figures_runs
from sightline.lab.experiments.effects import Analysis, analyse
from sightline.lab.experiments.figures_runs import MOST_FINALS, RunStyles
from sightline.lab.experiments.report_parts import (
    MOST_ROWS,
    Plot,
    Report,
    ReportFiles,
    Section,
    Table,
    report_files,
    write_report_files,
)
from sightline.lab.experiments.report_space import describe_space
from sightline.lab.experiments.results import RunResult, Study
from sightline.lab.experiments.summary import (
    Final,
    Scaling,
    count,
    difference,
    duration,
    enumerate_words,
    fit_scaling,
    p_value,
    summarise,
    summarise_finals,
)


def write_report(runs: Sequence[RunResult], output: Path, *, metric: str | None = None) -> tuple[Report, ReportFiles]:
    """Write the report on runs as `output` (HTML), Markdown beside it, and its images in a folder.

    Raises InputError for no runs, an unknown metric, or a place that can't be written; TrainingError where matplotlib
    or SciPy isn't installed.
    """
    report_files(output)  # refused before seconds are spent
    report = make_report(runs, metric=metric)
    return report, write_report_files(report, output)


def make_report(runs: Sequence[RunResult], *, metric: str | None = None) -> Report:
    """The report on runs. Raises as `write_report` does."""
    study = Study.of(runs, metric=metric)
    analysis = analyse(study)
    finals, scaling = summarise_finals(study), fit_scaling(study)
    styles = RunStyles.of(study, [effect.factor for effect in analysis.effects], _run_labels(study, finals))
    space_sections, space_sentences = describe_space(study)
    sections = [
        *([_final_section(study, finals)] if finals else []),
        *_effects_sections(study, analysis),
        *([_scaling_section(scaling)] if scaling is not None else []),
        *([_curves_section(study, styles)] if any(run.rows for run in study.runs) else []),
        *space_sections,
        _compute_section(study, styles),
        *([_left_out_section(study)] if study.left_out else []),
    ]
    summary = summarise(study, analysis, finals=finals, scaling=scaling)
    names = list(dict.fromkeys(run.config.recipe for run in study.everything if run.config is not None))
    n_compared = len(study.runs)
    compared = "all" if n_compared == len(study.everything) else f"{n_compared:,}"
    which = "" if len(study.everything) == 1 else f" {compared} of them compared"
    return Report(
        title=f"Report on {enumerate_words(names) if names else 'runs'}",
        lead=f"{count(len(study.everything), 'run')},{which or ' measured'} by {study.metric}.",
        summary=(*summary, *space_sentences),
        sections=tuple(sections),
        analysis=analysis,
    )


def _run_labels(study: Study, finals: Sequence[Final]) -> list[str]:
    """Each run by its settings, and its seed where there are several."""
    labels: dict[str, str] = {}
    for final in finals:
        for run in final.runs:
            seed = f", seed {run.config.seed}" if len(final.runs) > 1 and run.config is not None else ""
            labels[run.name] = run.name if len(finals) == 1 else f"{final.label}{seed}"
    return [labels[run.name] for run in study.runs]


def _final_section(study: Study, finals: Sequence[Final]) -> Section:
    rows = []
    for final in finals[:MOST_ROWS]:
        within = "" if final.half_width is None else f"± {difference(study.metric, final.half_width)}"
        rows.append((final.label, format_figure(study.metric, final.mean), within, f"{len(final.values)}"))
    caption = f"{study.metric} of the weights that were kept. Dots: runs; diamonds: means"
    caption += (
        " with 95% intervals, their deviation pooled over all groups of seeds."
        if finals[0].half_width is not None
        else "."
    )
    if len(finals) > MOST_FINALS:
        caption += f" The best {MOST_FINALS} of {len(finals)} combinations."
    plot = Plot(name="finals", png=figures_runs.draw_finals(study, finals), caption=caption)
    table = Table(headings=("runs", study.metric, "95% interval", "seeds"), rows=tuple(rows))
    return Section(title="Results", plots=(plot,) if len(study.runs) > 1 else (), tables=(table,))


def _effects_sections(study: Study, analysis: Analysis) -> list[Section]:
    if not analysis.effects:
        return []
    effects = Plot(
        name="effects",
        png=figures_runs.draw_effects(study, analysis),
        caption="Effect of each setting with the others averaged out: means of its levels (diamonds) with 95% "
        "intervals where the noise is known, over the single runs (dots). p-values are corrected by Holm's method.",
    )
    parallel = Plot(
        name="parallel",
        png=figures_runs.draw_parallel(study),
        caption="Each line is a run, from its settings to its result: the brighter the better; thick: the best.",
    )
    sections = [
        Section(title="Settings", plots=(effects,), tables=(_effects_table(study, analysis),)),
        Section(title="All runs at once", plots=(parallel,)),
    ]
    if analysis.interactions:
        plot = Plot(
            name="interactions",
            png=figures_runs.draw_interactions(study, analysis),
            caption="Means of combinations of two settings. Lines that aren't parallel show that one's effect depends "
            "on the other; whether by more than noise is said above each.",
        )
        sections.insert(1, Section(title="Interactions", plots=(plot,), tables=(_interactions_table(study, analysis),)))
    return sections


def _effects_table(study: Study, analysis: Analysis) -> Table:
    rows = []
    for effect in analysis.effects:
        means = ", ".join(f"{level.label}: {format_figure(study.metric, level.mean)}" for level in effect.means)
        p = "" if effect.p_holm is None else p_value(effect.p_holm)
        rows.append((effect.factor.name, difference(study.metric, effect.spread), p, effect.verdict, means))
    return Table(headings=("setting", "range of means", "corrected p", "verdict", "means"), rows=tuple(rows))


def _interactions_table(study: Study, analysis: Analysis) -> Table:
    rows = [
        (
            pair.name,
            difference(study.metric, pair.size),
            "" if pair.p_holm is None else p_value(pair.p_holm),
            pair.verdict + (f": {pair.why}" if pair.why else ""),
        )
        for pair in analysis.interactions
    ]
    return Table(headings=("settings", "most off the sum", "corrected p", "verdict"), rows=tuple(rows))


def _scaling_section(scaling: Scaling) -> Section:
    interval = "" if scaling.half_width is None else f" ± {scaling.half_width:.3f} (95% t-interval)"
    law = f"exponent {-scaling.exponent:.3f}{interval}. No error that data can't remove is assumed."
    if scaling.bends:
        law = "no power law is drawn, since the points contradict it."
    caption = (
        f"{scaling.error_name} over the amount of training data, both logarithmic, with the other settings averaged "
        f"out; {law}"
    )
    return Section(title="Data", plots=(Plot(name="scaling", png=figures_runs.draw_scaling(scaling), caption=caption),))


def _curves_section(study: Study, styles: RunStyles) -> Section:
    caption = (
        "All compared runs over the pictures that each has seen. The loss is divided by that of a model that knows "
        "nothing, which depends on the batch size."
    )
    plot = Plot(name="curves", png=figures_runs.draw_all_curves(study, styles), caption=caption)
    return Section(title="Curves", plots=(plot,))


def _compute_section(study: Study, styles: RunStyles) -> Section:
    rows = []
    for run in study.everything[:MOST_ROWS]:
        took = "" if run.took_s is None else duration(run.took_s)
        rate = f"{run.images_seen / run.took_s:,.0f}" if run.took_s else ""
        rows.append((run.name, run.state, f"{run.images_seen:,}", rate, took))
    table = Table(headings=("run", "state", "pictures seen", "pictures/s", "time"), rows=tuple(rows))
    plots = []
    if sum(run.took_s is not None for run in study.runs) > 1:
        caption = f"{study.metric} over training time. Times hold for the machine, and for what else it did meanwhile."
        plots = [Plot(name="compute", png=figures_runs.draw_compute(study, styles), caption=caption)]
    return Section(title="Compute", plots=tuple(plots), tables=(table,))


def _left_out_section(study: Study) -> Section:
    metric = study.metric
    rows = [
        (
            run.name,
            run.state,
            format_figure(metric, run.metrics[metric]) if metric in run.metrics else "",
            run.reason or "",
        )
        for run in study.left_out[:MOST_ROWS]
    ]
    table = Table(headings=("run", "state", metric, "why"), rows=tuple(rows))
    return Section(title="Left out", note="These runs are in no average, test or fit.", tables=(table,))
