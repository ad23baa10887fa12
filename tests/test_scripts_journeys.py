"""`scripts/journeys.py`: a journey is made in a process of its own, and its line says what it entered."""

import re
import subprocess
import sys
from pathlib import Path

import sightline

SCRIPT = Path(__file__).parents[1] / "scripts" / "journeys.py"


def run(*words):
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)


def test_loading_the_encoder_tells_its_files_and_changes():
    ended = run("encoder", "--list")
    assert ended.returncode == 0, ended.stderr
    line, *listed = ended.stdout.splitlines()
    told = re.fullmatch(r"encoder +(\d+) files +([\d,]+) changes  Load the starter encoder\.", line)
    files, changes = (int(number.replace(",", "")) for number in told.groups())
    assert files == len(listed) > 1
    entered = {name: int(times.replace(",", "")) for times, name in map(str.split, listed)}
    root = Path(sightline.__file__).parent
    assert all((root / name).is_file() for name in entered)
    assert files - 1 <= changes < sum(entered.values())
    assert any(name.startswith("core/models/") for name in entered)
    assert not any(name.startswith("faces/") for name in entered)


def test_an_unknown_journey_is_refused_with_those_that_there_are():
    ended = run("swim")
    assert ended.returncode == 2
    assert "there is no journey 'swim'; there are index, search, caption, encoder, train, web" in ended.stderr
