"""Banks: measuring hubness, files that belong to a model, and those that don't."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from sightline.core.models import bank as banks
from sightline.core.models.bank import BANK_FILE, HUB_WEIGHT, Bank, load_bank, read_bank, write_bank
from sightline.core.models.base import Encoder
from sightline.core.models.cards import STARTER, find_card
from sightline.core.types import ModelIdentity
from sightline.errors import ModelError

DIM = 8


def unit_rows(count, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class FolderEncoder:
    """All of an encoder that a bank asks for."""

    def __init__(self, folder):
        self.card = replace(find_card(STARTER), name=f"dir:{folder}", source=str(folder), dim=DIM)
        self.identity = ModelIdentity(name=self.card.name, weights_hash="w" * 64, preprocessing_version=1, dim=DIM)


def make_encoder(folder: Path) -> Encoder:
    return cast("Encoder", FolderEncoder(folder))


def test_hubness_is_the_mean_of_the_highest_cosines():
    texts, images = unit_rows(40), unit_rows(3, seed=1)
    bank = Bank(vectors_BD=texts, images_ID=images, weights_hash="w")
    expected = np.sort(images @ texts.T, axis=1)[:, -banks.NEIGHBOURS :].mean(axis=1)
    np.testing.assert_allclose(bank.measure(images), expected, atol=1e-6)
    np.testing.assert_allclose(bank.image_hubness_I, expected, atol=1e-6)


def test_many_images_are_measured_in_parts(monkeypatch):
    bank, images = Bank(vectors_BD=unit_rows(40), images_ID=unit_rows(5), weights_hash="w"), unit_rows(7, seed=1)
    whole = bank.measure(images)
    monkeypatch.setattr(banks, "_IMAGES_AT_ONCE", 3)
    np.testing.assert_allclose(bank.measure(images), whole, atol=1e-6)


def test_a_bank_comes_back_from_its_file_and_changes_its_id_with_its_texts(tmp_path):
    path = tmp_path / BANK_FILE
    write_bank(path, unit_rows(40), unit_rows(6, seed=1), weights_hash="w" * 64)
    bank = load_bank(make_encoder(tmp_path))
    np.testing.assert_allclose(bank.vectors_BD, unit_rows(40), atol=0.01)
    np.testing.assert_allclose(bank.images_ID, unit_rows(6, seed=1), atol=0.01)
    again = read_bank(path)
    assert again.id == bank.id
    write_bank(path, unit_rows(40, seed=2), unit_rows(6, seed=1), weights_hash="w" * 64)
    assert read_bank(path).id != bank.id


def test_a_model_without_a_bank_has_none(tmp_path):
    assert load_bank(make_encoder(tmp_path)) is None


def test_the_bank_of_another_model_is_refused(tmp_path):
    write_bank(tmp_path / BANK_FILE, unit_rows(40), unit_rows(6), weights_hash="other")
    with pytest.raises(ModelError, match=r"bank of another model .* Delete it"):
        load_bank(make_encoder(tmp_path))


@pytest.mark.parametrize("content", [b"", b"PK no archive", b"\0" * 100])
def test_a_damaged_bank_is_named(tmp_path, content):
    (tmp_path / BANK_FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"bank\.npz can't be read as a bank"):
        load_bank(make_encoder(tmp_path))


@pytest.mark.parametrize(
    "texts", [np.zeros((9, DIM), np.int8), np.ones((2, DIM), np.int8), np.ones((9, DIM), np.float32)]
)
def test_arrays_that_are_no_bank_are_refused(tmp_path, texts):
    np.savez(tmp_path / BANK_FILE, texts=texts, images=np.ones((9, DIM), np.int8), weights_hash=np.array("w" * 64))
    with pytest.raises(ModelError, match="is no bank"):
        load_bank(make_encoder(tmp_path))


def test_the_starter_ships_with_a_bank_of_its_own_weights():
    from sightline.core.models.loading import load_encoder

    encoder = load_encoder(STARTER)
    bank = load_bank(encoder)
    assert bank.vectors_BD.shape == (3126, encoder.dim)
    assert "bank.npz" in encoder.card.files
    assert 0 < HUB_WEIGHT < 1


def test_other_weights_under_the_packages_own_name_have_no_bank(tmp_path):
    encoder = FolderEncoder(tmp_path)
    encoder.card = find_card(STARTER)
    assert load_bank(cast("Encoder", encoder)) is None
