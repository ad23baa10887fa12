from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from colour_world import open_colours, record
from sightline.core.search import engine
from sightline.core.search.background import Background
from sightline.core.search.engine import SearchConfig, aim, prepare, rank, search
from sightline.core.search.query import Part
from sightline.core.search.relevance import UNLIKELY_BELOW
from sightline.core.search.teaching import read_example, teach
from sightline.core.store.base import Entry
from sightline.core.types import Caption, TextLine, TextReading
from sightline.errors import InputError, StoreError


@pytest.fixture
def library(tmp_path):
    with open_colours(tmp_path) as opened:
        yield opened


def names(hits):
    return [hit.image.path.stem for hit in hits]


def run(library, *parts, **how):
    store, encoder, _ = library
    return search(store, encoder, parts, config=SearchConfig(**how))


def test_words_rank_by_cosine(library):
    hits = run(library, Part(text="red"), top=4)
    assert names(hits) == ["red", "pink", "yellow", "magenta"] or names(hits) == ["red", "pink", "magenta", "yellow"]
    assert hits[0].similarity == pytest.approx(1.0, abs=1e-3)
    assert [h.similarity for h in hits] == sorted((h.similarity for h in hits), reverse=True)


def test_plus_and_minus(library):
    assert names(run(library, Part(text="red"), Part(text="blue"), top=1, match="pictures")) == ["magenta"]
    assert names(run(library, Part(text="red"), Part(text="blue", weight=-1.0), top=1)) == ["red"]
    less_blue = names(run(library, Part(text="red"), Part(text="blue", weight=-0.5), top=6, match="pictures"))
    assert less_blue.index("yellow") < less_blue.index("magenta")


def test_the_query_image_is_not_among_its_results(library):
    _, _, photos = library
    hits = run(library, Part(image=photos / "red.png"), top=10)
    assert "red" not in names(hits)
    assert len(hits) == 5
    assert names(hits)[0] == "pink"


def test_an_image_from_elsewhere_finds_its_copy(library, tmp_path):
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "elsewhere.png")
    assert names(run(library, Part(image=tmp_path / "elsewhere.png"), top=1)) == ["red"]


def test_a_changed_image_is_embedded_again_not_taken_from_the_store(library):
    _, _, photos = library
    Image.new("RGB", (9, 9), (0, 0, 255)).save(photos / "red.png")
    assert names(run(library, Part(image=photos / "red.png"), top=1)) == ["blue"]


def test_an_unreadable_query_image_is_named(library, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"broken\.png can't be read"):
        run(library, Part(image=tmp_path / "broken.png"))


def test_filters_and_minimum_similarity(library):
    assert names(run(library, Part(text="red"), where="name like 'm%'")) == ["magenta"]
    assert names(run(library, Part(text="red"), min_similarity=0.99)) == ["red"]
    assert run(library, Part(text="red"), where="width > 100") == []


def test_captions_are_found_by_words_and_fused_with_images(library):
    store, _, _ = library
    row = next(r.id for r in store.scan() if r.relative == "blue.png")
    store.put_captions({row: [Caption(text="a red herring", source="user", best=True)]})
    by_words = run(library, Part(text="red"), match="captions")
    assert set(names(by_words)) == {"blue", "red"}
    assert next(hit for hit in by_words if hit.image.id == row).caption == "a red herring"
    both = run(library, Part(text="red"), top=6)
    alone = run(library, Part(text="red"), match="pictures", top=6)
    assert names(both)[0] == "red"
    rated = {hit.image.id: hit.probability for hit in alone}
    assert next(hit for hit in both if hit.image.id == row).probability > rated[row]
    assert {hit.image.path.stem: hit.why for hit in both if hit.why != ("picture",)} == {
        "red": ("name",), "blue": ("caption",),
    }  # fmt: skip
    with pytest.raises(InputError, match="searched by words"):
        run(library, Part(image=store.get([row])[0].path), match="captions")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 0}, "top is 0"),
        ({"min_similarity": 2.0}, "between -1 and 1"),
        ({"match": "words"}, "match is 'words'"),
        ({"sort": "name"}, "must be relevance or date"),
        ({"sort": "date", "rerank": 5}, "leave rerank out"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SearchConfig(**settings)


@pytest.mark.parametrize("match", ["pictures", "both"])
def test_by_date_the_likely_come_newest_first_and_no_others(library, monkeypatch, match):
    store, _, photos = library
    monkeypatch.setattr(engine, "_LIKELY_DEPTHS", (1, 2))
    ratings = {hit.image.path.stem: hit.probability for hit in run(library, Part(text="red"), match=match)}
    newest = [store.get([row])[0].path.stem for row in store.ids().tolist()]
    for least in (None, sorted(ratings.values())[3], 0.0):
        likely = {name for name, rating in ratings.items() if rating >= (UNLIKELY_BELOW if least is None else least)}
        hits = run(library, Part(text="red"), match=match, sort="date", min_probability=least)
        assert names(hits) == [name for name in newest if name in likely]
        assert {hit.image.path.stem: hit.probability for hit in hits} == {name: ratings[name] for name in likely}
        assert run(library, Part(text="red"), match=match, sort="date", min_probability=least, top=1) == hits[:1]
    assert run(library, Part(image=photos / "red.png"), sort="date", min_probability=1.0) == []


def test_equal_bytes_take_one_place_and_are_counted(library):
    store, _, photos = library
    red = store.find_path(photos / "red.png")
    for number in range(5):
        again = photos / f"again {number}.png"
        again.write_bytes(red.path.read_bytes())
        store.upsert([Entry(image=record(again, red.content_hash), same_pixels_as=red.id)])
    hits = run(library, Part(text="red"), top=3)
    assert (hits[0].image.path.stem, [hit.copies for hit in hits]) == ("red", [5, 0, 0])
    assert len({hit.image.content_hash for hit in hits}) == 3
    every = run(library, Part(text="red"), top=7, each_copy=True)
    assert [hit.copies for hit in every] == [0] * 7
    assert len({hit.image.content_hash for hit in every}) == 2
    assert len(run(library, Part(text="red"), top=100)) == 6
    assert [hit.image.path.stem for hit in run(library, Part(text="red"), top=1, where="name like 'again%'")] == [
        "again 0"
    ]
    like_it = run(library, Part(image=photos / "red.png"), top=2)
    assert [hit.copies for hit in like_it] == [5, 0], "the query's own image is no hit, its copies are one"
    store.put_captions({red.id: [Caption(text="a wall", source="user")]})
    (wall,) = run(library, Part(text="red"), top=3, match="captions", where="caption = 'a wall'")
    assert wall.copies == 5


def test_a_row_of_the_library_is_a_part_by_its_id(library):
    store, _, photos = library
    row = store.find_path(photos / "red.png").id
    by_path, by_row = run(library, Part(image=photos / "red.png")), run(library, Part(row=row))
    assert names(by_row) == names(by_path)
    assert "red" not in names(by_row)
    (photos / "red.png").unlink()
    assert names(run(library, Part(row=row))) == names(by_row)  # its vector is known
    with pytest.raises(StoreError, match="no image with the id 99"):
        run(library, Part(row=99))


def test_a_row_without_a_vector_is_read_from_its_file(library):
    store, _, photos = library
    Image.new("RGB", (8, 8), (255, 0, 0)).save(photos / "late.png")
    (row,) = store.upsert([Entry(image=record(photos / "late.png"))])
    assert names(run(library, Part(row=row), top=1)) == ["red"]
    (photos / "late.png").unlink()
    with pytest.raises(InputError, match=r"late\.png can't be read"):
        run(library, Part(row=row))


def test_a_vector_that_was_made_before_is_a_part(library):
    vector = np.array([0, 0, 1], np.float32)
    assert names(run(library, Part(vector=vector), top=1)) == ["blue"]
    assert names(run(library, Part(text="red"), Part(vector=vector), top=1, match="pictures")) == ["magenta"]


def test_a_prepared_query_is_ranked_as_deep_as_asked(library):
    store, encoder, photos = library
    query = prepare(store, encoder, [Part(text="red"), Part(image=photos / "blue.png", weight=-0.5)])
    assert query.words == "red"
    assert query.exclude == {store.find_path(photos / "blue.png").id}
    deep = rank(store, "colours", query, config=SearchConfig(top=10))
    assert deep[:2] == rank(store, "colours", query, config=SearchConfig(top=2))
    assert len(deep) == 5


def vectors(*rows):
    return np.array(rows, dtype=np.float32)


ROUND = Background(mean_D=np.zeros(3), covariance_DD=np.eye(3))
"""A library in which all directions are alike."""


def test_a_query_is_rated_by_what_it_is_made_of(library):
    store, encoder, photos = library
    red, image = Part(text="red"), Part(image=photos / "red.png")
    blue_not, mark = Part(text="blue", weight=-1.0), Part(image=photos / "pink.png", is_mark=True)
    kinds = {
        "words": [[red], [red, Part(text="blue")]],
        "images": [[image], [image, red]],
        "minus": [[red, blue_not]],
        "marks": [[mark], [red, mark], [red, blue_not, mark]],
        "other": [[blue_not], [image, blue_not], [red, replace(image, weight=-1.0)]],
    }
    for kind, queries in kinds.items():
        for parts in queries:
            assert prepare(store, encoder, parts).kind == kind
            hits = run(library, *parts, top=3)
            assert all(0 < hit.probability < 1 for hit in hits)
    teach(store, encoder, "green", [read_example(store, photos / "red.png")])
    assert prepare(store, encoder, [Part(text="green"), blue_not]).kind == "taught"


def test_parts_of_any_length_count_by_their_weights(library):
    store, encoder, _ = library
    long, short = Part(vector=np.array([0, 0, 100], np.float32)), Part(vector=np.array([0, 0.01, 0], np.float32))
    np.testing.assert_allclose(prepare(store, encoder, [long]).vector_D, [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(prepare(store, encoder, [long, short]).vector_D, [0, 0.5**0.5, 0.5**0.5], atol=1e-6)
    twice = replace(short, weight=2)
    np.testing.assert_allclose(prepare(store, encoder, [long, twice]).vector_D, np.array([0, 2, 1]) / 5**0.5, atol=1e-6)


def test_a_negative_part_subtracts_only_what_is_not_the_subject():
    # cos(subject, negative) = 0.8: what is left of the negative is (0, 0.6, 0), of which half counts.
    aimed = aim(ROUND, np.array([[1, 0, 0], [0.8, 0.6, 0]]), np.array([1, -1]))
    np.testing.assert_allclose(aimed, np.array([1, -0.3, 0]) / 1.09**0.5, atol=1e-6)


def test_what_goes_with_the_subject_in_the_library_is_not_held_against_an_image():
    """Where all that is red is round too, `red - round` is `red` as far as round is what red tells."""
    together = Background(mean_D=np.zeros(2), covariance_DD=np.array([[1, 0.9], [0.9, 1]]))
    red, round_ = np.eye(2)
    rest = together.remove(round_, red)
    assert red @ together.covariance_DD @ rest == pytest.approx(0)
    assert together.spread(rest) == pytest.approx((1 - 0.9**2) ** 0.5)


def test_the_subject_stays_even_under_a_strong_and_close_negative():
    subject, close = np.array([1.0, 0, 0]), np.array([0.99, 0.1, 0.1])
    for weight in (1, 3, 10):
        assert aim(ROUND, np.stack([subject, close / np.linalg.norm(close)]), np.array([1, -weight])) @ subject > 0.55


def test_only_negative_parts_point_away_and_an_image_minus_itself_is_the_image(library):
    store, encoder, _ = library
    blue = np.array([0, 0, 2], np.float32)
    np.testing.assert_allclose(prepare(store, encoder, [Part(vector=blue, weight=-1)]).vector_D, [0, 0, -1], atol=1e-6)
    itself = [Part(vector=blue), Part(vector=blue, weight=-1)]
    np.testing.assert_allclose(prepare(store, encoder, itself).vector_D, [0, 0, 1], atol=1e-6)


def test_parts_that_cancel_and_vectors_without_direction_are_refused(library):
    store, encoder, _ = library
    one, other, third = (Part(vector=np.array(v, np.float32)) for v in ([1, 0, 0], [-1, 0, 0], [0, 1, 0]))
    for parts in ([one, other], [one, other, replace(third, weight=-1)]):
        with pytest.raises(InputError, match="cancel each other"):
            prepare(store, encoder, parts)
    for broken in ([0, 0, 0], [np.nan, 1, 0]):
        with pytest.raises(InputError, match="no direction"):
            prepare(store, encoder, [one, Part(vector=np.array(broken, np.float32), weight=-1)])


def test_negative_words_count_in_full_text(library):
    store, encoder, _ = library
    rows = {record.path.stem: record.id for record in store.scan()}
    texts = {"blue": "a red herring in deep snow", "green": "a red leaf", "pink": "snow, red, not deep"}
    store.put_captions({rows[name]: [Caption(text=text, source="user")] for name, text in texts.items()})
    deep_snow = Part(text="the deep snow", weight=-1)
    encoder.encode_texts = lambda given: np.eye(3, dtype=np.float32)[[0 if "red" in text else 2 for text in given]]
    assert set(names(run(library, Part(text="red"), deep_snow, match="captions"))) == {"green", "red"}
    assert set(names(run(library, Part(text="red"), deep_snow))) == {"green", "red", "yellow", "magenta"}
    assert len(run(library, Part(text="red"), deep_snow, match="pictures")) == 6


def test_fused_hits_are_ordered_by_what_is_shown(library):
    store, encoder, _ = library
    encoder.encode_texts = lambda given: np.eye(3, dtype=np.float32)[[0] * len(given)]
    rows = {record.path.stem: record.id for record in store.scan()}
    store.put_captions({rows["green"]: [Caption(text="the red barn of Ada", source="user")]})
    store.put_captions({rows["pink"]: [Caption(text="a barn", source="user")]})
    for words in ("red barn", "barn", "Ada's red barn", "the", "pink.png", "a BÄRN"):
        hits = run(library, Part(text=words), top=6)
        assert [hit.probability for hit in hits] == sorted((hit.probability for hit in hits), reverse=True), words
        least = hits[2].probability
        assert run(library, Part(text=words), top=6, min_probability=least) == [
            hit for hit in hits if hit.probability >= least
        ]
    assert names(run(library, Part(text="barn of Ada"), top=1)) == ["green"]
    assert names(run(library, Part(text="pink.png"), top=1)) == ["pink"]
    assert {hit.why for hit in run(library, Part(text="the"))} == {("picture",)}, "stop words rank by images"
    assert run(library, Part(text="the")) == run(library, Part(text="the"), match="pictures")


def test_what_holds_all_words_is_likely_whatever_it_shows(library):
    store, encoder, _ = library
    encoder.encode_texts = lambda given: np.eye(3, dtype=np.float32)[[0] * len(given)]
    blue = next(record for record in store.scan() if record.path.stem == "blue")
    last = run(library, Part(text="invoice 2023 milk"), top=6)[-1]
    assert (last.image.path.stem, last.probability < UNLIKELY_BELOW) == ("blue", True)
    line = TextLine("INVOICE 2023: milk, bread", 0.9, (0.0, 0.0, 1.0, 0.0, 1.0, 0.5, 0.0, 0.5))
    store.put_readings({blue.content_hash: TextReading(engine="test", lines=(line,))})
    for words, typing in (("invoice 2023 milk", False), ("bread", False), ("invo", True)):
        first = run(library, Part(text=words), typing=typing)[0]
        assert (first.image.path.stem, first.why) == ("blue", ("text",)), words
        assert first.probability >= UNLIKELY_BELOW, words


def test_beginnings_count_only_while_typing(library):
    _, encoder, _ = library
    encoder.encode_texts = lambda given: np.eye(3, dtype=np.float32)[[0] * len(given)]
    whys = [
        {hit.image.path.stem: hit.why for hit in run(library, Part(text="yell"), typing=on)} for on in (False, True)
    ]
    assert "name" not in whys[0]["yellow"]
    assert "name" in whys[1]["yellow"]


def test_images_that_are_marked_right_and_wrong_change_the_ranking(library):
    store, _, photos = library
    red = Part(text="red")
    before = names(run(library, red))
    assert before.index("yellow") < before.index("blue")
    magenta = Part(image=photos / "magenta.png", is_mark=True)
    wrong = Part(row=store.find_path(photos / "yellow.png").id, weight=-1, is_mark=True)
    after = names(run(library, red, magenta, wrong))
    assert after.index("magenta") < before.index("magenta")
    assert "yellow" not in after
    assert set(before) - set(after) == {"yellow"}
    assert names(run(library, magenta, top=1)) == ["magenta"]
    with pytest.raises(InputError, match="only a picture is marked"):
        Part(text="red", is_mark=True)
