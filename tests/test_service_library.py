"""Libraries that are open: their names, folders and models.

Covers: sightline.faces.web.routes.library.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

import sightline as sl
from sightline.core.types import ModelIdentity
from web_world import copy_model, index, open_app, write_photos


def test_libraries_are_listed_the_default_one_first(tmp_path):
    index(tmp_path / "b", write_photos(tmp_path / "photos"))
    with open_app(tmp_path / "b", tmp_path / "a", model="starter") as client:
        assert client.get("/api/libraries").json() == [
            {"name": "b", "images": 3, "default": True},
            {"name": "a", "images": 0, "default": False},
        ]


def test_folders_below_allowed_roots_can_be_looked_into(tmp_path):
    allowed = tmp_path / "allowed"
    photos = write_photos(allowed / "Zoo")
    for name in ("apes", ".hidden", "@eaDir", "lost+found"):
        (allowed / name).mkdir()
    (allowed / "a file").write_text("x")
    (tmp_path / "outside").mkdir()
    (allowed / "way-out").symlink_to(tmp_path / "outside")
    (allowed / "loop").symlink_to(allowed / "loop")
    (allowed / "same").symlink_to(allowed / "apes")
    Path(os.fsdecode(os.fsencode(allowed) + b"/\xff\xfe")).mkdir()
    index(tmp_path / "library", photos)
    with open_app(tmp_path / "library", allow_roots=(allowed,)) as client:
        assert client.get("/api/folders").json() == {
            "roots": [str(photos)],
            "allow_roots": [str(allowed)],
            "set_aside": str(tmp_path / "library-set-aside"),
            "path": None,
            "folders": [],
        }
        found = client.get("/api/folders", params={"path": str(allowed)}).json()
        assert found["path"] == str(allowed)
        assert [folder["name"] for folder in found["folders"]] == ["apes", "Zoo"]
        assert found["folders"][1]["path"] == str(photos)
        assert client.get("/api/folders", params={"path": str(photos)}).json()["folders"] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 403),
        ("/etc", 403),
        ("/nowhere", 403),
        ("ALLOWED/../outside", 403),
        ("ALLOWED/way-out", 403),
        ("ALLOWED/missing", 422),
        ("ALLOWED/a file", 422),
        ("relative", 422),
        ("ALLOWED/\0", 422),
        ("", 422),
        ("ALLOWED/" + "x" * 4000, 422),
        ("x" * 5000, 422),
    ],
)
def test_nothing_else_can_be_looked_into(tmp_path, path, status):
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "outside").mkdir()
    (allowed / "a file").write_text("x")
    (allowed / "way-out").symlink_to(tmp_path / "outside")
    with open_app(tmp_path / "library", model="starter", allow_roots=(allowed,)) as client:
        refused = client.get("/api/folders", params={"path": path.replace("ALLOWED", str(allowed))})
        assert refused.status_code == status
        assert refused.headers["content-type"] == "application/problem+json"


def test_without_allowed_roots_no_folder_can_be_looked_into(tmp_path):
    with open_app(tmp_path / "library", model="starter") as client:
        refused = client.get("/api/folders", params={"path": str(tmp_path)})
        assert (refused.status_code, "--allow-root" in refused.json()["detail"]) == (403, True)


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


def test_the_service_loads_no_web_framework():
    code = (
        "import sys\n"
        "from sightline.faces.service import images, jobs, library, runs, search\n"
        "print(sorted({'fastapi', 'starlette', 'uvicorn', 'mcp', 'smolagents'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
