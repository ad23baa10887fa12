"""The app as a whole: pages, static files, metrics, start and end.

Covers: sightline.faces.web.metrics.
"""

import subprocess
import sys
import threading

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

import sightline as sl
from sightline.errors import StoreError, TrainingError
from sightline.faces.service.jobs import Jobs
from sightline.faces.web.app import create_app
from sightline.faces.web.config import ServeConfig
from web_world import PATIENCE_S, image_bytes, index, open_app, submit, wait_for, wait_for_job, write_photos


@pytest.fixture
def library(tmp_path):
    return index(tmp_path / "library", write_photos(tmp_path / "photos"))


def test_an_app_is_made_without_loading_any_runtime_of_models(tmp_path):
    """The first page must not wait for them."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom sightline.faces.web.app import create_app\n"
        "from sightline.faces.web.config import ServeConfig\n"
        f"create_app(ServeConfig(libraries=(Path({str(tmp_path / 'library')!r}),)))\n"
        "print([name for name in ('torch', 'onnxruntime', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_told_to_a_collector_that_the_environment_names(library, monkeypatch):
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with open_app(library) as client:
        assert client.get("/api/search", params={"q": "red"}).status_code == 200
        assert not client.app._native_telemetry.enabled()
    assert "opentelemetry.exporter" not in sys.modules


def test_importing_the_room_loads_nothing():
    code = "import sys, sightline.faces.web; print('fastapi' in sys.modules or 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_page_comes_while_the_model_still_loads(library, monkeypatch):
    from sightline.core.models import loading as encoders

    go_on, load = threading.Event(), encoders.load_encoder

    def slow(name):
        assert go_on.wait(PATIENCE_S)
        return load(name)

    monkeypatch.setattr(encoders, "load_encoder", slow)
    with open_app(library) as client:
        assert client.get("/healthz").json() == {"status": "starting", "detail": None}
        assert client.get("/").status_code == 200
        assert len(client.get("/api/search").json()["hits"]) == 3
        assert client.get("/api/stats").json()["images"] == 3
        go_on.set()
        assert client.get("/api/search", params={"q": "red"}).json()["hits"]
        assert wait_for(lambda: client.get("/healthz").json()["status"] == "ok")


def test_a_model_that_cannot_be_loaded_is_told_and_the_page_comes_all_the_same(library, monkeypatch, caplog):
    from sightline.core.models import loading as encoders
    from sightline.errors import ModelError

    def fail(name):
        raise ModelError("The weights are gone.")

    monkeypatch.setattr(encoders, "load_encoder", fail)
    with open_app(library) as client:
        assert wait_for(lambda: client.get("/healthz").json()["status"] == "failed")
        assert client.get("/healthz").json()["detail"] == "The weights are gone."
        assert client.get("/").status_code == 200
        problem = client.get("/api/search", params={"q": "red"})
        assert (problem.status_code, problem.json()["detail"]) == (409, "The weights are gone.")
    assert "can't be loaded" in caplog.text


def test_fp32_of_a_model_that_comes_in_int8_is_refused_wherever_it_would_run(library, monkeypatch):
    refused = "The precision fp32 was asked for, but"
    monkeypatch.setenv("SIGHTLINE_PRECISION", "fp32")
    with open_app(library) as client:
        assert wait_for(lambda: client.get("/healthz").json()["status"] == "failed")
        assert refused in client.get("/healthz").json()["detail"]
        for answer in (
            client.get("/api/search", params={"q": "red"}),
            client.post("/api/caption", files={"file": ("a.png", image_bytes())}),
            client.post("/api/embed", json={"texts": ["red"]}),
        ):
            assert (answer.status_code, refused in answer.json()["detail"]) == (409, True)
        for kind in ("index", "caption"):
            job = wait_for_job(client, submit(client, kind=kind), "failed")
            assert refused in job["error"]


def test_a_model_is_loaded_once_however_many_ask_at_first(library, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from sightline.core.models import loading as encoders

    loaded, load = [], encoders.load_encoder
    monkeypatch.setattr(encoders, "load_encoder", lambda name: loaded.append(name) or load(name))
    with open_app(library) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: client.get("/api/search", params={"q": f"red {i}"}).status_code, range(8)))
    assert (answers, loaded) == ([200] * 8, ["starter"])


def test_stats_count_and_name_what_could_not_be_read(tmp_path):
    photos = write_photos(tmp_path / "photos")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    library = index(tmp_path / "library", photos)
    with open_app(library) as client:
        stats = client.get("/api/stats").json()
        assert (stats["images"], stats["models"], stats["model"]) == (3, {"starter": 3}, "starter")
        assert (stats["library"], stats["folders"], stats["version"]) == ("library", [str(photos)], sl.__version__)
        assert stats["unreadable"] == 1
        assert stats["unreadable_files"][0]["path"] == str(photos / "broken.jpg")
        assert "JPEG" in stats["unreadable_files"][0]["reason"]
        assert stats["size_bytes"] > 0
        assert stats["offline_folders"] == []
        photos.rename(tmp_path / "elsewhere")
        assert client.get("/api/stats").json()["offline_folders"] == [str(photos)]


def test_pages_for_what_is_not_there_are_absent(tmp_path):
    (tmp_path / "runs").mkdir()
    with open_app(tmp_path / "library", model="starter", runs=tmp_path / "runs") as client:
        assert client.get("/api/stats").json()["pages"] == ["search", "library", "caption", "compare", "train"]
    with open_app(tmp_path / "library", model="starter") as client:
        assert client.get("/api/stats").json()["pages"] == ["search", "library", "caption", "compare"]


def test_metrics_count_by_route_and_never_by_address(library):
    with open_app(library) as client:
        for i in range(3):
            client.get("/api/search", params={"q": f"secret {i}"})
            client.get(f"/api/images/{i + 1}")
        client.get("/wp-admin.php")
        client.request("BREW", "/api/stats")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    assert 'sightline_requests_total{method="GET",route="/api/search",status="200"} 3.0' in text
    assert 'sightline_requests_total{method="GET",route="/api/images/{image_id}",status="200"} 3.0' in text
    assert 'sightline_requests_total{method="GET",route="other",status="404"} 1.0' in text
    assert 'sightline_request_seconds_count{route="/api/search"} 3.0' in text
    assert 'sightline_images{library="library"} 3.0' in text
    assert "secret" not in text
    assert "wp-admin" not in text
    assert "BREW" not in text


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RuntimeError("the secret cause"), 500, "/problems/failed"),
        (StoreError("The library was closed."), 503, "/problems/library"),
        (TrainingError("It failed."), 500, "/problems/failed"),
    ],
)
def test_errors_become_problems_without_a_trace(library, monkeypatch, error, status, kind, caplog):
    def fail(self):
        raise error

    app = create_app(ServeConfig(libraries=(library,)))
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        monkeypatch.setattr("sightline.core.store.sqlite.SqliteStore.stats", fail)
        response = client.get("/api/stats")
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert (problem["type"], problem["status"], problem["instance"]) == (kind, status, "/api/stats")
        assert "Traceback" not in response.text
        assert "secret" not in response.text
        assert ("secret" in caplog.text) is isinstance(error, RuntimeError)


def test_unknown_addresses_and_methods_are_problems(library):
    with open_app(library) as client:
        for method, path, status in [("GET", "/api/no", 404), ("POST", "/healthz", 405), ("DELETE", "/api/stats", 405)]:
            response = client.request(method, path)
            assert (response.status_code, response.json()["status"]) == (status, status)
            assert response.headers["content-type"] == "application/problem+json"
        assert client.head("/healthz").status_code in (200, 405)


def test_what_runs_in_the_background_ends_before_the_library_closes(library, monkeypatch):
    left, close = [], Jobs.close

    def close_noted(self):
        close(self)
        left.append(opened.store.stats().images)

    monkeypatch.setattr(Jobs, "close", close_noted)
    with open_app(library) as client:
        opened = client.app.state.libraries.get()
    assert left == [3]
    with pytest.raises(StoreError, match="was closed"):
        opened.store.stats()


def test_a_library_that_is_none_is_refused_at_the_start(tmp_path):
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "library.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="damaged or not a Sightline library"):
        create_app(ServeConfig(libraries=(tmp_path / "library",)))
