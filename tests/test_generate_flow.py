"""Rectified flows: the loss, training that goes on as if never stopped, sampling, and what is refused."""

import dataclasses
import signal

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file

from generate_world import make_encoder
from sightline.errors import InputError, ModelError, TrainingError
from sightline.lab.generate import flow
from sightline.lab.generate.config import DiffusionConfig, FlowConfig, make_flow_config
from sightline.lab.generate.flow import FlowImages, Reader, Scenes, VelocityNet, flow_loss, train_flow

TINY = FlowConfig(
    init="dir:clip", size_px=16, patch_px=2, width=8, depth=1, n_scenes=4, batch_size=8, steps=4, keep_steps=2, lr=3e-3
)
FEW = DiffusionConfig(steps=3, guidance=2.0)


@pytest.fixture(autouse=True)
def clip(monkeypatch):
    """The CLIP that reads the words, without a folder."""
    made = make_encoder()
    monkeypatch.setattr(flow, "load_guide", lambda name, download=False: made)
    return made


@pytest.fixture
def images():
    """A flow whose last layer isn't zero any more."""
    torch.manual_seed(0)
    reader = Reader("dir:clip")
    net = VelocityNet(TINY, text_width=reader.width)
    torch.nn.init.normal_(net.write.weight, std=0.1)
    return FlowImages(net, reader, TINY)


def last(images, prompts, seeds, config=FEW, **options):
    *_, pixels = images.follow(prompts, seeds, config, **options)
    return pixels


def test_the_loss_falls_on_a_few_scenes(tmp_path):
    config = dataclasses.replace(TINY, steps=60, keep_steps=60, lr=1e-2, n_scenes=2)
    scenes, reader = Scenes(config), Reader(config.init)
    before = VelocityNet(config, text_width=reader.width)
    report = train_flow(config, tmp_path / "run")
    after = FlowImages.load(tmp_path / "run").net
    first, then = (
        float(flow_loss(net, scenes, reader, chance=torch.Generator().manual_seed(7)).detach())
        for net in (before, after)
    )
    assert then < 0.8 * first
    assert (report.steps, report.stopped) == (60, None)


def test_an_untrained_flow_knows_the_best_multiple_of_its_input():
    net = VelocityNet(TINY, text_width=4)
    generator = torch.Generator().manual_seed(0)
    noise, image = torch.randn(2, 400, 3, 16, 16, generator=generator)
    for t in (0.1, 0.5, 0.8):
        x, velocity = (1 - t) * noise + t * image, image - noise
        best = float((x * velocity).sum() / x.square().sum())
        with torch.no_grad():
            guess = net(x[:1], torch.tensor([t]), torch.zeros(1, 2, 4))
        torch.testing.assert_close(guess, best * x[:1], atol=0.02, rtol=0)


def test_a_run_that_goes_on_ends_with_the_same_weights(tmp_path):
    whole = train_flow(TINY, tmp_path / "whole")
    train_flow(dataclasses.replace(TINY, steps=2), tmp_path / "parts")
    rest = train_flow(TINY, tmp_path / "parts", resume=True)
    assert rest.metrics["val_loss"] == whole.metrics["val_loss"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert len((tmp_path / "parts" / "log.jsonl").read_text().splitlines()) == 2
    assert sorted(path.name for path in (tmp_path / "parts" / "samples").iterdir()) == [
        "step-000002.png",
        "step-000004.png",
    ]


def test_an_interrupted_run_is_kept_at_that_step(tmp_path):
    def interrupt(done, total, note):
        if done == 1:
            signal.raise_signal(signal.SIGINT)

    report = train_flow(TINY, tmp_path / "run", progress=interrupt)
    assert (report.steps, report.stopped) == (1, "interrupted; go on with --resume")
    assert train_flow(TINY, tmp_path / "run", resume=True).steps == 4


def test_an_image_depends_on_its_prompt_and_seed_alone(images):
    both = last(images, ["a red circle", "a blue square"], [1, 2])
    assert (both.shape, both.dtype) == ((2, 16, 16, 3), np.uint8)
    assert np.array_equal(both[1], images.draw("a blue square", seed=2, config=FEW))
    assert not np.array_equal(both[1], images.draw("a blue square", seed=3, config=FEW))
    assert not np.array_equal(both[1], images.draw("a red circle", seed=2, config=FEW))


def test_guidance_1_is_the_words_own_velocity(images):
    plain = dataclasses.replace(FEW, guidance=1.0)
    own = last(images, ["a red circle"], [0], plain)
    assert np.array_equal(own, last(images, ["a red circle"], [0], plain, avoid="a blue square"))
    # Guidance away from the words themselves changes nothing either, whatever its weight.
    assert np.abs(own.astype(int) - last(images, ["a red circle"], [0], avoid="a red circle")).max() <= 1
    assert not np.array_equal(own, last(images, ["a red circle"], [0]))
    assert not np.array_equal(last(images, ["a red circle"], [0]), last(images, ["a red circle"], [0], avoid="no"))


@pytest.mark.parametrize("steps", [1, 5])
def test_a_velocity_that_points_at_one_image_ends_there(images, monkeypatch, steps):
    goal = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    monkeypatch.setattr(images, "net", lambda x, t, words: (goal - x) / (1 - t[:, None, None, None]))
    expected = (goal * 64 + 127.5).round().permute(0, 2, 3, 1).numpy()
    found = last(images, ["any"], [0], DiffusionConfig(steps=steps, guidance=3.0))
    assert np.abs(expected - found).max() <= 1


def test_a_draw_that_is_stopped_gives_nothing(images):
    seen = []
    assert images.draw("a circle", seed=0, config=FEW, on_step=lambda step: seen.append(step)) is None
    assert seen == [1]


def test_words_are_read_as_the_tower_reads_them(clip):
    reader = Reader("dir:clip")
    states = reader.read(["a red circle", "a blue square above no circle"])
    tower, ids = clip.towers.model.text_tower, torch.tensor([clip.tokenizer.ids("a red circle")])
    torch.testing.assert_close(states[0, : ids.shape[1]], tower.states(ids)[0])
    assert not states[0, ids.shape[1] :].any()
    torch.testing.assert_close(states[0], reader.read(["a red circle"])[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((), "--init dir:RUN"),
        (("init=dir:x", "widht=8"), "Did you mean width"),
        (("init=dir:x", "size_px=50"), "multiple of twice patch_px"),
        (("init=dir:x", "width=12"), "multiple of 8"),
        (("init=dir:x", "steps=0"), "at least 1"),
        (("init=dir:x", "lr=nan"), "lr must be a number"),
    ],
)
def test_settings_that_no_flow_can_have_are_refused(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        make_flow_config(tmp_path, changes)


def test_only_the_length_of_a_run_may_change(tmp_path):
    train_flow(dataclasses.replace(TINY, steps=1), tmp_path / "run")
    assert make_flow_config(tmp_path / "run", ["steps=9"], resume=True).steps == 9
    with pytest.raises(InputError, match="only steps and keep_steps may change"):
        make_flow_config(tmp_path / "run", ["lr=1"], resume=True)
    with pytest.raises(InputError, match="nothing is overwritten"):
        train_flow(TINY, tmp_path / "run")


def test_what_is_no_flow_or_not_this_one_is_told(tmp_path, clip, images):
    with pytest.raises(ModelError, match="holds no flow"):
        FlowImages.load(tmp_path)
    with pytest.raises(InputError, match="16 pixels only"):
        images.draw("a circle", seed=0, config=DiffusionConfig(size_px=32))
    train_flow(dataclasses.replace(TINY, steps=1), tmp_path / "run")
    clip._weights_hash = "another"
    with pytest.raises(ModelError, match="other weights than the flow learned with"):
        FlowImages.load(tmp_path / "run")
    clip._weights_hash = "conv0"
    (tmp_path / "run" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="can't be read"):
        FlowImages.load(tmp_path / "run")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "flow_loss", lambda *args, **options: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(TrainingError, match="isn't finite"):
        train_flow(TINY, tmp_path / "run")
