"""Every test has a home of its own, no hub and no network; Ctrl-C reaches it and what it starts."""

import importlib.util
import os
import signal
import socket
from pathlib import Path

# One thread each for numpy and PyTorch, and for what tests start: with more, the workers and the servers of a machine
# of few cores wait for one another, which took most of the time of what trains. Before numpy reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from import_graph import find_import

os.environ["HF_HUB_OFFLINE"] = "1" if os.environ.get("SIGHTLINE_HUB_TESTS") != "1" else "0"

MISSING = {name for name in ("onnx", "torch", "transformers") if importlib.util.find_spec(name) is None}
"""Of the extra torch, those that aren't installed. A test file that can't be imported without them is left out."""

LEFT_OUT = {
    path.relative_to(Path(__file__).parent).as_posix(): package
    for path in sorted(Path(__file__).parent.rglob("test_*.py") if MISSING else ())
    if (package := find_import(path, MISSING))
}

collect_ignore = list(LEFT_OUT)

# `make test &`, nohup and some CIs have us ignore SIGINT, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

SETTINGS = ("SIGHTLINE_LIBRARY", "SIGHTLINE_CACHE", "SIGHTLINE_MAX_PIXELS", "SIGHTLINE_PRECISION")
"""Of the user's own shell, which no test sees."""

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_report_header():
    return [f"left out: {name}, which needs {package}" for name, package in LEFT_OUT.items()]


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in (*SETTINGS, "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def banks(tmp_path_factory):
    """The folder, of all workers, of what the starter makes of the captions' vocabulary: seconds of work, done once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "banks"
    folder.mkdir(exist_ok=True)
    return folder


def share_banks(cache, banks):
    """Have a cache keep the vectors of vocabularies where the others of this session keep theirs."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "banks").symlink_to(banks, target_is_directory=True)


@pytest.fixture
def kept_bank(own_home, banks):
    """A home whose captions by the starter don't begin with the whole vocabulary."""
    share_banks(Path.home() / ".cache" / "sightline", banks)


@pytest.fixture(autouse=True)
def no_network(request, monkeypatch):
    if request.node.get_closest_marker("hub"):
        return
    connect = socket.socket.connect

    def refuse(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "localhost", "::1")):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("hub") and os.environ.get("SIGHTLINE_HUB_TESTS") != "1":
            item.add_marker(pytest.mark.skip(reason="needs the hub: set SIGHTLINE_HUB_TESTS=1"))
        if item.get_closest_marker("shared") and not SHARED_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"needs the data sets at {SHARED_DATA}"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)
