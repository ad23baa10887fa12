"""`scripts/study.py`: which commands it runs, what it skips, and how it goes on after a stop."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "study.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("study_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study(script, tmp_path):
    return script.Study(output=tmp_path / "study", smoke=True)


def python(code):
    return (sys.executable, "-c", code)


def test_the_parts_come_in_the_order_in_which_they_need_each_other(study):
    names = [step.name for step in study.steps()]
    assert names[:6] == ["scenes-0", "scenes-1", "scenes-vit-0", "sweep-rates", "sweep-updates", "sweep-data"]
    assert names[6:10] == ["report-rates", "report-updates", "report-data", "report-models"]
    assert names[10:13] == ["flow", "generated", "generated-flow"]
    assert names[-1] == "notebooks"
    assert sum(name.startswith("pointing-") for name in names) == 4


def test_sweeps_have_three_seeds_and_their_batches_make_equal_updates(script, tmp_path):
    study = script.Study(output=tmp_path / "study", smoke=False)
    words = {step.name: step.command for step in study.steps() if step.name.startswith("sweep-")}
    assert all(command[-1] == "seed=0,1,2" for command in words.values())
    settings = {
        name: dict(pair.split("=") for pair in command if pair.startswith(("samples_seen", "batch_size=")))
        for name, command in words.items()
    }
    large = int(settings["sweep-rates"]["batch_size"].split(",")[-1])
    few = settings["sweep-updates"]
    updates = int(settings["sweep-rates"]["samples_seen"]) / large
    assert int(few["samples_seen"]) / int(few["batch_size"]) == updates


def test_a_begun_run_is_gone_on_with_and_gets_no_settings(script, study):
    first = next(step for step in study.steps() if step.name == "scenes-vit-0")
    assert "--set" in first.command
    assert "--smoke" in first.command
    run = study.output / "scenes-vit-0"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    again = next(step for step in study.steps() if step.name == "scenes-vit-0")
    assert again.command[-1] == "--resume"
    assert not {"--set", "--smoke", "lr=1e-3"} & set(again.command)
    assert str(run) in again.command


def test_a_begun_flow_is_gone_on_with(study):
    def part():
        return next(step for step in study.steps() if step.name == "flow")

    assert {"scenes-flow", "--init", "--smoke"} <= set(part().command)
    flow = study.output / "flow"
    (flow / "checkpoints" / "step-2").mkdir(parents=True)
    (flow / "flow.json").write_text(json.dumps({"settings": {"steps": 4}, "weights_hash": ""}))
    assert "--resume" in part().command
    assert not {"scenes-flow", "--smoke"} & set(part().command)
    assert not part().is_done()
    (flow / "checkpoints" / "step-4").mkdir()
    assert part().is_done()


def test_what_is_done_is_not_run_again(script, study, capfd):
    step = script.Step(name="part", command=python("raise SystemExit(7)"), is_done=lambda: True)
    assert script.run_step(step, study) == 0
    assert "part: done before" in capfd.readouterr().err


def test_output_that_is_kept_appears_only_when_it_is_whole(script, study):
    study.output.mkdir(parents=True)
    place = study.output / "part.json"
    broken = script.Step(name="part", command=python("print('{'); raise SystemExit(3)"), place=place, writes_json=True)
    assert script.run_step(broken, study) == 3
    assert list(study.output.iterdir()) == []
    whole = script.Step(name="part", command=python("print('{}')"), place=place, writes_json=True)
    assert script.run_step(whole, study) == 0
    assert json.loads(place.read_text()) == {}


def test_a_folder_of_a_stopped_part_is_made_anew_and_moved_when_it_is_whole(script, study):
    study.output.mkdir(parents=True)
    place, made = study.output / "generated", study.output / "generated.partial"
    made.mkdir()
    (made / "half").touch()
    code = f"import pathlib; p = pathlib.Path({str(made)!r}); p.mkdir(); (p / 'whole').touch()"
    step = script.Step(name="generated", command=python(code), is_done=place.is_dir, made=made, place=place)
    assert script.run_step(step, study) == 0
    assert [path.name for path in place.iterdir()] == ["whole"]
    assert not made.exists()
    assert step.is_done()


def test_commands_find_the_study_and_its_cache(script, study, tmp_path):
    study.output.mkdir(parents=True)
    place = tmp_path / "seen.json"
    code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('SIGHTLINE_')}))"
    step = script.Step(name="part", command=python(code), place=place, writes_json=True)
    assert script.run_step(step, study) == 0
    seen = json.loads(place.read_text())
    assert seen["SIGHTLINE_STUDY"] == str(study.output)
    assert seen["SIGHTLINE_SMOKE"] == "1"
    assert seen["SIGHTLINE_CACHE"].startswith(str(study.output))


def test_a_failing_part_ends_the_study_and_says_how_to_go_on(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "run_step", lambda step, study: 5 if step.name == "scenes-1" else 0)
    assert script.main(["--smoke", "--output", str(tmp_path / "study")]) == 1
    assert "scenes-1 failed. The same command goes on from here." in capsys.readouterr().err


def test_smoke_and_full_runs_never_share_a_folder(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "run_step", lambda step, study: 0)
    assert script.main(["--smoke", "--output", str(tmp_path / "study")]) == 0
    assert script.main(["--output", str(tmp_path / "study")]) == 1
    assert "holds a smoke run" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert script.main(["--output", str(tmp_path / "file")]) == 1
    assert "is a file" in capsys.readouterr().err


def test_parts_are_chosen_by_name(script, tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(script, "run_step", lambda step, study: ran.append(step.name) or 0)
    output = ["--smoke", "--output", str(tmp_path / "study")]
    assert script.main([*output, "--only", "report-data", "--only", "sweep-data"]) == 0
    assert ran == ["sweep-data", "report-data"]
    ran.clear()
    assert script.main([*output, "--without", "notebooks"]) == 0
    assert ran[-1].startswith("pointing-")
    with pytest.raises(SystemExit) as exited:
        script.main([*output, "--only", "raport"])
    assert exited.value.code == 2
    assert "there are scenes-0, scenes-1" in capsys.readouterr().err


def test_after_a_stop_the_command_is_given_time_to_keep_what_it_has(tmp_path):
    started, kept = tmp_path / "started", tmp_path / "kept"
    worker = (
        "import pathlib, signal, sys, time\n"
        f"def stop(*_): pathlib.Path({str(kept)!r}).touch(); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"pathlib.Path({str(started)!r}).touch()\n"
        "time.sleep(300)\n"
    )
    parent = (
        "import importlib.util, pathlib, sys\n"
        f"spec = importlib.util.spec_from_file_location('study_script', {str(SCRIPT)!r})\n"
        "module = importlib.util.module_from_spec(spec); sys.modules[spec.name] = module\n"
        "spec.loader.exec_module(module)\n"
        f"study = module.Study(output=pathlib.Path({str(tmp_path)!r}), smoke=True)\n"
        f"step = module.Step(name='part', command=(sys.executable, '-c', {worker!r}))\n"
        "sys.exit(module.run_step(step, study))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.DEVNULL, env=dict(os.environ))
    deadline = time.monotonic() + 240
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=240) == 130
    assert kept.exists()


@pytest.mark.slow
def test_the_whole_study_runs_in_smoke_mode_and_a_second_time_skips_what_is_done(tmp_path):
    for package in ("torch", "optuna", "matplotlib"):
        pytest.importorskip(package)
    command = [sys.executable, str(SCRIPT), "--smoke", "--output", str(tmp_path / "study"), "--without", "notebooks"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    names = {path.name for path in (tmp_path / "study").iterdir()}
    assert {
        "scenes-0",
        "scenes-1",
        "scenes-vit-0",
        "sweep-rates",
        "sweep-updates",
        "sweep-data",
        "report-rates.html",
        "report-models.html",
        "flow",
        "generated",
    } <= names
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("done before") == 13
