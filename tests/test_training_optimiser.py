import dataclasses

import pytest

torch = pytest.importorskip("torch")

from sightline.errors import TrainingError  # noqa: E402
from sightline.lab.training.optimiser import (  # noqa: E402
    describe_groups,
    freeze_batch_norms,
    freeze_tower,
    make_optimiser,
    set_learning_rate,
    set_training_mode,
)
from training_models import embed, make_clip, make_conv, make_siglip, train_config, train_step  # noqa: E402

MODELS = {"clip": make_clip, "siglip": make_siglip, "conv": make_conv}


def group_of(optimiser, model):
    """Name of a tensor -> its group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group for group in optimiser.param_groups for parameter in group["params"]}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("frozen", [False, True])
def test_each_trainable_tensor_is_in_exactly_one_group(family, frozen):
    model = MODELS[family]()
    if frozen:
        freeze_tower(model, "image")
    optimiser = make_optimiser(model, train_config(layer_decay=0.5))
    held = [id(parameter) for group in optimiser.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", MODELS)
def test_only_matrices_and_kernels_are_decayed(family):
    model = MODELS[family]()
    groups = group_of(make_optimiser(model, train_config(weight_decay=0.3)), model)
    spared = ("bias", "norm", "position", "class_embedding", "probe", "logit_", "stem.1", "shortcut.1")
    for name, group in groups.items():
        expected = 0.0 if any(part in name for part in spared) else 0.3
        assert group["weight_decay"] == expected, name
    decayed = [name for name, group in groups.items() if group["weight_decay"]]
    assert any("token" in name for name in decayed)


CLIP_SCALES = {
    "text_model.embeddings.token_embedding.weight": 0.5**4,
    "text_model.encoder.layers.0.mlp.fc1.weight": 0.5**3,
    "text_model.encoder.layers.2.layer_norm1.bias": 0.5,
    "text_model.final_layer_norm.weight": 1.0,
    "vision_model.embeddings.class_embedding": 0.5**3,
    "vision_model.encoder.layers.0.self_attn.q_proj.weight": 0.5**2,
    "vision_model.encoder.layers.1.self_attn.q_proj.bias": 0.5,
    "vision_model.post_layernorm.weight": 1.0,
    "logit_scale": 1.0,
}
SCALES = {
    "clip": CLIP_SCALES
    | {"vision_model.pre_layrnorm.weight": 0.5**3, "text_projection.weight": 1.0, "visual_projection.weight": 1.0},
    "siglip": {name: scale for name, scale in CLIP_SCALES.items() if "class_embedding" not in name}
    | {"vision_model.head.probe": 1.0, "vision_model.head.attention.in_proj_weight": 1.0, "text_model.head.bias": 1.0},
    "conv": {
        "image_tower.stem.0.weight": 0.5**4,
        "image_tower.blocks.0.conv1.weight": 0.5**3,
        "image_tower.blocks.2.norm2.weight": 0.5,
        "image_projection.weight": 1.0,
        "text_tower.tokens.weight": 0.5**3,
        "text_tower.positions": 0.5**3,
        "text_tower.layers.0.mlp.0.weight": 0.5**2,
        "text_tower.norm.weight": 1.0,
        "text_projection.weight": 1.0,
        "logit_scale": 1.0,
    },
}


@pytest.mark.parametrize("family", MODELS)
def test_layers_learn_slower_the_farther_they_are_from_the_head(family):
    model = MODELS[family]()
    groups = group_of(make_optimiser(model, train_config(layer_decay=0.5)), model)
    assert {name: groups[name]["lr_scale"] for name in SCALES[family]} == SCALES[family]


def test_without_layer_wise_rates_a_tower_is_two_groups():
    names = [line.split(":")[0] for line in describe_groups(make_optimiser(make_clip(), train_config()))]
    towers = [f"{tower} tower, {decay}" for tower in ("image", "text") for decay in ("decayed", "not decayed")]
    assert sorted(names) == sorted(["shared, not decayed", *towers])


def test_names_are_understood_inside_a_wrapper():
    model = make_clip()
    plain = make_optimiser(model, train_config(layer_decay=0.5))
    wrapped = make_optimiser(
        torch.nn.ModuleDict({"module": torch.nn.ModuleDict({"model": model})}), train_config(layer_decay=0.5)
    )
    assert describe_groups(wrapped) == describe_groups(plain)


def test_an_unknown_module_learns_at_the_full_rate():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    config = train_config(layer_decay=0.5, image_lr_factor=0.1, text_lr_factor=0.1, lr=1)
    assert {group["lr_scale"] for group in make_optimiser(model, config).param_groups} == {1.0}


@pytest.mark.parametrize("family", MODELS)
def test_towers_have_multipliers_of_their_own(family):
    model = MODELS[family]()
    config = train_config(image_lr_factor=0.1, text_lr_factor=2.0)
    groups = group_of(make_optimiser(model, config), model)
    for name, group in groups.items():
        tower = 0.1 if name.startswith(("vision", "visual", "image")) else 2.0 if name.startswith("text") else 1.0
        assert group["lr_scale"] == tower, name


def test_the_schedules_rate_reaches_every_group_times_its_scale():
    optimiser = make_optimiser(make_clip(), train_config(layer_decay=0.5, lr=1.0))
    assert {group["lr"] for group in optimiser.param_groups} == {1.0, 0.5, 0.25, 0.125, 0.0625}
    set_learning_rate(optimiser, 0.01)
    assert all(group["lr"] == 0.01 * group["lr_scale"] for group in optimiser.param_groups)


def test_settings_reach_adamw_and_a_state_restores_names_and_scales():
    config = train_config(layer_decay=0.5)
    model = make_clip()
    optimiser = make_optimiser(model, config)
    assert (optimiser.defaults["betas"], optimiser.defaults["eps"]) == ((0.9, 0.98), 1e-6)
    train_step(model, optimiser)
    other = make_optimiser(make_clip(), train_config())
    with pytest.raises(ValueError, match="group"):
        other.load_state_dict(optimiser.state_dict())
    again = make_optimiser(make_clip(), dataclasses.replace(config, lr=5.0))
    again.load_state_dict(optimiser.state_dict())
    assert describe_groups(again) == describe_groups(optimiser)
    assert [group["lr"] for group in again.param_groups] == [group["lr"] for group in optimiser.param_groups]


def test_the_description_counts_every_parameter_once():
    model = make_conv()
    lines = describe_groups(make_optimiser(model, train_config(layer_decay=0.5)))
    counts = [int(line.split(": ")[1].split(" ")[0].replace(",", "")) for line in lines]
    assert sum(counts) == sum(parameter.numel() for parameter in model.parameters())
    assert lines[0] == "shared, not decayed: 1 parameters in 1 tensors, learning rate x 1, weight decay 0"
    assert any(line.startswith("image layer 2, decayed: ") and "learning rate x 0.5," in line for line in lines)


@pytest.mark.parametrize("family", MODELS)
def test_a_frozen_image_tower_keeps_its_vectors_while_texts_move(family):
    model = MODELS[family]()
    freeze_tower(model, "image")
    optimiser = make_optimiser(model, train_config(lr=1e-2))
    images, texts = embed(model).detach().chunk(2)
    set_training_mode(model)
    train_step(model, optimiser)
    new_images, new_texts = embed(model.eval()).detach().chunk(2)
    assert torch.equal(images, new_images)
    assert not torch.allclose(texts, new_texts, atol=1e-4)


def test_the_projection_of_a_frozen_tower_can_be_trained():
    model = make_conv()
    freeze_tower(model, "image", projection=False)
    assert model.image_projection.weight.requires_grad
    frozen = {name.partition(".")[0] for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {"image_tower"}


def test_training_mode_lets_frozen_batch_norms_stand_still_and_others_run():
    model = make_conv()
    pixels = torch.randn(4, 3, 16, 16)

    def statistics_after_a_pass():
        set_training_mode(model)
        model.encode_images(pixels)
        return model.image_tower.stem[1].running_mean.clone()

    before = model.image_tower.stem[1].running_mean.clone()
    moved = statistics_after_a_pass()
    assert not torch.equal(before, moved)
    freeze_batch_norms(model)
    assert torch.equal(statistics_after_a_pass(), moved)
    assert model.training
    assert model.text_tower.dropout.training


def test_a_model_that_is_wholly_frozen_is_refused():
    model = make_conv().requires_grad_(False)
    with pytest.raises(TrainingError, match="every tensor is frozen"):
        make_optimiser(model, train_config())


def test_freezing_a_tower_that_is_not_there_is_refused():
    with pytest.raises(TrainingError, match="no image tower"):
        freeze_tower(torch.nn.Linear(2, 2), "image")
