import csv
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from captioning_fakes import dual
from sightline.core.captioning.writers import open_writer
from sightline.errors import InputError, StoreError

FORMATS = ["jsonl", "csv"]
STRANGE = ["plain.jpg", "new\nline.jpg", "return\r.jpg", "a, b.jpg", 'q"uote.jpg', "Käse.jpg", "\u2028.jpg"]


def read_paths(path):
    if path.suffix == ".jsonl":
        return [json.loads(line)["path"] for line in path.read_bytes().splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return [row["filepath"] for row in csv.DictReader(file)]


def write(path, names, *, existing="skip"):
    with open_writer(path.suffix[1:], path, existing=existing) as writer:
        for photo in writer.plan([Path("/photos", name) for name in names]).todo:
            writer.write(dual(photo))


def test_jsonl_has_one_object_an_image(tmp_path):
    path = tmp_path / "c.jsonl"
    write(path, ["a.jpg", "b.jpg"])
    first, second = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(first)["path"] == "/photos/a.jpg"
    assert json.loads(second)["best"]["text"] == "a dog"


def test_csv_is_what_open_clip_reads(tmp_path):
    path = tmp_path / "c.csv"
    write(path, ["a.jpg"])
    assert path.read_bytes() == (
        b"filepath,title,similarity,log_prob,source,model\n"
        b"/photos/a.jpg,a dog,0.312346,-1.500000,generated,starter-captioner\n"
    )


OF_0_1 = {
    "csv": b"filepath,title,similarity,log_prob,source\n/photos/a.jpg,a dog,0.312346,-1.500000,blip\n",
    "jsonl": b'{"path": "/photos/a.jpg", "best": {"text": "a dog", "source": "blip"}, "clip": [], "generated": []}\n',
}
ADDED = {
    "csv": b"/photos/b.jpg,a dog,0.312346,-1.500000,generated\n",
    "jsonl": b'{"path": "/photos/b.jpg", "best": {"text": "a dog", "source": "generated", ',
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_0_1_is_continued(tmp_path, name):
    path = tmp_path / f"c.{name}"
    path.write_bytes(OF_0_1[name])
    write(path, ["a.jpg", "b.jpg"])
    assert path.read_bytes().startswith(OF_0_1[name] + ADDED[name])
    assert read_paths(path) == ["/photos/a.jpg", "/photos/b.jpg"]


@pytest.mark.parametrize("name", FORMATS)
def test_strange_names_survive_and_are_known_again(tmp_path, name):
    path = tmp_path / f"c.{name}"
    write(path, STRANGE)
    assert read_paths(path) == [f"/photos/{name}" for name in STRANGE]
    before = path.read_bytes()
    write(path, STRANGE)
    assert path.read_bytes() == before


def test_jsonl_keeps_names_that_are_no_utf8(tmp_path):
    path = tmp_path / "c.jsonl"
    name = os.fsdecode(b"caf\xe9.jpg")
    write(path, [name])
    path.read_bytes().decode("utf-8")
    assert read_paths(path) == [f"/photos/{name}"]
    with open_writer("jsonl", path, existing="skip") as writer:
        assert writer.has(Path("/photos", name))


def test_csv_refuses_names_that_are_no_utf8_and_stays_readable(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    with open_writer("csv", tmp_path / "c.csv") as writer:
        plan = writer.plan([Path("/photos", name), Path("/photos/a.jpg")])
        assert plan.todo == (Path("/photos/a.jpg"),)
        assert [(failure.path.name, "isn't UTF-8" in failure.reason) for failure in plan.refused] == [(name, True)]
        with pytest.raises(InputError, match="can't be kept: its name isn't UTF-8"):
            writer.write(dual(Path("/photos", name)))
        writer.write(dual("/photos/a.jpg"))
    assert read_paths(tmp_path / "c.csv") == ["/photos/a.jpg"]


@pytest.mark.parametrize("name", FORMATS)
def test_wherever_a_run_was_cut_the_next_one_repairs_and_completes(tmp_path, name):
    whole_path = tmp_path / f"whole.{name}"
    names = ["a.jpg", 'b\n"x", .jpg', "c.jpg"]
    write(whole_path, names)
    whole = whole_path.read_bytes()
    cut_path = tmp_path / f"cut.{name}"
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for length in {*range(0, len(whole), 13), *ends, *(end + 1 for end in ends[:-1])}:
        cut_path.write_bytes(whole[:length])
        write(cut_path, names)
        assert cut_path.read_bytes() == whole, length


@pytest.mark.parametrize("name", FORMATS)
def test_a_killed_writer_leaves_a_file_that_is_continued(tmp_path, name):
    path = tmp_path / f"c.{name}"
    program = (
        "import os, sys; from pathlib import Path\n"
        "from captioning_fakes import dual\n"
        "from sightline.core.captioning.writers import open_writer\n"
        f"writer = open_writer({name!r}, Path(sys.argv[1]))\n"
        "for i in range(5): writer.write(dual(f'/photos/{i}.jpg'))\n"
        f"os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    search = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ended = subprocess.run([sys.executable, "-c", program, str(path)], env={**os.environ, "PYTHONPATH": search})
    assert ended.returncode == -signal.SIGKILL
    assert len(read_paths(path)) == 5
    write(path, [f"{i}.jpg" for i in range(8)])
    assert read_paths(path) == [f"/photos/{i}.jpg" for i in range(8)]


@pytest.mark.parametrize("name", FORMATS)
def test_an_existing_file_is_refused_continued_or_replaced(tmp_path, name):
    path = tmp_path / f"c.{name}"
    write(path, ["a.jpg"])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"exists\. Go on with it with --skip-existing"):
        open_writer(name, path)
    assert path.read_bytes() == before
    with open_writer(name, path, existing="skip") as writer:
        plan = writer.plan([Path("/photos/a.jpg"), Path("/photos/b.jpg")])
        assert (plan.todo, plan.existing) == ((Path("/photos/b.jpg"),), 1)
    write(path, ["b.jpg"], existing="replace")
    assert read_paths(path) == ["/photos/b.jpg"]


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_file_is_simply_filled(tmp_path, name):
    path = tmp_path / f"c.{name}"
    path.touch()
    write(path, ["a.jpg"], existing="refuse")
    assert read_paths(path) == ["/photos/a.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("jsonl", b"my diary\n", "record 1: this is no caption of Sightline's"),
        ("jsonl", b'{"path": "/a"}\n{"other": 1}\n', "record 2: this is no caption"),
        ("jsonl", b'["path"]\n', "record 1: this is no caption"),
        ("csv", b"filepath,title\n/a,b\n", "record 1: its columns aren't filepath,title"),
        ("csv", b"a,b,c,d,e\n", "record 1: its columns aren't filepath,title,similarity,log_prob,source,model"),
        ("csv", b"filepath,title,similarity,log_prob,source\n\xff,b,,,clip\n", "record 2: this is no caption"),
        ("csv", b"filepath,title,similarity,log_prob,source\n/a,b\n", "record 2: it has 2 columns, not 5"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_untouched(tmp_path, name, content, message):
    path = tmp_path / f"c.{name}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_writer(name, path, existing="skip")
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_is_no_file(tmp_path, name):
    with pytest.raises(InputError, match="is a folder; captions go to one file"):
        open_writer(name, tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_is_a_clear_error_and_leaves_whole_records(tmp_path, name):
    path = tmp_path / f"c.{name}"
    write(path, ["a.jpg"])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_writer(name, path, existing="skip") as writer:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
            with pytest.raises(StoreError, match=r"File too large.*Those written before are complete"):
                writer.write(dual("/photos/b.jpg"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        writer.write(dual("/photos/c.jpg"))
    assert read_paths(path) == ["/photos/a.jpg", "/photos/c.jpg"]


@pytest.mark.parametrize("name", FORMATS)
def test_an_output_that_cannot_be_opened_is_a_clear_error(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"Captions can't be written to .*: (File exists|Not a directory)"):
        open_writer(name, tmp_path / "file" / f"c.{name}")


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_overwritten_before_there_is_something_to_write(tmp_path, name):
    output = tmp_path / f"captions.{name}"
    write(output, ["a.jpg"])
    before = output.read_bytes()
    open_writer(name, output, existing="replace").close()
    assert output.read_bytes() == before
    write(output, ["b.jpg"], existing="replace")
    assert read_paths(output) == ["/photos/b.jpg"]
