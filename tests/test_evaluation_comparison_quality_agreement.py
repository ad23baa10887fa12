import numpy as np
import pytest

from evaluation_fakes import random_units, unit
from sightline.lab.evaluation.comparison_quality import measure_agreement, measure_agreements


def test_a_model_agrees_with_itself_turned(rng):
    queries, candidates = random_units(rng, 20), random_units(rng, 50)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    overlap, correlation = measure_agreement((queries, queries @ turn), (candidates, candidates @ turn), k=10)
    assert overlap == pytest.approx(1, abs=0.01)
    assert correlation == pytest.approx(1, abs=1e-4)


def test_opposite_models_have_nothing_in_common(rng):
    queries, candidates = random_units(rng, 20), random_units(rng, 50)
    assert measure_agreement((queries, -queries), (candidates, candidates), k=10) == (0, pytest.approx(-1))


def test_unrelated_models_agree_as_chance_does(rng):
    queries, candidates = (
        [random_units(rng, 300, dim=d) for d in (8, 5)],
        [random_units(rng, 100, dim=d) for d in (8, 5)],
    )
    overlap, correlation = measure_agreement(tuple(queries), tuple(candidates), k=10)
    assert overlap == pytest.approx(0.1, abs=0.02)
    assert correlation == pytest.approx(0, abs=0.03)


def test_a_hand_computed_case():
    # the first model ranks the candidates 0 1 2 3, the second 1 0 3 2
    agreement = measure_agreement((unit(0), unit(0)), (unit(10, 20, 30, 40), unit(20, 10, 40, 30)), k=3)
    assert agreement == pytest.approx((2 / 3, 1 - 6 * 4 / (4 * 15)))


def test_collapsed_models_agree_as_chance_does():
    same = np.tile(unit(45), (30, 1))
    assert measure_agreement((same, same), (same, same), k=3) == (pytest.approx(3 / 30), 0)


def test_more_places_than_candidates_are_all_candidates():
    found = measure_agreements({"a": unit(0), "b": unit(0)}, {"a": unit(1, 2), "b": unit(2, 1)}, k=10)
    agreement = found["text_to_image"]
    assert (agreement.k, agreement.overlap[0][1], agreement.chance, agreement.n_queries) == (2, 1, 1, 1)


def test_chunks_change_nothing(rng, monkeypatch):
    queries, candidates = random_units(rng, 33), random_units(rng, 17)
    other = random_units(rng, 33, dim=3), random_units(rng, 17, dim=3)
    whole = measure_agreement((queries, other[0]), (candidates, other[1]), k=10)
    monkeypatch.setattr("sightline.lab.evaluation.comparison_quality._CHUNK_CELLS", 60)
    parts = measure_agreement((queries, other[0]), (candidates, other[1]), k=10)
    assert parts == pytest.approx(whole)
