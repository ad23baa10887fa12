"""What is kept of a picture follows its content, whatever files are renamed to and wherever runs are cut short."""

import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexing_world import PooledEncoder, photo_bytes
from sightline.images.hashing import hash_bytes
from sightline.indexing import writing
from sightline.indexing.indexer import index
from sightline.indexing.report import IndexConfig
from sightline.store.sqlite import open_store
from sightline.types import Caption

CONTENTS = [photo_bytes(seed, file_format="PNG") for seed in range(16)]
PLACES = [f"{folder}{number}.png" for folder in ("a/", "a/deep/", "b/") for number in range(5)]
CONFIG = IndexConfig(readers=1, remove_missing="always")


class Cut(Exception):
    """A run ends here."""


class Album:
    """A folder of files that are put anew, and what their captions have to be."""

    def __init__(self, scratch):
        self.photos = scratch / "photos"
        self.store = open_store(scratch / "library")
        self._now = 10**18

    def put(self, files):
        """Have exactly these files, path -> number of a content; whatever moves gets its own time."""
        for path in self.photos.rglob("*.png"):
            path.unlink()
        for name, content in files.items():
            path = self.photos / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(CONTENTS[content])
            self._now += 10**9
            os.utime(path, ns=(self._now, self._now))

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
            captions = list(zip(texts, ("user", "blip"), strict=True))[number % 3 == 0 :]
            self.store.put_captions({record.id: [Caption(text=text, source=source) for text, source in captions]})
        return self.captions()

    def captions(self):
        """How often each content has each caption."""
        found = Counter()
        for record in self.store.scan():
            for caption in self.store.captions([record.id])[record.id]:
                found[record.content_hash, caption.text] += 1
        return found

    def check(self, files, before):
        """Every file has its row with all vectors; no content has another's caption, and none that it had is lost."""
        rows = {record.path: record for record in self.store.scan()}
        assert {path: row.content_hash for path, row in rows.items()} == {
            self.photos / name: hash_bytes(CONTENTS[content]) for name, content in files.items()
        }
        for model in self.store.models():
            assert self.store.missing_vectors(model) == set()
        after = self.captions()
        present = Counter(hash_bytes(CONTENTS[content]) for content in files.values())
        assert set(after) <= set(before), "a caption lies with another content"
        for content_hash, count in present.items():
            had = {text for hash_, text in before if hash_ == content_hash}
            has = {text for hash_, text in after if hash_ == content_hash}
            mine = {text for text in had if text.startswith("mine")}
            gone = max(0, len(had - mine) - count)  # rows of equal files: any of them may be the ones that go
            assert len(has & mine) >= len(mine) - gone, "a user's caption is lost"


libraries = st.dictionaries(st.sampled_from(PLACES), st.integers(0, len(CONTENTS) - 1), min_size=1, max_size=12)


@st.composite
def changes(draw):
    """Files before and after: all permuted, some deleted, some copied, some new, some edited."""
    before = draw(libraries)
    contents = draw(st.permutations(list(before.values())))
    places = draw(st.permutations(PLACES)) if draw(st.booleans()) else draw(st.permutations(list(before)))
    after = dict(zip(places, contents, strict=False))
    for gone in draw(st.lists(st.sampled_from(sorted(after)), max_size=3, unique=True)):
        del after[gone]
    return before, after | draw(st.dictionaries(st.sampled_from(PLACES), st.integers(0, 15), max_size=2))


@settings(max_examples=30, deadline=None)
@given(change=changes(), max_rows=st.integers(1, 6), cuts=st.lists(st.integers(0, 4), max_size=3))
def test_captions_follow_their_content_whatever_moves_and_wherever_runs_end(change, max_rows, cuts):
    before, after = change
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_MAX_ROWS", max_rows)
        album = Album(Path(scratch))
        album.put(before)
        album.index()
        album.index(model="second")
        had = album.caption()
        album.put(after)
        for cut in cuts:
            album.index(cut_after=cut)
        album.index()
        album.index(model="second")
        known = {hash_bytes(CONTENTS[content]) for content in before.values()}
        kept = Counter({key: count for key, count in album.captions().items() if key[0] in known})
        strangers = set(album.captions()) - set(kept)
        edited = {text for _, text in strangers}
        assert all(text.startswith("mine") for text in edited), "only the user's words stay where a file was edited"
        album.store.close()
        with open_store(Path(scratch) / "library") as album.store:
            album.check(after, had | Counter(dict.fromkeys(strangers, 1)))
