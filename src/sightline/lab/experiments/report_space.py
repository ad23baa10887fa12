"""The part of a report on what models make of their val pairs, before and after training: words, tables, figures.

Shape suffixes: N pairs, T texts, C cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sightline.errors import ImageError, InputError
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.base import Pair
from sightline.lab.evaluation.embedding import EmbeddedDataset
from sightline.lab.evaluation.qualitative import (
    Match,
    RetrievalCase,
    RetrievalCases,
    find_cases,
    map_embeddings,
    measure_gap,
    sample_similarities,
)
from sightline.lab.evaluation.retrieval import rank_retrieval
from sightline.lab.experiments.report_parts import MOST_ROWS, NEUTRAL, Plot, Section, Table, draw_figure, shorten
from sightline.lab.experiments.results import RunResult, Study
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.log import colour_of
from sightline.lab.training.run_folder import Probe

_SIMILARITIES = (
    "The first texts of the val pairs against their pictures, on one scale: a trained model is brightest on the "
    "diagonal, where both belong together."
)
_MAP = (
    "Above: pictures and texts in the two directions of most variance; lines join pairs. The gap is the distance of "
    "both centres. Below: cosines of pairs that belong together and of others; thin lines are means."
)
_SAMPLES = "The best and the worst searches by text. Framed: the right picture; below each: the cosine."
PAIRS_SHOWN = 10
CASES_SHOWN = 3
"""Number of the best and of the worst retrievals each."""
FOUND_SHOWN = 5
_LINES_SHOWN = 60
_SIDE_PX = 96


def describe_space(study: Study) -> tuple[list[Section], list[str]]:
    """The vectors of the best run that has some, before and after training, and those of all runs in a table."""
    order = np.argsort(study.value_R if study.lower_is_better else -study.value_R, kind="stable")
    probed = [(run, run.probe("start"), run.probe("best")) for run in (study.runs[row] for row in order)]
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


def draw_similarities(probes: Sequence[Probe], images: ValImages) -> bytes:
    """Cosines of the first val texts (rows) with the images (columns); one panel for each probe, one scale."""
    n_pairs = min(PAIRS_SHOWN, len(probes[-1].ids))
    similarity_NN = [probe.text_ND[:n_pairs] @ probe.image_ND[:n_pairs].T for probe in probes]
    low, high = min(map(np.min, similarity_NN)), max(map(np.max, similarity_NN))

    def draw(figure: Any) -> None:
        grid = figure.add_gridspec(3, len(probes), height_ratios=(0.3, 2.9, 0.17 * n_pairs), hspace=0.01)
        shown = None
        panels = []
        for column, (probe, similarity) in enumerate(zip(probes, similarity_NN, strict=True)):
            heads, axes = figure.add_subplot(grid[0, column]), figure.add_subplot(grid[1, column])
            heads.axis("off")
            if images.missing is None:
                heads.imshow(np.hstack([images.read(id_) for id_ in probe.ids[:n_pairs]]), aspect="auto")
            heads.set_title(_title(probe))
            shown = axes.imshow(similarity, vmin=low, vmax=high, cmap="cividis", aspect="auto")
            axes.set_xticks(range(n_pairs), [str(1 + place) for place in range(n_pairs)])
            axes.set_yticks(range(n_pairs), [str(1 + place) for place in range(n_pairs)])
            axes.set_xlabel("picture")
            axes.set_ylabel("text")
            axes.grid(visible=False)
            panels.append(axes)
        figure.colorbar(shown, ax=panels, label="cosine", fraction=0.05, pad=0.02)
        listed = figure.add_subplot(grid[2, :])
        listed.axis("off")
        for place, text in enumerate(probes[-1].texts[:n_pairs]):
            height = 1 - (place + 0.5) / n_pairs
            listed.text(0, height, f"{place + 1}  {shorten(text, 104)}", va="center", fontsize=8)

    return draw_figure(draw, height_in=3.9 + 0.17 * n_pairs)


def draw_space(probes: Sequence[Probe]) -> bytes:
    """The map of images and texts, and the cosines of those that belong together and those that don't."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(2, len(probes), squeeze=False, height_ratios=(1.5, 1))
        for column, probe in enumerate(probes):
            _draw_map(panels[0, column], probe)
            _draw_cosines(panels[1, column], probe)
        lows, highs = zip(*(axes.get_xlim() for axes in panels[1]), strict=True)
        for axes in panels[1]:
            axes.set_xlim(min(lows), max(highs))

    return draw_figure(draw, height_in=6.2)


def find_samples(probe: Probe) -> RetrievalCases:
    """The best and the worst searches by text among the images of a probe."""
    owner_T = np.arange(len(probe.ids))
    embedded = EmbeddedDataset(
        image_BD=probe.image_ND, row_B=owner_T, text_TD=probe.text_ND, owner_T=owner_T, ids=probe.ids, texts=probe.texts
    )
    ranks = rank_retrieval(probe.image_ND, probe.text_ND, owner_T)
    return find_cases(embedded, ranks, n=CASES_SHOWN, shown=FOUND_SHOWN)


def draw_samples(cases: RetrievalCases, images: ValImages, *, n_images: int) -> bytes:
    """Images that some texts found: the right image first, then the ones that were found, the right one framed."""
    rows = [*cases.best, *cases.worst]

    def draw(figure: Any) -> None:
        grid = figure.add_gridspec(
            2 * len(rows), 1 + FOUND_SHOWN, height_ratios=(0.26, 1.15) * len(rows), hspace=0.02, wspace=0.02
        )
        for row, case in enumerate(rows):
            words = figure.add_subplot(grid[2 * row, :])
            words.axis("off")
            where = f"right picture at {case.rank:,.0f} of {n_images:,}"
            words.text(0, 0.1, f"{shorten(case.query, 84)}  ({where})", va="bottom", transform=words.transAxes)
            _draw_case(figure, grid, 2 * row + 1, case, images)

    return draw_figure(draw, height_in=0.1 + 1.45 * len(rows))


@dataclass(kw_only=True)
class ValImages:
    """Small images by id; those that can't be read are grey. Each is read once."""

    pairs: Mapping[str, Pair]
    missing: str | None = None
    """The reason why there are none."""
    _read: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: TrainConfig, probe: Probe) -> ValImages:
        """The pairs that a probe was made of, or the reason why they aren't there."""
        address = config.val_data or config.data
        try:
            dataset = load_dataset(address, split=config.val_split, limit=config.val_limit)
        except InputError as error:
            return cls(pairs={}, missing=str(error))
        pairs = {pair.id: pair for pair in (dataset[row] for row in range(min(len(dataset), len(probe.ids))))}
        told = zip(probe.ids, probe.texts, strict=True)
        labelled = dataset.class_names is not None  # its texts are names of classes, not captions
        if not all(id_ in pairs and (labelled or text in pairs[id_].captions) for id_, text in told):
            return cls(pairs={}, missing=f"{address} holds other pairs now than when the run was measured.")
        return cls(pairs=pairs)

    def read(self, id_: str) -> NDArray[np.uint8]:
        """One image as a square of RGB, (S, S, 3)."""
        if id_ not in self._read:
            self._read[id_] = self._square(id_)
        return self._read[id_]

    def _square(self, id_: str) -> NDArray[np.uint8]:
        square = Image.new("RGB", (_SIDE_PX, _SIDE_PX), "#cccccc")
        try:
            image = Image.fromarray(self.pairs[id_].image.read(min_side_px=_SIDE_PX))
        except ImageError:
            return np.asarray(square)
        image = ImageOps.contain(image, (_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
        square.paste(image, ((_SIDE_PX - image.width) // 2, (_SIDE_PX - image.height) // 2))
        return np.asarray(square)


def _space_section(run: RunResult, shown: Sequence[Probe]) -> Section:
    best = shown[-1]
    n_pairs = len(best.ids)
    assert run.config is not None  # it was measured
    images = ValImages.of(run.config, best)
    of = f"of {run.name}, the best run with vectors"
    plots = [
        Plot(name="similarities", png=draw_similarities(shown, images), caption=_SIMILARITIES),
        Plot(name="space", png=draw_space(shown), caption=_MAP),
    ]
    note = f"Vectors {of}: its first {n_pairs:,} val pairs."
    if images.missing is None and n_pairs > 1:
        cases = find_samples(best)
        plots.insert(1, Plot(name="samples", png=draw_samples(cases, images, n_images=n_pairs), caption=_SAMPLES))
    elif images.missing is not None:
        note += f" Its pictures aren't shown: {images.missing}"
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


def _draw_case(figure: Any, grid: Any, row: int, case: RetrievalCase, images: ValImages) -> None:
    shown: list[tuple[str, Match]] = [("asked for", case.answer)]
    shown += [(f"{place}.", match) for place, match in enumerate(case.found, start=1)]
    for column, (what, match) in enumerate(shown):
        axes = figure.add_subplot(grid[row, column])
        axes.imshow(images.read(match.item))
        axes.grid(visible=False)
        axes.set(xticks=[], yticks=[])
        framed = match.right and column > 0
        for spine in axes.spines.values():
            spine.set(visible=framed, color=colour_of(0), linewidth=3)
        axes.set_xlabel(f"{what} {match.similarity:.3f}", fontsize=8, labelpad=2)


def _draw_map(axes: Any, probe: Probe) -> None:
    plane = map_embeddings(probe.image_ND, probe.text_ND)
    for image, text in zip(plane.image_B2[:_LINES_SHOWN], plane.text_T2[:_LINES_SHOWN], strict=True):
        axes.plot(*zip(image, text, strict=True), color="#cccccc", linewidth=0.6, zorder=1)
    axes.plot(*plane.image_B2.T, "o", color=colour_of(0), markersize=3, label="pictures", zorder=2)
    axes.plot(*plane.text_T2.T, "^", color=colour_of(1), markersize=3, label="texts", zorder=2)
    gap = measure_gap(probe.image_ND, probe.text_ND, np.arange(len(probe.ids)))
    first, second = plane.explained
    axes.set_title(f"{_title(probe)}: gap {gap.distance:.2f}")
    axes.set_xlabel(f"directions with {first:.0%} and {second:.0%} of the variance")
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(loc="best", markerscale=1.6, frameon=True, framealpha=0.9, edgecolor="none")


def _draw_cosines(axes: Any, probe: Probe) -> None:
    matched_N, other_N = sample_similarities(probe.image_ND, probe.text_ND, np.arange(len(probe.ids)))
    bins = np.linspace(min(matched_N.min(), other_N.min()) - 0.01, max(matched_N.max(), other_N.max()) + 0.01, 40)
    for place, (values_N, label) in enumerate(((matched_N, "belong together"), (other_N, "don't"))):
        style = {"color": colour_of(place), "linestyle": ("-", "--")[place], "linewidth": 1.6}
        axes.hist(values_N, bins=bins, histtype="step", label=label, **style)
        axes.axvline(
            float(values_N.mean()),
            color=colour_of(place),
            linestyle=("-", "--")[place],
            linewidth=0.8,
            alpha=0.6,
            ymax=0.74,
        )
    axes.set_xlabel("cosine of a picture and a text")
    axes.set_ylabel("pairs", color=NEUTRAL)
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper center", ncols=2)


def _title(probe: Probe) -> str:
    return "before training" if probe.step == 0 else f"after {probe.step:,} steps"
