"""The lab's doors: each leads to its room's own function."""

import pytest

import sightline.lab.evaluation.comparison as comparison
from captioning_fakes import FakeCaptioner, FakeEncoder, paint
from evaluation_fakes import dataset, pair
from sightline import lab
from sightline.errors import InputError

COLOURS = dataset(pair("a", "red", "red"), pair("b", "green", "green"), pair("c", "blue", "blue"))
LABELLED = dataset(
    *(pair(name, name, label=label) for label, name in enumerate(("red", "green"))), class_names=(("red",), ("green",))
)
SWAPPED = dataset(pair("a", "red", "red", negatives=[("red", "blue", "attribute")]))


@pytest.mark.parametrize(
    ("measure", "data", "metric"),
    [
        ("retrieval", COLOURS, "text_retrieval_recall@1"),
        ("zeroshot", LABELLED, "acc1"),
        ("compose", SWAPPED, "compose_mean"),
    ],
)
def test_an_encoder_is_measured_by_name_of_the_measure(measure, data, metric):
    told = []
    result = lab.evaluate(FakeEncoder(), data, measure=measure, progress=lambda *where: told.append(where))
    assert result.metrics[metric] == 1.0
    assert told


def test_a_captioner_is_measured_by_its_captions():
    result = lab.evaluate(FakeCaptioner(), COLOURS, measure="captions")
    assert (result.n_images, "CIDEr" in result.metrics) == (3, True)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="no hard negatives"):
        lab.evaluate(FakeEncoder(), COLOURS, measure="compose")
    with pytest.raises(InputError, match="no measure 'beauty'"):
        lab.evaluate(FakeEncoder(), COLOURS, measure="beauty")


def test_models_are_compared_on_an_address_or_on_loaded_data(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(comparison, "compare_models", lambda models, data, **settings: asked.append((data, settings)))
    paint(tmp_path / "red.png", "red")
    lab.compare(["starter"], f"pictures:{tmp_path}", random=["ViT-B-32"])
    lab.compare(["starter"], "scenes:0")
    lab.compare(["starter"], asked[0][0])
    (album, settings), (scenes, _), (again, _) = asked
    assert (len(album.dataset), album.split, settings) == (1, None, {"random": ["ViT-B-32"]})
    assert (scenes.split, scenes.captioned) == ("val", True)
    assert again is album


def test_a_report_wants_folders_of_runs(tmp_path):
    with pytest.raises(InputError, match="run"):
        lab.report([str(tmp_path)], tmp_path / "report.html")
