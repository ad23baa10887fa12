import json
import os

import pytest

pytest.importorskip("fastapi")

from sightline.faces.service.runs import _MAX_TRAIN_ROWS, find_runs, thin
from sightline.lab.training.log import RunLog
from web_world import open_app


def write_run(folder, *, steps=4, epochs=2.0, at_s=1_700_000_000, **config):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"recipe": "test", "epochs": epochs, **config}))
    with RunLog(folder, tensorboard=False) as run_log:
        run_log.write("val", 0, {"mean_recall": 0.1})
        for step in range(1, steps + 1):
            run_log.write("train", step, {"epoch": step / 10, "loss": 4.0 - step})
        run_log.write("val", steps, {"mean_recall": 0.5, "text_retrieval_recall@1": 0.25})
        run_log.write("alarm", steps, {"alarm": "stuck", "message": "loss is stuck"})
    for name in ("run.json", "log.jsonl"):
        os.utime(folder / name, (at_s, at_s))
    return folder


@pytest.fixture
def open_runs(tmp_path):
    def open_(runs):
        return open_app(tmp_path / "library", model="starter", runs=runs)

    return open_


def test_runs_are_listed_the_newest_first_with_their_latest_figures(tmp_path, open_runs):
    runs = tmp_path / "runs"
    write_run(runs / "old")
    write_run(runs / "group" / "new", steps=7, at_s=1_800_000_000)
    (runs / "no run").mkdir()
    (runs / "link").symlink_to(runs / "old")
    write_run(runs / ".hidden")
    with open_runs(runs) as client:
        new, old = client.get("/api/runs").json()["runs"]
        assert (new["name"], old["name"]) == ("group/new", "old")
        assert new["modified_at"] == "2027-01-15T08:00:00+00:00"
        assert (new["step"], new["steps"]) == (7, 20)  # 2 epochs of 10 steps
        assert new["metrics"] == {"mean_recall": 0.5, "text_retrieval_recall@1": 0.25}


def test_progress_of_a_run_given_in_samples_and_its_end_are_told(tmp_path, open_runs):
    run = write_run(tmp_path / "runs" / "samples", samples_seen=1000, batch_size=64)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "kind": "val", "loss": 2.5}\n')
    with open_runs(tmp_path / "runs") as client:
        (shown,) = client.get("/api/runs").json()["runs"]
        assert (shown["steps"], shown["ended"], shown["metrics"]["val_loss"]) == (16, False, 2.5)
        (run / "result.json").write_text("{}")
        assert client.get("/api/runs/samples").json()["ended"] is True


def test_a_run_shows_its_settings_and_its_log_and_is_followed_live(tmp_path, open_runs):
    run = write_run(tmp_path / "runs" / "group" / "mine")
    with open_runs(tmp_path / "runs") as client:
        shown = client.get("/api/runs/group/mine").json()
        assert shown["config"] == {"recipe": "test", "epochs": 2.0}
        assert [row["kind"] for row in shown["rows"]] == ["val", *["train"] * 4, "val", "alarm"]
        assert shown["next"] == 7
        with (run / "log.jsonl").open("a") as log:
            log.write('{"step": 5, "kind": "train", "epoch": 0.5, "loss": NaN}\n{"step": 6, "ki')
        later = client.get("/api/runs/group/mine", params={"after": shown["next"]}).json()
        assert later["rows"] == [{"step": 5, "kind": "train", "epoch": 0.5, "loss": None}]
        assert (later["step"], later["next"]) == (5, 8)


def test_the_folder_itself_may_be_a_run_that_has_not_begun(tmp_path, open_runs):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text("{}")
    with open_runs(tmp_path / "mine") as client:
        (run,) = client.get("/api/runs").json()["runs"]
        assert (run["name"], run["step"], run["steps"], run["metrics"]) == ("mine", None, None, {})
        assert client.get("/api/runs/mine").json()["rows"] == []


@pytest.mark.parametrize("name", ["none", "../mine", "..%2Fmine", "%2Fetc", "mine/checkpoints", "%00"])
def test_nothing_but_runs_is_shown(tmp_path, open_runs, name):
    write_run(tmp_path / "mine")
    (tmp_path / "runs").mkdir()
    with open_runs(tmp_path / "runs") as client:
        assert client.get(f"/api/runs/{name}").status_code == 404
        assert client.get("/api/runs").json() == {"runs": []}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", "[" * 100_000),
        ("run.json", '{"a": "' + "x" * 2**20 + '"}'),
        ("log.jsonl", "nonsense\n{}\n"),
    ],
)
def test_a_broken_run_is_listed_without_figures_and_says_what_is_wrong(tmp_path, open_runs, file, text):
    run = write_run(tmp_path / "runs" / "mine")
    (run / file).write_text(text)
    with open_runs(tmp_path / "runs") as client:
        (listed,) = client.get("/api/runs").json()["runs"]
        assert (listed["name"], listed["step"]) == ("mine", None)
        refused = client.get("/api/runs/mine")
        assert refused.status_code == 422
        assert file in refused.json()["detail"]


def test_strange_settings_and_numbers_do_no_harm(tmp_path, open_runs):
    run = write_run(tmp_path / "runs" / "mine")
    (run / "run.json").write_text('{"epochs": "many", "lr": Infinity}')
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "kind": "train", "epoch": 0}\n{"step": 9, "kind": "val", "x": 1e999, "y": [1e999]}\n')
    with open_runs(tmp_path / "runs") as client:
        shown = client.get("/api/runs/mine").json()
        assert (shown["steps"], shown["config"]["lr"]) == (None, None)
        assert shown["rows"][-1] == {"step": 9, "kind": "val", "x": None, "y": [None]}


def test_long_logs_are_thinned_but_keep_what_is_rare():
    rows = [{"step": step, "kind": "train"} for step in range(50_000)]
    rows[25_000:25_000] = [{"step": 25_000, "kind": "val"}]
    thinned = thin(rows)
    assert len(thinned) <= _MAX_TRAIN_ROWS + 2
    assert {"step": 25_000, "kind": "val"} in thinned
    assert (thinned[0]["step"], thinned[-1]["step"]) == (0, 49_999)
    assert thin(rows[:10]) == rows[:10]


def test_a_folder_that_can_not_be_read_holds_no_run(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr("pathlib.Path.iterdir", lambda self: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert find_runs(tmp_path) == {}


def test_without_a_folder_of_runs_there_is_no_page_of_them(open_runs):
    with open_runs(None) as client:
        for address in ("/api/runs", "/api/runs/mine"):
            refused = client.get(address)
            assert (refused.status_code, refused.json()["type"]) == (404, "/problems/no-runs")
        assert "train" not in client.get("/api/stats").json()["pages"]
