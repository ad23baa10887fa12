"""The part of a report on what models make of their val pairs: vectors before and after training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sightline.evaluation.qualitative import measure_gap
from sightline.experiments import figures_space
from sightline.experiments.report_page import MOST_ROWS, Plot, Section, Table
from sightline.experiments.results import RunResult
from sightline.experiments.study import Study
from sightline.experiments.val_pictures import ValPictures
from sightline.training.probe import Probe

_SIMILARITIES = (
    "The first texts of the val pairs against their pictures, on one scale: a trained model is brightest on the "
    "diagonal, where both belong together."
)
_MAP = (
    "Above: pictures and texts in the two directions of most variance; lines join pairs. The gap is the distance of "
    "both centres. Below: cosines of pairs that belong together and of others; thin lines are means."
)
_SAMPLES = "The best and the worst searches by text. Framed: the right picture; below each: the cosine."


def describe_space(study: Study) -> tuple[list[Section], list[str]]:
    """The vectors of the best run that has some, before and after training, and those of all runs in a table."""
    order = np.argsort(study.value_R if study.lower_is_better else -study.value_R, kind="stable")
    probed = [(study.runs[row], *_read_probes(study.runs[row])) for row in order]
    probed = [(run, start, best) for run, start, best in probed if best is not None]
    if not probed:
        note = (
            "No compared run kept vectors of its val pairs (runs of older versions don't), so there is nothing to show."
        )
        return [Section(title="What the model sees", note=note)] if study.runs else [], []
    run, start, best = probed[0]
    assert best is not None
    shown = [best] if start is None else [start, best]
    sections = [_space_section(run, shown), _gap_section(probed)]
    return sections, _say_space(run, start, best)


def _read_probes(run: RunResult) -> tuple[Probe | None, Probe | None]:
    return run.probe("start"), run.probe("best")


def _space_section(run: RunResult, shown: Sequence[Probe]) -> Section:
    best = shown[-1]
    n_pairs = len(best.ids)
    assert run.config is not None  # it was measured
    pictures = ValPictures.of(run.config, best)
    of = f"of {run.name}, the best run with vectors"
    plots = [
        Plot(name="similarities", png=figures_space.draw_similarities(shown, pictures), caption=_SIMILARITIES),
        Plot(name="space", png=figures_space.draw_space(shown), caption=_MAP),
    ]
    note = f"Vectors {of}: its first {n_pairs:,} val pairs."
    if pictures.missing is None and n_pairs > 1:
        cases = figures_space.find_samples(best)
        plots.insert(
            1,
            Plot(name="samples", png=figures_space.draw_samples(cases, pictures, n_pictures=n_pairs), caption=_SAMPLES),
        )
    elif pictures.missing is not None:
        note += f" Its pictures aren't shown: {pictures.missing}"
    return Section(title="What the model sees", note=note, plots=tuple(plots))


def _gap_section(probed: Sequence[tuple[RunResult, Probe | None, Probe | None]]) -> Section:
    rows = [
        (
            run.name,
            *(
                f"{before} -> {after}" if before else after
                for before, after in zip(_gap_cells(start), _gap_cells(best), strict=True)
            ),
        )
        for run, start, best in probed[:MOST_ROWS]
    ]
    note = (
        "The modality gap is the distance of the centres of pictures and texts (0 to 2); cosines are means over pairs "
        "that belong together and over others; the logit scale is 1 / temperature."
    )
    headings = ("run", "gap", "cosine of own", "cosine of others", "logit scale")
    return Section(
        title="Modality gap and temperature", note=note, tables=(Table(headings=headings, rows=tuple(rows)),)
    )


def _gap_cells(probe: Probe | None) -> tuple[str, ...]:
    if probe is None:
        return ("", "", "", "")
    gap = measure_gap(probe.image_ND, probe.text_ND, np.arange(len(probe.ids)))
    return (
        f"{gap.distance:.3f}",
        f"{gap.matched_similarity:.3f}",
        f"{gap.other_similarity:.3f}",
        f"{probe.temperature:.1f}",
    )


def _say_space(run: RunResult, start: Probe | None, best: Probe) -> list[str]:
    gap, own, other, scale = _gap_cells(best)
    before = _gap_cells(start)
    from_gap = f" (before training {before[0]})" if start is not None else ""
    from_scale = f" (from {before[3]})" if start is not None else ""
    return [
        f"In {run.name} the centres of pictures and texts lie {gap} apart{from_gap}; pairs have a mean "
        f"cosine of {own}, others of {other}; the logit scale came to {scale}{from_scale}."
    ]
