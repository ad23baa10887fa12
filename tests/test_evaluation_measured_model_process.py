"""A model in a process of its own: the starter, which is small and always there."""

import os
import signal
import sys
import types

import numpy as np
import pytest

from captioning_fakes import paint
from comparison_fakes import BrokenImage, FaultyImage
from sightline.core.models.loading import load_encoder
from sightline.errors import InputError, ModelError
from sightline.lab.evaluation.comparison_data import gather_images
from sightline.lab.evaluation.embedding import embed_images, embed_texts
from sightline.lab.evaluation.measured_model import ModelProcess


@pytest.fixture
def data(tmp_path):
    for colour in ("red", "green", "blue"):
        paint(tmp_path / "own" / f"{colour}.png", colour)
    return gather_images(str(tmp_path / "own"), queries=("red", "something blue"))


@pytest.fixture
def process():
    running = ModelProcess("starter", "auto")
    yield running
    running.close()


def test_the_other_side_loads_times_and_embeds(process, data):
    images = [pair.image for pair in data.dataset]
    facts = process.load(images, data.queries)
    assert (facts.dim, facts.precision, facts.input_px, facts.exported) == (384, "int8", 240, False)
    assert facts.runtime.startswith("onnx:")
    assert 23e6 < facts.disk_bytes < 26e6
    assert process.time_images(0.01) > 0
    assert process.time_texts(0.01) > 0
    added = process.added_bytes()
    assert added is None or 10e6 < added < 1e9
    seen = []
    embedded = process.embed_images(data.dataset, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    encoder = load_encoder("starter")
    np.testing.assert_allclose(embedded.image_BD, embed_images(encoder, data.dataset).image_BD, atol=1e-6)
    np.testing.assert_allclose(process.embed_texts(["red"]), embed_texts(encoder, ["red"]), atol=1e-6)
    assert process.embed_classes([["red"], ["blue"]], ["a {}", "{}"]).shape == (2, 384)


def test_errors_of_the_other_side_are_raised_here_and_a_process_that_ends_is_named(process, data, monkeypatch):
    with pytest.raises(InputError, match="isn't loaded"):
        process.time_images(0.01)
    with pytest.raises(InputError, match="can't be read as"):
        process.load([BrokenImage()], data.queries)
    with pytest.raises(ModelError, match=r"(?s)failed in its process:\n.*ZeroDivisionError") as caught:
        process.load([FaultyImage()], data.queries)
    assert "Traceback" in str(caught.value)
    with pytest.raises(ModelError, match="No module named"):
        process.load([_unknown_elsewhere(monkeypatch)], data.queries)
    os.kill(process._process.pid, signal.SIGKILL)
    with pytest.raises(ModelError, match="ended with exit code -9"):
        process.embed_texts(["red"])


def test_an_unknown_model_is_refused_as_anywhere():
    running = ModelProcess("stater", "auto")
    try:
        with pytest.raises(ModelError, match="Did you mean starter"):
            running.load([], ["red"])
    finally:
        running.close()
    assert not running._process.is_alive()


def _unknown_elsewhere(monkeypatch):
    """An object of a module that only this process has."""
    module = types.ModuleType("a_module_of_this_process_only")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.Unknown = type("Unknown", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    return module.Unknown()
