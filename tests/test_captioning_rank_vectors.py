import numpy as np
import pytest

from captioning_fakes import FakeEncoder
from sightline.core.captioning.rank import embed_texts, load_or_embed_texts
from sightline.errors import ModelError
from sightline.kit.config import cache_dir

TEXTS = ["a red car", "a blue boat", "a green frog"]


def cached_files():
    return sorted((cache_dir() / "banks").glob("*"))


def test_the_second_time_nothing_is_embedded():
    first, second = FakeEncoder(), FakeEncoder()
    expected = load_or_embed_texts(first, TEXTS)
    assert first.texts_seen == TEXTS
    np.testing.assert_array_equal(load_or_embed_texts(second, TEXTS), expected)
    assert second.texts_seen == []
    assert [path.suffix for path in cached_files()] == [".npy"]


def test_another_model_other_weights_precision_or_texts_are_embedded_anew():
    load_or_embed_texts(FakeEncoder(), TEXTS)
    int8 = FakeEncoder()
    int8.precision = "int8"
    for encoder, texts in [
        (FakeEncoder(name="other"), TEXTS),
        (FakeEncoder(weights_hash="w2"), TEXTS),
        (int8, TEXTS),
        (FakeEncoder(), TEXTS[::-1]),
    ]:
        load_or_embed_texts(encoder, texts)
        assert encoder.texts_seen == texts
    assert len(cached_files()) == 5


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "zeroed", "nan", "other shape", "other type"])
def test_a_damaged_cache_is_made_again(damage):
    expected = load_or_embed_texts(FakeEncoder(), TEXTS)
    (path,) = cached_files()
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-7])
    elif damage in {"text", "empty"}:
        path.write_bytes(b"not numpy" if damage == "text" else b"")
    elif damage == "zeroed":
        path.write_bytes(whole[:-64] + bytes(64))
    else:
        broken = {"nan": expected * np.nan, "other shape": expected[:2], "other type": expected.astype(np.float64)}
        with path.open("wb") as file:
            np.save(file, broken[damage])
    encoder = FakeEncoder()
    np.testing.assert_array_equal(load_or_embed_texts(encoder, TEXTS), expected)
    assert encoder.texts_seen == TEXTS
    assert path.read_bytes() == whole


def test_an_unwritable_cache_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "file"))
    encoder = FakeEncoder()
    for _ in range(2):
        assert load_or_embed_texts(encoder, TEXTS).shape == (3, encoder.dim)
    assert encoder.texts_seen == TEXTS * 2


def test_many_texts_are_embedded_in_bounded_chunks():
    class Counting(FakeEncoder):
        sizes: tuple[int, ...] = ()

        def encode_texts(self, texts):
            self.sizes += (len(texts),)
            return super().encode_texts(texts)

    encoder = Counting()
    texts = [f"text {i}" for i in range(600)]
    vectors = embed_texts(encoder, texts)
    assert encoder.sizes == (256, 256, 88)
    np.testing.assert_array_equal(vectors[599], FakeEncoder().encode_texts(["text 599"])[0])


def test_no_texts_give_no_vectors():
    assert embed_texts(FakeEncoder(), []).shape == (0, FakeEncoder.dim)


def test_vectors_that_are_not_finite_are_refused_and_not_cached():
    class Broken(FakeEncoder):
        def encode_texts(self, texts):
            return super().encode_texts(texts) * np.float32("nan")

    with pytest.raises(ModelError, match="Text vectors of fake hold values that aren't finite"):
        load_or_embed_texts(Broken(), TEXTS)
    assert cached_files() == []
