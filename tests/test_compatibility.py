"""What earlier versions left behind is still opened: libraries, run folders, clients. See `fixtures/v0_1/README.md`."""

import contextlib
import json
import os
import shutil
import sqlite3
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

import sightline as sl
from recorded_client import content_type, differences, keep_from_writing, listen, replay, wait_for_jobs
from sightline.core.indexing.report import IndexConfig
from sightline.core.store.database import check_integrity
from sightline.errors import StoreError

V0_1 = Path(__file__).parent / "fixtures" / "v0_1"
RED, BLUE, GREEN, YELLOW = "2021/red circle.jpg", "2021/blue square.png", "naïve grün.webp", "yellow.gif"


@pytest.fixture
def home(tmp_path):
    """A copy of what 0.1 left, with other times of files, as any copy or checkout has."""
    home = shutil.copytree(V0_1, tmp_path / "home")
    for path in (*(home / "photos").rglob("*.*"), *(home / "album").iterdir()):
        os.utime(path, (1_800_000_000, 1_800_000_000))
    return home


def test_a_library_of_0_1_is_opened_where_it_lies_now(home):
    with sl.Library.open(home / "library") as library:
        rows = {record.relative: record for record in library.store.scan()}
        assert {row.path for row in rows.values()} == {
            *(home / "photos" / relative for relative in (RED, BLUE, GREEN, YELLOW)),
            *(home / "album" / name for name in ("copy.jpg", "wide.png")),
        }
        info = rows[RED].info
        assert (info.taken_at, info.camera, info.format) == ("2021-07-04T12:30:05", "Acme Pocket 3", "JPEG")
        assert (round(info.latitude, 3), round(info.longitude, 3)) == (48.133, 11.575)
        assert library.model == "starter"
        starter, trained = sorted(library.store.models(), key=len)
        assert (starter, trained.startswith("dir:")) == ("starter", True)
        assert not library.store.missing_vectors(starter) | library.store.missing_vectors(trained)
        with pytest.raises(StoreError, match="`sightline index` embeds the pictures anew"):
            library.search("a red circle", top=3)  # the starter is another model since
        captions = library.store.captions([row.id for row in rows.values()])
        assert all({"clip", "generated"} <= {caption.source for caption in given} for given in captions.values())
        assert (captions[rows[BLUE].id][0].text, captions[rows[BLUE].id][0].source) == ("my blue window", "user")
        assert [id_ for id_, _ in library.store.match("window", 5)] == [rows[BLUE].id]
        assert [(failure.relative, failure.reason) for failure in library.store.failures()] == [
            ("broken.jpg", "truncated JPEG")
        ]
    assert check_integrity(home / "library" / "library.db") == []


def test_captions_of_0_1_are_read_under_todays_name_of_their_source_and_kept_under_it(home):
    def sources_on_disk():
        with contextlib.closing(sqlite3.connect(home / "library" / "library.db")) as db:
            return dict(db.execute("select source, count(*) from captions group by source"))

    def read(**options):
        with sl.Library.open(home / "library", **options) as library:
            return library.store.captions([record.id for record in library.store.scan()])

    before = sources_on_disk()
    assert set(before) == {"clip", "blip", "user"}
    captions = read(read_only=True)
    assert Counter(c.source for several in captions.values() for c in several) == Counter(
        clip=before["clip"], generated=before["blip"], user=before["user"]
    )
    assert sources_on_disk() == before, "reading alone changes nothing"
    assert read() == captions
    assert sources_on_disk() == {"clip": before["clip"], "generated": before["blip"], "user": before["user"]}
    assert read(read_only=True) == captions


def test_a_library_of_0_1_is_brought_up_to_date_and_loses_nothing(home):
    with sl.Library.open(home / "library") as library:
        old = library.store.models()["starter"].weights_hash
        before = {record.relative: record.id for record in library.store.scan()}
        (home / "photos" / "2021").rename(home / "photos" / "holidays")
        report = library.index(config=IndexConfig(exclude=("raw",)))
        assert report.counts == dict.fromkeys(report.counts, 0) | {
            "renamed": 2,
            "touched": 4,
            "skipped": 1,
            "embedded": 5,
        }
        after = {record.relative.replace("holidays", "2021"): record.id for record in library.store.scan()}
        assert after == before
        assert library.store.captions([before[BLUE]])[before[BLUE]][0].text == "my blue window"
        hits = library.search("a red circle", top=3, each_copy=True)
        assert {hit.image.relative.replace("holidays", "2021") for hit in hits} >= {RED, "copy.jpg"}
        assert old in {model.weights_hash for model in library.store.models().values()}


def test_a_library_of_0_1_takes_new_images(home):
    with sl.Library.open(home / "library") as library:
        report = library.index()
        assert (report.added, report.embedded) == (1, 6), "what was left out by a pattern, and all by today's starter"
        assert library.search("a black circle", top=7)


def call_cli(monkeypatch, capsys, *words):
    from sightline.faces.cli.main import main

    monkeypatch.setattr("sys.argv", ["sightline", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return out, err


def test_a_run_of_0_1_is_a_model(home, monkeypatch, capsys):
    pytest.importorskip("torch")
    run = home / "trained" / "scenes"
    model = ("--model", f"dir:{run}")
    out, _ = call_cli(monkeypatch, capsys, "eval", "retrieval", *model, "--data", "scenes:0", "--limit", "8", "--json")
    assert 0 <= json.loads(out)["metrics"]["image_retrieval_recall@1"] <= 1
    out, _ = call_cli(monkeypatch, capsys, "index", home / "album", *model, "--library", home / "new", "--json")
    assert json.loads(out)["embedded"] == 2


@pytest.mark.parametrize("lost", [None, "step-8"])
def test_a_run_of_0_1_goes_on(home, monkeypatch, capsys, lost):
    pytest.importorskip("torch")
    run = home / "trained" / "scenes"
    if lost:
        shutil.rmtree(run / "checkpoints" / lost)
    out, err = call_cli(monkeypatch, capsys, "train", "scenes-scratch", "--resume", "--output", run, "--json")
    assert f"going on after step {4 if lost else 8} of 8" in err
    result = json.loads(out)
    recorded = json.loads((V0_1 / "trained" / "scenes" / "result.json").read_text())
    assert (result["steps"], result["stopped"]) == (8, None)
    assert result["metrics"] == pytest.approx(recorded["metrics"]) if lost is None else result["metrics"]
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 9))


@pytest.fixture
def server(home, kept_bank):
    """A connection to a server of today over the copy, as the one that was recorded."""
    pytest.importorskip("fastapi")
    import httpx2

    from web_demo import run_on_a_socket
    from web_world import PATIENCE_S

    with sl.Library.open(home / "library") as library:
        library.index(config=IndexConfig(exclude=("raw",)))  # the starter is another model since
    settings = {"captioner": "starter-captioner", "allow_roots": (home,), "runs": home / "trained"}
    with run_on_a_socket(home / "library", **settings) as (config, address):
        headers = {"X-Sightline-Token": config.token}
        with httpx2.Client(base_url=address.rstrip("/"), headers=headers, timeout=PATIENCE_S) as http:
            yield http


def test_clients_of_0_1_find_all_that_they_know_in_todays_answers(home, server):
    recorded = json.loads((V0_1 / "client.json").read_text(encoding="utf-8"))
    assert [name for name, _ in recorded["events"]] == ["library"]
    missing = []
    lock = partial(keep_from_writing, home / "library", home / "photos" / YELLOW)
    for exchange, response in replay(server, recorded["exchanges"], {"home": home}, lock=lock):
        where = f"{exchange['method']} {exchange['path']} {exchange['query'] or ''}"
        seen = (response.status_code, content_type(response))
        if seen != (exchange["status"], exchange["content_type"]):
            missing.append(f"{where}: {seen}, not {exchange['status']}, {exchange['content_type']}: {response.text}")
        elif "answer" in exchange:
            missing += differences(exchange["answer"], response.json(), where)
    ((name, told),) = listen(server)
    assert name == "library"
    missing += differences(recorded["events"][0][1], told, "events")
    assert not missing, "\n".join(missing)


def test_jobs_that_0_1_had_ended_are_still_listed(server):
    wait_for_jobs(server)
    (job,) = server.get("/api/jobs").json()["jobs"]
    assert (job["state"], job["summary"]) == ("done", "2 unchanged")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"total": 2, "hits": [{"name": "a", "id": 1}], "later": 1}, []),
        ({"total": 3, "hits": [{"name": "a", "id": 1}]}, ["answer.total is 3, not 2"]),
        ({"total": 2}, ["answer.hits is missing"]),
        ({"total": 2, "hits": []}, ["answer.hits has 0 items, not 1"]),
        ({"total": 2, "hits": [{"name": "a", "id": "1"}]}, ["answer.hits[0].id is string, not number"]),
        ({"total": 2, "hits": {}}, ["answer.hits is object, not array"]),
        ({"total": 2, "hits": [{"name": "a", "id": None}]}, ["answer.hits[0].id is null, not number"]),
        ({"total": 2, "hits": [{"name": "b", "id": 1}]}, ["answer.hits[0].name is 'b', not 'a'"]),
    ],
)
def test_what_a_client_would_miss_is_named(answer, found):
    assert list(differences({"total": 2, "hits": [{"name": "a", "id": 1}]}, answer)) == found


def test_images_are_compared_with_themselves_wherever_they_stand_and_a_copy_with_what_stands_for_it():
    def image(name, content_hash, taken_at):
        return {"name": name, "content_hash": content_hash, "taken_at": taken_at}

    dated, copy, plain = image("a", "1", "2021"), image("b", "1", "2021"), image("c", "2", None)
    where = "GET /api/search .hits"
    assert list(differences([dated, copy, plain], [plain, dated], where)) == []
    assert list(differences([dated, copy], [plain, image("a", "1", None)], where)) == [
        f"{where}[0].taken_at is null, not string",
        f"{where}[1].taken_at is null, not string",
    ]
    where = "GET /api/duplicates .groups"
    group, other = {"kind": "exact", "images": [dated, copy]}, {"kind": "copy", "images": [plain]}
    assert list(differences([group], [other, {**group, "images": [copy, dated]}], where)) == []
    assert list(differences([group], [other, {"kind": "copy", "images": [copy, image("a", "1", 1)]}], where)) == [
        f"{where}[0].images[0].taken_at is number, not string"
    ]


def test_a_client_is_allowed_the_source_that_was_renamed_and_no_other():
    assert list(differences({"source": "blip"}, {"source": "generated"})) == []
    assert list(differences({"source": "blip"}, {"source": "clip"})) == ["answer.source is 'clip', not 'blip'"]
    assert list(differences({"source": "clip"}, {"source": "generated"})) == [
        "answer.source is 'generated', not 'clip'"
    ]
