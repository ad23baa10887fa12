"""The command line from end to end, in this process, with the starter models on rendered pictures.

Covers: sightline.faces.cli.doctor, sightline.faces.cli.duplicates, sightline.faces.cli.printing,
sightline.kit.config.
"""

import json
import os
import re
import subprocess
import sys

import click
import numpy as np
import pytest
from PIL import Image

import sightline
from sightline.core.library import Library
from sightline.core.types import TextLine, TextReading
from sightline.faces.cli.main import main
from sightline.faces.cli.main import sightline as cli

pytestmark = pytest.mark.usefixtures("kept_bank")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """`run(*words)` -> exit code, lines of stdout, stderr; the library is `tmp_path/library`."""
    monkeypatch.setenv("SIGHTLINE_LIBRARY", str(tmp_path / "library"))

    def call(*words):
        monkeypatch.setattr("sys.argv", ["sightline", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out.splitlines(), printed.err

    return call


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "holiday 2024").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, colour in [("red", (220, 20, 20)), ("green", (20, 200, 20)), ("holiday 2024/sea", (20, 60, 220))]:
        noise = rng.integers(-15, 15, (90, 120, 3))
        Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def indexed(run, photos):
    code, _, err = run("index", photos, "--model", "starter")
    assert code == 0, err
    return photos


def rows(lines):
    return [json.loads(line) for line in lines]


def names(lines):
    return {os.path.basename(row["path"]) for row in rows(lines)}  # noqa: PTH119


def test_index_says_what_it_did_and_a_second_run_has_nothing_to_do(run, photos):
    code, out, _ = run("index", photos, "--model", "starter", "--json")
    assert code == 0
    assert rows(out)[0]["added"] == rows(out)[0]["embedded"] == 3
    code, out, _ = run("index", photos)
    assert code == 0
    assert "3 unchanged" in out[0]


def test_index_without_folders_updates_those_it_knows(run, indexed):
    Image.new("RGB", (50, 50), "white").save(indexed / "new.png")
    code, out, _ = run("index", "--json")
    assert (code, rows(out)[0]["added"], rows(out)[0]["unchanged"]) == (0, 1, 3)


def test_unreadable_files_are_named_and_the_exit_code_says_so(run, photos):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a picture")
    code, out, _ = run("index", photos, "--model", "starter")
    assert code == 1
    assert any("broken.jpg" in line for line in out)
    code, out, _ = run("index", photos, "--json")
    assert code == 1
    assert rows(out)[0]["unreadable"][0]["path"].endswith("broken.jpg")


def test_info_counts_images_and_models(run, indexed):
    code, out, _ = run("info", "--json")
    facts = rows(out)[0]
    assert code == 0
    assert facts["images"] == 3
    assert facts["models"] == {"starter": 3}
    assert facts["folders"] == [str(indexed)]
    assert "images      3" in run("info")[1]


def test_info_tells_what_is_known_of_an_image(run, indexed):
    red = indexed / "red.png"
    code, out, _ = run("info", red, "--json")
    known = rows(out)[0]
    assert (code, known["path"], known["width"], known["text"]) == (0, str(red), 120, None)
    with Library.open() as library:
        (record,) = [record for record in library.store.scan() if record.path == red]
        line = TextLine("INVOICE 2023", 0.98, (0.1, 0.2, 0.9, 0.2, 0.9, 0.4, 0.1, 0.4))
        library.store.put_readings({record.content_hash: TextReading(engine="test", lines=(line,))})
        assert library.info(red)["text"] == [{"text": line.text, "score": line.score, "corners": line.corners}]
    assert "text        INVOICE 2023" in run("info", red)[1]
    code, _, err = run("info", indexed / "none.png")
    assert code == 2
    assert "none.png isn't in this library" in err


def test_search_by_words_as_table_paths_and_json(run, indexed):
    code, out, _ = run("search", "something", "red", "--top", 2)
    assert code == 0
    assert out[0].split() == ["similarity", "likely", "why", "path"]
    assert run("search", "something", "--top", 2)[1][0].split() == ["similarity", "likely", "path"]
    assert len([line for line in out if line.endswith(".png")]) == 2
    assert len(run("search", "red", "-f")[1]) == 3
    assert rows(run("search", "red", "--json")[1])[0]["why"] in (["picture", "name"], ["name"])
    hits = rows(run("search", "red", "--no-hub-correction", "--match", "pictures", "--json")[1])
    assert [hit["similarity"] for hit in hits] == sorted((hit["similarity"] for hit in hits), reverse=True)


def test_the_first_are_read_again_with_what_was_kept_when_they_were_indexed(run, photos):
    assert run("index", photos, "--model", "starter", "--second-look")[0] == 0
    for path in [*photos.glob("*.png")]:
        path.rename(path.with_suffix(".moved"))  # only what was kept can be read again now
    before, after = (rows(run("search", "the sea", "--rerank", n, "--json")[1]) for n in (0, 3))
    similarity_of = {hit["path"]: hit["similarity"] for hit in before}
    assert {hit["path"]: hit["similarity"] for hit in after} == similarity_of
    from sightline.core.library import Library

    with Library.open() as library:
        records = {hit.image.id: hit.image for hit in library.search("the sea")}
        nats = library.second_look().match(records, [("the sea", 1.0)])
        assert len(nats) == 3
        fused = [
            library.encoder.card.nats_per_cosine * hit["similarity"] + library.second_look().weight * nats[hit["id"]]
            for hit in after
        ]
    assert fused == sorted(fused, reverse=True)


def test_search_by_an_image_leaves_it_out(run, indexed):
    _, out, _ = run("search", indexed / "red.png", "+", "2:sky", "-", "people", "--json")
    assert names(out) == {"green.png", "sea.png"}
    assert names(run("similar", indexed / "red.png", "--json")[1]) == {"green.png", "sea.png"}


def test_search_under_a_filter_and_with_nothing_found(run, indexed):
    where = "path like '%holiday%' and width > 100"
    assert names(run("search", "sea", "--where", where, "--json")[1]) == {"sea.png"}
    code, out, err = run("search", "sea", "--min-similarity", "0.999")
    assert (code, out) == (0, [])
    assert "Nothing here matches" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["search", "sea", "--where", "colour = 'red'"], 2, "colour"),
        (["search"], 2, "query is empty"),
        (["search", "./gone.jpg"], 2, "no picture ./gone.jpg"),
        (["search", "sea", "--model", "ViT-B-32/openai"], 1, "no vectors of 'ViT-B-32/openai'"),
        (["search", "sea", "--top", "0"], 2, "0 is not in the range"),
        (["search", "sea", "--rerank", "-1"], 2, "rerank is -1; it must be from 0, for no second look, to 250"),
        (["search", "sea", "--rerank", "2", "--reranker", "starter"], 1, "reads image and words apart"),
        (["similar", "gone.jpg"], 2, "no picture gone.jpg"),
        (["remove"], 2, "Say what to remove"),
        (["remove", "/nowhere"], 2, "Nothing in this library lies at /nowhere"),
        (["remove", "--where", "width > 1"], 2, "--yes"),
        (["models", "use", "blip-base"], 1, "blip-base is a captioner"),
        (["models", "use", "ViT-B-16/openai"], 1, "no vectors of 'ViT-B-16/openai'"),
        (["search", "sea", "--model", "Starter"], 1, "Did you mean starter"),
        (["search", "sea", "-f", "--json"], 2, "exclude each other"),
        (["search", "~nobody-here/x.jpg"], 2, "no picture"),
        (["index", "~nobody-here/photos"], 2, "a user who isn't there"),
        (["models", "info", "starer"], 1, "starter"),
        (["index", "/nowhere"], 2, "/nowhere"),
        (["caption", "/nowhere"], 2, "'/nowhere' does not exist"),
        (["caption", "--overwrite"], 2, "go with --write"),
        (["caption", "--write", "csv"], 2, "--output"),
        (["caption", "--skip-existing", "--overwrite"], 2, "exclude each other"),
    ],
)
def test_wrong_usage_is_one_clear_line(run, indexed, words, code, message):
    got, out, err = run(*words)
    assert (got, out) == (code, [])
    assert message in err
    assert "Traceback" not in err


def test_a_missing_library_is_named_with_the_way_to_make_one(run):
    for words in (["search", "sea"], ["info"], ["duplicates"], ["caption"]):
        code, _, err = run(*words)
        assert code == 1
        assert "sightline index" in err


def test_duplicates_are_listed_moved_and_moved_back(run, indexed, tmp_path):
    assert "No duplicates" in run("duplicates")[2]
    (indexed / "copy.png").write_bytes((indexed / "red.png").read_bytes())
    (indexed / "link.png").symlink_to("red.png")
    run("index")
    (group,) = rows(run("duplicates", "--json")[1])
    images = {os.path.basename(image["path"]): image for image in group["images"]}  # noqa: PTH119
    assert (group["kind"], group["reason"]) == ("exact", "oldest file")
    assert {name: (image["keep"], image["link"]) for name, image in images.items()} == {
        "red.png": (True, False),
        "copy.png": (False, False),
        "link.png": (False, True),
    }
    assert rows(run("duplicates", "--near", "0.9999", "--json")[1]) == [group]
    shown = "\n".join(run("duplicates")[1])
    assert "2 exact copies" in shown
    assert re.search(r"(?m)^  keep .*red\.png$", shown)
    assert re.search(r"(?m)^  link .*link\.png$", shown)
    found = "\n".join(run("search", "red")[1])
    assert "(+2 copies)" in found
    assert "(+" not in "\n".join(run("search", "red", "--copies")[1])
    code, _, err = run("duplicates", "--exact", "--move-to", tmp_path / "aside")
    assert (code, (indexed / "copy.png").exists()) == (0, False)
    (log,) = (tmp_path / "aside").glob("set-aside-*.jsonl")
    assert str(log) in err
    assert run("duplicates", "--undo", log)[0] == 0
    assert (indexed / "copy.png").read_bytes() == (indexed / "red.png").read_bytes()


@pytest.mark.parametrize(
    "words", [["--exact", "--alike", "0.9"], ["--undo", "log", "--exact"], ["--undo", "log", "--move-to", "x"]]
)
def test_options_of_duplicates_that_exclude_each_other_are_refused(run, indexed, words):
    code, _, err = run("duplicates", *words)
    assert code == 2
    assert "exclude each other" in err or "goes without other options" in err


def test_remove_forgets_images_and_leaves_files(run, indexed):
    code, _, err = run("remove", indexed / "holiday 2024")
    assert code == 0
    assert "Forgot 1 images" in err
    assert (indexed / "holiday 2024" / "sea.png").exists()
    assert run("remove", "--where", "name = 'red.png'", "--yes")[0] == 0
    assert names(run("search", "sea", "--json")[1]) == {"green.png"}


def test_captions_are_shown_kept_written_and_found(run, indexed, tmp_path):
    code, out, _ = run("caption", indexed / "red.png")
    assert code == 0
    assert any(line.startswith("  * ") for line in out)
    assert {line.split()[0].lstrip("*") or line.split()[1] for line in out[1:]} >= {"clip", "starter-captioner"}
    best = next(line for line in out if line.startswith("  * ")).split(maxsplit=4)[-1]
    assert names(run("search", *best.split()[-1:], "--match", "captions", "--json")[1]) >= {"red.png"}
    output = tmp_path / "captions.jsonl"
    code, _, err = run("caption", "--write", "jsonl", "--output", output)
    assert (code, err.splitlines()[-1]) == (0, "3 captions written.")
    assert len(output.read_text().splitlines()) == 3
    written = [
        (one["source"], one["model"]) for row in rows(output.read_text().splitlines()) for one in row["generated"]
    ]
    assert set(written) == {("generated", "starter-captioner")}
    code, _, err = run("caption", "--write", "jsonl", "--output", output, "--skip-existing")
    assert code == 0
    assert "3 pictures have their captions" in err
    assert len(output.read_text().splitlines()) == 3
    assert run("caption", "--skip-existing", "--json")[1] == []


@pytest.fixture
def candidates(tmp_path):
    path = tmp_path / "candidates.txt"
    path.write_text("a red square\na green lawn\nthe blue sea\n", encoding="utf-8")
    return path


def test_own_candidates_are_chosen_from_unless_a_captioner_is_named(run, indexed, candidates):
    asked = ("caption", indexed / "red.png", "--candidates", candidates, "--json")
    (alone,) = rows(run(*asked)[1])
    assert (alone["best"], alone["generated"]) == (alone["clip"][0], [])
    assert alone["best"]["text"] in candidates.read_text().splitlines()
    (beside,) = rows(run(*asked, "--captioner", "starter-captioner")[1])
    assert [one["model"] for one in beside["generated"]] == ["starter-captioner"]
    assert beside["best"] in [*beside["clip"], *beside["generated"]]


def test_own_candidates_replace_no_captions_that_are_kept(run, indexed, candidates, tmp_path):
    from sightline.core.captioning.editing import write_caption

    def kept():
        with sightline.Library.open(tmp_path / "library", read_only=True) as library:
            records = {record.path.name: record.id for record in library.store.scan()}
            captions = library.store.captions(list(records.values()))
            return {name: captions[id_] for name, id_ in records.items()}

    run("caption", indexed / "red.png")
    with sightline.Library.open(tmp_path / "library") as library:
        write_caption(library.store, library.store.find_path(indexed / "green.png").id, "my lawn")
    before = kept()
    for words in ((), ("--captioner", "starter-captioner")):
        assert run("caption", "--candidates", candidates, *words)[0] == 0
        after = kept()
        assert {name: after[name] for name in ("red.png", "green.png")} == {
            name: before[name] for name in ("red.png", "green.png")
        }
    assert [one.text in candidates.read_text().splitlines() for one in after["sea.png"] if one.best] == [True]
    run("caption", indexed / "holiday 2024")
    assert {one.source for one in kept()["sea.png"]} == {"clip", "generated"}


def test_captions_without_a_library_and_of_broken_images(run, photos):
    (photos / "broken.png").write_bytes(b"nothing")
    code, out, err = run("caption", photos, "--model", "starter", "--captioner", "none", "--json")
    assert code == 1
    assert len(rows(out)) == 3
    assert all(row["generated"] == [] for row in rows(out))
    assert "broken.png" in err
    assert "1 of 4 pictures could not be captioned" in err


def test_an_image_that_is_gone_or_refused_is_counted_and_the_others_are_captioned(run, indexed, tmp_path):
    (indexed / "red.png").unlink()
    code, out, err = run("caption", "--captioner", "none", "--json")
    assert (code, len(out)) == (1, 2)
    assert "red.png: no such file" in err
    assert "1 of 3 pictures could not be captioned" in err
    (indexed / "green.png").rename(os.fsdecode(os.fsencode(indexed) + b"/gr\xfcn.png"))
    output = tmp_path / "captions.csv"
    code, _, err = run("caption", indexed, "--captioner", "none", "--write", "csv", "--output", output)
    assert code == 1
    assert "1 of 2 pictures could not be captioned" in err
    assert len(output.read_text().splitlines()) == 2


def test_an_empty_library_says_so(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run("index", tmp_path / "empty", "--model", "starter")[0] == 0
    assert "The library is empty" in run("search", "sea")[2]
    assert "no picture to caption" in run("caption")[2]


def test_names_come_out_whatever_the_terminal_can_show(indexed, tmp_path):
    (indexed / "red.png").rename(indexed / "日本.png")
    environment = {**os.environ, "SIGHTLINE_LIBRARY": str(tmp_path / "library"), "PYTHONIOENCODING": "latin-1"}
    subprocess.run([sys.executable, "-m", "sightline", "index"], env=environment, check=True, capture_output=True)
    found = subprocess.run(
        [sys.executable, "-m", "sightline", "search", "sea", "-f"], env=environment, check=True, capture_output=True
    )
    assert b"\\u65e5\\u672c.png" in found.stdout


def test_a_reader_that_goes_away_loses_no_captions(indexed, tmp_path):
    environment = {**os.environ, "SIGHTLINE_LIBRARY": str(tmp_path / "library")}
    command = f"{sys.executable} -m sightline caption --captioner none --batch-size 1 --json | head -n 1"
    run = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert len(run.stdout.splitlines()) == 1
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    with sightline.Library.open(tmp_path / "library") as library:
        assert library.info()["captions"] >= 1


def test_models_are_listed_described_and_checked(run, indexed):
    listed = {row["name"]: row for row in rows(run("models", "list", "--json")[1])}
    assert listed["starter"]["available"]
    assert not listed["ViT-B-32/openai"]["available"]
    assert run("models", "list")[1][0].split()[:2] == ["name", "kind"]
    facts = rows(run("models", "info", "starter", "--json")[1])[0]
    assert facts["figures"]
    assert "non-commercial" in facts["licence"]
    assert run("models", "use", "starter")[0] == 0
    assert run("models", "pull", "ViT-B-32/openai")[0] == 1


def test_doctor_finds_this_machine_healthy(run):
    code, out, _ = run("doctor", "--json")
    checks = {row["name"]: row for row in rows(out)}
    assert code == 0, [check for check in checks.values() if check["ok"] is False]
    assert checks["starter"]["ok"]
    assert checks["python"]["ok"]


def test_doctor_looks_into_the_library(run, indexed, tmp_path):
    def check():
        return next(row for row in rows(run("doctor", "--json")[1]) if row["name"] == "library file")

    assert check() == {"name": "library file", "ok": True, "detail": "sound"}
    (tmp_path / "library" / "library.db").write_bytes(b"not a database" * 1000)
    assert not check()["ok"]


def test_doctor_names_what_fails(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sightline.faces.cli.doctor._CORE", ("numpy", "no-such-package"))
    code, out, _ = run("doctor")
    assert code == 1
    assert any("FAILS" in line and "no-such-package" in line for line in out)


def test_help_of_every_command_names_its_options(run):
    for command in ("index", "search", "similar", "duplicates", "caption", "info", "remove", "models", "doctor"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert out[0].startswith(f"Usage: sightline {command}")


def test_the_help_has_sections_and_no_summary_is_cut_at_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("--help")
    headings = [line for line in out if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        *("Options:", "Find:", "Caption:", "Explain and generate:", "Models:", "Train and measure:", "Serve:"),
    ]
    assert code == 0
    told = " ".join("\n".join(out).split())
    for name, command in cli.commands.items():
        summary = " ".join(command.help.removeprefix("\b").split())
        assert f" {name} {summary.partition('. ')[0].rstrip('.')}." in f" {told}", name
    assert max(map(len, out)) <= 80
    groups = [name for name, command in cli.commands.items() if isinstance(command, click.Group)]
    assert groups == ["write", "models", "endpoint", "export", "data", "eval"]
    assert not [name for name in groups if any(line.endswith("...") for line in run(name, "--help")[1][1:])]
