"""The whole room with the models that ship with the package."""

import math

import pytest

from captioning_fakes import paint
from sightline.core.captioning.dual import CaptionConfig, caption_images
from sightline.core.models.base import GenerationConfig
from sightline.core.models.loading import load_captioner, load_encoder

pytestmark = pytest.mark.usefixtures("kept_bank")


@pytest.fixture(scope="module")
def models():
    return load_encoder("starter"), load_captioner("starter-captioner")


def test_the_starter_captions_both_ways_whatever_the_batch(tmp_path, models):
    encoder, captioner = models
    paths = [
        paint(tmp_path / f"{i}.png", *colours, size_px=150) for i, colours in enumerate([("green", "blue"), ("brown",)])
    ]
    generation = GenerationConfig(num_candidates=2, beams=2)
    together, apart = (
        list(
            caption_images(
                paths,
                encoder=encoder,
                captioner=captioner,
                config=CaptionConfig(generation=generation, batch_size=batch_size),
            )
        )
        for batch_size in (2, 1)
    )
    for result, alone in zip(together, apart, strict=True):
        captions = (*result.clip, *result.generated)
        assert len(result.clip) == 5
        assert len(result.generated) == 2
        assert all(-1 <= caption.similarity <= 1 for caption in captions)
        assert all(math.isfinite(caption.log_prob) and caption.log_prob < 0 for caption in captions)
        assert sum(caption.best for caption in captions) == 1
        assert [caption.text for caption in captions] == [caption.text for caption in (*alone.clip, *alone.generated)]
