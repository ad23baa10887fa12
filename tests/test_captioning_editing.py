from dataclasses import replace

import pytest

from captioning_fakes import FakeEncoder
from sightline.core.captioning.editing import MAX_CAPTION_CHARS, remove_caption, write_caption
from sightline.core.store.base import Entry
from sightline.core.store.sqlite import open_store
from sightline.core.types import Caption, Embedding, ImageInfo, ImageRecord
from sightline.errors import InputError, StoreError

CLIP = Caption(text="a castle", source="clip", similarity=0.5, log_prob=-5.0, model="fake")
BLIP = Caption(text="a red dress", source="generated", similarity=0.4, log_prob=-1.0, model="writer")


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "library") as store:
        yield store


@pytest.fixture
def image(store, tmp_path):
    encoder = FakeEncoder()
    store.add_model(encoder.identity)
    info = ImageInfo(width=10, height=10, format="PNG")
    record = ImageRecord(root=tmp_path, relative="a.png", size_bytes=1, mtime_ns=1, content_hash="x", info=info)
    vector = Embedding(model="fake", vector=encoder.encode_texts(["red"])[0])
    (id_,) = store.upsert([Entry(image=record, embeddings=[vector])])
    return id_


def best_of(store, image):
    return [(caption.source, caption.text) for caption in store.captions([image])[image] if caption.best]


def test_the_users_caption_is_the_best_found_by_its_words_and_gives_back_the_one_before(store, image):
    store.put_captions({image: [CLIP, BLIP]})
    assert write_caption(store, image, "  my \n zebra ") is None
    assert best_of(store, image) == [("user", "my zebra")]
    assert len(store.captions([image])[image]) == 3
    assert [id_ for id_, _ in store.match("zebra", 5)] == [image]
    assert write_caption(store, image, "my horse") == "my zebra"
    assert store.match("zebra", 5) == []


def test_an_encoder_that_knows_the_image_gives_the_caption_its_similarity(store, image):
    encoder = FakeEncoder()
    write_caption(store, image, "red", encoder=encoder)
    (caption,) = store.captions([image])[image]
    assert caption.similarity == pytest.approx(1.0, abs=1e-3)
    assert caption.model == "fake"


def test_without_a_comparable_vector_there_is_no_similarity(store, image):
    other = FakeEncoder()
    other.card = replace(other.card, name="other")
    write_caption(store, image, "red", encoder=other)
    (caption,) = store.captions([image])[image]
    assert (caption.similarity, caption.model) == (None, None)


def test_taking_it_back_lets_fusion_choose_again(store, image):
    store.put_captions({image: [CLIP, BLIP]})
    write_caption(store, image, "mine")
    # 100 nats a cosine: 0.1 more is worth 10, and the sentence's 4 nats count twice.
    assert remove_caption(store, image, nats_per_cosine=100) == "mine"
    assert best_of(store, image) == [("clip", "a castle")]
    write_caption(store, image, "mine again")
    assert remove_caption(store, image, nats_per_cosine=10) == "mine again"
    assert best_of(store, image) == [("generated", "a red dress")]
    assert store.match("mine", 5) == []
    assert remove_caption(store, image) is None


def test_taking_back_the_only_caption_leaves_none(store, image):
    write_caption(store, image, "mine")
    assert remove_caption(store, image) == "mine"
    assert store.captions([image])[image] == []


def test_captions_that_say_nothing_or_far_too_much_are_refused(store, image):
    for text in ("", " \n ", "x" * (MAX_CAPTION_CHARS + 1)):
        with pytest.raises(InputError):
            write_caption(store, image, text)
    assert store.captions([image])[image] == []


def test_an_image_that_is_not_there_is_an_error(store):
    with pytest.raises(StoreError, match="no image"):
        write_caption(store, 5, "words")
    with pytest.raises(StoreError, match="no image"):
        remove_caption(store, 5)
