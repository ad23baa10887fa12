import itertools

import numpy as np
import pytest

from sightline.errors import InputError
from sightline.lab.evaluation import results
from sightline.lab.evaluation.results import rank_embeddings, rank_similarities, require_finite_rows


def ranks_of(rows, relevant, tolerance=1e-6):
    return rank_similarities(np.array(rows, np.float32), [np.array(r) for r in relevant], tolerance)


def test_ranks_without_ties_are_places_in_the_order():
    ranks = ranks_of([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.9, 0.1, 0.5]], [[0], [1], [2]])
    assert ranks.expected_ranks.tolist() == [1, 3, 2]
    assert ranks.found_at(1).tolist() == [1, 0, 0]
    assert ranks.found_at(2).tolist() == [1, 0, 1]
    assert ranks.average_precision_Q.tolist() == pytest.approx([1, 1 / 3, 1 / 2])


def test_average_precision_of_a_known_ranking():
    # relevant at places 1, 3 and 6: (1/1 + 2/3 + 3/6) / 3
    ranks = ranks_of([[9, 8, 7, 6, 5, 4, 3]], [[0, 2, 5]])
    assert ranks.average_precision_Q[0] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)


def brute_force(row, relevant, k):
    """Means over all orders of tied candidates: found among the first k, first rank, average precision."""
    found, firsts, precisions, keys = [], [], [], set()
    for order in itertools.permutations(range(len(row))):
        ranked = tuple(sorted(order, key=lambda i: -row[i]))  # stable: ties as in the permutation
        keys.add(ranked)
    for ranked in keys:
        places = [place for place, item in enumerate(ranked, start=1) if item in relevant]
        found.append(places[0] <= k)
        firsts.append(places[0])
        precisions.append(np.mean([(n + 1) / place for n, place in enumerate(places)]))
    return np.mean(found), np.mean(firsts), np.mean(precisions)


@pytest.mark.parametrize("seed", range(25))
def test_ties_give_the_mean_over_all_their_orders(seed):
    rng = np.random.default_rng(seed)
    row = rng.integers(0, 3, 6)
    relevant = rng.choice(6, size=rng.integers(1, 5), replace=False)
    ranks = ranks_of([row], [relevant])
    for k in range(1, 8):
        found, first, precision = brute_force(row.tolist(), set(relevant.tolist()), k)
        assert ranks.found_at(k)[0] == pytest.approx(found)
        assert ranks.expected_ranks[0] == pytest.approx(first)
        assert ranks.average_precision_Q[0] == pytest.approx(precision)


def test_a_hair_of_difference_is_a_tie_and_more_is_not():
    ranks = ranks_of([[0.5, 0.5 + 1e-7], [0.5, 0.5 + 1e-5]], [[0], [0]])
    assert ranks.found_at(1).tolist() == [0.5, 0]


def test_the_width_of_a_tie_follows_the_length_of_the_vectors():
    query, candidates = np.array([[1e-4, 0]], np.float32), np.array([[1e-4, 0], [2e-4, 0]], np.float32)
    assert rank_embeddings(query, candidates, [np.array([0])]).expected_ranks[0] == 2


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_chunks_change_nothing(rng, rows, monkeypatch):
    queries, candidates = rng.integers(-2, 3, (7, 3)), rng.integers(-2, 3, (11, 3))
    relevant = [rng.choice(11, size=n % 4 + 1, replace=False) for n in range(7)]
    whole = rank_embeddings(queries.astype(np.float32), candidates.astype(np.float32), relevant)
    monkeypatch.setattr(results, "_CHUNK_BYTES", rows * 4 * 11)
    parts = rank_embeddings(queries.astype(np.float32), candidates.astype(np.float32), relevant)
    for field in ("better_Q", "tied_Q", "relevant_Q", "average_precision_Q"):
        assert getattr(whole, field).tolist() == getattr(parts, field).tolist()


def test_a_k_below_one_is_refused():
    ranks = ranks_of([[1, 2]], [[0]])
    with pytest.raises(InputError, match="k must be at least 1, got 0"):
        ranks.found_at(0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_row_that_is_not_finite_is_named(bad):
    values = np.ones((5, 2), np.float32)
    values[3, 1] = bad
    with pytest.raises(InputError, match=r"Row 3 of the test vectors holds NaN or infinity \(1 of 5"):
        require_finite_rows(values, what="test vectors")
