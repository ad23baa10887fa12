"""Models of the study: found where they were finished, trained small where they aren't."""

import json

import pytest

pytest.importorskip("torch")

from sightline.errors import InputError
from sightline.lab.experiments.notebooks import (
    STUDY_MODELS,
    STUDY_VARIABLE,
    find_study_model,
    is_finished,
    study_folder,
    train_small,
)
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


def test_other_data_takes_the_recipe_for_it_and_keeps_the_seed(tmp_path):
    run = train_small("scenes-1", tmp_path / "run", data="scenes:3", smoke=True)
    values = json.loads((run / "run.json").read_text())
    assert (values["recipe"], values["data"], values["seed"]) == ("flickr8k-scratch", "scenes:3", 1)


def test_unknown_names_and_missing_folders_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="it has scenes-0, scenes-1"):
        find_study_model("scenes-9")
    with pytest.raises(InputError, match="no model"):
        train_small("scenes-9", tmp_path / "run")
    monkeypatch.setenv(STUDY_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no folder"):
        study_folder()
