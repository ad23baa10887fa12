"""What the tests of the generate room share: small encoders, real and made up, and a tiny real pipeline."""

import numpy as np
import torch

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import ModelCard
from sightline.core.models.torch_models import ConvTowers, TorchEncoder
from sightline.core.types import ModelIdentity, Precision
from sightline.lab.generate.judge import MadeImage
from sightline.lab.training.towers import text_spec
from training_models import make_conv
from training_world import word_tokenizer

WORDS = "a red green blue circle square above below no and"
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def make_encoder(seed=0):
    """A convolutional CLIP of random weights, 16 pixels a side."""
    card = ModelCard(
        name=f"conv{seed}", kind="encoder", family="sightline-clip", source=".", text=text_spec(8), dim=12,
        preprocessing=Preprocessing(size_px=16, resize_mode="squash", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    )  # fmt: skip
    towers = ConvTowers(make_conv(seed), dim=12).eval()
    with torch.no_grad():
        for parameter in towers.model.text_tower.parameters():
            parameter.mul_(4)  # a fresh text tower hardly tells texts apart
    return TorchEncoder(card, towers, word_tokenizer(WORDS), weights_hash=f"conv{seed}")


class ColourEncoder:
    """Sees a picture's mean colour and reads the names of colours: every similarity is known beforehand."""

    precision: Precision = "fp32"
    runtime = "fake"
    dim = 4

    def __init__(self, name="colours"):
        preprocessing = Preprocessing(size_px=4, resize_mode="squash")
        self.card = ModelCard(
            name=name, kind="encoder", family="clip", source=".", text=text_spec(8), dim=4, preprocessing=preprocessing
        )
        self.identity = ModelIdentity(name=name, weights_hash=name, preprocessing_version=1, dim=4)

    def encode_images(self, pixels_BHW3):
        mean_B3 = pixels_BHW3.astype(np.float32).mean(axis=(1, 2)) / 255
        return _unit(np.concatenate([mean_B3, np.full((len(mean_B3), 1), 0.05, np.float32)], axis=1))

    def encode_maps(self, pixels_BHW3):
        return None

    def encode_texts(self, texts):
        rows = [[word in text.split() for word in COLOURS] + [0.05] for text in texts]
        return _unit(np.array(rows, np.float32))


def made_image(prompt, rgb, *, seed=0, similarity=0.5, frames=()):
    """A plain picture of one colour."""
    pixels = np.broadcast_to(np.array(rgb, np.uint8), (8, 8, 3)).copy()
    curve = ((0, 0.1), (2, similarity))
    return MadeImage(
        prompt=prompt, seed=seed, rgb=pixels, similarity=similarity, steps=2, took_s=0.1, curve=curve, frames=frames
    )


def write_pipeline(folder):
    """A Stable Diffusion pipeline of the true classes, with random weights, as `save_pretrained` writes it."""
    import warnings

    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from model_folders import write_clip_tokenizer
    from sightline.lab.generate.diffuse import quiet_diffusers

    vocabulary = folder / "vocabulary"
    vocabulary.mkdir(parents=True)
    write_clip_tokenizer(vocabulary, 600)
    torch.manual_seed(0)
    text = CLIPTextConfig(
        bos_token_id=598, eos_token_id=599, pad_token_id=599, hidden_size=16, intermediate_size=32,
        num_attention_heads=2, num_hidden_layers=2, vocab_size=600, max_position_embeddings=24,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, cross_attention_dim=16, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16,
    )  # fmt: skip
    with quiet_diffusers(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipeline = StableDiffusionPipeline(
            unet=unet,
            vae=vae,
            text_encoder=CLIPTextModel(text),
            tokenizer=CLIPTokenizer(
                str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"), model_max_length=24
            ),
            scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder / "pipeline")  # type: ignore[attr-defined]
    return folder / "pipeline"


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
