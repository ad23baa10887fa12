import subprocess
import sys

import pytest

from sightline.lab.data.locks import hold_lock, take_lock


def test_a_lock_is_had_once_and_again_when_it_was_closed(tmp_path):
    path = tmp_path / "lock"
    held = take_lock(path)
    assert held is not None
    assert take_lock(path) is None
    held.close()
    with hold_lock(path):
        assert take_lock(path) is None
    again = take_lock(path)
    again.close()


def test_the_lock_of_a_process_that_died_is_free(tmp_path):
    path = tmp_path / "lock"
    code = "import os, pathlib, sys; from sightline.lab.data.locks import take_lock; "
    code += "take_lock(pathlib.Path(sys.argv[1])); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, path], check=False)
    take_lock(path).close()


def test_a_lock_in_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        take_lock(tmp_path / "none" / "lock")
