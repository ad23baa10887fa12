"""Pictures by gradients: parameterisations, views, the loss against hand-made values, and the loop."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from generate_world import make_encoder
from sightline.errors import InputError, ModelError
from sightline.lab.generate.config import DiffusionConfig, GuidedConfig, change_config
from sightline.lab.generate.guided import (
    Guide,
    SeededPrompt,
    Words,
    draw_views,
    fit_size,
    load_guide,
    make_guided,
    make_start,
    seed_prompts,
)

STILL: dict[str, Any] = {
    "shift": 0,
    "zoom": 0,
    "turn_deg": 0,
    "noise": 0,
    "blur_px": 0,
    "light": 0,
    "precision": "fp32",
}
SHORT: dict[str, Any] = {"steps": 4, "views": 1, "frames": 3, "precision": "fp32"}
BANK = ["a green circle", "a blue square", "no red circle"]


def chances(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("kind", ["fourier", "network"])
def test_a_start_is_decided_by_its_seed_alone(kind):
    with torch.no_grad():
        alone, together = make_start(kind, [3], 16)(), make_start(kind, [1, 3], 16)()
    assert alone.shape == (1, 3, 16, 16)
    assert float(alone.min()) >= 0
    assert float(alone.max()) <= 1
    torch.testing.assert_close(alone[0], together[1])
    assert (together[0] - together[1]).abs().mean() > 0.005


@pytest.mark.parametrize("kind", ["fourier", "network"])
def test_gradients_reach_every_parameter(kind):
    made_images = make_start(kind, [0, 1], 16)
    (made_images() * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in made_images.parameters())


def test_a_fourier_start_is_smoother_than_noise():
    image = make_start("fourier", [0], 64)()
    rough = (image[..., 1:] - image[..., :-1]).square().mean()
    assert rough < 0.5 * 2 * image.var()  # independent pixels differ by twice their variance


def test_views_without_changes_are_the_image():
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    views = draw_views(image, 16, GuidedConfig(views=2, **STILL), chances(0, 1))
    torch.testing.assert_close(views, image.repeat_interleave(2, 0), atol=1e-5, rtol=0)


def test_views_depend_on_their_own_chance_only():
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    config = GuidedConfig(views=3)
    both = draw_views(image, 16, config, chances(5, 6))
    torch.testing.assert_close(both[3:], draw_views(image[1:], 16, config, chances(6)))
    assert (both[0] - both[1]).abs().mean() > 0.01


def test_noise_and_light_have_the_strength_that_is_asked_for():
    grey = torch.full((64, 3, 16, 16), 0.5)
    noisy = draw_views(grey, 16, GuidedConfig(views=1, **(STILL | {"noise": 0.1})), chances(*range(64)))
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.05)
    lit = draw_views(grey, 16, GuidedConfig(views=1, **(STILL | {"light": 0.2})), chances(*range(64)))
    means = lit.mean(dim=(1, 2, 3))
    assert 0.4 <= float(means.min()) < 0.44
    assert 0.56 < float(means.max()) <= 0.6


def test_the_last_view_is_blurred_most():
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    views = draw_views(image, 16, GuidedConfig(views=3, **(STILL | {"blur_px": 1.0})), chances(0))
    spreads = [float(view.std()) for view in views]
    assert spreads[0] > spreads[1] > spreads[2]
    assert float(views[2].mean()) == pytest.approx(float(image.mean()), abs=0.02)


def test_a_larger_image_is_shrunk_to_the_models_size():
    image = torch.zeros(1, 3, 32, 32)
    image[..., ::2] = 1
    shrunk = fit_size(image, 16)
    assert shrunk.shape == (1, 3, 16, 16)
    assert float((shrunk - 0.5).abs().max()) < 0.2  # without antialiasing it would be all black or white


def hand_loss(encoder, image, prompt, bank, avoid, contrast):
    """The definition again, in numpy, from the encoder's own vectors."""
    pixels = (image * 255).round().byte().permute(0, 2, 3, 1).numpy()
    vector = encoder.encode_images(pixels)[0].astype(np.float64)
    texts = encoder.encode_texts([prompt, *bank, *avoid]).astype(np.float64) @ vector
    logits = encoder.temperature * texts
    logits[1 + len(bank) :] += np.log(len(bank))
    return 1 - texts[0] + contrast * (np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[0])


@pytest.mark.parametrize("avoid", [[], ["no blue circle"]])
def test_the_loss_is_cosine_and_cross_entropy_against_the_bank(avoid):
    encoder = make_encoder()
    image = (torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    guide = Guide(encoder, ["a red circle"], words=Words(bank=BANK, avoid=avoid))
    config = GuidedConfig(views=1, contrast=0.7, **STILL)
    loss = guide.loss(image, config, chances(0))
    assert float(loss) == pytest.approx(hand_loss(encoder, image, "a red circle", BANK, avoid, 0.7), abs=1e-3)


def test_the_prompt_itself_in_the_bank_is_not_held_against_it():
    encoder = make_encoder()
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    config = GuidedConfig(views=1, **STILL)
    with_it, without = (
        Guide(encoder, ["a red circle"], words=Words(bank=bank)).loss(image, config, chances(0))
        for bank in (["a red circle", "a blue square"], ["a blue square"])
    )
    torch.testing.assert_close(with_it, without)


@pytest.mark.parametrize("kind", ["fourier", "network"])
def test_steps_raise_the_similarity_to_the_words(kind):
    config = GuidedConfig(steps=40, views=2, frames=3, parameterisation=kind, smoothness=1, precision="fp32")
    prompts = [SeededPrompt(prompt="a red circle", seed=0), SeededPrompt(prompt="a blue square", seed=1)]
    made = make_guided(prompts, [make_encoder()], words=Words(bank=BANK), config=config)
    for made_image, one in zip(made, prompts, strict=True):
        assert (made_image.prompt, made_image.seed, made_image.steps) == (one.prompt, one.seed, 40)
        assert made_image.rgb.shape == (16, 16, 3)
        assert made_image.similarity > made_image.curve[0][1] + 0.1
        assert made_image.curve[-1] == (40, pytest.approx(made_image.similarity))
        assert len(made_image.frames) == 3  # type: ignore[unreachable]
        assert np.array_equal(made_image.frames[-1], made_image.rgb)


def test_an_image_depends_on_its_prompt_and_seed_not_on_its_neighbours():
    prompts = [SeededPrompt(prompt="a red circle", seed=0), SeededPrompt(prompt="a blue square", seed=1)]
    both = make_guided(prompts, [make_encoder()], words=Words(bank=BANK), config=GuidedConfig(**SHORT))
    (alone,) = make_guided(prompts[1:], [make_encoder()], words=Words(bank=BANK), config=GuidedConfig(**SHORT))
    assert np.abs(both[1].rgb.astype(int) - alone.rgb.astype(int)).max() <= 1
    assert not np.array_equal(both[0].rgb, both[1].rgb)


def test_several_models_are_averaged_and_decide_the_size():
    prompts = [SeededPrompt(prompt="a red circle", seed=0)]
    encoders = [make_encoder(0), make_encoder(1)]
    (made_image,) = make_guided(prompts, encoders, words=Words(bank=BANK), config=GuidedConfig(size_px=24, **SHORT))
    assert made_image.rgb.shape == (24, 24, 3)
    image = torch.from_numpy(made_image.rgb).permute(2, 0, 1)[None] / 255
    own = [float(Guide(e, ["a red circle"], words=Words(bank=BANK)).similarity(image)) for e in encoders]
    assert made_image.similarity == pytest.approx(np.mean(own), abs=5e-3)


def test_an_interrupt_keeps_images_as_they_are_and_leaves_the_rest_out(monkeypatch):
    monkeypatch.setattr("sightline.lab.generate.guided._VIEWS_PX", 16 * 16)  # one picture at a time
    asked = iter([False, False, True, True])
    prompts = [SeededPrompt(prompt="a red circle", seed=seed) for seed in range(3)]
    made = make_guided(
        prompts, [make_encoder()], words=Words(bank=BANK), config=GuidedConfig(**SHORT), interrupted=lambda: next(asked)
    )
    assert [(made_image.seed, made_image.steps) for made_image in made] == [(0, 2)]
    assert made[0].curve[-1][0] == 2


def test_progress_counts_to_the_end():
    seen = []
    config = GuidedConfig(**SHORT)
    make_guided(
        [SeededPrompt(prompt="a red circle", seed=0)], [make_encoder()], words=Words(bank=BANK), config=config,
        progress=lambda done, total, note: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_weights_that_are_not_finite_are_named():
    encoder = make_encoder()
    with torch.no_grad():
        encoder.towers.model.image_projection.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"loss of conv0 isn't finite at step 1"):
        make_guided(
            [SeededPrompt(prompt="a red circle", seed=0)],
            [encoder],
            words=Words(bank=BANK),
            config=GuidedConfig(**SHORT),
        )


def test_each_prompt_is_made_with_each_seed():
    prompts = seed_prompts(["one", "two"], GuidedConfig(seeds=2, seed=7))
    assert [(one.prompt, one.seed) for one in prompts] == [("one", 7), ("one", 8), ("two", 7), ("two", 8)]


def test_models_without_gradients_are_refused_with_what_to_use():
    with pytest.raises(ModelError, match=r"starter has ONNX graphs only.*sightline train scenes-scratch"):
        load_guide("starter")
    with pytest.raises(ModelError, match="runs elsewhere"):
        load_guide("endpoint:http://localhost:1")
    with pytest.raises(ModelError, match="is a captioner"):
        load_guide("starter-captioner")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"views": 0}, "views must be at least 1"),
        ({"size_px": 8}, "size_px must lie between 16 and 1024"),
        ({"parameterisation": "pixels"}, "parameterisation is 'pixels'; it must be one of fourier, network"),
        ({"precision": "int8"}, "it must be one of bf16, fp32"),
        ({"noise": float("nan")}, "noise must be a number"),
        ({"shift": 1}, r"shift must lie in \[0, 1\)"),
        ({"lr": 0}, "lr must be above 0"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        GuidedConfig(**changes)


def test_a_pipelines_size_is_a_multiple_of_eight():
    with pytest.raises(InputError, match="multiple of 8"):
        DiffusionConfig(size_px=100)


def test_settings_are_read_as_what_they_are():
    config = change_config(GuidedConfig(), ["views=8", "lr=0.2", "size_px=none", "precision=fp32"])
    assert (config.views, config.lr, config.size_px, config.precision) == (8, 0.2, None, "fp32")
    with pytest.raises(InputError, match="Did you mean views"):
        change_config(GuidedConfig(), ["view=8"])
    with pytest.raises(InputError, match=r"views='1\.5': this is no int"):
        change_config(GuidedConfig(), ["views=1.5"])
    with pytest.raises(InputError, match="key=value"):
        change_config(GuidedConfig(), ["views"])
