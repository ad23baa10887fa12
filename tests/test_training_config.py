"""Settings of a run, from recipes and changes to them.

Covers: sightline.lab.training.recipes.
"""

import dataclasses

import pytest

from sightline.errors import InputError
from sightline.lab.training.config import TowersConfig, TrainConfig
from sightline.lab.training.recipes import describe_recipe, known_recipes, make_config, resumed_config
from sightline.lab.training.run_folder import RunFolder


def config(**changes):
    return TrainConfig(recipe="scenes-scratch", data="scenes:0", **changes)


def test_settings_are_parsed_by_the_fields_type():
    changed = config(init="dir:x").changed(
        ["lr=3e-4", "batch_size=64", "flip=false", "init=none", "limit=100", "vocabulary_from=a:b,c:d", "loss=sigmoid"]
    )
    assert (changed.lr, changed.batch_size, changed.flip, changed.init, changed.limit) == (3e-4, 64, False, None, 100)
    assert changed.vocabulary_from == ("a:b", "c:d")
    assert changed.loss == "sigmoid"


def test_settings_reach_into_the_towers():
    changed = config().changed(["towers.dim=64", "towers.image_blocks=1,2"])
    assert (changed.towers.dim, changed.towers.image_blocks) == (64, (1, 2))
    assert changed.towers.text_width == TowersConfig().text_width


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr", "key=value"),
        ("learnin_rate=1", "There is no setting learnin_rate"),
        ("batchsize=1", "Did you mean batch_size"),
        ("towers.with=1", "There is no setting towers.with"),
        ("batch_size=many", "this is no int"),
        ("flip=maybe", "this is no bool"),
        ("loss=hinge", "must be one of softmax, sigmoid"),
        ("recipe=other", "recipe can't be set"),
        ("batch_size=1", "at least 2"),
        ("crop_min=0", "crop_min must lie in"),
        ("lr=nan", "lr must be a number"),
        ("epochs=0", "epochs must be above 0"),
        ("warmup_fraction=1", "warmup_fraction must lie in"),
        ("temperature=101", "temperature must be at most 100"),
        ("weight_decay=-1", "weight_decay must be at least 0"),
        ("image_lr_factor=-1", "image_lr_factor must be at least 0"),
        ("text_lr_factor=inf", "text_lr_factor must be a number"),
        ("layer_decay=0", "layer_decay must lie in"),
        ("average_decay=1", "average_decay must lie in"),
        ("average_decay=-0.1", "average_decay must lie in"),
        ("layer_decay=1.1", "layer_decay must lie in"),
        ("lora_rank=-1", "lora_rank must be at least 0"),
        ("chunk_size=0", "chunk_size must be at least 1"),
        ("towers.text_heads=0", r"towers\.text_heads must be at least 1"),
        ("towers.text_bigrams=-1", r"towers\.text_bigrams must be at least 0"),
        ("towers.text_layers=-1", r"towers\.text_layers must be at least 0"),
        ("towers.image_blocks=2,0", r"towers\.image_blocks must be at least 1, got 0"),
        ("towers.image_blocks=-3", r"towers\.image_blocks must be at least 1, got -3"),
        ("towers.image_blocks=", r"towers\.image_blocks needs at least one number"),
        ("towers.dropout=1", r"towers\.dropout must lie in"),
        ("towers.architecture=rnn", r"towers\.architecture is 'rnn'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting, message):
    with pytest.raises(InputError, match=message):
        config().changed([setting])


def test_a_bag_of_words_has_no_pairs_of_words():
    with pytest.raises(InputError, match="has no order"):
        config().changed(["towers.text_layers=0", "towers.text_bigrams=8"])


NUMBERS = [
    f"{prefix}{field.name}"
    for prefix, owner in (("", TrainConfig), ("towers.", TowersConfig))
    for field in dataclasses.fields(owner)
    if "int" in field.type or "float" in field.type
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e300", "9" * 40])
def test_every_number_of_a_run_is_one_that_steps_can_be_made_of(name, text):
    with pytest.raises(InputError, match=rf"{name.replace('.', '[.]')}.*(must be a number between|this is no)"):
        config().changed([f"{name}={text}"])


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_taken_from_a_saved_run_without_a_look(name):
    values = config().to_dict()
    owner = values["towers"] if name.startswith("towers.") else values
    key = name.removeprefix("towers.")
    owner[key] = [float("nan")] if key == "image_blocks" else float("nan")
    with pytest.raises(InputError, match=f"{key} must be a number"):
        TrainConfig.from_dict(values)


def test_a_patch_must_divide_the_image():
    with pytest.raises(InputError, match="must divide"):
        config().changed(["towers.architecture=vit", "towers.size_px=64", "towers.patch_px=12"])


def test_a_config_survives_json():
    made = config(limit=5, vocabulary_from=("a:b",), towers=TowersConfig(image_blocks=(1, 1)))
    assert TrainConfig.from_dict(made.to_dict()) == made


def test_an_unknown_key_of_a_saved_config_is_named():
    with pytest.raises(InputError, match=r"no setting towers\.colour"):
        TrainConfig.from_dict({**config().to_dict(), "towers": {"colour": 1}})


def test_a_former_setting_of_an_old_run_is_left_out_where_it_is_as_it_was_fixed():
    old = {"max_temperature": 100.0, "bias": -10, "contrast_weight": 1.0, "schedule": "cosine", "beta2": 0.98}
    assert TrainConfig.from_dict({**config().to_dict(), **old}) == config()


def test_a_former_setting_that_was_changed_is_named():
    with pytest.raises(InputError, match=r"schedule='constant'; this setting is gone, and 'cosine' is fixed.*--init"):
        TrainConfig.from_dict({**config().to_dict(), "schedule": "constant"})


@pytest.mark.parametrize("name", list(known_recipes()))
def test_every_recipe_makes_a_config_of_its_name_and_says_what_it_costs(name):
    made = make_config(name, ["data=flickr8k:somewhere"])
    assert made.recipe == name
    assert "Command: " in describe_recipe(name)
    assert f"sightline train {name}" in describe_recipe(name)


@pytest.mark.parametrize("name", list(known_recipes()))
def test_the_smoke_variant_needs_no_data_and_no_weights(name):
    made = make_config(name, smoke=True)
    assert made.data.startswith("scenes")
    assert made.init is None
    assert made.limit <= 64


def test_a_recipe_for_the_users_pairs_asks_for_them():
    with pytest.raises(InputError, match="--data"):
        make_config("flickr8k-scratch")


def test_an_unknown_recipe_lists_the_nearest():
    with pytest.raises(InputError, match="Did you mean scenes-scratch"):
        make_config("scene-scratch")


def test_a_run_is_never_overwritten(tmp_path):
    folder = RunFolder(path=tmp_path / "run")
    folder.start(config())
    with pytest.raises(InputError, match="holds a run already"):
        folder.start(config())


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="isn't empty"):
        RunFolder(path=tmp_path).start(config())


def test_a_file_as_output_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        RunFolder(path=tmp_path / "file").start(config())


def test_resuming_takes_the_runs_own_settings(tmp_path):
    RunFolder(path=tmp_path / "run").start(config(lr=5e-4))
    assert resumed_config("scenes-scratch", [], tmp_path / "run") == config(lr=5e-4)
    with pytest.raises(InputError, match="a run of scenes-scratch, not of cc3m-scratch"):
        resumed_config("cc3m-scratch", [], tmp_path / "run")


def test_resuming_where_no_run_is_says_so(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        resumed_config("scenes-scratch", [], tmp_path)


def test_a_damaged_run_file_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        resumed_config("scenes-scratch", [], tmp_path)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().lr = 1.0
