"""What every store must do, whatever its backend. A new backend adds itself to BACKENDS.

Covers: sightline.core.store.base, sightline.core.store.sqlite, sightline.core.store.words.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sightline.core.store.base import Entry, Failure, Lift
from sightline.core.store.sqlite import open_store
from sightline.core.types import Caption, Embedding, Example, Facts, ImageInfo, ImageRecord, ModelIdentity, TaughtWord
from sightline.errors import InputError, StoreError

BACKENDS = {"sqlite": open_store}
DIM = 8
PHOTOS = Path("/photos")


@pytest.fixture(params=BACKENDS)
def reopen(request, tmp_path):
    """Opens the same store again and again; the backend decides what it needs."""
    opened = []

    def open_again():
        opened.append(BACKENDS[request.param](tmp_path / "library"))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen):
    return reopen()


def identity(name="m", **changes):
    return replace(ModelIdentity(name=name, weights_hash="w", preprocessing_version=1, dim=DIM), **changes)


def record(relative, *, root=PHOTOS, id=None, content_hash=None, **info):  # noqa: A002
    return ImageRecord(
        id=id,
        root=root,
        relative=relative,
        size_bytes=1000,
        mtime_ns=1_700_000_000_123_456_789,
        content_hash=content_hash or f"hash of {relative!a}",
        info=ImageInfo(**{"width": 640, "height": 480, "format": "JPEG", **info}),
    )


def unit(*components):
    vector = np.zeros(DIM, dtype=np.float32)
    vector[: len(components)] = components
    return vector / np.linalg.norm(vector)


def embedding(*components, model="m", precision="fp32"):
    return Embedding(model=model, vector=unit(*components), precision=precision)


def entry(relative, *components, model="m", keep_vectors=True, **rest):
    embeddings = [embedding(*components, model=model)] if components else []
    return Entry(image=record(relative, **rest), embeddings=embeddings, keep_vectors=keep_vectors)


def cosines(hits):
    return {id_: round(cosine, 3) for id_, cosine in hits}


# Rows


def test_a_record_comes_back_as_it_was_written(store, reopen):
    written = record("a/b.jpg", taken_at="2024-05-01T12:30:00", camera="Leica", latitude=1.5, longitude=-2.25)
    (id_,) = store.upsert([Entry(image=written)])
    expected = replace(written, id=id_)
    assert store.get([id_]) == [expected]
    assert reopen().get([id_]) == [expected]


def test_get_answers_in_the_order_asked_and_names_unknown_ids(store):
    first, second = store.upsert([entry("a.jpg"), entry("b.jpg")])
    assert [r.relative for r in store.get([second, first, second])] == ["b.jpg", "a.jpg", "b.jpg"]
    with pytest.raises(StoreError, match="no image with the id 999"):
        store.get([first, 999])


def test_the_same_path_without_an_id_replaces_its_row(store):
    (first,) = store.upsert([entry("a.jpg", content_hash="old")])
    (again,) = store.upsert([entry("a.jpg", content_hash="new", width=1)])
    assert again == first
    assert store.get([first])[0].content_hash == "new"
    assert store.stats().images == 1


def test_a_copy_of_the_same_bytes_is_a_row_of_its_own(store):
    ids = store.upsert([entry("a.jpg", content_hash="same"), entry("b.jpg", content_hash="same")])
    assert len(set(ids)) == 2
    assert [r.id for r in store.find_hash("same")] == ids
    assert store.find_hash("other") == []


def test_a_renamed_file_keeps_row_vectors_and_captions(store):
    store.add_model(identity())
    (id_,) = store.upsert([entry("old/cat.jpg", 1)])
    store.put_captions({id_: [Caption(text="a cat", source="generated")]})
    assert store.upsert([entry("new/tom.jpg", id=id_)]) == [id_]
    assert store.get([id_])[0].relative == "new/tom.jpg"
    assert cosines(store.query(unit(1), 5, model="m")) == {id_: 1.0}
    assert [c.text for c in store.captions([id_])[id_]] == ["a cat"]
    assert store.find_path(PHOTOS / "old/cat.jpg") is None
    assert [i for i, _ in store.match("tom", 5)] == [id_]
    assert store.match("old", 5) == []


def test_two_files_may_swap_their_names(store):
    first, second = store.upsert([entry("a.jpg"), entry("b.jpg")])
    assert store.upsert([entry("b.jpg", id=first), entry("a.jpg", id=second)]) == [first, second]
    assert [r.relative for r in store.get([first, second])] == ["b.jpg", "a.jpg"]


def test_a_file_renamed_over_another_replaces_its_row(store):
    store.add_model(identity())
    first, second = store.upsert([entry("a.jpg", 1), entry("b.jpg", 0, 1)])
    store.upsert([entry("b.jpg", id=first)])
    assert [r.id for r in store.scan()] == [first]
    assert [i for i, _ in store.query(unit(0, 1), 5, model="m")] == [first]
    with pytest.raises(StoreError):
        store.get([second])


def test_an_update_of_a_row_that_was_deleted_makes_a_new_one(store):
    (old,) = store.upsert([entry("a.jpg")])
    store.delete([old])
    ids = store.upsert([entry("a.jpg", id=old), entry("b.jpg", id=old)])
    assert len({old, *ids}) == 3, "ids are never used again"
    assert [r.id for r in store.scan()] == ids


def test_a_root_without_rows_and_failures_is_forgotten(store):
    (id_,) = store.upsert([entry("a.jpg")], failures=[failure("b.jpg", root=Path("/other"))])
    assert store.stats().roots == (PHOTOS, Path("/other"))
    store.upsert([entry("a.jpg", id=id_, root=Path("/moved"))])
    assert store.stats().roots == (Path("/other"), Path("/moved"))


def test_two_ids_for_one_path_in_a_batch_are_refused(store):
    first, second = store.upsert([entry("a.jpg"), entry("b.jpg")])
    with pytest.raises(StoreError, match="same path"):
        store.upsert([entry("c.jpg", id=first), entry("c.jpg", id=second)])


def test_delete_removes_vectors_captions_and_texts(store):
    store.add_model(identity())
    gone, kept = store.upsert([entry("gone.jpg", 1), entry("kept.jpg", 0.9, 0.1)])
    store.put_captions({gone: [Caption(text="a zebra", source="user")]})
    assert [i for i, _ in store.query(unit(1), 5, model="m")] == [gone, kept]
    assert store.delete([gone, 999]) == 1
    assert [i for i, _ in store.query(unit(1), 5, model="m")] == [kept]
    assert store.match("zebra", 5) == store.match("gone", 5) == []
    assert store.stats().captions == 0
    assert store.delete([]) == 0


def test_ids_of_deleted_rows_never_come_back(store):
    (first,) = store.upsert([entry("a.jpg")])
    store.delete([first])
    assert store.upsert([entry("a.jpg")]) != [first]


@pytest.mark.parametrize(
    "relative",
    [
        "with space.jpg",
        "new\nline.jpg",
        "quote'\".jpg",
        "100%_.jpg",
        "雪/ñandú.jpg",
        "odd\udcff\udcfe/\udce9.jpg",
        ";--.jpg",
    ],
)
def test_any_file_name_is_kept_exactly(store, relative):
    (id_,) = store.upsert([entry(relative)])
    (other,) = store.upsert([entry("plain.jpg")])
    assert store.get([id_])[0].relative == relative
    assert store.find_path(PHOTOS / relative).id == id_
    assert {r.id for r in store.scan()} == {id_, other}
    assert store.upsert([entry(relative)]) == [id_]


@pytest.mark.parametrize("relative", ["", "/etc/passwd", "a/../../b.jpg", "folder/"])
def test_what_names_no_file_below_the_root_is_refused(store, relative):
    with pytest.raises(InputError, match="not a file's path below a root"):
        store.upsert([entry(relative)])


def test_a_relative_root_is_refused(store):
    with pytest.raises(InputError, match="not absolute"):
        store.upsert([entry("a.jpg", root=Path("photos"))])


def test_scan_goes_by_root_and_path_and_obeys_folder_and_filter(store):
    store.upsert([entry("b/2.jpg"), entry("a.jpg", width=10), entry("b/1.jpg"), entry("bb/3.jpg")])
    store.upsert([entry("z.jpg", root=Path("/other"))])
    assert [str(r.path) for r in store.scan()] == [
        "/other/z.jpg",
        "/photos/a.jpg",
        "/photos/b/1.jpg",
        "/photos/b/2.jpg",
        "/photos/bb/3.jpg",
    ]
    assert [r.relative for r in store.scan(root=PHOTOS / "b")] == ["b/1.jpg", "b/2.jpg"]
    assert [r.relative for r in store.scan(root=Path("/"))] == ["z.jpg", "a.jpg", "b/1.jpg", "b/2.jpg", "bb/3.jpg"]
    assert [r.relative for r in store.scan(root=PHOTOS, where="width = 10")] == ["a.jpg"]
    assert list(store.scan(root=Path("/nowhere"))) == []


def test_ids_come_newest_first_under_a_filter_and_of_a_model(store):
    store.add_model(identity())
    entries = [
        entry("old.jpg", 1, taken_at="2001-01-01T00:00:00"),
        entry("undated-a.jpg", 1, camera="X"),
        entry("new.jpg", taken_at="2024-05-01T00:00:00"),
        entry("undated-b.jpg", camera="X"),
    ]  # files without a date were changed in November 2023
    old, undated_a, new, undated_b = store.upsert(entries)
    assert store.ids().tolist() == [new, undated_b, undated_a, old]
    assert store.ids(where="camera = 'X'").tolist() == [undated_b, undated_a]
    assert store.ids(model="m").tolist() == [undated_a, old]
    assert store.ids(where="camera = 'X' or width > 0", model="m").tolist() == [undated_a, old]
    assert store.ids(where="width > 1000").tolist() == []
    with pytest.raises(StoreError, match="no vectors of the model 'other'"):
        store.ids(model="other")


def test_scan_survives_writes_between_its_rows(store):
    ids = store.upsert([entry(f"{i:05}.jpg") for i in range(1500)])
    scan = store.scan()
    seen = [next(scan).id]
    store.delete(ids[-1:])
    store.upsert([entry("later.jpg")])
    seen += [r.id for r in scan]
    assert seen == ids[:-1]


# Vectors and models


def test_models_are_listed_in_order_of_arrival_and_adding_again_is_harmless(store):
    for name in ("zebra", "ant", "zebra"):
        store.add_model(identity(name))
    assert store.models() == {"zebra": identity("zebra"), "ant": identity("ant")}
    assert list(store.models()) == ["zebra", "ant"]


@pytest.mark.parametrize("change", [{"weights_hash": "x"}, {"preprocessing_version": 2}, {"dim": 9}])
def test_a_known_name_with_another_identity_is_refused(store, change):
    store.add_model(identity())
    with pytest.raises(StoreError, match="can't be compared"):
        store.add_model(identity(**change))
    assert store.models() == {"m": identity()}


def test_unknown_models_are_refused_by_name_everywhere(store):
    store.add_model(identity("known"))
    for use in (
        lambda: store.upsert([entry("a.jpg", 1)]),
        lambda: store.query(unit(1), 1, model="m"),
        lambda: store.vectors("m"),
        lambda: store.missing_vectors("m"),
        lambda: store.remove_model("m"),
    ):
        with pytest.raises(StoreError, match="no vectors of the model 'm'; it has: known"):
            use()
    assert store.stats().images == 0


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(DIM + 1) / 3, "shape"),
        (np.ones((1, DIM)) / DIM**0.5, "shape"),
        (np.full(DIM, 1.0), "length 2.828"),
        (np.zeros(DIM), "length 0"),
        (np.full(DIM, np.nan), "length nan"),
        (np.full(DIM, np.inf), "length inf"),
    ],
)
def test_vectors_that_are_no_unit_vectors_of_the_model_are_refused(store, vector, message):
    store.add_model(identity())
    bad = Entry(image=record("b.jpg"), embeddings=[Embedding(model="m", vector=vector.astype(np.float32))])
    with pytest.raises(StoreError, match=message):
        store.upsert([entry("a.jpg", 1), bad])
    assert list(store.scan()) == []


def test_vectors_come_back_by_ascending_id_at_length_one(store):
    store.add_model(identity())
    first, second, bare = store.upsert([entry("b.jpg", 1, 2, 3), entry("a.jpg", -3, 1), entry("c.jpg")])
    ids, vectors = store.vectors("m")
    assert ids.dtype == np.int64
    assert vectors.dtype == np.float32
    assert ids.tolist() == [first, second]
    np.testing.assert_allclose(vectors, [unit(1, 2, 3), unit(-3, 1)], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    ids, vectors = store.vectors("m", [bare, second, 999])
    assert ids.tolist() == [second]
    assert vectors.shape == (1, DIM)
    assert store.vectors("m", [])[1].shape == (0, DIM)


def test_missing_vectors_names_rows_without_one(store):
    store.add_model(identity())
    _, bare, elsewhere = store.upsert([entry("a.jpg", 1), entry("b.jpg"), entry("c.jpg", root=Path("/other"))])
    assert store.missing_vectors("m") == {bare, elsewhere}
    assert store.missing_vectors("m", PHOTOS) == {bare}
    assert store.missing_vectors("m", Path("/nowhere")) == set()


def hub_library(store):
    """Three images, of which the second lies nearest to the query (1,) but is a hub."""
    store.add_model(identity())
    ids = store.upsert([entry("a.jpg", 9, 4), entry("b.jpg", 9, 1), entry("c.jpg", 0, 1)])
    store.put_hubness("m", "bank", dict(zip(ids, (0.1, 0.6, 0.2), strict=True)))
    return ids


def test_hubs_are_ranked_lower_by_their_weight_and_keep_their_cosine(store):
    first, hub, far = hub_library(store)
    assert [id_ for id_, _ in store.query(unit(1), 3, model="m")] == [hub, first, far]
    cosines = dict(store.query(unit(1), 3, model="m"))
    assert store.query(unit(1), 3, model="m", hub_weight=0.5) == [(id_, cosines[id_]) for id_ in (first, hub, far)]
    assert [id_ for id_, _ in store.query(unit(1), 1, model="m", hub_weight=0.5, where="name = 'b.jpg'")] == [hub]
    assert [id_ for id_, _ in store.query(unit(1), 1, model="m", hub_weight=0.5, exclude=[first])] == [hub]


def test_hubs_are_corrected_for_all_images_or_for_none(store):
    first, hub, _ = hub_library(store)
    assert store.knows_hubness("m", "bank")
    (late,) = store.upsert([entry("d.jpg", 1, 1)])
    assert store.missing_hubness("m", "bank").tolist() == [late]
    assert not store.knows_hubness("m", "bank")
    assert store.query(unit(1), 1, model="m", hub_weight=0.5)[0][0] == hub
    store.put_hubness("m", "bank", {late: 0.0})
    assert store.query(unit(1), 1, model="m", hub_weight=0.5)[0][0] == first


def test_another_bank_replaces_what_the_former_measured(store):
    ids = hub_library(store)
    assert not store.knows_hubness("m", "other")
    assert store.missing_hubness("m", "other").tolist() == ids
    store.put_hubness("m", "other", {ids[0]: 0.3})
    assert store.hubness("m", ids) == {ids[0]: 0.3}
    assert store.missing_hubness("m", "bank").tolist() == ids


def test_the_hubness_of_an_embedding_is_kept_and_goes_with_it(store, reopen):
    store.add_model(identity())
    store.put_hubness("m", "bank", {})
    measured = Entry(image=record("a.jpg"), embeddings=[replace(embedding(1), hubness=0.25)])
    (id_,) = store.upsert([measured])
    assert reopen().hubness("m", [id_]) == {id_: 0.25}
    (copy,) = store.upsert([entry("copy.jpg", content_hash=record("a.jpg").content_hash)])
    twin = Entry(image=record("twin.jpg", content_hash=record("a.jpg").content_hash), same_pixels_as=id_)
    (twin_id,) = store.upsert([twin])
    assert store.hubness("m", [copy, twin_id]) == {twin_id: 0.25}
    store.upsert([entry("a.jpg", 0, 1)])
    assert store.hubness("m", [id_]) == {}, "another vector, which nobody measured"


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_a_number_that_is_no_mean_of_cosines_is_refused(store, value):
    ids = hub_library(store)
    with pytest.raises(StoreError, match="mean of cosines"):
        store.put_hubness("m", "bank", {ids[0]: value})
    assert store.hubness("m", ids[:1]) == {ids[0]: 0.1}


def test_a_sample_stands_for_the_rows_under_a_filter(store):
    store.add_model(identity())
    assert store.background(unit(1), 5, model="m")[0] == 0
    ids = store.upsert([entry(f"{n:02}.jpg", n, 10 - n) for n in range(10)])
    store.put_hubness("m", "bank", dict.fromkeys(ids, 0.2))
    count, all_S = store.background(unit(1), 100, model="m")
    exact = dict(store.query(unit(1), 10, model="m"))
    assert count == 10
    np.testing.assert_allclose(all_S, [exact[id_] for id_ in ids], atol=0.01)
    count, some_S = store.background(unit(1), 2, model="m", where="name >= '05.jpg'", hub_weight=0.5)
    assert count == 5
    np.testing.assert_allclose(some_S, [exact[ids[5]] - 0.1, exact[ids[9]] - 0.1], atol=0.01)


def test_models_live_side_by_side_and_one_is_dropped_alone(store):
    store.add_model(identity())
    store.add_model(identity("n"))
    both = Entry(image=record("a.jpg"), embeddings=[embedding(1), embedding(0, 1, model="n", precision="int8")])
    (id_,) = store.upsert([both])
    assert store.stats().models == {"m": 1, "n": 1}
    assert store.remove_model("m") == 1
    assert list(store.models()) == ["n"]
    assert cosines(store.query(unit(0, 1), 1, model="n")) == {id_: 1.0}
    store.add_model(identity(weights_hash="another"))
    assert store.query(unit(1), 1, model="m") == []


def test_keep_vectors_adds_a_model_to_known_rows(store):
    store.add_model(identity())
    store.add_model(identity("n"))
    (id_,) = store.upsert([entry("a.jpg", 1)])
    store.upsert([entry("a.jpg", 0, 1, model="n", id=id_)])
    assert store.stats().models == {"m": 1, "n": 1}


def test_changed_pixels_drop_other_vectors_and_captions_but_the_users(store):
    store.add_model(identity())
    store.add_model(identity("n"))
    (id_,) = store.upsert([Entry(image=record("a.jpg"), embeddings=[embedding(1), embedding(1, model="n")])])
    store.put_captions(
        {id_: [Caption(text="generated cat", source="generated"), Caption(text="my cat", source="user", best=True)]}
    )
    store.query(unit(1), 1, model="n")
    store.upsert([entry("a.jpg", 0, 1, id=id_, keep_vectors=False)])
    assert cosines(store.query(unit(0, 1), 1, model="m")) == {id_: 1.0}
    assert store.query(unit(1), 1, model="n") == []
    assert [c.text for c in store.captions([id_])[id_]] == ["my cat"]
    assert store.match("generated", 1) == []
    assert len(store.match("my", 1)) == 1


def test_a_copy_takes_over_vectors_and_captions_as_they_were_before_the_write(store):
    store.add_model(identity())
    store.add_model(identity("n"))
    both = [embedding(1), embedding(0, 1, model="n", precision="int8")]
    first, second = store.upsert(
        [Entry(image=record("a.jpg", content_hash="A"), embeddings=both), entry("b.jpg", 0, 0, 1, content_hash="B")]
    )
    store.put_captions({first: [Caption(text="words of A", source="user", best=True)]})
    store.put_captions({second: [Caption(text="words of B", source="user", best=True)]})
    swapped = [
        Entry(image=record("a.jpg", id=first, content_hash="B"), keep_vectors=False, same_pixels_as=second),
        Entry(image=record("b.jpg", id=second, content_hash="A"), keep_vectors=False, same_pixels_as=first),
        Entry(image=record("c.jpg", content_hash="A"), same_pixels_as=first, embeddings=[embedding(0, 0, 0, 1)]),
    ]
    third = store.upsert(swapped)[2]
    assert [i for i, _ in store.query(unit(0, 0, 1), 1, model="m")] == [first]
    assert [i for i, _ in store.query(unit(1), 1, model="m")] == [second]
    assert [i for i, _ in store.query(unit(0, 0, 0, 1), 1, model="m")] == [third]
    assert store.vectors("n")[0].tolist() == [second, third]
    texts = {id_: [(c.text, c.best) for c in found] for id_, found in store.captions([first, second, third]).items()}
    assert texts == {first: [("words of B", True)], second: [("words of A", True)], third: []}
    assert {i for i, _ in store.match("words of A", 5)} >= {second}


def test_nothing_is_taken_over_from_a_row_that_is_gone_or_has_other_content(store):
    store.add_model(identity())
    first, second = store.upsert([entry("a.jpg", 1, content_hash="A"), entry("b.jpg", 1, content_hash="A")])
    store.delete([first])
    store.upsert([entry("b.jpg", 0, 1, id=second, content_hash="changed")])
    copies = [
        Entry(image=record(f"copy of {id_}.jpg", content_hash="A"), keep_vectors=False, same_pixels_as=id_)
        for id_ in (first, second)
    ]
    ids = store.upsert(copies)
    assert store.missing_vectors("m") == set(ids)


# Queries


def test_query_ranks_by_cosine_and_keeps_negative_ones(store):
    store.add_model(identity())
    same, near, opposite = store.upsert([entry("a.jpg", 1), entry("b.jpg", 3, 4), entry("c.jpg", -1)])
    hits = store.query(np.array([5, 0, 0, 0, 0, 0, 0, 0], dtype=np.float32), 10, model="m")
    assert [id_ for id_, _ in hits] == [same, near, opposite]
    np.testing.assert_allclose([cosine for _, cosine in hits], [1, 0.6, -1], atol=1e-3)


def test_equal_rows_come_by_id_even_where_more_tie_than_are_asked(store):
    store.add_model(identity())
    ids = store.upsert([entry(f"{i:04}.jpg", 1, 1) for i in range(700)])
    assert [id_ for id_, _ in store.query(unit(1), 10, model="m")] == ids[:10]
    assert [id_ for id_, _ in store.query(unit(1), 3, model="m", exclude=ids[:100])] == ids[100:103]


def test_new_rows_are_found_at_once_also_from_another_opening(store, reopen):
    store.add_model(identity())
    other = reopen()
    for i in range(3):
        (id_,) = store.upsert([entry(f"{i}.jpg", *([0] * i), 1)])
        for reader in (store, other):
            assert reader.query(unit(*([0] * i), 1), 1, model="m")[0][0] == id_


def test_filters_and_exclusions_are_exact_however_few_rows_they_leave(store):
    store.add_model(identity())
    near = store.upsert([entry(f"near/{i}.jpg", 1, i / 1000) for i in range(300)])
    far = store.upsert([entry(f"far/{i}.jpg", -1, i / 1000, width=i) for i in range(5)])
    where = "folder like '%/far'"
    assert {id_ for id_, _ in store.query(unit(1), 3, model="m", where=where)} <= set(far)
    assert len(store.query(unit(1), 50, model="m", where=where)) == 5
    assert [id_ for id_, _ in store.query(unit(1), 9, model="m", where="width = 3")] == [far[3]]
    assert store.query(unit(1), 9, model="m", where="width = 99") == []
    assert {id_ for id_, _ in store.query(unit(1), 50, model="m", exclude=near)} == set(far)
    assert len(store.query(unit(1), 50, model="m", where=where, exclude=far[:2])) == 3
    assert store.query(unit(1), 50, model="m", exclude=near + far) == []


def test_an_empty_store_has_no_answers(store):
    store.add_model(identity())
    assert store.query(unit(1), 5, model="m") == []
    assert store.query(unit(1), 5, model="m", where="width > 1", exclude=[1]) == []
    assert store.match("cat", 5) == []
    assert store.vectors("m")[1].shape == (0, DIM)
    assert list(store.scan()) == []


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(5), r"shape \(5,\).*'m' have shape \(8,\)"),
        (np.zeros(DIM), "zero"),
        (np.full(DIM, np.nan), "NaN"),
        (np.full(DIM, np.inf), "infinity"),
    ],
)
def test_a_query_without_direction_is_refused(store, vector, message):
    store.add_model(identity())
    with pytest.raises(InputError, match=message):
        store.query(vector.astype(np.float32), 5, model="m")


def test_a_query_of_extreme_length_is_normalised(store):
    store.add_model(identity())
    (id_,) = store.upsert([entry("a.jpg", 1)])
    for length in (1e-30, 1e30):
        assert cosines(store.query(unit(1) * np.float32(length), 1, model="m")) == {id_: 1.0}


def test_fewer_than_one_result_is_refused(store):
    store.add_model(identity())
    with pytest.raises(InputError, match="at least 1"):
        store.query(unit(1), 0, model="m")
    with pytest.raises(InputError, match="at least 1"):
        store.match("cat", 0)


def test_query_agrees_with_brute_force(store):
    rng = np.random.default_rng(7)
    store.add_model(identity())
    entries = [
        Entry(image=record(f"{i}.jpg", width=i), embeddings=[embedding(*rng.standard_normal(DIM))]) for i in range(400)
    ]
    store.upsert(entries)
    ids, vectors = store.vectors("m")
    for _ in range(10):
        query = unit(*rng.standard_normal(DIM))
        kept = np.arange(400) % 400 >= 100
        order = sorted((-(vectors[kept] @ query)).round(6).tolist())[:10]
        hits = store.query(query, 10, model="m", where="width >= 100")
        np.testing.assert_allclose([-c for _, c in hits], order, atol=1e-5)
        assert {i for i, _ in hits} <= set(ids[kept].tolist())


# Captions and full text


def test_captions_are_replaced_by_source_and_the_best_comes_first(store):
    a, b = store.upsert([entry("a.jpg"), entry("b.jpg")])
    store.put_captions(
        {
            a: [
                Caption(text="a dog", source="clip", similarity=np.float32(0.25), model="m"),  # type: ignore[arg-type]
                Caption(text="a wolf", source="clip", similarity=0.3),
                Caption(text="a dog runs", source="generated", log_prob=-1.5, similarity=0.2, best=True),
            ]
        }
    )
    assert [c.text for c in store.captions([a])[a]] == ["a dog runs", "a wolf", "a dog"]
    assert store.captions([a])[a][2] == Caption(text="a dog", source="clip", similarity=0.25, model="m")
    store.put_captions({a: [Caption(text="a puppy", source="clip", best=True)]})
    assert [(c.text, c.best) for c in store.captions([a])[a]] == [("a puppy", True), ("a dog runs", False)]
    assert store.captions([b, a])[b] == []
    store.put_captions({a: []})
    assert len(store.captions([a])[a]) == 2
    assert store.stats().captions == 2


def test_facts_are_kept_and_their_words_found(store):
    facts = Facts(
        altitude_m=12.5, lens="50mm", f_number=1.8, exposure_s=0.004, iso=100, focal_mm=50.0, rating=-1,
        title="Ein Fest", description="two\nlines", author="Ada", keywords=("Käse", "red wine"), city="Zürich",
        region="ZH", country="Switzerland", version=3,
    )  # fmt: skip
    info = ImageInfo(width=1, height=1, format="JPEG", facts=facts, pixels_version=2)
    (a, _) = store.upsert([Entry(image=replace(record("x.jpg"), info=info)), entry("b.jpg")])
    assert store.get([a])[0].info == info
    for text in ("kase", "WINE", "ada", "zurich", "fest", "lines"):
        assert [i for i, _ in store.match(text, 5)] == [a], text
    store.upsert([Entry(image=replace(record("x.jpg"), info=replace(info, facts=Facts())))])
    assert store.match("ada", 5) == []
    assert store.get([a])[0].info.facts == Facts()


def test_words_are_found_with_their_places(store):
    a, b, c = store.upsert([entry("trip/IMG_2041.jpg"), entry("trip/zebraFoal.jpg"), entry("x.png")])
    store.put_captions({a: [Caption(text="a zebra foal", source="user")], c: [Caption(text="Zebras", source="user")]})
    (zebra, foal), images = store.find_words("the zebra of foal.jpg")
    assert images == 3
    assert {kind: rows.tolist() for kind, rows in zebra.rows.items() if len(rows)} == {"name": [b], "caption": [a, c]}
    assert (zebra.position, zebra.count, foal.position, foal.count) == (0, 3, 1, 2)
    whole, begun = store.find_words("zeb", typing=True)[0]
    assert (whole.count, whole.is_beginning, begun.count, begun.is_beginning) == (0, False, 3, True)
    assert [word.is_debris for word in store.find_words("IMG 2041 x")[0]] == [True, True, False]
    assert store.find_words("the and of") == ([], 0)
    for name in ("IMG_2041", "img_2041.JPG", "img2041.jpg", "IMG 2041"):
        assert store.find_names(name).tolist() == [a], name
    assert store.find_names("2041").tolist() == []


def test_of_a_word_in_most_rows_only_those_come_that_hold_all_words(store, monkeypatch):
    monkeypatch.setattr("sightline.core.store.texts._LOOKED_THROUGH", 2)
    ids = store.upsert([entry(f"dog_{number}{'_zebra' * (number == 1)}.jpg") for number in range(4)])
    (dog,), _ = store.find_words("dog")
    assert (dog.count, dict(dog.rows)) == (4, {})
    (dog, zebra), _ = store.find_words("dog zebra")
    assert dog.rows["name"].tolist() == zebra.rows["name"].tolist() == [ids[1]]


def test_a_lift_counts_beside_the_cosine_and_among_leaves_others_out(store):
    store.add_model(identity())
    far, near, middle = store.upsert([entry("far.jpg", 0, 1), entry("near.jpg", 1), entry("middle.jpg", 1, 1)])
    lift = Lift(ids=np.array([far, 999]), values=np.array([1.5, 9], np.float32))
    found = store.query(unit(1), 3, model="m", lift=lift)
    assert [row for row, _ in found] == [far, near, middle]
    assert found[0][1] == pytest.approx(0, abs=1e-3), "the cosine stays what it is"
    among = np.array([near, far])
    assert [row for row, _ in store.query(unit(1), 3, model="m", among=among)] == [near, far]
    assert [row for row, _ in store.query(unit(1), 3, model="m", among=among, where="name like 'f%'")] == [far]
    assert store.query(unit(1), 1, model="m", lift=lift) == found[:1]


def test_captions_of_an_unknown_image_are_refused_as_a_whole(store):
    (a,) = store.upsert([entry("a.jpg")])
    with pytest.raises(StoreError, match="no image with the id 77"):
        store.put_captions({a: [Caption(text="x", source="user")], 77: [Caption(text="y", source="user")]})
    assert store.captions([a]) == {a: []}


def test_match_finds_captions_and_names_and_the_last_words_beginning(store):
    dog, beach, other = store.upsert([entry("IMG_1.jpg"), entry("beachDay_2024-05.jpg"), entry("x.png", width=1)])
    store.put_captions({dog: [Caption(text="Two dogs running in the snow", source="generated")]})
    store.put_captions({other: [Caption(text="snow", source="user")]})
    assert [i for i, _ in store.match("dog", 5)] == [dog]
    assert [i for i, _ in store.match("beach", 5)] == [beach]
    assert [i for i, _ in store.match("beachday", 5)] == [beach]
    assert store.match("bea", 5) == []
    assert [i for i, _ in store.match("bea", 5, typing=True)] == [beach]
    assert [i for i, _ in store.match("2024", 5)] == [beach]
    assert [i for i, _ in store.match("bea snow", 5, typing=True)] == [other, dog], "only the last may be a beginning"
    assert [i for i, _ in store.match("snow bea", 5, typing=True)] == [other, dog, beach], "whole words come first"
    assert [i for i, _ in store.match("dogs snow", 5)] == [dog, other]
    assert [i for i, _ in store.match("snow", 5, where="width = 1")] == [other]
    assert len(store.match("snow", 1)) == 1
    relevances = [relevance for _, relevance in store.match("dogs snow", 5)]
    assert relevances == sorted(relevances, reverse=True)


@pytest.mark.parametrize(
    "text",
    ['"', "''", '"unclosed', "NEAR(", "a AND", "NOT", "col:x", "name: x", "-", "*", "^a", "(", "a\0b", "\udcff", "😀",
     "{}", "", "   ", "+", "OR", "a*b", "雪", "e\u0301"],
)  # fmt: skip
def test_no_text_breaks_full_text_search(store, text):
    (id_,) = store.upsert([entry("holiday.jpg")])
    assert store.match(text, 5) in ([], [(id_, pytest.approx(0, abs=1))])
    assert [i for i, _ in store.match(f"holiday {text}", 5)] == [id_]


def test_accents_and_case_do_not_matter_to_match(store):
    (id_,) = store.upsert([entry("Ñandú café.jpg")])
    assert [i for i, _ in store.match("NANDU", 5)] == [id_]
    assert [i for i, _ in store.match("CAFÉ", 5)] == [id_]


# Failures, settings, figures


def failure(relative, *, root=PHOTOS, reason="truncated"):
    return Failure(root=root, relative=relative, size_bytes=3, mtime_ns=4, reason=reason)


def test_failures_are_kept_replaced_and_forgotten(store):
    store.upsert([entry("ok.jpg")], failures=[failure("b.jpg"), failure("sub/odd\udcff.jpg", reason="bad \udcff name")])
    store.upsert([], failures=[failure("b.jpg", reason="empty file")])
    assert store.failures() == [
        failure("b.jpg", reason="empty file"),
        failure("sub/odd\udcff.jpg", reason="bad \\udcff name"),
    ]
    assert [f.relative for f in store.failures(PHOTOS / "sub")] == ["sub/odd\udcff.jpg"]
    assert store.failures(Path("/nowhere")) == []
    assert store.stats().extra["failures"] == 2
    store.upsert([entry("b.jpg")])
    assert [f.relative for f in store.failures()] == ["sub/odd\udcff.jpg"]
    store.forget_failures(PHOTOS, ["sub/odd\udcff.jpg", "unknown.jpg"])
    store.forget_failures(Path("/nowhere"), ["a.jpg"])
    assert store.failures() == []


def test_settings_are_kept_with_the_library(store, reopen):
    assert store.setting("model") is None
    store.set_setting("model", "starter")
    store.set_setting("model", "ViT-B-32/openai")
    assert reopen().setting("model") == "ViT-B-32/openai"


def test_stats_count_what_is_there(store):
    store.add_model(identity())
    (a, _) = store.upsert([entry("a.jpg", 1), entry("b.jpg")])
    store.put_captions({a: [Caption(text="x", source="user")]})
    stats = store.stats()
    assert (stats.images, stats.captions, stats.roots, stats.models) == (2, 1, (PHOTOS,), {"m": 1})
    assert stats.size_bytes > 0
    store.delete([r.id for r in store.scan()])
    assert store.stats().roots == ()


# Writes as a whole, and the end


def test_a_batch_that_fails_at_its_end_leaves_nothing(store):
    store.add_model(identity())
    (a,) = store.upsert([entry("a.jpg", 1)], failures=[failure("c.jpg")])
    bad = Entry(image=record("z.jpg"), embeddings=[Embedding(model="m", vector=unit(1) * 2)])
    with pytest.raises(StoreError):
        store.upsert([entry("moved.jpg", 0, 1, id=a), entry("c.jpg", 1), bad], failures=[failure("d.jpg")])
    assert [r.relative for r in store.scan()] == ["a.jpg"]
    assert cosines(store.query(unit(1), 5, model="m")) == {a: 1.0}
    assert [f.relative for f in store.failures()] == ["c.jpg"]
    assert [i for i, _ in store.match("a", 5)] == [a]


def test_captions_of_one_source_are_removed_and_no_longer_found(store):
    first, second = store.upsert([entry("a.jpg"), entry("b.jpg")])
    for id_ in (first, second):
        store.put_captions(
            {id_: [Caption(text="a zebra", source="user"), Caption(text="a horse", source="generated", best=True)]}
        )
    assert store.remove_captions([first, 999], "user") == 1
    assert store.remove_captions([first], "clip") == 0
    assert [c.text for c in store.captions([first])[first]] == ["a horse"]
    assert [i for i, _ in store.match("zebra", 5)] == [second]
    assert {i for i, _ in store.match("horse", 5)} == {first, second}


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.stats()


def test_a_models_vectors_are_set_aside_under_another_name_and_its_own_is_free(store):
    store.add_model(identity(weights_hash="0123456789"))
    assert store.set_model_aside("m") == "m@01234567"
    store.add_model(identity(weights_hash="new"))
    assert {name: model.weights_hash for name, model in store.models().items()} == {
        "m@01234567": "0123456789", "m": "new",
    }  # fmt: skip
    with pytest.raises(StoreError, match="no vectors of the model 'none'"):
        store.set_model_aside("none")


def test_words_are_kept_with_their_examples_and_vectors_by_model(reopen):
    store = reopen()
    store.add_model(identity())
    odd = Path("/photos/b\udcff.jpg")
    rex = TaughtWord(name="Rex", kind="dog", examples=(Example(path=odd, content_hash="1"),))
    store.put_word(rex)
    store.put_word(TaughtWord(name="Ada", examples=()))
    store.put_example_vectors("m", "REX", {"1": unit(1, 2), "unknown": unit(1)})
    store.close()
    store = reopen()
    assert [word.name for word in store.words()] == ["Ada", "Rex"]
    assert store.words()[1] == rex
    vectors = store.example_vectors("m", "rex")
    assert list(vectors) == ["1"]
    np.testing.assert_allclose(vectors["1"], unit(1, 2), atol=1e-3)
    with pytest.raises(StoreError, match="length"):
        store.put_example_vectors("m", "Rex", {"1": 2 * unit(1)})
    more = replace(rex, name="rex", examples=(*rex.examples, Example(path=Path("/c.jpg"), content_hash="2")))
    store.put_word(more)
    assert [word.name for word in store.words()] == ["Ada", "rex"]
    assert list(store.example_vectors("m", "Rex")) == ["1"]
    store.put_word(replace(rex, examples=more.examples[1:]))
    assert store.example_vectors("m", "Rex") == {}
    assert store.remove_word("REX")
    assert not store.remove_word("REX")
    store.remove_model("m")
    assert [word.name for word in store.words()] == ["Ada"]


def test_full_text_leaves_out_what_holds_all_of_an_unwanted_text(store):
    ids = store.upsert([Entry(image=record(f"{name}.jpg")) for name in ("red_a", "red_b", "red_snow")])
    store.put_captions({ids[0]: [Caption(text="deep in snow", source="user")]})
    store.put_captions({ids[1]: [Caption(text="deep water", source="user")]})
    found = lambda *unwanted: {row for row, _ in store.match("red", 9, without=unwanted)}  # noqa: E731
    assert found() == set(ids)
    assert found("the deep snow") == {ids[1], ids[2]}
    assert found("snow", "water") == set()
    assert found("?!") == set(ids)
    assert store.holding(["a snowing"]).tolist() == [ids[0], ids[2]]
    assert store.holding([]).tolist() == []


# Copies


def sketch(level):
    return np.full((32, 32), level, np.uint8)


def test_a_sketch_is_kept_for_a_content_and_goes_with_its_last_row(store, reopen):
    first, second, plain = store.upsert(
        [
            replace(entry("a.jpg", content_hash="same"), sketch=sketch(7)),
            entry("b.jpg", content_hash="same"),
            entry("c.jpg", content_hash="other"),
        ]
    )
    assert store.missing_sketches() == {plain}
    store.put_sketches({"other": sketch(9), "of no row": sketch(1)})
    ids, sketches = reopen().sketches()
    assert ids.tolist() == [first, plain]
    assert sketches[:, 0, 0].tolist() == [7, 9]
    store.delete([first])
    assert store.sketches()[0].tolist() == [second, plain]
    store.upsert([entry("b.jpg", content_hash="edited", keep_vectors=False)])
    assert store.sketches()[0].tolist() == [plain]
    assert store.missing_sketches() == {second}
    store.upsert([entry("d.jpg", content_hash="same")])
    assert len(store.missing_sketches()) == 2, "a sketch outlived its last row"


@pytest.mark.parametrize("wrong", [np.zeros((8, 8), np.uint8), np.zeros((32, 32), np.float32)])
def test_a_sketch_of_another_shape_or_type_is_refused(store, wrong):
    store.upsert([entry("a.jpg", content_hash="x")])
    with pytest.raises(StoreError, match=r"A sketch is \(32, 32\) uint8"):
        store.put_sketches({"x": wrong})


def test_rows_of_equal_content_are_told_also_after_a_write(store, reopen):
    a, b, _ = store.upsert([entry("a.jpg", content_hash="x"), entry("b.jpg", content_hash="x"), entry("c.jpg")])
    assert store.equal_rows() == {a: a, b: a}
    (d,) = reopen().upsert([entry("d.jpg", content_hash="x")])
    assert store.equal_rows() == {a: a, b: a, d: a}
    store.delete([a, d])
    assert store.equal_rows() == {}
