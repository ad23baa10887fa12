"""`sightline data` from end to end, in this process.

Covers: sightline.lab.data.download.subset.
"""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from rude_server import RudeServer, make_image
from sightline.faces.cli.data import data
from sightline.faces.cli.main import main, sightline
from sightline.lab.data.download import archives
from sightline.lab.data.download.archives import Archive, Publisher


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sightline.commands, "data", data)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr("sys.argv", ["sightline", "data", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out.splitlines(), printed.err

    return call


@pytest.fixture
def pairs(tmp_path):
    """A folder of three pictures in two splits, one of them in both."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pairs"
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"a picture named {name[-5]}\n")
    return folder


@pytest.fixture
def server():
    with RudeServer() as running:
        yield running


def test_info_says_what_there_is(run, pairs):
    code, out, _ = run("info", f"folder:{pairs}", "--json")
    facts = [json.loads(line) for line in out]
    assert code == 0
    assert [(one["kind"], one["split"], one["pictures"], one["captions"]) for one in facts] == [
        ("folder", "train", 2, 2),
        ("folder", "val", 1, 1),
    ]
    assert facts[0]["words_per_caption"] == {"min": 4, "median": 4.0, "max": 4}
    assert facts[0]["width_px"]["max"] == 30
    assert len(facts[0]["fingerprint"]) == 32
    code, out, _ = run("info", pairs, "--split", "val")
    assert code == 0
    assert any(line.split() == ["pictures", "1"] for line in out)


def test_info_and_check_write_a_page(run, pairs, tmp_path):
    code, _, err = run("info", pairs, "--page", "info.html")
    assert (code, "The page is info.html" in err) == (0, True)
    run("check", pairs, "--page", "check.html")
    for name in ("info.html", "check.html"):
        assert "a picture named a" in (tmp_path / name).read_text()


def test_check_of_a_clean_set_ends_with_0(run, pairs):
    code, out, _ = run("check", pairs)
    assert code == 0
    assert out[-1] == "No problems."


def test_check_names_problems_and_ends_with_1(run, pairs):
    (pairs / "val" / "d.png").write_bytes((pairs / "train" / "a.png").read_bytes())
    (pairs / "val" / "d.txt").write_text("the same again")
    (pairs / "val" / "e.png").write_bytes(b"no picture")
    (pairs / "val" / "e.txt").write_text("nothing")
    code, out, _ = run("check", pairs)
    text = "\n".join(out)
    assert code == 1
    assert "1 pictures that can't be read" in text
    assert "    val/val/e.png: not an image" in text
    assert "train/train/a.png, val/val/d.png" in text
    code, out, _ = run("check", pairs, "--json")
    report = json.loads(out[0])
    assert (code, report["problems"], report["pictures"]) == (1, True, 5)
    assert {finding["kind"]: finding["count"] for finding in report["findings"]} == {
        "unreadable": 1,
        "same_in_two_splits": 1,
    }


def test_convert_writes_what_load_reads(run, pairs, tmp_path):
    code, out, _ = run("convert", pairs, "out", "--to", "coco", "--json")
    assert code == 0
    assert json.loads(out[0])["pictures"] == {"train": 2, "val": 1}
    code, out, _ = run("info", "coco:out", "--json")
    assert [json.loads(line)["captions"] for line in out] == [2, 1]
    code, _, err = run("convert", pairs, "out", "--to", "csv")
    assert (code, "nothing is overwritten" in err) == (2, True)


def test_convert_takes_a_part(run, pairs):
    code, out, _ = run("convert", pairs, "out", "--to", "csv", "--split", "train", "--limit", "1", "--seed", "3")
    assert (code, out) == (0, ["1 pictures in train, 1 captions: csv:out"])


def test_convert_names_what_it_left_out(run, pairs):
    (pairs / "train" / "b.png").write_bytes(b"no picture")
    code, _, err = run("convert", pairs, "out", "--to", "webdataset")
    assert code == 1
    assert "left out: train/train/b.png: not an image" in err


def test_convert_of_scenes_says_what_is_lost(run):
    code, _, err = run("convert", "scenes:0", "out", "--to", "webdataset", "--split", "val", "--limit", "4")
    assert code == 0
    assert "webdataset can't hold hard negatives" in err


def test_get_of_a_list(run, server, tmp_path):
    rows = [f"{server.url}/{path}\tcaption {path}" for path in ("good/1.jpg", "gone", "good/2.jpg")]
    (tmp_path / "list.tsv").write_text("\n".join(rows))
    words = ("get", "mine", "--list", "list.tsv", "--allow-loopback", "--shard-size", "2", "--connections", "2")
    code, out, _ = run(*words)
    assert code == 0
    assert out[0].startswith("2 pictures of 3 rows in 2 shards")
    assert out[0].endswith("webdataset:mine")
    assert out[1] == "    1 failed: HTTP 404"
    code, out, _ = run(*words, "--json")
    report = json.loads(out[0])
    assert (report["pictures"], report["failed"], report["reasons"]) == (2, 1, {"HTTP 404": 1})
    assert server.hits["/good/1.jpg"] == 1
    code, out, _ = run("info", "webdataset:mine", "--json")
    assert json.loads(out[0])["pictures"] == 2


def test_get_without_leave_for_loopback_gets_nothing_and_ends_with_1(run, server, tmp_path):
    (tmp_path / "list.tsv").write_text(f"http://127.0.0.1/good/1.jpg\ta dog\n{server.url}/good/1.jpg\ta cat\n")
    code, out, err = run("get", "mine", "--list", "list.tsv")
    assert code == 1
    assert "failures.jsonl" in err
    assert "    1 failed: refused: the address is not public" in out
    assert "    1 failed: refused: a port other than 80 and 443" in out
    assert server.hits == {}


def mini(server, monkeypatch, **facts):
    publisher = Publisher(name="mini", title="Mini", page="p", licence="l", site=server.url, **facts)
    monkeypatch.setattr(archives, "load_publishers", lambda: {"mini": publisher})


def test_get_of_archives(run, server, monkeypatch, tmp_path):
    server.files["/v.zip"] = zipped({"val/1.jpg": b"one"})
    mini(server, monkeypatch, archives=(Archive(part="val", path="v.zip", members="val/*"),))
    code, out, err = run("get", "mini", "there")
    assert (code, out[-1]) == (0, "Ready: mini:there")
    assert "Mini, p (l)" in err
    assert (tmp_path / "there" / "val" / "1.jpg").read_bytes() == b"one"
    code, out, _ = run("get", "mini", "there", "--json")
    assert json.loads(out[0])["archives"]["v.zip"]["files"] == 1
    assert server.hits["/v.zip"] == 1
    code, _, err = run("get", "mini", "--what", "test")
    assert (code, "its parts are val" in err) == (2, True)


def test_get_of_some_images_brings_a_set_that_is_read(run, server, monkeypatch, tmp_path, caplog):
    archives_of_coco = []
    captions = {}
    for part in ("train", "val"):
        names = [f"{part}{number}.jpg" for number in range(20)]
        images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
        notes = [{"id": n, "image_id": n, "caption": f"a {name}"} for n, name in enumerate(names)]
        captions[f"annotations/captions_{part}2017.json"] = json.dumps({"images": images, "annotations": notes})
        archives_of_coco.append(Archive(part=part, path=f"zips/{part}2017.zip", members=f"{part}2017/*"))
        server.files.update({f"/{part}2017/{name}": make_image(n) for n, name in enumerate(names)})
    server.files["/a.zip"] = zipped(captions)
    archives_of_coco.append(Archive(part="annotations", path="a.zip", members="annotations/captions_*.json"))
    publisher = Publisher(name="coco", title="C", page="p", licence="l", site="x", archives=tuple(archives_of_coco))
    monkeypatch.setattr(archives, "load_publishers", lambda: {"coco": publisher})
    words = ("get", "coco", "--mirror", server.url, "--allow-loopback")
    code, out, _ = run(*words, "--images", 5)
    assert (code, out) == (0, ["train: 5 of 5 images", "val: 5 of 5 images", "Ready: coco:coco"])
    first = {path.name for path in (tmp_path / "coco" / "train2017").iterdir()}
    server.files = {path: content for path, content in server.files.items() if path[-6:] != "19.jpg"}
    code, out, _ = run(*words, "--images", 20, "--what", "train")
    assert (code, out[:2]) == (0, ["train: 19 of 20 images", "    1 failed: HTTP 404"])
    assert first < {path.name for path in (tmp_path / "coco" / "train2017").iterdir()}
    assert {hits for path, hits in server.hits.items() if path != "/train2017/train19.jpg"} == {1}
    code, out, _ = run("info", "coco:coco", "--json")
    assert [json.loads(line)["pictures"] for line in out] == [19, 5]
    assert "15 of 20 images that" in caplog.text
    code, _, err = run("get", "mine", "--list", "list.tsv", "--images", 5)
    assert (code, "a list has none" in err) == (2, True)


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file.getvalue()


def test_get_of_a_publishers_list(run, server, monkeypatch, tmp_path):
    server.files["/deep/mini.tsv"] = f"{server.url}/good/1.jpg\ta dog\n".encode()
    mini(server, monkeypatch, list_path="deep/mini.tsv")
    for _ in range(2):
        code, out, _ = run("get", "mini", "--allow-loopback")
        assert (code, out[0].split(" in ")[0]) == (0, "1 pictures of 1 rows")
    assert server.hits == {"/deep/mini.tsv": 1, "/good/1.jpg": 1}
    assert (tmp_path / "mini" / "mini.tsv").is_file()
    code, _, err = run("get", "mini", "--what", "val")
    assert (code, "a list has none" in err) == (2, True)


def test_ctrl_c_says_how_to_go_on(run, server, monkeypatch, tmp_path):
    import signal

    from sightline.lab.data.download import lists

    (tmp_path / "list.tsv").write_text(f"{server.url}/good/1.jpg\ta dog\n{server.url}/slow/2.jpg\ta cat\n")
    close = lists._Run._close

    def interrupt(self, shard):
        close(self, shard)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(lists._Run, "_close", interrupt)
    words = ("get", "mine", "--list", "list.tsv", "--allow-loopback", "--shard-size", "1", "--connections", "1")
    code, _, err = run(*words)
    assert code == 1
    assert "run the same command again" in err
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["flickr8k", "flickr30k", "cc3m"])
def test_get_of_what_needs_a_person_says_what_to_do(run, name):
    code, out, err = run("get", name)
    assert (code, out) == (2, [])
    assert "can't be fetched by a program.\nFrom: https://" in err


def test_get_of_an_unknown_name_lists_those_that_are_known(run):
    code, _, err = run("get", "cocoa")
    assert code == 2
    assert "Did you mean coco?" in err
    assert "--list FILE.tsv" in err
