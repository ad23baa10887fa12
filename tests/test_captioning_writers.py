import json
from pathlib import Path

import pytest

from captioning_fakes import dual
from sightline.core.captioning.writers import CsvWriter, JsonlWriter, SidecarWriter, make_record, open_writer
from sightline.errors import InputError


def test_the_door_opens_the_writer_of_each_format(tmp_path):
    for name, kind in (("txt", SidecarWriter), ("jsonl", JsonlWriter), ("csv", CsvWriter)):
        output = None if name == "txt" else tmp_path / f"captions.{name}"
        with open_writer(name, output) as writer:  # type: ignore[arg-type]
            assert type(writer) is kind


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_one_file_must_be_named(name):
    with pytest.raises(InputError, match=f"--output captions.{name}"):
        open_writer(name)


def test_a_record_holds_everything_and_no_empty_values():
    record = make_record(dual("/photos/a.jpg"))
    written = {"source": "generated", "similarity": 0.312346, "log_prob": -1.5, "model": "starter-captioner"}
    assert record == {
        "path": "/photos/a.jpg",
        "best": {"text": "a dog", **written},
        "clip": [{"text": "a cat", "source": "clip", "similarity": 0.2}],
        "generated": [{"text": "a dog", **written}],
    }
    json.dumps(record)


def test_a_photo_given_twice_is_planned_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_writer("jsonl", tmp_path / "c.jsonl") as writer:
        plan = writer.plan([Path("a.jpg"), tmp_path / "a.jpg", Path("b.jpg")])
    assert [path.absolute() for path in plan.todo] == [tmp_path / "a.jpg", tmp_path / "b.jpg"]
