"""Distances of int8 rows under masks: the same whether rows are compared where they lie or copied first."""

import numpy as np
import pytest

from sightline.core.store import matrix
from sightline.core.store.matrix import inverse_lengths

DIM = 48


def scan(blocks, query, mask):
    return matrix.scan(blocks, inverse_lengths(blocks), query, mask)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.integers(-127, 128, (1000, DIM), dtype=np.int8), rng.integers(-127, 128, (1, DIM), dtype=np.int8)


def exact(rows, query):
    rows, query = rows.astype(np.float64), query[0].astype(np.float64)
    return 1 - rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)


@pytest.mark.parametrize("threads", [1, 3])
def test_distances_are_cosine_distances_whatever_the_blocks_and_threads(rows, threads, monkeypatch):
    rows, query = rows
    monkeypatch.setattr(matrix, "SCANNED_ROWS", 70)
    monkeypatch.setattr(matrix, "SHARED_ROWS", 100)
    monkeypatch.setattr(matrix, "usable_cpus", lambda: threads)
    distances = scan([rows[:1], rows[1:400], rows[400:400], rows[400:]], query, None)
    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances, exact(rows, query), atol=1e-6)
    assert scan([], query, None).shape == (0,)


@pytest.mark.parametrize("kept", [0, 1, 29, 290, 310, 999, 1000])
def test_a_mask_leaves_the_rest_infinitely_far(rows, kept, monkeypatch):
    rows, query = rows
    monkeypatch.setattr(matrix, "GATHERED_ROWS", 7)
    mask = np.zeros(1000, dtype=bool)
    mask[np.random.default_rng(1).permutation(1000)[:kept]] = True
    distances = scan([rows[:300], rows[300:]], query, mask)
    assert np.isinf(distances[~mask]).all()
    np.testing.assert_allclose(distances[mask], exact(rows, query)[mask], atol=1e-6)


def test_equal_rows_have_equal_distances_wherever_they_stand(rows):
    rows, query = rows
    same = np.repeat(rows[:1], 1000, axis=0)
    mask = np.arange(1000) % 10 == 0
    assert np.ptp(scan([same[:333], same[333:]], query, None)) <= 1e-6
    assert abs(scan([same], query, mask)[0] - scan([same], query, None)[1]) <= 1e-6
