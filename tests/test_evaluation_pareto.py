import pytest

from sightline.errors import InputError
from sightline.evaluation.pareto import Tradeoff, find_dominating


def test_a_model_is_dominated_by_those_that_are_no_worse_and_somewhere_better():
    found = find_dominating(
        [
            Tradeoff(model="best", quality=0.9, images_per_s=10),
            Tradeoff(model="fastest", quality=0.5, images_per_s=100),
            Tradeoff(model="middle", quality=0.7, images_per_s=50),
            Tradeoff(model="worse", quality=0.7, images_per_s=40),
            Tradeoff(model="worst", quality=0.4, images_per_s=9),
        ]
    )
    assert found == {
        "best": (),
        "fastest": (),
        "middle": (),
        "worse": ("middle",),
        "worst": ("best", "fastest", "middle", "worse"),
    }


def test_equal_models_do_not_dominate_each_other():
    twins = [Tradeoff(model=name, quality=0.5, images_per_s=10) for name in "ab"]
    assert find_dominating(twins) == {"a": (), "b": ()}


def test_names_are_unique():
    with pytest.raises(InputError, match="once"):
        find_dominating([Tradeoff(model="a", quality=1, images_per_s=1)] * 2)
