import json
import math

import pytest

from sightline.errors import InputError
from sightline.evaluation.results import EvalResult, Problem

BASE = {"model": "m", "data": "scenes:0", "split": "val", "n_images": 2, "n_texts": 3}


def test_the_json_has_the_fixed_keys_and_nothing_empty():
    values = EvalResult(**BASE, metrics={"acc1": 1 / 3}).to_dict()
    assert list(values) == ["model", "data", "split", "n_images", "n_texts", "metrics"]
    assert json.loads(json.dumps(values)) == {**BASE, "metrics": {"acc1": 0.333333}}


def test_the_json_says_more_where_there_is_more():
    values = EvalResult(
        **BASE,
        metrics={"acc1": 0.5},
        intervals={"acc1": (0.25, 0.75)},
        details={"prompts": ["{}"]},
        problems=(Problem(id="a", reason="truncated JPEG"),),
        took_s=1.234,
    ).to_dict()
    assert values["intervals"] == {"acc1": [0.25, 0.75]}
    assert values["details"] == {"prompts": ["{}"]}
    assert values["left_out"] == [{"id": "a", "reason": "truncated JPEG"}]
    assert values["took_s"] == 1.23


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_no_result(bad):
    with pytest.raises(InputError, match=r"acc1 of m on scenes:0 is (nan|inf)"):
        EvalResult(**BASE, metrics={"acc1": bad})


def test_an_interval_needs_its_metric():
    with pytest.raises(InputError, match="unknown metrics: acc5"):
        EvalResult(**BASE, metrics={"acc1": 0.1}, intervals={"acc5": (0, 1)})
