"""What is kept of a picture follows its content, whatever files are renamed to and wherever runs are cut short.

Covers: sightline.core.indexing.resolve.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sightline
from indexing_world import PooledEncoder, photo_bytes
from sightline.core.images.files import hash_bytes
from sightline.core.indexing import indexer
from sightline.core.indexing.indexer import index
from sightline.core.indexing.report import IndexConfig
from sightline.core.store.sqlite import open_store
from sightline.core.types import Caption

CONTENTS = [photo_bytes(seed, file_format="PNG") + bytes(seed * 1000) for seed in range(16)]  # no two of one size
PLACES = [f"{folder}{number}.png" for folder in ("a/", "a/deep/", "b/") for number in range(5)]
CONFIG = IndexConfig(readers=1, remove_missing="always")
TIMES = ["new", "of the content", "of the place"]
"""What a file's mtime is after a move: as after copying, after renaming, and after copying with the time set back."""

KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from indexing_world import PooledEncoder
from sightline.core.indexing.indexer import index
from sightline.core.store import sqlite
from sightline.core.store.sqlite import open_store

library, folder, left = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
prune = sqlite.rows.prune_roots

def kill_in_a_transaction(db):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    prune(db)

sqlite.rows.prune_roots = kill_in_a_transaction
index(open_store(library), PooledEncoder(), [folder])
"""


class Cut(Exception):
    """A run ends here."""


class Album:
    """A folder of files that are put anew, and what their captions have to be."""

    def __init__(self, scratch):
        self.photos = scratch / "photos"
        for folder in ("a/deep", "b"):
            (self.photos / folder).mkdir(parents=True)
        self.store = open_store(scratch / "library")
        self._now = 10**9

    def put(self, files, *, time="new"):
        """Have exactly these files, path -> number of a content."""
        for path in self.photos.rglob("*.png"):
            path.unlink()
        for name, content in files.items():
            path = self.photos / name
            path.write_bytes(CONTENTS[content])
            self._now += 1
            seconds = {"new": self._now, "of the content": content, "of the place": PLACES.index(name)}[time]
            os.utime(path, ns=(seconds * 10**9,) * 2)

    def index(self, *parts, cut_after=None, model="pooled"):
        """Index; with `cut_after`, end with an exception before so many transactions plus one."""
        left = [cut_after]
        upsert = self.store.upsert

        def count_down(entries, **given):
            if left[0] is not None:
                if not left[0]:
                    raise Cut
                left[0] -= 1
            return upsert(entries, **given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.store, "upsert", count_down)
            try:
                return index(
                    self.store, PooledEncoder(model), [self.photos / part for part in parts or (".",)], config=CONFIG
                )
            except Cut:
                return None

    def caption(self):
        """Give each image a generated caption, two of three one of the user's; what each content has now."""
        for number, record in enumerate(self.store.scan()):
            texts = f"mine {number}", f"made {number}"
            captions = list(zip(texts, ("user", "generated"), strict=True))[number % 3 == 0 :]
            self.store.put_captions({record.id: [Caption(text=text, source=source) for text, source in captions]})  # type: ignore[arg-type]
        return self.captions()

    def captions(self):
        """How often each content has each caption."""
        found = Counter()
        for record in self.store.scan():
            for caption in self.store.captions([record.id])[record.id]:
                found[record.content_hash, caption.text] += 1
        return found

    def check(self, files, before):
        """Every file has its row with all vectors, and its content the captions that it had."""
        rows = {record.path: record for record in self.store.scan()}
        assert {path: row.content_hash for path, row in rows.items()} == {
            self.photos / name: hash_bytes(CONTENTS[content]) for name, content in files.items()
        }
        for model in self.store.models():
            assert self.store.missing_vectors(model) == set()
        self.check_captions(Counter(files.values()), before)

    def check_captions(self, present, before):
        """No content has another's caption; those present, with how many files, have kept all that is the user's.

        What no file held before may have user's captions: a file was edited.
        """
        after = self.captions()
        known = {content_hash for content_hash, _ in before}
        assert {key for key in after if key[0] in known} <= set(before), "a caption lies with another content"
        assert all(text.startswith("mine") for content_hash, text in after if content_hash not in known)
        for content, count in present.items():
            had, has = (
                {text for content_hash, text in found if content_hash == hash_bytes(CONTENTS[content])}
                for found in (before, after)
            )
            mine = {text for text in had if text.startswith("mine")}
            gone = max(0, len(had - mine) - count)  # rows of equal files: any of them may be the ones that go
            assert len(has & mine) >= len(mine) - gone, "a user's caption is lost"


@st.composite
def changes(draw):
    """Files before and after: all permuted, some deleted, some copied, some new, some edited."""
    contents = st.integers(0, draw(st.sampled_from([3, 15])))  # many equal files, or few
    before = draw(st.dictionaries(st.sampled_from(PLACES), contents, min_size=1, max_size=12))
    moved = draw(st.permutations(list(before.values())))
    places = draw(st.permutations(PLACES)) if draw(st.booleans()) else draw(st.permutations(list(before)))
    after = dict(zip(places, moved, strict=False))
    for gone in draw(st.lists(st.sampled_from(sorted(after)), max_size=3, unique=True)):
        del after[gone]
    return before, after | draw(st.dictionaries(st.sampled_from(PLACES), st.integers(0, 15), max_size=2))


@settings(max_examples=40, deadline=None)
@given(
    change=changes(),
    time=st.sampled_from(TIMES),
    roots=st.sampled_from([(), ("a", "b")]),
    max_rows=st.integers(1, 6),
    cuts=st.lists(st.integers(0, 4), max_size=3),
)
def test_captions_follow_their_content_whatever_moves_and_wherever_runs_end(change, time, roots, max_rows, cuts):
    before, after = change
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexer, "_MAX_ROWS", max_rows)
        album = Album(Path(scratch))
        album.put(before, time=time)
        album.index(*roots)
        album.index(*roots, model="second")
        had = album.caption()
        album.put(after, time=time)
        for cut in cuts:
            album.index(*roots, cut_after=cut)
        album.index(*roots)
        album.index(*roots, model="second")
        album.store.close()
        with open_store(Path(scratch) / "library") as album.store:
            album.check(after, had)


@settings(max_examples=40, deadline=None)
@given(
    change=changes(),
    time=st.sampled_from(TIMES),
    roots=st.sampled_from([(), ("a", "b")]),
    parts=st.lists(st.sampled_from(["a", "a/deep", "b"]), min_size=1, max_size=3),
)
def test_a_run_over_a_part_gives_no_caption_to_other_content_and_loses_none_that_it_could_see(
    change, time, roots, parts
):
    before, after = change
    with tempfile.TemporaryDirectory() as scratch:
        album = Album(Path(scratch))
        album.put(before, time=time)
        album.index(*roots)
        had = album.caption()
        album.put(after, time=time)
        album.index(parts[0])
        album.check_captions(
            Counter(c for name, c in after.items() if name.startswith(f"{parts[0]}/") or before.get(name) == c), had
        )
        left = album.captions()
        for part in parts[1:]:
            album.index(part)
            album.check_captions({}, left)  # what an earlier run forgot is new again, as what a file was edited to
            left = album.captions()
        album.index(*roots)
        album.check(after, left)
        album.store.close()


@pytest.mark.parametrize("max_rows", [1, 256])
def test_the_users_words_stay_where_an_edited_image_is_also_saved_under_a_new_name(tmp_path, monkeypatch, max_rows):
    monkeypatch.setattr(indexer, "_MAX_ROWS", max_rows)
    album = Album(tmp_path)
    album.put({"b/1.png": 0})
    album.index()
    album.store.put_captions({next(album.store.scan()).id: [Caption(text="mine", source="user")]})
    album.put({"a/1.png": 1, "b/1.png": 1})
    album.index()
    assert album.captions() == Counter({(hash_bytes(CONTENTS[1]), "mine"): 1})
    album.store.close()


def swap(first, second):
    spare = first.with_name("spare")
    first.rename(spare)
    second.rename(first)
    spare.rename(second)


def swap_contents(first, second):
    spare = first.with_name("spare")
    shutil.copyfile(first, spare)
    shutil.copyfile(second, first)
    shutil.copyfile(spare, second)
    spare.unlink()


def change_case(folder):
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.swapcase()))


RENAMINGS = {
    "letters of another case": lambda photos: change_case(photos / "a"),
    "letters of another case, swapped": lambda photos: (
        (photos / "a/x.png").rename(photos / "a/1.png"),
        (photos / "a/X.png").rename(photos / "a/x.png"),
        (photos / "a/1.png").rename(photos / "a/X.png"),
    ),
    "two folders swapped": lambda photos: swap(photos / "a", photos / "b"),
    "a folder of another name": lambda photos: (photos / "a").rename(photos / "A"),
    "a folder put into another": lambda photos: (photos / "a").rename(photos / "b/a"),
    "contents swapped by copying": lambda photos: swap_contents(photos / "a/x.png", photos / "b/x.png"),
}


@pytest.mark.parametrize("rename", RENAMINGS.values(), ids=RENAMINGS)
@pytest.mark.parametrize("roots", [(), ("a", "b")], ids=["one root", "two roots"])
def test_a_renaming_by_hand(tmp_path, rename, roots):
    album = Album(tmp_path)
    for name, content in zip(("a/x.png", "a/X.png", "a/y.png", "b/x.png", "b/y.png"), CONTENTS, strict=False):
        (album.photos / name).write_bytes(content)
    if not (album.photos / "a/y.png").exists() or len(list((album.photos / "a").glob("*.png"))) < 3:
        pytest.skip("a file system that takes letters of another case for the same")
    album.index(*roots)
    had = album.caption()
    rename(album.photos)
    for folder in roots:
        (album.photos / folder).mkdir(exist_ok=True)
    report = album.index(*roots, *(folder.name for folder in album.photos.iterdir() if roots))
    assert (report.embedded, report.added, report.updated, report.removed) == (0, 0, 0, 0)
    assert report.renamed + report.unchanged == 5
    assert album.captions() == had
    album.store.close()


def test_kills_amid_hundreds_of_moves_lose_no_caption(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    contents = {number: photo_bytes(number) for number in range(600)}
    for number, content in contents.items():
        (photos / f"{number}.jpg").write_bytes(content)
    rng = random.Random(0)
    places = list(contents)
    with open_store(tmp_path / "library") as store:
        index(store, PooledEncoder(), [photos])
        for record in store.scan():
            store.put_captions({record.id: [Caption(text=f"mine {record.content_hash}", source="user")]})
    rng.shuffle(places)
    for place, content in zip(places, contents.values(), strict=True):
        (photos / f"{place}.jpg").write_bytes(content)
    paths = [str(Path(sightline.__file__).parents[1]), str(Path(__file__).parent)]
    for _ in range(4):
        run = subprocess.run(
            [sys.executable, "-c", KILLED_RUN, str(tmp_path / "library"), str(photos), str(rng.randrange(1, 200))],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            timeout=300,
        )
        assert run.returncode == -signal.SIGKILL
    with open_store(tmp_path / "library") as store:
        assert index(store, PooledEncoder(), [photos]).embedded == 0
        captions = {
            record.path: [caption.text for caption in store.captions([record.id])[record.id]] for record in store.scan()
        }
    assert captions == {
        photos / f"{place}.jpg": [f"mine {hash_bytes(content)}"]
        for place, content in zip(places, contents.values(), strict=True)
    }
