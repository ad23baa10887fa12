import os
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from web_world import index, open_app, write_photos


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
