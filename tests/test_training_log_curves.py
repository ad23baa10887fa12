import math
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from sightline.errors import InputError, TrainingError
from sightline.lab.training import log as curves
from sightline.lab.training.log import COLOURS, RunLog, draw_curves


def make_rows(count=200, **changes):
    rows = []
    for step in range(1, count + 1):
        values = {
            "loss": 4 - step / count + 0.2 * math.sin(step * 1.7),
            "chance_loss": 4.2,
            "scale": 14 + step / 10,
            "learning_rate": 1e-3 * step / count,
            "gradient_norm": 1 + 0.5 * math.sin(step),
        }
        rows.append({"step": step, "kind": "train", **values, **changes})
        if step % 50 == 0:
            recalls = {f"{d}_retrieval_recall@{k}": k * step / 4000 for d in ("image", "text") for k in (1, 5, 10)}
            rows.append({"step": step, "kind": "val", "loss": 3.9, **recalls})
    return rows


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be saved, to look into them."""
    seen: list[Any] = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, target, **_: seen.append(figure))
    return seen


def axes_of(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def has_colour(path, colour):
    rgb = np.asarray(Image.open(path).convert("RGB"), dtype=int)
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return bool((abs(rgb - wanted).max(axis=2) < 8).any())


def test_a_run_is_drawn_from_its_folder_and_its_file(tmp_path):
    rows = make_rows()
    with RunLog(tmp_path / "run", tensorboard=False) as run_log:
        for row in rows:
            run_log.write(row["kind"], row["step"], {k: v for k, v in row.items() if k not in ("step", "kind")})
    draw_curves(str(tmp_path / "run" / "log.jsonl"), tmp_path / "1.png")
    assert (tmp_path / "1.png").is_file()
    draw_curves(tmp_path / "run", tmp_path / "0.png")
    with Image.open(tmp_path / "0.png") as image:
        assert image.format == "PNG"
        assert image.width >= 1200
    assert has_colour(tmp_path / "0.png", COLOURS[0])
    assert not has_colour(tmp_path / "0.png", COLOURS[3])


def test_every_panel_shows_its_values(tmp_path, figures):
    draw_curves(make_rows(), tmp_path / "curves.png", title="a run")
    panels = axes_of(figures[0])
    assert list(panels) == [
        "loss",
        "recall on validation pairs",
        "logit scale (1 / temperature)",
        "learning rate",
        "gradient norm",
        "a run",
    ]
    assert panels["learning rate"].lines[0].get_ydata()[-1] == pytest.approx(1e-3)
    assert panels["gradient norm"].get_yscale() == "log"
    assert len(panels["recall on validation pairs"].lines) == 6
    texts = panels["a run"].texts[0].get_text().splitlines()
    assert texts[1:] == [
        "best R@10 text to image 50.0% at step 200",
        "best R@10 image to text 50.0% at step 200",
    ]
    assert texts[0].endswith("at step 200")


def test_the_raw_loss_is_pale_behind_a_smooth_one(tmp_path, figures):
    draw_curves(make_rows(), tmp_path / "curves.png")
    raw, smooth = axes_of(figures[0])["loss"].lines[:2]
    assert (raw.get_alpha(), smooth.get_alpha()) == (0.25, None)
    assert raw.get_color() == smooth.get_color()
    roughness = [np.abs(np.diff(line.get_ydata(), 2)).mean() for line in (raw, smooth)]
    assert roughness[1] < 0.5 * roughness[0]
    assert raw.get_ydata().mean() == pytest.approx(smooth.get_ydata().mean(), abs=0.01)


def test_smoothing_keeps_a_straight_line_but_for_its_ends():
    assert curves.smooth([1.0, 2.0, 3.0, 4.0, 5.0], 3).tolist() == [1.5, 2.0, 3.0, 4.0, 4.5]


def test_one_spike_does_not_lift_the_curve_of_the_gradient(tmp_path, figures):
    rows = make_rows(gradient_norm=1.0)
    rows[100]["gradient_norm"] = 1000.0
    draw_curves(rows, tmp_path / "curves.png")
    assert max(axes_of(figures[0])["gradient norm"].lines[1].get_ydata()) < 10


def test_alarms_are_named_beside_the_curves(tmp_path, figures):
    rows = make_rows() + [{"step": step, "kind": "alarm", "alarm": "chance"} for step in range(10, 70, 10)]
    draw_curves(rows, tmp_path / "curves.png")
    texts = axes_of(figures[0])[""].texts[0].get_text().splitlines()
    assert texts[-2:] == ["alarm at step 40: chance", "and 2 more alarms"]


def test_what_was_not_logged_or_not_finite_is_left_out(tmp_path, figures):
    rows = [{"step": 1, "kind": "train", "loss": 4.0}, {"step": 2, "kind": "train", "loss": None}]
    draw_curves(rows, tmp_path / "curves.png")
    panels = axes_of(figures[0])
    assert list(panels["loss"].lines[0].get_xdata()) == [1]
    assert [text.get_text() for text in panels["gradient norm"].texts] == ["not logged"]


def test_a_gradient_of_nothing_is_drawn_on_a_plain_axis(tmp_path, figures):
    draw_curves(make_rows(gradient_norm=0.0), tmp_path / "curves.png")
    assert axes_of(figures[0])["gradient norm"].get_yscale() == "linear"


@pytest.mark.parametrize("source", [[], [{"step": 1, "kind": "alarm"}]])
def test_nothing_to_draw_is_an_input_error(tmp_path, source):
    with pytest.raises(InputError, match="nothing to draw"):
        draw_curves(source, tmp_path / "curves.png")


def test_an_old_image_stays_where_the_new_one_can_not_be_written(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    target = draw_curves(make_rows(), tmp_path / "curves.png")
    before = target.read_bytes()

    def break_off(figure, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", break_off)
    with pytest.raises(TrainingError, match="No space left on device"):
        draw_curves(make_rows(50), target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'sightline-images\[train\]'"):
        draw_curves(make_rows(), tmp_path / "curves.png")


def test_drawing_leaves_pyplot_alone(tmp_path):
    import subprocess

    code = (
        "import sys; from pathlib import Path; from sightline.lab.training.log import draw_curves; "
        f"draw_curves([{{'step': 1, 'kind': 'train', 'loss': 1.0}}], Path({str(tmp_path / 'x.png')!r})); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
