"""Pipelines of diffusers: a tiny one of the true classes, saved and loaded as real ones are.

Covers: sightline.lab.generate.config.
"""

import json
import os
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from generate_world import write_pipeline
from sightline.errors import InputError, ModelError
from sightline.lab.generate.config import DiffusionConfig
from sightline.lab.generate.diffuse import TextToImage, quiet_diffusers
from sightline.lab.generate.run import DiffusionRequest, generate_diffused

TWO_STEPS = DiffusionConfig(steps=2, seeds=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("diffusers"))


@pytest.fixture(scope="module")
def pipeline(folder):
    return TextToImage.load(str(folder))


def test_a_seed_decides_the_image_and_words_change_it(pipeline):
    first, again, other, worded = (
        pipeline.draw(prompt, seed=seed, config=TWO_STEPS)
        for prompt, seed in (("a dog", 1), ("a dog", 1), ("a dog", 2), ("snow", 1))
    )
    assert (first.shape, first.dtype) == ((16, 16, 3), np.uint8)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, worded)


def test_size_and_words_to_avoid_reach_the_pipeline(pipeline):
    config = DiffusionConfig(steps=2, size_px=32)
    plain = pipeline.draw("a dog", seed=1, config=config)
    assert plain.shape == (32, 32, 3)
    assert not np.array_equal(plain, pipeline.draw("a dog", seed=1, config=config, avoid=["snow"]))


def test_an_image_that_is_stopped_is_none(pipeline):
    seen = []
    assert pipeline.draw("a dog", seed=1, config=TWO_STEPS, on_step=lambda step: seen.append(step)) is None
    assert seen == [1]  # what remains is skipped
    assert pipeline.draw("a dog", seed=1, config=TWO_STEPS) is not None


def test_words_beyond_what_the_pipeline_reads_are_counted(pipeline):
    assert pipeline.count_cut("a dog") == 0
    assert pipeline.count_cut("dog " * 30) == 30 + 2 - 24


def test_settings_that_a_pipeline_refuses_are_told(pipeline, monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("`height` has to be divisible by 64")

    monkeypatch.setattr(pipeline, "_pipeline", refuse)
    with pytest.raises(InputError, match="StableDiffusionPipeline refuses these settings: `height`"):
        pipeline.draw("a dog", seed=1, config=TWO_STEPS)


def test_what_is_no_pipeline_is_refused(tmp_path, folder):
    with pytest.raises(ModelError, match="isn't there"):
        TextToImage.load(str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"no diffusers pipeline: its model_index.json"):
        TextToImage.load(str(tmp_path))
    with pytest.raises(ModelError, match=r"not on this machine.*--download"):
        TextToImage.load("nobody/nothing")


def test_code_and_pickles_are_never_loaded(tmp_path, folder):
    with_code = shutil.copytree(folder, tmp_path / "code")
    (with_code / "unet" / "mine.py").write_text("raise SystemExit")
    with pytest.raises(ModelError, match=r"holds code \(mine.py\), which is never run"):
        TextToImage.load(str(with_code))
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    for weights in pickled.rglob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="no safetensors weights"):
        TextToImage.load(str(pickled))
    mixed = shutil.copytree(folder, tmp_path / "mixed")
    weights = mixed / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="can't be loaded as a diffusers pipeline"):
        TextToImage.load(str(mixed))


def test_a_broken_part_is_told(tmp_path, folder):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="can't be loaded as a diffusers pipeline"):
        TextToImage.load(str(broken))


def test_a_pipeline_that_takes_no_words_is_refused(tmp_path):
    from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, in_channels=3, out_channels=3,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), attention_head_dim=4,
    )  # fmt: skip
    assert DDIMScheduler is not DDPMScheduler
    with quiet_diffusers():
        DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(tmp_path / "ddpm")  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="DDPMPipeline, which makes no pictures from words"):
        TextToImage.load(str(tmp_path / "ddpm"))


def test_samples_are_ranked_explained_and_compared_with_variants(tmp_path, folder):
    request = DiffusionRequest(
        prompts=["a red dog in the snow"], pipeline=str(folder), model="starter", variants=["a dog"], config=TWO_STEPS
    )
    seen = []
    output = tmp_path / "out"
    report = generate_diffused(request, output, progress=lambda done, total, note: seen.append((done, total)))
    assert [(p.prompt, p.seed) for p in report.images] == [
        *((request.prompts[0], seed) for seed in range(3)),
        *(("a dog", seed) for seed in range(3)),
    ]
    assert seen[-1] == (12, 12)
    (feedback,) = report.feedback
    assert {share.word for share in feedback.words} == {"red", "dog", "snow"}
    assert feedback.variants[0].of == 3
    settings = json.loads((output / "generate.json").read_text())
    assert settings["safety_checker"] is None
    assert settings["pipeline_class"] == "StableDiffusionPipeline"
    assert len(settings["pictures"]) == len(list(output.glob("*.png"))) == 6
    assert "No safety checker was run." in (output / "sheet.html").read_text()


def test_variants_need_a_single_prompt(tmp_path, folder):
    request = DiffusionRequest(prompts=["one", "two"], variants=["three"], pipeline=str(folder), model="starter")
    with pytest.raises(InputError, match="compared with one prompt"):
        generate_diffused(request, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.hub
def test_a_real_pipeline_makes_images_that_fit_their_words(tmp_path):
    name = os.environ.get("SIGHTLINE_PIPELINE", "stabilityai/sd-turbo")
    config = DiffusionConfig(steps=2, seeds=2, guidance=0.0)
    request = DiffusionRequest(
        prompts=["a photo of a dog", "a photo of a red car"], pipeline=name, model="starter",
        judge="ViT-B-32/openai", config=config, download=True,
    )  # fmt: skip
    assert generate_diffused(request, tmp_path / "out").judgement.n_right == 2
