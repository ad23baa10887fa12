"""What every captioner must do, whatever runs it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from blip_folders import make_pixels, tiny_blip, tiny_blip_onnx
from sightline.core.models.base import Captioner, GenerationConfig
from sightline.core.models.cards import STARTER_CAPTIONER
from sightline.core.models.files import PACKAGE_FOLDERS
from sightline.core.models.loading import load_captioner
from sightline.errors import ModelError

BEAM = GenerationConfig(beams=4, num_candidates=4, max_tokens=16)
SAMPLE = GenerationConfig(sample=True, num_candidates=3, max_tokens=16, temperature=1.5, top_p=1.0)


def load(name):
    if name == "starter":
        if not (PACKAGE_FOLDERS["captioner"] / "sightline.json").is_file():
            pytest.skip("this checkout lacks the starter captioner's folder")
        return load_captioner(STARTER_CAPTIONER)
    if name == "blip-onnx":
        return load_captioner(f"dir:{tiny_blip_onnx()}")
    return load_captioner(f"dir:{tiny_blip()}", runtime="torch")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads cost more than they give on toys."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["starter", "blip-onnx", "blip-torch"])
def captioner(request):
    return load(request.param)


@pytest.fixture(scope="module")
def pixels(captioner):
    return make_pixels(6, captioner.card.preprocessing.size_px)


def test_it_is_a_captioner(captioner):
    assert isinstance(captioner, Captioner)
    assert captioner.card.kind == "captioner"
    assert captioner.runtime.split(":")[0] in {"onnx", "torch"}


@pytest.mark.parametrize("config", [BEAM, SAMPLE, GenerationConfig(beams=1)])
def test_captions_are_words_distinct_and_best_first(captioner, pixels, config):
    captions = captioner.generate(pixels, config)
    assert len(captions) == len(pixels)
    for several in captions:
        texts = [caption.text for caption in several]
        log_probs = [caption.log_prob for caption in several]
        assert 1 <= len(texts) <= config.num_candidates
        assert all(text.strip() == text and text for text in texts)
        assert len(set(texts)) == len(texts)
        assert log_probs == sorted(log_probs, reverse=True)
        assert all(value < 0 and np.isfinite(value) for value in log_probs)
        assert {(caption.source, caption.model) for caption in several} == {("generated", captioner.card.name)}


@pytest.mark.parametrize("config", [BEAM, SAMPLE])
def test_an_image_gets_the_same_captions_alone_and_in_a_batch(captioner, pixels, config):
    together = captioner.generate(pixels, config)
    for image, several in enumerate(together):
        (alone,) = captioner.generate(pixels[image : image + 1], config)
        assert [caption.text for caption in alone] == [caption.text for caption in several]
        np.testing.assert_allclose([one.log_prob for one in alone], [one.log_prob for one in several], atol=1e-4)


def test_no_pair_of_words_occurs_twice_if_so_asked(captioner, pixels):
    for several in captioner.generate(pixels, replace(BEAM, no_repeat_ngram=2, min_tokens=12)):
        for caption in several:
            # Words are one token or more, so that a pair of words is never shorter than a pair of tokens.
            words = caption.text.split()
            pairs = list(itertools.pairwise(words))
            assert len(set(pairs)) == len(pairs)


def test_samples_depend_on_the_seed_alone(captioner, pixels):
    first, second = captioner.generate(pixels, SAMPLE), captioner.generate(pixels, SAMPLE)
    assert first == second
    assert captioner.generate(pixels, replace(SAMPLE, seed=7)) != first


def test_the_prompt_begins_the_caption(captioner, pixels):
    for (caption,) in captioner.generate(pixels, GenerationConfig(prompt="two dog")):
        assert caption.text.startswith("two dog")
        assert len(caption.text) > len("two dog")


def test_texts_are_scored_image_by_image(captioner, pixels):
    texts = [["a dog on the snow", "a man"], [], ["a red car"], [], [], ["a man"]]
    scores = captioner.score(pixels, texts)
    assert [len(several) for several in scores] == [len(several) for several in texts]
    assert all(value < 0 for several in scores for value in several)
    ((alone,),) = captioner.score(pixels[5:6], [["a man"]])
    assert alone == pytest.approx(scores[5][0], abs=1e-4)


def test_no_images_give_no_captions(captioner, pixels):
    assert captioner.generate(pixels[:0], BEAM) == []
    assert captioner.score(pixels[:0], []) == []


def test_pixels_of_another_size_are_refused(captioner):
    with pytest.raises(ModelError, match="takes uint8 pixels of shape"):
        captioner.generate(np.zeros((1, 8, 8, 3), dtype=np.uint8), BEAM)
