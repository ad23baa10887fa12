from pathlib import Path

import pytest

from sightline.errors import InputError
from sightline.lab.data.base import Dataset, FileImage, Pair, choose_subset, fingerprint_of_pairs


def make_dataset(ids):
    pairs = [Pair(id=name, image=FileImage(path=Path(name)), captions=("a dog",)) for name in ids]
    return Dataset(name="folder:x", split="train", pairs=pairs, fingerprint=fingerprint_of_pairs(pairs))


DATASET = make_dataset([f"{number:04d}.jpg" for number in range(500)])


def ids_of(dataset):
    return [pair.id for pair in dataset]


def test_a_subset_is_random_keeps_the_order_and_is_the_same_again():
    subset = choose_subset(DATASET, limit=50, seed=3)
    assert ids_of(subset) == sorted(ids_of(subset))
    assert ids_of(subset) == ids_of(choose_subset(DATASET, limit=50, seed=3))
    assert ids_of(subset) != ids_of(DATASET)[:50]
    assert len(set(ids_of(subset))) == 50
    assert 10 <= sum(name < "0250.jpg" for name in ids_of(subset)) <= 40


def test_the_choice_is_pinned_so_that_figures_of_other_versions_compare():
    assert ids_of(choose_subset(DATASET, limit=3, seed=0)) == ["0118.jpg", "0209.jpg", "0414.jpg"]


def test_another_seed_chooses_others():
    assert ids_of(choose_subset(DATASET, limit=50, seed=0)) != ids_of(choose_subset(DATASET, limit=50, seed=1))


def test_a_smaller_subset_is_part_of_a_larger_one():
    assert set(ids_of(choose_subset(DATASET, limit=20))) < set(ids_of(choose_subset(DATASET, limit=100)))


def test_the_choice_depends_on_ids_not_on_where_files_lie():
    moved = make_dataset(ids_of(DATASET))
    elsewhere = [Pair(id=p.id, image=FileImage(path=Path("/other") / p.id), captions=p.captions) for p in moved]
    other = Dataset(name="x", split="train", pairs=elsewhere, fingerprint=fingerprint_of_pairs(elsewhere))
    assert ids_of(choose_subset(other, limit=9)) == ids_of(choose_subset(DATASET, limit=9))


def test_a_subset_has_a_fingerprint_of_its_own():
    prints = {choose_subset(DATASET, limit=n, seed=s).fingerprint for n in (5, 6) for s in (0, 1)}
    assert len(prints | {DATASET.fingerprint}) == 5


@pytest.mark.parametrize("limit", [500, 501, 10**12])
def test_a_limit_that_is_not_below_the_size_takes_all(limit):
    assert choose_subset(DATASET, limit=limit) is DATASET


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(InputError, match=f"limit is {limit}; it must be at least 1"):
        choose_subset(DATASET, limit=limit)
