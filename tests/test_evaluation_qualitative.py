import numpy as np
import pytest

from evaluation_fakes import random_units, unit
from sightline.errors import InputError
from sightline.lab.evaluation.embedding import EmbeddedDataset
from sightline.lab.evaluation.qualitative import find_cases, find_neighbours, map_embeddings, measure_gap
from sightline.lab.evaluation.retrieval import rank_retrieval


@pytest.fixture
def embedded():
    return EmbeddedDataset(
        image_BD=unit(0, 90, 180),
        row_B=np.arange(3),
        text_TD=unit(5, 10, 85, 20),
        owner_T=np.array([0, 0, 1, 2]),
        ids=("east", "north", "west"),
        texts=("t5", "t10", "t85", "t20"),
    )


@pytest.fixture
def ranks(embedded):
    return rank_retrieval(embedded.image_BD, embedded.text_TD, embedded.owner_T)


def test_the_best_and_worst_texts_are_shown_with_what_they_found(embedded, ranks):
    cases = find_cases(embedded, ranks, shown=2)
    assert [(case.query, case.rank) for case in cases.worst] == [("t20", 3), ("t5", 1), ("t85", 1)]
    worst = cases.worst[0]
    assert (worst.answer.item, worst.answer.right) == ("west", True)
    assert worst.answer.similarity == pytest.approx(-np.cos(np.radians(20)))
    assert [(match.item, match.right) for match in worst.found] == [("east", False), ("north", False)]
    # t5 and t85 lead by the same; one text an image, and none that was not right at once
    assert [case.query for case in cases.best] == ["t5", "t85"]


def test_images_are_queries_too(embedded, ranks):
    cases = find_cases(embedded, ranks, direction="text_retrieval", n=1, shown=9)
    assert [(case.query, case.rank) for case in cases.worst] == [("west", 2)]
    assert [match.item for match in cases.worst[0].found] == ["t85", "t20", "t10", "t5"]
    assert cases.worst[0].answer.item == "t20"
    assert [case.query for case in cases.best] == ["north"]


def test_neighbours_leave_out_the_row_itself():
    found = find_neighbours(unit(0, 1, 50, 0), ["a", "b", "c", "d"], rows=[0, 2], k=2)
    assert {name: [m.item for m in matches] for name, matches in found.items()} == {"a": ["d", "b"], "c": ["b", "a"]}
    assert found["a"][1].similarity == pytest.approx(np.cos(np.radians(1)))


def test_the_map_is_that_of_principal_components(rng):
    images, texts = random_units(rng, 40), random_units(rng, 40) + 1
    both = np.concatenate([images, texts]).astype(np.float64)
    centred = both - both.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    found = map_embeddings(images, texts)
    points = np.concatenate([found.image_B2, found.text_T2])
    assert np.abs(points) == pytest.approx(np.abs(centred @ axes[:2].T), abs=1e-4)
    assert found.explained == pytest.approx(tuple(spread[:2] ** 2 / (spread**2).sum()), abs=1e-5)


def test_five_captions_an_image_do_not_turn_the_map(rng):
    images, texts = random_units(rng, 30), random_units(rng, 30)
    once, five = map_embeddings(images, texts), map_embeddings(images, np.repeat(texts, 5, axis=0))
    assert five.image_B2 == pytest.approx(once.image_B2, abs=1e-4)


def test_vectors_that_make_no_map_are_refused():
    with pytest.raises(InputError, match="2 dimensions or more"):
        map_embeddings(np.ones((3, 1), np.float32), np.ones((3, 1), np.float32))
    collapsed = map_embeddings(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32))
    assert not collapsed.image_B2.any()


def test_the_gap_is_the_distance_of_the_centroids():
    gap = measure_gap(unit(0, 0), unit(60, 60), np.array([0, 1]))
    assert gap.distance == pytest.approx(1)
    assert gap.matched_similarity == gap.other_similarity == pytest.approx(0.5)


def test_similarities_of_own_and_other_texts_are_told_apart(rng):
    images, texts, owner = random_units(rng, 7), random_units(rng, 12), np.arange(12) % 7
    similarity = images @ texts.T
    own = owner[None] == np.arange(7)[:, None]
    gap = measure_gap(images, texts, owner)
    assert gap.matched_similarity == pytest.approx(similarity[own].mean(), abs=1e-6)
    assert gap.other_similarity == pytest.approx(similarity[~own].mean(), abs=1e-6)
    assert gap.distance == pytest.approx(np.linalg.norm(images.mean(0) - texts.mean(0)), abs=1e-6)


def test_one_image_has_no_others():
    gap = measure_gap(unit(0), unit(60), np.array([0]))
    assert gap.other_similarity == gap.matched_similarity == pytest.approx(0.5)
    with pytest.raises(InputError, match="Row 0 of the image embeddings"):
        measure_gap(unit(np.nan), unit(0), np.array([0]))
