import json

import pytest
from click.testing import CliRunner

import sightline.lab.experiments.sweep as sweep_module
from sightline.errors import InputError
from sightline.faces.cli.main import sightline
from sightline.lab.experiments.results import RunResult


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """`run_sweep` replaced: what it was asked, and the results it gives."""

    class Asked:
        results: list = []  # noqa: RUF012
        config = None

        def __call__(self, config, output, *, report, progress):
            self.config, self.output = config, output
            report("trial 0 (1 of 2): lr=0.001")
            progress(0, 2, "step 1/2")
            return self.results

    asked = Asked()
    asked.results = [
        RunResult(
            name="000-lr=0.001", path=tmp_path, config=None, settings={"lr": 1e-3}, metrics={"mean_recall": 0.25}
        ),
        RunResult(name="001-lr=0.01", path=tmp_path, config=None, settings={"lr": 1e-2}, state="failed", reason="NaN"),
        RunResult(name="002-lr=0.1", path=tmp_path, config=None, settings={"lr": 0.1}, metrics={"mean_recall": 0.5}),
    ]
    monkeypatch.setattr(sweep_module, "run_sweep", asked)
    return asked


def run(*args):
    return CliRunner().invoke(sightline, ["sweep", *args])


def test_all_settings_that_follow_grid_are_varied(asked, tmp_path):
    done = run(
        "scenes-sweep", "--output", str(tmp_path), "--grid", "lr=1e-3,1e-2", "batch_size=8,16", "--set", "flip=true",
        "--grid", "seed=0,1", "--data", "scenes:1", "--sampler", "grid", "--trials", "3", "--prune", "median",
        "--metric", "acc1", "--budget", "20m", "--smoke", "--extend", "--retry-failed", "--seed", "4",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    config = asked.config
    assert config.grid == ("lr=1e-3,1e-2", "batch_size=8,16", "seed=0,1")
    assert config.settings == ("flip=true", "data=scenes:1")
    assert (config.recipe, config.pruner, config.metric, config.budget_s) == ("scenes-sweep", "median", "acc1", 1200.0)
    assert (config.trials, config.smoke, config.extend, config.retry_failed, config.seed) == (3, True, True, True, 4)


def test_trials_are_printed_best_first_with_what_failed_at_the_end(asked, tmp_path):
    done = run("scenes-sweep", "--output", str(tmp_path), "--grid", "lr=1e-3,1e-2")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["trial", "002", "000", "001"]
    assert lines[3].endswith("failed    NaN")
    assert "1 of 3 trials failed" in done.stderr
    assert f"sightline report {tmp_path}" in done.stderr
    assert done.exit_code == 0


def test_json_is_an_object_for_each_trial(asked, tmp_path):
    done = run("scenes-sweep", "--output", str(tmp_path), "--grid", "lr=1e-3,1e-2", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["trial"], row["state"], row["value"]) for row in rows] == [
        ("002-lr=0.1", "complete", 0.5), ("000-lr=0.001", "complete", 0.25), ("001-lr=0.01", "failed", None),
    ]  # fmt: skip
    assert rows[0]["settings"] == {"lr": 0.1}


def test_the_exit_code_is_1_where_all_failed(asked, tmp_path):
    asked.results = asked.results[1:2]
    done = run("scenes-sweep", "--output", str(tmp_path), "--grid", "lr=1e-2")
    assert done.exit_code == 1
    assert "sightline report" not in done.stderr


def test_an_interruption_shows_what_there_is_and_ends_with_1(monkeypatch, tmp_path):
    def interrupted(config, output, **rest):
        output.mkdir()
        (output / "sweep.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_module, "run_sweep", interrupted)
    done = run("scenes-sweep", "--output", str(tmp_path / "sweep"), "--grid", "lr=1e-2")
    assert done.exit_code == 1
    assert "the same command again goes on" in done.stderr


@pytest.mark.parametrize("budget", ["soon", "0m", "-3m", "5 days"])
def test_what_is_no_duration_is_refused(asked, tmp_path, budget):
    done = run("scenes-sweep", "--output", str(tmp_path), "--grid", "lr=1", "--budget", budget)
    assert done.exit_code == 2
    assert "write 90s, 20m or 1.5h" in done.stderr


def test_a_setting_that_is_both_varied_and_set_is_refused(asked, tmp_path):
    done = run("scenes-sweep", "--output", str(tmp_path), "--grid", "lr=1,2", "--set", "lr=3")
    assert isinstance(done.exception, InputError)
