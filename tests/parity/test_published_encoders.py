"""Known answers of published weights. Opt in with SIGHTLINE_HUB_TESTS=1: they are fetched from the hub (0.6 GB).

The image is CLIP.png of github.com/openai/CLIP, in the folder that SIGHTLINE_HUB_IMAGES names; the answers are those of
that repository's README.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.core.models.cards import find_card
from sightline.core.models.files import resolve_folder
from sightline.core.models.inputs import Tokenizer
from sightline.core.models.loading import load_encoder

pytestmark = pytest.mark.hub


@pytest.fixture
def diagram():
    folder = os.environ.get("SIGHTLINE_HUB_IMAGES")
    if folder is None or not (Path(folder) / "CLIP.png").is_file():
        pytest.skip("set SIGHTLINE_HUB_IMAGES to a folder with CLIP.png of github.com/openai/CLIP")
    return np.asarray(Image.open(Path(folder) / "CLIP.png").convert("RGB"))


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_openais_vit_b_32_knows_a_diagram(diagram, runtime):
    encoder = load_encoder("ViT-B-32/openai", runtime=runtime, download=True)
    image = encoder.encode_images(encoder.card.preprocessing.resize(diagram)[None])[0]
    logits = encoder.card.temperature * encoder.encode_texts(["a diagram", "a dog", "a cat"]) @ image
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    assert probabilities == pytest.approx([0.993, 0.004, 0.003], abs=0.002)


def test_hello_world_has_the_ids_of_openais_tokenizer():
    card = find_card("ViT-B-32/openai")
    tokenizer = Tokenizer.load(resolve_folder(card, download=True), card.text)
    assert tokenizer.encode(["Hello World!"]).tolist() == [[49406, 3306, 1002, 256, 49407]]


@pytest.mark.parametrize("name", ["TinyCLIP-ViT-8M-16/yfcc15m", "ViT-B-16-SigLIP2/webli"])
def test_other_families_tell_a_diagram_from_a_dog(diagram, name):
    encoder = load_encoder(name, download=True)
    image = encoder.encode_images(encoder.card.preprocessing.resize(diagram)[None])[0]
    similarities = encoder.encode_texts(["a diagram", "a photo of a dog"]) @ image
    assert similarities[0] > similarities[1] + 0.02
