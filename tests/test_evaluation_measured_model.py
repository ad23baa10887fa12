import subprocess
import sys

import pytest

from sightline.lab.evaluation import measured_model
from sightline.lab.evaluation.measured_model import forget_peak, peak_resident_bytes, resident_bytes

MEGABYTE = 1_000_000


_GROW_AND_FORGET = """
import numpy as np
from sightline.lab.evaluation.measured_model import forget_peak, peak_resident_bytes, resident_bytes

MEGABYTE = 1_000_000
forget_peak()
before = resident_bytes()
block = np.ones(60 * MEGABYTE, np.uint8)
assert resident_bytes() - before > 40 * MEGABYTE
del block
assert peak_resident_bytes() - before > 40 * MEGABYTE
forget_peak()
assert peak_resident_bytes() - resident_bytes() < 10 * MEGABYTE, "the peak is still remembered"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is resident now")
def test_the_peak_is_remembered_until_it_is_forgotten():
    # A process of its own: what other tests left in this one (threads, models that are let go) moves by megabytes.
    subprocess.run([sys.executable, "-c", _GROW_AND_FORGET], check=True)


def test_without_proc_the_system_is_asked(monkeypatch, tmp_path):
    pytest.importorskip("resource")
    monkeypatch.setattr(measured_model, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(measured_model, "_CLEAR", tmp_path / "none" / "clear_refs")
    forget_peak()
    assert resident_bytes() == peak_resident_bytes() > MEGABYTE


def test_where_nobody_tells_it_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(measured_model, "_STATUS", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_resident_bytes() is None
