import pytest

pytest.importorskip("fastapi")

import sightline as sl
from sightline.core.types import ModelIdentity
from web_world import copy_model, index, open_app, write_photos


def models_of(client):
    return {model["name"]: model for model in client.get("/api/models").json()["models"]}


def test_models_of_the_library_come_first_and_the_known_ones_after(tmp_path):
    index(tmp_path / "library", write_photos(tmp_path / "photos"))
    with open_app(tmp_path / "library") as client:
        answer = client.get("/api/models").json()
        assert answer["default"] == "starter"
        names = [model["name"] for model in answer["models"]]
        assert names[0] == "starter"
        assert {"starter-captioner", "ViT-B-32/openai", "blip-base"} < set(names)
        assert len(names) == len(set(names))
        starter, other = answer["models"][0], models_of(client)["ViT-B-32/openai"]
        assert (starter["kind"], starter["vectors"], starter["available"], starter["dim"]) == ("encoder", 3, True, 384)
        assert starter["figures"]["int8"]
        assert (other["vectors"], other["available"]) == (0, False)
        assert models_of(client)["blip-base"]["kind"] == "captioner"


def test_searches_use_another_model_of_the_library_when_told_to_and_the_old_one_stays(tmp_path):
    photos = write_photos(tmp_path / "photos")
    library = index(tmp_path / "library", photos)
    other = copy_model(tmp_path)
    index(library, photos, model=other)
    with open_app(library) as client:
        assert client.get("/api/search", params={"q": "red"}).json()["model"] == "starter"
        changed = client.put("/api/models/default", json={"name": other})
        assert (changed.status_code, changed.json()["default"]) == (200, other)
        assert {name: model["vectors"] for name, model in models_of(client).items() if model["vectors"]} == {
            "starter": 3,
            other: 3,
        }
        assert client.get("/api/search", params={"q": "red"}).json()["model"] == other
    with open_app(library) as client:
        assert client.get("/api/models").json()["default"] == other


@pytest.mark.parametrize("name", ["ViT-B-32/openai", "nonsense", "dir:/etc", "hf:someone/something", "../..", "\0"])
def test_a_model_without_vectors_can_not_be_the_default(tmp_path, name):
    index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    with open_app(tmp_path / "library") as client:
        refused = client.put("/api/models/default", json={"name": name})
        assert (refused.status_code, "these can: starter" in refused.json()["detail"]) == (409, True)
        assert client.get("/api/models").json()["default"] == "starter"


def test_models_whose_files_are_gone_are_listed_but_can_not_be_used(tmp_path):
    library = index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    gone = {"dir:/somewhere/else": False, "hf:someone/something": False}
    with sl.Library.open(library) as opened:
        for name in gone:
            opened.store.add_model(ModelIdentity(name=name, weights_hash="0", preprocessing_version=1, dim=8))
    with open_app(library) as client:
        assert {name: models_of(client)[name]["available"] for name in gone} == gone
        assert client.put("/api/models/default", json={"name": "dir:/somewhere/else"}).status_code == 409
        assert client.get("/api/models").json()["default"] == "starter"
