import pytest

from sightline.errors import InputError
from sightline.lab.experiments.sweep_config import (
    Choices,
    Range,
    SweepFolder,
    axes_from_json,
    cells_of,
    merge_axes,
    parse_grid,
    setting_text,
    short_text,
)
from sightline.lab.training.config import parse_setting


def only(text):
    return parse_grid([text])[0]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("lr=3e-4,1e-3", (3e-4, 1e-3)),
        ("batch_size=64, 256", (64, 256)),
        ("flip=true,false", (True, False)),
        ("limit=none,100", (None, 100)),
        ("loss=softmax,sigmoid", ("softmax", "sigmoid")),
        ("data=folder:../a,scenes:1", ("folder:../a", "scenes:1")),
        ("towers.image_blocks=1,1;2,2", ((1, 1), (2, 2))),
        ("towers.image_blocks=1,2,3", ((1, 2, 3),)),
    ],
)
def test_values_have_the_type_of_their_setting(text, values):
    axis = only(text)
    assert axis == Choices(key=text.partition("=")[0], values=values)
    assert [type(value) for value in axis.values] == [type(value) for value in values]


def test_a_range_is_drawn_by_order_of_magnitude_where_it_spans_one():
    assert only("lr=1e-4..1e-2") == Range(key="lr", low=1e-4, high=1e-2, is_whole=False)
    assert only("lr=1e-4..1e-2").is_log
    assert only("batch_size=32..512").is_whole
    assert not only("weight_decay=0..1").is_log
    assert not only("lr=1e-3..2e-3").is_log


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "needs settings to vary"),
        (["lr"], "no part of a grid"),
        (["lr="], "no part of a grid"),
        (["lr=1,2", "lr=3"], "stands in the grid twice"),
        (["lr=1,1.0"], "stands there twice"),
        (["lr=a,b"], "this is no float"),
        (["batch_sise=1"], "Did you mean batch_size"),
        (["batch_size=0.5..4"], "this is no int"),
        (["lr=2..1"], "the lower end comes first"),
        (["recipe=a,b"], "recipe can't be set"),
    ],
)
def test_what_is_no_grid_is_refused(texts, message):
    with pytest.raises(InputError, match=message):
        parse_grid(texts)


def test_cells_are_all_combinations_with_the_last_setting_changing_fastest():
    axes = parse_grid(["lr=1,2", "batch_size=8,16"])
    cells = [tuple(cell.values()) for cell in cells_of(axes)]
    assert cells == [(1.0, 8), (1.0, 16), (2.0, 8), (2.0, 16)]


def test_a_grid_without_end_is_refused():
    with pytest.raises(InputError, match="--sampler random"):
        list(cells_of(parse_grid(["lr=1e-4..1"])))
    many = ",".join(str(n) for n in range(200))
    with pytest.raises(InputError, match="40,000 cells"):
        list(cells_of(parse_grid([f"seed={many}", f"lora_rank={many}"])))


def test_a_grid_and_its_cells_survive_json():
    import json

    axes = parse_grid(["lr=1e-3,2e-3", "towers.image_blocks=1,1;2,2", "limit=none,5", "batch_size=8..64"])
    assert axes_from_json(json.loads(json.dumps({axis.key: axis.to_json() for axis in axes}))) == axes


def test_merging_adds_what_is_new():
    before, now = parse_grid(["lr=1,2", "seed=0"]), parse_grid(["seed=1", "lr=2,3"])
    assert merge_axes(before, now) == parse_grid(["lr=1,2,3", "seed=0,1"])


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-5, 7, True, None, "sigmoid", (1, 2)])
def test_a_setting_as_text_comes_back_to_the_bit(value):
    key = {bool: "flip", int: "seed", float: "lr", str: "loss", tuple: "towers.image_blocks"}.get(type(value), "limit")
    assert parse_setting(key, setting_text(key, value).partition("=")[2]) == value


def test_names_of_trials_are_short_and_safe_on_any_disk(tmp_path):
    folder = SweepFolder(path=tmp_path)
    name = folder.trial_path(3, {"data": "folder:/my photos/a:b", "towers.dim": 64, "lr": 0.30000000000000004}).name
    assert name == "003-data=folder_my_photos_a_b-dim=64-lr=0.3"
    assert len(folder.trial_path(3, {"data": "x" * 500}).name) <= 64
    assert short_text((1, 2)) == "1,2"
