import pytest

torch = pytest.importorskip("torch")

from sightline.errors import TrainingError  # noqa: E402
from sightline.lab.training.optimiser import WeightAverage  # noqa: E402
from training_models import make_clip, make_conv, train_step  # noqa: E402


def make_module(value=0.0):
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, value)
    return module


def copy_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_equal_states(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(value, right[name]) for name, value in left.items())


def test_the_decay_warms_up_and_the_average_follows_its_formula():
    module = make_module(0.0)
    average = WeightAverage(module, decay=0.5)
    expected = 0.0
    for step in range(20):
        torch.nn.init.constant_(module.weight, float(step + 1))
        decay = average.update(module, step)
        assert decay == min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    with average.applied(module):
        assert module.weight.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("make", [make_clip, make_conv])
def test_after_the_block_the_model_is_bit_for_bit_its_own_and_the_optimiser_goes_on(make):
    model, twin = make(), make()
    average = WeightAverage(model, decay=0.9)
    optimisers = [torch.optim.AdamW(one.parameters(), lr=1e-2) for one in (model, twin)]
    for step in range(3):
        train_step(model, optimisers[0], seed=step)
        train_step(twin, optimisers[1], seed=step)
        average.update(model, step)
        own = copy_of(model)
        with average.applied(model):
            assert not torch.equal(model.logit_scale, own["logit_scale"])
        assert_equal_states(copy_of(model), own)
    assert_equal_states(copy_of(model), copy_of(twin))


def test_an_error_inside_the_block_gives_the_weights_back():
    module = make_module(1.0)
    average = WeightAverage(module, decay=0.5)
    torch.nn.init.constant_(module.weight, 3.0)
    seen = []

    def evaluate():
        with average.applied(module):
            seen.append(module.weight.item())
            raise RuntimeError("evaluation")

    with pytest.raises(RuntimeError, match="evaluation"):
        evaluate()
    assert seen == [1.0]
    assert module.weight.item() == 3.0


def test_batch_norm_statistics_are_copied_not_averaged():
    module = torch.nn.BatchNorm1d(2)
    average = WeightAverage(module, decay=0.99)
    module(torch.tensor([[10.0, 20.0], [30.0, 40.0]]))
    seen = copy_of(module)
    average.update(module, step=1000)
    module.reset_running_stats()
    with average.applied(module):
        assert torch.equal(module.running_mean, seen["running_mean"])
        assert module.num_batches_tracked.item() == 1


def test_frozen_tensors_are_the_modules_own():
    model = make_conv()
    model.image_tower.requires_grad_(False)
    average = WeightAverage(model, decay=0.9)
    names = average.state_dict()
    assert "image_tower.stem.0.weight" not in names
    assert "text_projection.weight" in names
    with torch.no_grad():
        model.image_tower.stem[0].weight.fill_(7.0)
    with average.applied(model):
        assert (model.image_tower.stem[0].weight == 7.0).all()


def test_a_bf16_module_is_averaged_in_fp32():
    module = make_module(1.0).to(torch.bfloat16)
    average = WeightAverage(module, decay=0.9999)
    torch.nn.init.constant_(module.weight, 2.0)
    for step in range(100_000, 100_010):  # each moves by 1e-4, less than bf16 can hold
        average.update(module, step)
    assert average.state_dict()["weight"].item() == pytest.approx(2 - 0.9999**10, rel=1e-5)
    with average.applied(module):
        assert module.weight.dtype == torch.bfloat16


def test_a_restored_average_goes_on_as_if_nothing_had_happened(tmp_path):
    from safetensors.torch import load_file, save_file

    model = make_conv()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = WeightAverage(model, decay=0.9)
    train_step(model, optimiser)
    first.update(model, 0)
    save_file(first.state_dict(), tmp_path / "average.safetensors")
    second = WeightAverage(make_conv(seed=1), decay=0.9)
    second.load_state_dict(load_file(tmp_path / "average.safetensors"))
    train_step(model, optimiser, seed=1)
    first.update(model, 1)
    second.update(model, 1)
    assert_equal_states(first.state_dict(), second.state_dict())


def test_a_state_is_a_copy():
    module = make_module(1.0)
    average = WeightAverage(module, decay=0.5)
    average.state_dict()["weight"].fill_(9.0)
    assert average.state_dict()["weight"].item() == 1.0


def test_a_state_of_another_model_is_refused():
    average = WeightAverage(make_module(), decay=0.5)
    with pytest.raises(TrainingError, match=r"checkpoint.*bias"):
        average.load_state_dict(torch.nn.Linear(1, 1).state_dict())
    with pytest.raises(TrainingError, match=r"weight as \(1, 2\).*\(1, 1\)"):
        average.load_state_dict({"weight": torch.zeros(1, 2)})


def test_a_module_that_was_frozen_afterwards_is_refused():
    module = make_module()
    average = WeightAverage(module, decay=0.5)
    module.requires_grad_(False)
    with pytest.raises(TrainingError, match="before the average is made"):
        average.update(module, 0)
