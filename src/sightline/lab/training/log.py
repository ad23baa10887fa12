"""The log of a run, JSON lines that outlive a crash with TensorBoard beside them, and the curves drawn from it."""

from __future__ import annotations

import contextlib
import json
import math
import numbers
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sightline.errors import InputError, SightlineError, TrainingError, install_advice
from sightline.kit.files import explained, replacing, write_text
from sightline.kit.work import Notice

LOG_FILE = "log.jsonl"
RUN_FILE = "run.json"
"""The run's settings, which stand beside its log; named here, where those that only look at runs need no PyTorch."""
RESULT_FILE = "result.json"
"""The outcome of the run, beside them; missing while it goes on."""
TRIAL_FILE = "trial.json"
"""The sweep's knowledge of the run; there before it."""
TENSORBOARD_FOLDER = "tensorboard"
TENSORBOARD_MISSING = f"No TensorBoard log: it needs the extra train ({install_advice('train')}); log.jsonl has all."

# Okabe and Ito's palette, told apart with every kind of colour blindness; without its yellow, too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SMOOTHED_FRACTION = 0.02
NEUTRAL = "#666666"
MOST_RECALLS = 6
MOST_ALARMS = 4

_RECALL = re.compile(r"(?P<direction>image|text)_retrieval_recall@(?P<k>\d+)$")
_DIRECTIONS = {"image": "text to image", "text": "image to text"}

Row = dict[str, Any]
"""One line of the log: `step` and `kind` (`train`, `val`, `alarm`, ...) and what they showed."""
Source = Path | str | Sequence[Row]
"""A run's folder, its log file, or the rows of one."""


class RunLog(contextlib.AbstractContextManager["RunLog"]):
    """The log of one run: `log.jsonl` and `tensorboard/` in its folder. Close it, or use it as a context manager.

    `step` counts updates done, so the row of the first update has step 1 and what was measured before it step 0.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
        notice: Notice = lambda line: None,
    ) -> None:
        """Begin a log, or go on with one after `resume_step`: later rows, of steps that will come again, are cut off.

        Raises TrainingError where the folder has a log already and nothing is resumed, or it can't be written,
        InputError where the log to go on with is broken.
        """
        self.path = folder / LOG_FILE
        with self._explained():
            folder.mkdir(parents=True, exist_ok=True)
            if resume_step is not None and self.path.exists():
                kept = [row for row in read_log(self.path) if row["step"] <= resume_step]
                write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept), durable=True)
            elif resume_step is None and self.path.exists() and self.path.stat().st_size:
                raise TrainingError(
                    f"{self.path} holds the log of another run. Go on with it (--resume), or take another --output."
                )
            self._file = self.path.open("a", encoding="utf-8")
        self._board = _open_board(folder / TENSORBOARD_FOLDER, resume_step, notice) if tensorboard else None

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        advice = "Make room or correct its permissions; go on with --resume."
        return explained(self.path, advice, error=TrainingError)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One row, on disk when this returns; numbers go to TensorBoard too, as `kind/name`.

        A number that isn't finite becomes null, since JSON has none such. Raises TrainingError where the disk is full.
        """
        row = {"step": step, "kind": kind, **{name: _as_json(value) for name, value in values.items()}}
        with self._explained():
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if _is_number(value):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write out what is left."""
        with self._explained():
            self._file.close()
        if self._board is not None:
            self._board.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def read_log(path: Path) -> list[Row]:
    """The rows of a run's folder, or of its log file; a last line that a crash broke off is left out.

    Raises InputError where there is no log, or a line before the last isn't a row.
    """
    path = path / LOG_FILE if path.is_dir() else path
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}. A run's folder has a {LOG_FILE}.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise InputError(
                f"{path}:{number} isn't a row of a log: an object with an integer `step` and a `kind` is expected."
            )
    return rows


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    good = isinstance(row, dict) and type(row.get("step")) is int and isinstance(row.get("kind"), str)
    return row if good else None


def _open_board(folder: Path, resume_step: int | None, notice: Notice) -> Any:
    """TensorBoard's writer, which hides its rows after `resume_step`; None, with a notice, where it isn't installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        notice(TENSORBOARD_MISSING)
        return None
    writer: Any = SummaryWriter  # not typed
    return writer(str(folder), purge_step=None if resume_step is None else resume_step + 1, flush_secs=30)


def _is_number(value: Any) -> bool:
    """Also numpy's numbers, but no truth values."""
    return isinstance(value, numbers.Real) and value is not True and value is not False


def _as_json(value: Any) -> Any:
    """Numbers of numpy become Python's, and what isn't finite None."""
    if not _is_number(value):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


def draw_curves(source: Source, target: Path, *, title: str | None = None) -> Path:
    """Draw a run to a PNG, which is replaced whole; returns `target`.

    Rows of kind `train` give `loss` (with `chance_loss` as a line), `scale`, `learning_rate` and `gradient_norm`, rows
    of kind `val` every `..._retrieval_recall@k` and `loss`. Noisy curves are smoothed, with the raw one pale behind.

    Raises InputError where nothing can be drawn or matplotlib isn't installed, TrainingError where the image can't be
    written.
    """
    rows = read_log(Path(source)) if isinstance(source, Path | str) else source
    if not _points(rows, "train", "loss") and not _recalls(rows):
        raise InputError(
            "There is nothing to draw: no row of kind train with a loss, no row of kind val with a recall."
        )
    figure = new_figure(15, 8, dpi=110)
    loss, recall, scale, rate, norm, note = figure.subplots(2, 3).flat
    _draw_loss(loss, rows)
    _draw_recalls(recall, rows)
    _draw_values(scale, rows, "scale", smoothed=False)
    _draw_values(rate, rows, "learning_rate", smoothed=False)
    rate.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _draw_values(norm, rows, "gradient_norm", log=True)
    titles = ("loss", "recall on validation pairs", "logit scale (1 / temperature)", "learning rate", "gradient norm")
    for axes, heading in zip((loss, recall, scale, rate, norm), titles, strict=True):
        axes.set_title(heading, fontsize=12, loc="left")
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("step", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=9)
        if not axes.lines:
            axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color="#888888")
    note.axis("off")
    note.set_title(title or "", fontsize=12, loc="left")
    note.text(0, 1, "\n".join(_summarise(rows)), va="top", fontsize=9.5, linespacing=1.6)
    return save_figure(figure, target, advice="Make room and go on with --resume.", error=TrainingError)


def new_figure(width_in: float, height_in: float, *, dpi: int) -> Any:
    """An empty figure of matplotlib's, drawn without a display. Raises InputError where it isn't installed."""
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def import_matplotlib() -> Any:
    """The library. Raises InputError where it isn't installed."""
    matplotlib, _ = (import_train(name, "Figures need matplotlib") for name in ("matplotlib", "matplotlib.figure"))
    return matplotlib


def import_train(module: str, needs: str, *, error: type[SightlineError] = InputError) -> Any:
    """A module that the extra `train` brings. Raises an error that says what `needs` it where it isn't installed."""
    try:
        return import_module(module)
    except ImportError as missing:
        raise error(f"{needs}, of the extra train: {install_advice('train')}") from missing


def save_figure(
    figure: Any, target: Path, *, advice: str = "Choose another place.", error: type[SightlineError] = InputError
) -> Path:
    """Write a PNG whole or not at all; its path. Raises an error with advice where it can't be written."""
    with explained(target, advice, error=error), quiet_glyphs():
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            figure.savefig(partial, format="png")
    return target


@contextlib.contextmanager
def quiet_glyphs() -> Iterator[None]:
    """Users' words may hold letters that the font lacks: boxes are drawn, and nothing has to be said."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def explain_styles(owner: Any, entries: Sequence[Mapping[str, Any]], **options: Any) -> None:
    """A legend from the properties of its lines, each with a `label`."""
    from matplotlib.lines import Line2D

    line: Any = Line2D  # typed with literals for styles
    owner.legend(handles=[line([], [], **entry) for entry in entries], **options)


def colour_of(index: int) -> str:
    """The colour of a run, a setting's level or the like."""
    return COLOURS[index % len(COLOURS)]


def smooth(values: Any, window: int) -> Any:
    """A centred running mean over `window` values, of fewer at both ends: an array as long as the values."""
    import numpy as np

    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _points(rows: Sequence[Row], kind: str, name: str) -> tuple[list[int], list[float]] | None:
    """Steps and values of one name, without those that weren't finite; None where there are none."""
    found = [(row["step"], row[name]) for row in rows if row["kind"] == kind and row.get(name) is not None]
    return ([step for step, _ in found], [float(value) for _, value in found]) if found else None


def _draw_values(axes: Any, rows: Sequence[Row], name: str, *, smoothed: bool = True, log: bool = False) -> None:
    """A value of rows of kind `train`; on a logarithmic axis where it is never 0."""
    points = _points(rows, "train", name)
    if not points:
        return
    steps, values = points
    log = log and min(values) > 0
    window = round(len(values) * SMOOTHED_FRACTION)
    if not smoothed or window < 2:
        axes.plot(steps, values, color=colour_of(0), linewidth=1.6, marker="." if len(values) < 10 else None)
    else:
        axes.plot(steps, values, color=colour_of(0), linewidth=0.7, alpha=0.25)
        # On a log axis the geometric mean: one spike doesn't lift the curve for a whole window.
        means = [math.exp(m) for m in smooth([math.log(v) for v in values], window)] if log else smooth(values, window)
        axes.plot(steps, means, color=colour_of(0), linewidth=1.8)
    if log:
        axes.set_yscale("log")


def _draw_loss(axes: Any, rows: Sequence[Row]) -> None:
    """The training loss, that on val pairs as a dashed line, and what knowing nothing would cost."""
    _draw_values(axes, rows, "loss")
    if validation := _points(rows, "val", "loss"):
        axes.plot(*validation, color=colour_of(0), linewidth=1.6, linestyle="--", marker="o", markersize=3)
    if chance := _points(rows, "train", "chance_loss"):
        axes.plot(*chance, color=NEUTRAL, linewidth=1.2, linestyle=":")
    used = {line.get_linestyle() for line in axes.lines}
    meanings = {"-": "training", "--": "val", ":": "chance"}
    entries = [{"color": NEUTRAL, "linestyle": style, "label": meanings[style]} for style in meanings if style in used]
    if len(entries) > 1:
        explain_styles(axes, entries, frameon=False, fontsize=9)


def _recalls(rows: Sequence[Row]) -> list[tuple[str, int, str]]:
    """The recalls that a run measured, as direction, k and name: text to image first, small k first."""
    names = {name for row in rows if row["kind"] == "val" for name in row}
    return sorted((found["direction"], int(found["k"]), name) for name in names if (found := _RECALL.search(name)))


def _draw_recalls(axes: Any, rows: Sequence[Row]) -> None:
    """The recalls, a colour for each k, a line for each direction."""
    shown = _recalls(rows)[:MOST_RECALLS]
    ks = sorted({k for _, k, _ in shown})
    for direction, k, name in shown:
        style = {"color": colour_of(ks.index(k)), "linestyle": "-" if direction == "image" else "--", "linewidth": 1.6}
        points = _points(rows, "val", name) or ([], [])
        axes.plot(*points, **style, marker="o", markersize=3, label=f"R@{k} {_DIRECTIONS[direction]}")
    axes.set_ylim(0, max(0.01, 1.3 * axes.dataLim.y1) if axes.lines else 1)  # room for the legend
    decimals = 1 if axes.get_ylim()[1] < 0.25 else 0  # ticks lie at halves of a percent there
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.{decimals}%}" if rate <= 1 else "")
    if shown:
        axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper left")


def _summarise(rows: Sequence[Row]) -> list[str]:
    """Last loss, best recalls (R@10, or of the largest k) and alarms, in words."""
    lines = []
    if points := _points(rows, "train", "loss"):
        steps, values = points
        tail = values[-max(1, round(len(values) * SMOOTHED_FRACTION)) :]
        lines.append(f"loss {sum(tail) / len(tail):.3f} at step {steps[-1]:,}")
    ks = {k for _, k, _ in _recalls(rows)}
    main = 10 if 10 in ks else max(ks, default=0)
    for direction, k, name in _recalls(rows):
        if k == main and (measured := _points(rows, "val", name)):
            value, step = max(zip(measured[1], measured[0], strict=True), key=lambda pair: pair[0])
            lines.append(f"best R@{k} {_DIRECTIONS[direction]} {value:.1%} at step {step:,}")
    alarms = [row for row in rows if row["kind"] == "alarm"]
    lines += [f"alarm at step {row['step']:,}: {row.get('alarm', 'unnamed')}" for row in alarms[:MOST_ALARMS]]
    if len(alarms) > MOST_ALARMS:
        lines.append(f"and {len(alarms) - MOST_ALARMS} more alarms")
    return lines
