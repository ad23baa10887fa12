import json
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from sightline.core.models.torch_models import quiet_transformers  # noqa: E402
from sightline.errors import TrainingError  # noqa: E402
from sightline.lab.training.optimiser import describe_groups, make_optimiser  # noqa: E402
from sightline.lab.training.towers import add_lora, has_lora, merge_lora  # noqa: E402
from training_models import embed, make_clip, make_conv, make_siglip, train_config, train_step  # noqa: E402

MODELS = {"clip": make_clip, "siglip": make_siglip}


def trainable_names(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def trained_with_lora(family):
    model = MODELS[family]()
    add_lora(model, rank=2)
    optimiser = make_optimiser(model, train_config(lr=1e-2))
    for step in range(3):
        train_step(model, optimiser, seed=step)
    return model


def cosines(left, right):
    return (left * right).sum(dim=1)


@pytest.mark.parametrize("family", MODELS)
def test_new_adapters_change_no_vector_and_trained_ones_do(family):
    plain = MODELS[family]()
    before = embed(plain)
    add_lora(plain, rank=8)
    assert torch.equal(embed(plain), before)
    assert cosines(embed(trained_with_lora(family)), before).min() < 0.999


@pytest.mark.parametrize("family", MODELS)
def test_a_merged_model_gives_the_same_vectors_and_saves_as_a_plain_one(family, tmp_path):
    model = trained_with_lora(family)
    merged = merge_lora(model)
    assert cosines(embed(merged), embed(model)).min() > 1 - 1e-6
    plain = MODELS[family]()
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert all(parameter.requires_grad for parameter in merged.parameters())
    with quiet_transformers():
        merged.save_pretrained(tmp_path / "model")  # type: ignore[operator]
        plain.save_pretrained(tmp_path / "plain")
        loaded = type(plain).from_pretrained(tmp_path / "model").eval()
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("model", "plain")]
    assert configs[0] == configs[1]
    assert torch.equal(embed(loaded), embed(merged))


@pytest.mark.parametrize("family", MODELS)
def test_merging_leaves_the_trained_model_as_it_is(family):
    model = trained_with_lora(family)
    names, vectors = trainable_names(model), embed(model)
    merge_lora(model)
    assert has_lora(model)
    assert trainable_names(model) == names
    assert torch.equal(embed(model), vectors)


@pytest.mark.parametrize("family", MODELS)
def test_only_adapters_and_the_logit_scale_are_trained(family):
    model = MODELS[family]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    add_lora(model, rank=2)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    scales = {"logit_scale"} | ({"logit_bias"} if family == "siglip" else set())
    assert {name for name in names if ".lora_" not in name} == scales
    # 3 + 2 layers, 6 projections in each, A and B
    assert len(names) - len(scales) == 5 * 6 * 2
    optimiser = make_optimiser(model, train_config(lr=1e-2))
    for step in range(2):
        train_step(model, optimiser, seed=step)
    after = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"logit_scale"}  # a softmax loss gives SigLIP's bias no gradient


@pytest.mark.parametrize("family", MODELS)
def test_what_is_trained_and_the_start_are_all_that_a_checkpoint_needs(family):
    model = trained_with_lora(family)
    saved = {name: model.state_dict()[name].clone() for name in trainable_names(model)}
    again = MODELS[family]()
    add_lora(again, rank=2)
    again.load_state_dict(saved, strict=False)
    assert torch.equal(embed(again), embed(model))


def test_adapters_get_the_learning_rate_of_their_layer():
    model = make_clip()
    add_lora(model, rank=8)
    lines = describe_groups(make_optimiser(model, train_config(layer_decay=0.5)))
    assert [line for line in lines if line.startswith("text layer 0, decayed") and "x 0.125" in line]


def test_a_convolutional_model_is_refused_with_the_reason():
    with pytest.raises(TrainingError, match="convolutional image tower has none"):
        add_lora(make_conv(), rank=8)


def test_another_model_is_refused():
    with pytest.raises(TrainingError, match=r"clip and siglip.*Linear"):
        add_lora(torch.nn.Linear(2, 2), rank=8)


def test_adapters_on_adapters_are_refused():
    model = make_clip()
    add_lora(model, rank=8)
    with pytest.raises(TrainingError, match="already"):
        add_lora(model, rank=8)


def test_merging_nothing_is_refused():
    with pytest.raises(TrainingError, match="no LoRA adapters"):
        merge_lora(make_clip())


def test_without_peft_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TrainingError, match=r"pip install 'sightline-images\[train\]'"):
        add_lora(make_clip(), rank=8)
