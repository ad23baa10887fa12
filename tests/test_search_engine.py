from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import ModelCard, TextSpec
from sightline.core.search.duplicates import find_exact, find_near
from sightline.core.search.engine import Part, SearchConfig, combine, fuse_rankings, prepare, rank, search
from sightline.core.store.base import Entry
from sightline.core.store.sqlite import open_store
from sightline.core.types import Caption, Embedding, ImageInfo, ImageRecord, ModelIdentity, Precision
from sightline.errors import InputError, StoreError

WORDS = {"red": 0, "green": 1, "blue": 2}


class ColourEncoder:
    """A picture is its mean colour, a word the colour it names: enough to check ranking by hand."""

    card = ModelCard(
        name="colours",
        kind="encoder",
        family="clip",
        source="test",
        preprocessing=Preprocessing(size_px=8, resize_mode="squash"),
        text=TextSpec(context_length=8, pad_id=0),
        dim=3,
    )
    dim = 3
    precision: Precision = "fp32"
    runtime = "test"
    identity = ModelIdentity(name="colours", weights_hash="0", preprocessing_version=1, dim=3)

    def encode_images(self, pixels):
        vectors = pixels.mean(axis=(1, 2)).astype(np.float32) + 1e-3
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_texts(self, texts):
        return np.stack([np.eye(3, dtype=np.float32)[WORDS[text]] for text in texts])

    def encode_maps(self, pixels):
        return None


@pytest.fixture
def library(tmp_path):
    """Six pictures named for their colours, indexed by hand."""
    colours = {
        "red": (255, 0, 0),
        "green": (0, 255, 0),
        "blue": (0, 0, 255),
        "yellow": (255, 255, 0),
        "magenta": (255, 0, 255),
        "pink": (255, 60, 120),
    }
    photos, encoder = tmp_path / "photos", ColourEncoder()
    photos.mkdir()
    with open_store(tmp_path / "library") as store:
        store.add_model(encoder.identity)
        for name, colour in colours.items():
            path = photos / f"{name}.png"
            Image.new("RGB", (8, 8), colour).save(path)
            vector = encoder.encode_images(np.full((1, 8, 8, 3), colour, np.uint8))[0]
            store.upsert([Entry(image=record(path), embeddings=[Embedding(model="colours", vector=vector)])])
        yield store, encoder, photos


def record(path: Path, content_hash: str | None = None, size: int = 8) -> ImageRecord:
    stat = path.stat()
    return ImageRecord(
        root=path.parent,
        relative=path.name,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        content_hash=content_hash or path.name,
        info=ImageInfo(width=size, height=size, format="PNG"),
    )


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
    assert names(run(library, Part(text="red"), Part(text="blue"), top=1)) == ["magenta"]
    assert names(run(library, Part(text="red"), Part(text="blue", weight=-1.0), top=1)) == ["red"]
    less_blue = names(run(library, Part(text="red"), Part(text="blue", weight=-0.5), top=6))
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
    both = names(run(library, Part(text="red"), match="both", top=6))
    assert both[0] == "red"
    assert both.index("blue") < 3
    with pytest.raises(InputError, match="searched by words"):
        run(library, Part(image=store.get([row])[0].path), match="captions")


def test_reciprocal_rank_fusion_by_hand():
    # 7: 1/61 + 1/62, 8: 1/62 + 1/61 tie by id; 9: 1/63
    assert fuse_rankings([[8, 7, 9], [7, 8]]) == [7, 8, 9]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"top": 0}, "top is 0"), ({"min_similarity": 2.0}, "between -1 and 1"), ({"match": "words"}, "match is 'words'")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SearchConfig(**settings)


def test_duplicates_exact_and_near(library):
    store, encoder, photos = library
    Image.new("RGB", (16, 16), (255, 2, 0)).save(photos / "almost-red.png")
    (photos / "copy.png").write_bytes((photos / "red.png").read_bytes())
    for name, colour, content, size in [("almost-red", (255, 2, 0), "x", 16), ("copy", (255, 0, 0), "red.png", 8)]:
        vector = encoder.encode_images(np.full((1, 8, 8, 3), colour, np.uint8))[0]
        entry = Entry(
            image=record(photos / f"{name}.png", content, size),
            embeddings=[Embedding(model="colours", vector=vector)],
        )
        store.upsert([entry])
    exact = find_exact(store)
    assert [[r.path.stem for r in group.images] for group in exact] == [["copy", "red"]]
    near = find_near(store, "colours", min_similarity=0.999)
    assert [[r.path.stem for r in group.images] for group in near] == [["almost-red", "copy", "red"]]
    assert 0.999 <= near[0].similarity < 1
    assert [len(g.images) for g in find_near(store, "colours", min_similarity=1.0)] == [2]
    with pytest.raises(InputError, match="above 0"):
        find_near(store, "colours", min_similarity=0.0)


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
    assert names(run(library, Part(text="red"), Part(vector=vector), top=1)) == ["magenta"]


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


def test_one_part_is_its_own_direction_whatever_its_norm_and_weight():
    np.testing.assert_allclose(combine(vectors([3, 4]), [7.0]), [0.6, 0.8], atol=1e-6)


def test_parts_are_normalised_before_they_are_weighted():
    np.testing.assert_allclose(combine(vectors([100, 0], [0, 0.01]), [1, 1]), [0.5**0.5, 0.5**0.5], atol=1e-6)
    np.testing.assert_allclose(combine(vectors([1, 0], [0, 1]), [1, 2]), np.array([1, 2]) / 5**0.5, atol=1e-6)


def test_a_negative_part_subtracts_only_what_is_not_the_subject():
    # cos(subject, negative) = 0.8: what is left of the negative is (0, 0.6).
    np.testing.assert_allclose(
        combine(vectors([1, 0], [0.8, 0.6]), [1, -1]), np.array([1, -0.6]) / 1.36**0.5, atol=1e-6
    )


def test_the_subject_stays_even_under_strong_and_close_negatives():
    subject, close = [1.0, 0.0, 0.0], [0.99, 0.1, 0.1]
    for weight in (1, 3, 10):
        assert combine(vectors(subject, close), [1, -weight]) @ np.array(subject) > 0.55


def test_naive_subtraction_would_lose_the_subject_here():
    subject, negative = vectors([0.9, 0.436, 0])[0], vectors([0.9, 0, 0.436])[0]
    subject, negative = subject / np.linalg.norm(subject), negative / np.linalg.norm(negative)
    naive = subject - negative
    naive /= np.linalg.norm(naive)
    ours = combine(np.stack([subject, negative]), [1, -1])
    assert naive @ subject < 0.35
    assert ours @ subject > 0.85
    assert ours @ negative < subject @ negative - 0.3


def test_only_negative_parts_point_away():
    np.testing.assert_allclose(combine(vectors([0, 2]), [-1]), [0, -1], atol=1e-6)


def test_an_image_minus_itself_is_the_image():
    np.testing.assert_allclose(combine(vectors([0.6, 0.8], [0.6, 0.8]), [1, -1]), [0.6, 0.8], atol=1e-6)


def test_parts_that_cancel_and_vectors_without_direction_are_refused():
    with pytest.raises(InputError, match="cancel each other"):
        combine(vectors([1, 0], [-1, 0]), [1, 1])
    for broken in ([0, 0], [np.nan, 1]):
        with pytest.raises(InputError, match="no direction"):
            combine(vectors([1, 0], broken), [1, 1])
