"""Tiny models with random weights, of the three families that are trained."""

import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from sightline.core.models.convolutional import ConvClip, ConvClipConfig
from sightline.lab.training.config import TrainConfig

IMAGE_PX = 16
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
TEXT = {**TINY, "num_hidden_layers": 3, "vocab_size": 50, "max_position_embeddings": 8}
VISION = {**TINY, "num_hidden_layers": 2, "image_size": IMAGE_PX, "patch_size": 8}


def train_config(**changes):
    return TrainConfig(recipe="test", data="none", **{"lr": 1e-3, **changes})


def make_clip(seed=0):
    torch.manual_seed(seed)
    ids = {"bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 49}
    return CLIPModel(CLIPConfig(text_config={**TEXT, **ids}, vision_config=VISION, projection_dim=12)).eval()


def make_siglip(seed=0):
    torch.manual_seed(seed)
    ids = {"bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 1, "projection_size": 16}
    return SiglipModel(SiglipConfig(text_config={**TEXT, **ids}, vision_config=VISION)).eval()


def make_conv(seed=0):
    torch.manual_seed(seed)
    config = ConvClipConfig(
        size_px=IMAGE_PX,
        image_width=4,
        image_blocks=(1, 2),
        vocab_size=50,
        context_length=8,
        text_width=16,
        text_layers=2,
        dim=12,
    )
    return ConvClip(config).eval()


def inputs(seed=0, count=4):
    """Pixels (B, 3, S, S) and token ids (B, 8) that end in CLIP's EOS."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 3, IMAGE_PX, IMAGE_PX, generator=generator)
    ids = torch.randint(2, 48, (count, 8), generator=generator)
    ids[:, -1] = 49
    return pixels, ids


def embed(model, seed=0):
    """Unit vectors of images and texts, one below the other."""
    pixels, ids = inputs(seed)
    if isinstance(model, ConvClip):
        images, texts = model(pixels, ids)
    else:
        images = model.get_image_features(pixel_values=pixels).pooler_output
        texts = model.get_text_features(input_ids=ids).pooler_output
    vectors = torch.cat([images, texts])
    return vectors / vectors.norm(dim=-1, keepdim=True)


def train_step(model, optimiser, seed=0):
    """One update with a loss that moves both towers and the logit scale."""
    images, texts = embed(model, seed).chunk(2)
    logits = model.logit_scale.exp() * images @ texts.T
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits))).backward()
    optimiser.step()
    optimiser.zero_grad()
