"""Models of the study: found where they were finished, trained small where they aren't."""

import json

import pytest

pytest.importorskip("torch")

from claims import (
    STUDY_MODELS,
    STUDY_SWEEPS,
    STUDY_VARIABLE,
    SWEEP_IMAGES,
    find_study_model,
    is_finished,
    shrink_sweep,
    study_folder,
    train_small,
)

from sightline.errors import InputError
from sightline.lab.training.recipes import make_config


@pytest.fixture(autouse=True)
def no_study(monkeypatch):
    monkeypatch.delenv(STUDY_VARIABLE, raising=False)


def test_every_model_is_a_config_that_can_be_made():
    configs = {name: make_config("scenes-scratch", settings) for name, settings in STUDY_MODELS.items()}
    assert configs["scenes-0"].seed != configs["scenes-1"].seed
    assert configs["scenes-vit-0"].towers.architecture == "vit"


def test_a_model_is_found_only_once_it_is_finished(tmp_path, monkeypatch):
    assert study_folder() is None
    assert find_study_model("scenes-0") is None
    monkeypatch.setenv(STUDY_VARIABLE, str(tmp_path))
    assert find_study_model("scenes-0") is None
    run = train_small("scenes-0", tmp_path / "scenes-0", smoke=True)
    assert find_study_model("scenes-0") == run
    result = run / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "interrupted": True}))
    assert not is_finished(run)


def test_a_sweep_is_shrunk_to_its_ends_and_keeps_equal_updates():
    for smoke in (False, True):
        small = {name: shrink_sweep(config, smoke=smoke) for name, config in STUDY_SWEEPS.items()}
        assert small["sweep-rates"].grid == ("lr=1e-3,8e-3", "batch_size=32,128", "seed=0,2")
        images = {name: int(config.settings[0].removeprefix("samples_seen=")) for name, config in small.items()}
        assert images["sweep-rates"] == 4 * images["sweep-updates"] < SWEEP_IMAGES
        assert small["sweep-updates"].settings[1] == "batch_size=32"
        assert all(config.smoke == smoke for config in small.values())


def test_unknown_names_and_missing_folders_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="it has scenes-0, scenes-1"):
        find_study_model("scenes-9")
    with pytest.raises(InputError, match="no model"):
        train_small("scenes-9", tmp_path / "run")
    monkeypatch.setenv(STUDY_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no folder"):
        study_folder()
