"""The report on a folder of runs: its parts and figures.

Covers: sightline.lab.experiments.figures_runs,
sightline.lab.experiments.report_parts,
sightline.lab.experiments.report_space.
"""

import base64
import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from click.testing import CliRunner
from PIL import Image

from experiment_runs import GRID, make_run, make_sweep
from sightline.errors import InputError
from sightline.faces.cli.main import sightline
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.base import FileImage
from sightline.lab.experiments.report import make_report, write_report
from sightline.lab.experiments.report_parts import format_html, format_markdown, write_report_files
from sightline.lab.experiments.report_space import ValImages, describe_space
from sightline.lab.experiments.results import Study
from sightline.lab.training.log import RunLog
from sightline.lab.training.run_folder import PROBE_BEST_FILE, PROBE_START_FILE, Probe, write_probe


def make_rows(run):
    rows = []
    for step in range(0, 101, 10):
        if step:
            values = {"loss": 4 - step / 50, "chance_loss": 4.2, "scale": 20.0 + step / 10, "gradient_norm": 1.0}
            rows.append({"step": step, "kind": "train", **values})
        if step % 50 == 0:
            rows.append(
                {"step": step, "kind": "val", **{name: value * step / 100 for name, value in run.metrics.items()}}
            )
    return rows


def with_rows(runs):
    return [replace(run, rows=make_rows(run)) for run in runs]


def make_probe(step, rng, *, ids, texts):
    """Texts that lie near their pictures the later the step."""
    image_ND = rng.standard_normal((len(ids), 8)).astype(np.float32)
    text_ND = rng.standard_normal((len(ids), 8)).astype(np.float32) + step * image_ND
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (image_ND, text_ND)]
    return Probe(image_ND=unit[0], text_ND=unit[1], ids=ids, texts=texts, step=step, temperature=20.0 + step)


@pytest.fixture
def probed_run(tmp_path, rng):
    """A run with vectors of scenes before and after."""
    run = replace(make_run("probed", base=["val_limit=12"], value=0.4), path=tmp_path / "probed")
    run.path.mkdir()
    pairs = list(load_dataset("scenes:0", split="val", limit=12))
    ids, texts = tuple(pair.id for pair in pairs), tuple(pair.captions[0] for pair in pairs)
    write_probe(make_probe(0, rng, ids=ids, texts=texts), run.path / PROBE_START_FILE)
    write_probe(make_probe(3, rng, ids=ids, texts=texts), run.path / PROBE_BEST_FILE)
    return replace(run, rows=make_rows(run))


@pytest.fixture(scope="module")
def sweep_report():
    """The report on a whole grid with everything drawn: one for all that look at it."""
    rng = np.random.default_rng(0)
    return make_report(with_rows(make_sweep(GRID, lambda **_: 0.3 + 0.02 * rng.standard_normal())))


@pytest.fixture
def undrawn(monkeypatch):
    """Figures without content, where a test looks at the words."""
    for module in ("figures_runs", "report_space"):
        monkeypatch.setattr(f"sightline.lab.experiments.{module}.draw_figure", lambda draw, height_in: b"")


def titles(report):
    return [section.title for section in report.sections]


def plots(report):
    return {plot.name: plot for section in report.sections for plot in section.plots}


class _Page(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.open, self.images, self.texts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "iframe", "object", "svg")
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        elif tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_sweep_has_every_part_in_one_page_that_loads_nothing(sweep_report):
    report = sweep_report
    assert titles(report) == [
        "Results",
        "Settings",
        "Interactions",
        "All runs at once",
        "Data",
        "Curves",
        "What the model sees",
        "Compute",
    ]
    assert list(plots(report)) == ["finals", "effects", "interactions", "parallel", "scaling", "curves", "compute"]
    html = format_html(report)
    page = _Page(html)
    assert page.open == []
    assert len(page.images) == 7
    assert "default-src 'none'; img-src data:" in html
    assert not re.search(r"url\(|@import|src=\"http|href=", html)
    for source in page.images:
        png = base64.b64decode(source.removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(png)).width == 1080
    for sentence in report.summary:
        assert sentence in " ".join(page.texts)


def test_nothing_of_a_figure_is_cut_off(sweep_report):
    """The outermost pixels are white: constrained layout keeps texts inside."""
    for name, plot in plots(sweep_report).items():
        rgb = np.asarray(Image.open(io.BytesIO(plot.png)).convert("RGB"))
        edges = [rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]
        assert all((edge == 255).all() for edge in edges), name


def test_vectors_before_and_after_are_shown_with_images(probed_run):
    report = make_report([probed_run])
    assert list(plots(report)) == ["curves", "similarities", "samples", "space"]
    section = next(section for section in report.sections if section.title == "Modality gap and temperature")
    (row,) = section.tables[0].rows
    assert row[0] == "probed"
    assert row[-1] == "20.0 -> 23.0"
    assert "the logit scale came to 23.0 (from 20.0)." in report.summary[-1]
    before, after = (float(cell) for cell in row[2].split(" -> "))
    assert after > before + 0.5


@pytest.mark.usefixtures("undrawn")
def test_without_the_val_images_the_rest_is_shown_with_a_note(probed_run):
    moved = replace(probed_run, config=probed_run.config.changed(["val_data=folder:/nowhere/at/all"]))
    report = make_report([moved])
    assert "samples" not in plots(report)
    assert {"similarities", "space"} <= set(plots(report))
    assert any(
        "Its pictures aren't shown: /nowhere/at/all doesn't exist" in section.note for section in report.sections
    )


def test_other_pairs_than_those_of_the_vectors_are_not_shown(probed_run):
    other = ValImages.of(probed_run.config.changed(["val_data=scenes:7"]), probed_run.probe("best"))
    assert other.missing == "scenes:7 holds other pairs now than when the run was measured."
    assert ValImages.of(probed_run.config, probed_run.probe("best")).missing is None


def test_an_image_that_cannot_be_read_is_grey(probed_run):
    images = ValImages.of(probed_run.config, probed_run.probe("best"))
    first = probed_run.probe("best").ids[0]
    assert images.read(first).std() > 1
    broken = replace(images.pairs[first], image=FileImage(path=probed_run.path / "nothing.png"))
    assert ValImages(pairs={first: broken}).read(first).std() == 0


@pytest.mark.usefixtures("undrawn")
def test_runs_without_probes_say_that_there_are_none():
    section = make_report([make_run()]).sections[1]
    assert section.title == "What the model sees"
    assert "No compared run kept vectors" in section.note


@pytest.mark.usefixtures("undrawn")
def test_a_run_with_a_best_probe_only_is_shown_after_training(probed_run):
    (probed_run.path / PROBE_START_FILE).unlink()
    sections, sentences = describe_space(Study.of([probed_run]))
    assert [plot.name for plot in sections[0].plots] == ["similarities", "samples", "space"]
    assert sections[1].tables[0].rows[0][-1] == "23.0"
    assert "before training" not in sentences[0]


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_probe_is_named(probed_run):
    (probed_run.path / PROBE_BEST_FILE).write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match=r"probe-best\.npz is damaged"):
        make_report([probed_run])


@pytest.mark.usefixtures("undrawn")
def test_the_lead_says_how_many_are_compared():
    failed = make_run("failed", state="failed", metrics={})
    runs = [make_run("one"), make_run("other", base=["lr=1e-4"])]
    assert make_report(runs[:1]).lead == "1 run, measured by mean_recall."
    assert make_report(runs).lead == "2 runs, all of them compared by mean_recall."
    assert make_report([*runs, failed]).lead == "3 runs, 2 of them compared by mean_recall."


@pytest.mark.usefixtures("undrawn")
def test_failed_runs_only_are_a_report_of_reasons():
    report = make_report([make_run(state="failed", reason="no room on the disk", metrics={})])
    assert titles(report) == ["Compute", "Left out"]
    assert report.sections[1].tables[0].rows[0][-1] == "no room on the disk"


def test_many_runs_of_a_search_stay_readable(rng):
    runs = with_rows(
        [
            make_run(f"{row:03d}", settings={"lr": float(lr), "loss": loss}, value=0.3 + 0.01 * rng.standard_normal())
            for row, (lr, loss) in enumerate(
                zip(10 ** rng.uniform(-4, -2, 40), ["softmax", "sigmoid"] * 20, strict=True)
            )
        ]
    )
    report = make_report(runs)
    assert "The best 30 of 40 combinations." in plots(report)["finals"].caption
    height = Image.open(io.BytesIO(plots(report)["finals"].png)).height
    assert height < 1400


def test_names_from_outside_are_shown_and_not_obeyed(tmp_path):
    bad = "<img src=x onerror=alert(1)> $\\frac$ [a](b) | 好 \udce9\x1b"
    runs = [replace(make_run(), name=f"{bad}{number}", reason=bad, state=state) for number, state in enumerate(STATES)]
    report = make_report(with_rows(runs))
    html, markdown = format_html(report), format_markdown(report, images="a b")
    assert write_report_files(report, tmp_path / "r.html").markdown.stat().st_size > 0
    assert "<img src=x" not in html
    assert not re.search(r"(?<!\\)<img src=x", markdown)
    assert "&lt;img src=x" in html
    assert r"\<img src=x" in markdown
    assert r"\| 好" in markdown


STATES = ("complete", "complete", "failed")


def test_page_markdown_and_images_lie_side_by_side(tmp_path, sweep_report):
    report, files = sweep_report, write_report_files(sweep_report, tmp_path / "sub folder" / "my report.html")
    markdown = files.markdown.read_text()
    assert files.html.read_text() == format_html(report)
    assert files.markdown == tmp_path / "sub folder" / "my report.md"
    for name in plots(report):
        assert f"](my%20report-files/{name}.png)" in markdown
        assert (tmp_path / "sub folder" / "my report-files" / f"{name}.png").is_file()
    write_report([make_run()], files.html)  # a second one takes its place
    assert "18 runs" not in files.markdown.read_text()


def test_places_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"--output must end in \.html"):
        write_report([make_run()], tmp_path / "report.pdf")
    (tmp_path / "report-files").write_text("in the way")
    with pytest.raises(InputError, match="report-files can't be written"):
        write_report([make_run()], tmp_path / "report.html")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"sightline-images\[train\]"):
        make_report(make_sweep({"lr": (1e-3, 2e-3)}, lambda **_: 0.3))


@pytest.fixture
def run_folder(tmp_path):
    """A run's folder as the trainer leaves it, without its model."""
    folder = tmp_path / "runs" / "one"
    run = make_run(value=0.4)
    with RunLog(folder, tensorboard=False) as run_log:
        for row in make_rows(run):
            run_log.write(
                row["kind"], row["step"], {key: value for key, value in row.items() if key not in ("kind", "step")}
            )
    (folder / "run.json").write_text(json.dumps(run.config.to_dict()))
    result: dict[str, Any] = {"steps": 100, "total_steps": 100, "stopped": None, "interrupted": False, "best_step": 100}
    result |= {"metrics": {"mean_recall": 0.4}, "images_per_s": 99.0, "took_s": 64.6, "images_seen": 6400}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def call(*words):
    result = CliRunner().invoke(sightline, ["report", *(str(word) for word in words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_writes_and_tells(run_folder, tmp_path):
    result = call(run_folder, "--output", tmp_path / "r.html")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'r.html'}\n"
    assert "The run one reached mean_recall 40.0% on its val pairs." in result.stderr
    assert (tmp_path / "r-files" / "curves.png").is_file()


@pytest.mark.usefixtures("undrawn")
def test_the_command_gives_json(run_folder, tmp_path):
    values = json.loads(call(run_folder, "-o", tmp_path / "r.html", "--json").stdout)
    assert values["html"] == str(tmp_path / "r.html")
    assert values["settings"] == []
    assert values["summary"][0] == "The run one reached mean_recall 40.0% on its val pairs."


def test_the_command_refuses_what_is_no_run_and_unknown_metrics(run_folder, tmp_path):
    with pytest.raises(InputError, match="neither a run"):
        call(tmp_path, "-o", tmp_path / "r.html")
    with pytest.raises(InputError, match=r"No run measured 'recal'.*The runs have mean_recall"):
        call(run_folder, "-o", tmp_path / "r.html", "--metric", "recal")
    assert not (tmp_path / "r.html").exists()
    assert call().exit_code == 2
