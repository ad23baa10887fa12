"""Groups of duplicates: their kinds, the one to keep, what is drawn and read for them."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

import sightline as sl
from sightline.core.search import duplicates as room
from sightline.core.search.duplicates import draw_sketches, find_duplicates
from sightline.core.store.base import Entry
from sightline.core.types import Embedding
from sightline.errors import InputError

data = pytest.importorskip("skimage.data")


def save(image, path, *, age_s=0, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)
    os.utime(path, (1_700_000_000 - age_s, 1_700_000_000 - age_s))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A library: chelsea, its mirror image and a small one, two equal coffees, and two shots of a rocket."""
    folder = tmp_path_factory.mktemp("duplicates")
    chelsea, coffee, rocket = (Image.fromarray(getattr(data, name)()) for name in ("chelsea", "coffee", "rocket"))
    save(chelsea, folder / "photos" / "chelsea.jpg", quality=95)
    save(ImageOps.mirror(chelsea), folder / "photos" / "mirrored.jpg", quality=70)
    save(chelsea.resize((220, 146)), folder / "photos" / "small" / "chelsea.jpg", quality=95)
    save(coffee, folder / "photos" / "coffee.png", age_s=10)
    shutil.copy2(folder / "photos" / "coffee.png", folder / "photos" / "a.png")
    os.utime(folder / "photos" / "a.png", (1_700_000_000, 1_700_000_000))
    save(rocket, folder / "photos" / "rocket.jpg", quality=80)
    moved = rocket.copy()  # another shot: a part of the scene is elsewhere, all of it blurred by a shaken hand
    moved.paste(rocket.crop((200, 0, 440, 427)), (120, 0))
    save(moved.filter(ImageFilter.GaussianBlur(2)), folder / "photos" / "rocket 2.jpg", quality=100)
    with sl.Library.open(folder / "library", model="starter") as library:
        library.index(folder / "photos")
    return folder


@pytest.fixture
def library(made):
    with sl.Library.open(made / "library") as library:
        yield library


def named(group, folder):
    return [image.path.relative_to(folder / "photos").as_posix() for image in group.images]


def test_each_group_has_its_kind_the_one_to_keep_and_the_reason(library, made):
    exact, copy = library.duplicates()
    assert (exact.kind, named(exact, made), exact.similarity) == ("exact", ["coffee.png", "a.png"], 1)
    assert exact.reason == "oldest file"
    assert (copy.kind, named(copy, made)) == ("copy", ["chelsea.jpg", "mirrored.jpg", "small/chelsea.jpg"])
    assert copy.reason == "most pixels, largest file"
    assert 0.85 <= copy.similarity < 1
    assert [group.kind for group in library.duplicates(exact_only=True)] == ["exact"]


def test_a_grey_copy_goes_with_one_colour_and_does_not_bridge_two(tmp_path):
    shapes = np.random.default_rng(0).integers(0, 2, (6, 6)) * 255
    mask = Image.fromarray(shapes.astype(np.uint8)).resize((240, 240), Image.Resampling.NEAREST)
    for name, colour in (("red", (200, 40, 40)), ("green", (40, 140, 40)), ("darker red", (150, 30, 30))):
        image = Image.composite(Image.new("RGB", mask.size, colour), Image.new("RGB", mask.size, "white"), mask)
        save(image, tmp_path / "photos" / f"{name}.png")
        if name == "red":
            save(image.convert("L"), tmp_path / "photos" / "grey.png")
    with sl.Library.open(tmp_path / "library", model="starter") as library:
        library.index(tmp_path / "photos")
        groups = [{image.path.stem for image in group.images} for group in library.duplicates()]
        assert groups in ([{"red", "darker red", "grey"}], [{"red", "darker red"}, {"green", "grey"}])
        (tmp_path / "photos" / "grey.png").unlink()
        library.index(tmp_path / "photos")
        (group,) = library.duplicates()
    assert {image.path.stem for image in group.images} == {"red", "darker red"}


def test_what_is_alike_is_a_kind_of_its_own_and_the_sharper_one_is_kept(library, made):
    groups = library.duplicates(min_similarity=0.6)
    assert [group.kind for group in groups] == ["exact", "copy", "alike"]
    assert named(groups[2], made) == ["rocket.jpg", "rocket 2.jpg"]
    assert groups[2].reason == "sharpest"
    assert 0.6 <= groups[2].similarity < 1


def test_a_cosine_alone_groups_nothing(made):
    """Every image has the same vector here: what a model can't tell apart, pixels can."""
    with sl.Library.open(made / "library") as library:
        store, vector = library.store, np.eye(1, 64, dtype=np.float32)[0]
        identity = next(iter(store.models().values()))
        store.add_model(type(identity)(name="blind", weights_hash="0", preprocessing_version=1, dim=64))
        store.upsert([Entry(image=row, embeddings=[Embedding(model="blind", vector=vector)]) for row in store.scan()])
        groups = find_duplicates(store, model="blind", min_similarity=0.99)
        assert [len(group.images) for group in groups if group.kind == "alike"] == [2]
        with pytest.raises(InputError, match=r"More than 3 pairs.*Ask for a higher similarity"):
            find_duplicates(store, model="blind", min_similarity=0.99, max_pairs=3)
        store.remove_model("blind")


@pytest.mark.parametrize("similarity", [0.0, 1.5])
def test_an_impossible_similarity_is_refused(library, similarity):
    with pytest.raises(InputError, match="a cosine above 0, at most 1"):
        library.duplicates(min_similarity=similarity)


def test_what_progress_raises_ends_the_search_at_each_step(library):
    steps = []

    def end_at(step):
        def tell(done, total, what):
            steps.append(what)
            if what == step:
                raise KeyboardInterrupt

        return tell

    for step in ("comparing pixels", "comparing vectors"):
        with pytest.raises(KeyboardInterrupt):
            library.duplicates(min_similarity=0.9, on_progress=end_at(step))
    assert set(steps) == {"comparing pixels", "comparing vectors"}


@pytest.fixture
def older(made, tmp_path):
    """The library as it was before there were sketches."""
    folder = shutil.copytree(made, tmp_path / "older")
    with sl.Library.open(folder / "library") as library, library.store._database.writing() as db:
        db.execute("delete from sketches")
        db.execute("update roots set path = ?", (str(folder / "photos"),))
    with sl.Library.open(folder / "library") as library:
        assert len(library.store.missing_sketches()) == 7
        yield library


def test_an_older_library_is_read_once_by_duplicates_and_again_where_that_was_cut_short(older, monkeypatch):
    monkeypatch.setattr(room, "_DRAWN_AT_ONCE", 2)
    told = []

    def cut_short(done, total, what):
        told.append((done, total, what))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        older.duplicates(on_progress=cut_short)
    assert told == [(0, 6, "reading images"), (2, 6, "reading images"), (4, 6, "reading images")]
    left = len(older.store.missing_sketches())
    assert left < 7, "what was drawn is lost"
    assert [group.kind for group in older.duplicates()] == ["exact", "copy"]
    assert older.store.missing_sketches() == set()


def test_an_older_library_gains_sketches_by_index_without_embedding(older):
    report = older.index()
    assert (report.counts["unchanged"], report.counts["embedded"]) == (7, 0)
    assert older.store.missing_sketches() == set()


def test_files_that_are_gone_or_changed_are_counted_and_compared_by_their_bytes(older):
    gone = next(row for row in older.store.scan() if row.relative == "coffee.png")
    gone.path.unlink()
    changed = next(row for row in older.store.scan() if row.relative == "mirrored.jpg")
    os.utime(changed.path)
    assert draw_sketches(older.store) == 1, "the equal file gave the sketch of the one that is gone"
    exact, copy = older.duplicates()
    assert (exact.images[0].relative, exact.reason) == ("a.png", "the file is there")
    assert [image.relative for image in copy.images] == ["chelsea.jpg", "small/chelsea.jpg"]


def test_a_library_that_is_read_only_compares_what_it_can(made):
    with sl.Library.open(made / "library", read_only=True) as library:
        assert [group.kind for group in library.duplicates()] == ["exact", "copy"]
