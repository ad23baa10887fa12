import pytest

from sightline.core.captioning.editing import find_uncaptioned
from sightline.core.store.base import Entry
from sightline.core.store.sqlite import open_store
from sightline.core.types import Caption, ImageInfo, ImageRecord

RANKED = Caption(text="ranked", source="clip", model="e")
WRITTEN = Caption(text="written", source="generated", model="c")
INFO = ImageInfo(width=10, height=10, format="PNG")


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "library") as store:
        yield store


def add(store, root, name, *captions):
    record = ImageRecord(root=root, relative=name, size_bytes=1, mtime_ns=1, content_hash=name, info=INFO)
    (id_,) = store.upsert([Entry(image=record)])
    store.put_captions({id_: list(captions)})


def names(found):
    return [path.name for path in found]


def test_what_lacks_captions_of_these_two_models_is_found(store, tmp_path):
    add(store, tmp_path / "a", "both", RANKED, WRITTEN)
    add(store, tmp_path / "a", "none")
    add(store, tmp_path / "a", "ranked", RANKED)
    add(store, tmp_path / "b", "user", Caption(text="mine", source="user"))
    add(store, tmp_path / "b", "written", WRITTEN)
    assert names(find_uncaptioned(store, encoder="e", captioner="c")) == ["none", "ranked", "user", "written"]
    assert names(find_uncaptioned(store, encoder="e", captioner=None)) == ["none", "user", "written"]
    assert len(names(find_uncaptioned(store, encoder="e", captioner="another"))) == 5
    assert len(names(find_uncaptioned(store, encoder="another", captioner="c"))) == 5
    assert names(find_uncaptioned(store, encoder="e", captioner="c", root=tmp_path / "a")) == ["none", "ranked"]


def test_large_libraries_are_looked_through_in_chunks(store, tmp_path, monkeypatch):
    monkeypatch.setattr("sightline.core.captioning.editing._CHUNK_ROWS", 2)
    for number in range(5):
        add(store, tmp_path, str(number), *([RANKED] if number == 3 else []))
    assert names(find_uncaptioned(store, encoder="e", captioner=None)) == ["0", "1", "2", "4"]
