"""Hubness is measured with each image, and for older libraries from the vectors that they have."""

import numpy as np
import pytest

from indexing_world import DIM, PooledEncoder, photo
from sightline.core.indexing.hubs import fill_aside, fill_hubness
from sightline.core.indexing.indexer import index
from sightline.core.models.bank import BANK_FILE, HUB_WEIGHT, SHORT_HUB_WEIGHT, load_bank, write_bank
from sightline.core.search.engine import SearchConfig, prepare, rank
from sightline.core.search.query import Part
from sightline.core.store.sqlite import open_store


def unit_rows(count, seed):
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class WordsEncoder(PooledEncoder):
    """Words point somewhere, too."""

    def encode_texts(self, texts):
        return np.stack([unit_rows(1, seed=len(text))[0] for text in texts])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        photo(number).save(folder / f"{number}.png")
    return folder


def make_encoder(tmp_path, *, bank=None):
    """A model in a folder, with a bank of this seed in it."""
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    if bank is not None:
        write_bank(folder / BANK_FILE, unit_rows(30, bank), unit_rows(10, 1), weights_hash="0")
    return WordsEncoder(f"dir:{folder}", source=str(folder))


def known(store, encoder):
    bank = load_bank(encoder)
    ids, vectors_ND = store.vectors(encoder.card.name)
    expected = dict(zip(ids.tolist(), bank.measure(vectors_ND).tolist(), strict=True))
    found = store.hubness(encoder.card.name, ids.tolist())
    assert found == pytest.approx(expected, abs=1e-3)
    return store.knows_hubness(encoder.card.name, bank.id)


def test_images_are_measured_when_they_are_embedded(tmp_path, photos):
    encoder = make_encoder(tmp_path, bank=0)
    with open_store(tmp_path / "library") as store:
        index(store, encoder, [photos])
        assert known(store, encoder)


def test_an_older_library_gains_the_numbers_without_embedding_again(tmp_path, photos):
    with open_store(tmp_path / "library") as store:
        index(store, make_encoder(tmp_path), [photos])
        encoder = make_encoder(tmp_path, bank=0)
        assert not store.knows_hubness(encoder.card.name, load_bank(encoder).id)
        report = index(store, encoder, [photos])
        assert report.embedded == 0
        assert known(store, encoder)


def test_a_search_starts_the_measuring_and_closing_waits_for_it(tmp_path, photos):
    with open_store(tmp_path / "library") as store:
        index(store, make_encoder(tmp_path), [photos])
        encoder = make_encoder(tmp_path, bank=0)
        fill_aside(store, encoder)
    with open_store(tmp_path / "library", read_only=True) as store:
        assert known(store, encoder)
        fill_aside(store, make_encoder(tmp_path, bank=2))  # nothing can be written: nothing is tried


def test_the_numbers_of_another_bank_are_replaced(tmp_path, photos):
    with open_store(tmp_path / "library") as store:
        index(store, make_encoder(tmp_path, bank=0), [photos])
        encoder = make_encoder(tmp_path, bank=2)
        assert fill_hubness(store, encoder.card.name, load_bank(encoder)) == 6
        assert known(store, encoder)
        assert fill_hubness(store, encoder.card.name, load_bank(encoder)) == 0


def test_words_are_corrected_images_are_not_and_mixtures_by_half(tmp_path, photos):
    encoder = make_encoder(tmp_path, bank=0)
    image = Part(image=photos / "0.png")
    with open_store(tmp_path / "library") as store:
        index(store, encoder, [photos])
        weights = [
            prepare(store, encoder, parts).hub_weight
            for parts in ([Part(text="red")], [Part(text="red"), image], [image], [Part(text="eight words " * 4)])
        ]
        assert weights == pytest.approx([SHORT_HUB_WEIGHT, SHORT_HUB_WEIGHT / 2, 0, HUB_WEIGHT])
        model, moved = encoder.card.name, 0
        for count in range(4, 12):
            query = prepare(store, encoder, [Part(text="eight words " * count)])
            plain = rank(store, model, query, config=SearchConfig(hub_correction=False))
            hubness = store.hubness(model, [row for row, _ in plain])
            expected = sorted(plain, key=lambda found: HUB_WEIGHT * hubness[found[0]] - found[1])
            assert rank(store, model, query, config=SearchConfig()) == expected
            moved += expected != plain
        assert moved
