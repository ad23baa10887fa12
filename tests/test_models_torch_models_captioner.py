"""The PyTorch captioner against transformers' own generation, on BLIP folders with random weights."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BlipForConditionalGeneration

from blip_folders import make_blip_folder, make_pixels, tiny_blip
from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import read_card
from sightline.core.models.inputs import Tokenizer
from sightline.core.models.torch_models import TorchCaptioner
from sightline.errors import ModelError

GREEDY = GenerationConfig(beams=1, max_tokens=12, min_tokens=1, no_repeat_ngram=0)
COUNT = 12


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads cost more than they give on toys."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_blip_folder(tmp_path_factory.mktemp("models") / "tiny", end_bias=4.0)


@pytest.fixture(scope="module")
def reference(folder):
    return BlipForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def captioner(folder):
    return TorchCaptioner(read_card(folder), folder, device="cpu")


def reference_texts(reference, folder, pixels, *, prompt="", **options):
    """What transformers writes, decoded as we decode."""
    card = read_card(folder)
    tokenizer = Tokenizer.load(folder, card.text)
    ids = None
    if prompt:
        ids = torch.tensor([tokenizer.ids(prompt)] * len(pixels))  # [CLS] prompt [SEP], as BlipProcessor gives
    images = torch.from_numpy(card.preprocessing.normalise(pixels))
    written = reference.generate(images, input_ids=ids, do_sample=False, **options).tolist()
    return [tokenizer.decode([token for token in row if token != card.text.bos_id]) for row in written]


def best_texts(captions):
    return [several[0].text for several in captions]


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {"max_length": 13, "min_length": 2}),
        ({"min_tokens": 6}, {"max_length": 13, "min_length": 7}),
        ({"no_repeat_ngram": 2, "min_tokens": 6}, {"max_length": 13, "min_length": 7, "no_repeat_ngram_size": 2}),
        ({"max_tokens": 4}, {"max_length": 5, "min_length": 2}),
        ({"prompt": "two dog on"}, {"max_length": 13, "min_length": 5, "prompt": "two dog on"}),
    ],
)
def test_greedy_search_writes_what_transformers_writes(captioner, reference, folder, changes, options):
    pixels = make_pixels(COUNT, 32)
    ours = best_texts(captioner.generate(pixels, replace(GREEDY, **changes)))
    assert ours == reference_texts(reference, folder, pixels, num_beams=1, **options)
    assert len(set(ours)) > COUNT // 2, "the captions must depend on the images"
    assert len({len(text.split()) for text in ours}) > 1 or "max_tokens" in changes


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"beams": 3}, {"num_beams": 3}),
        ({"beams": 4, "min_tokens": 5}, {"num_beams": 4, "min_length": 6}),
        (
            {"beams": 3, "no_repeat_ngram": 3, "min_tokens": 4},
            {"num_beams": 3, "no_repeat_ngram_size": 3, "min_length": 5},
        ),
        ({"beams": 3, "repetition_penalty": 1.4}, {"num_beams": 3, "repetition_penalty": 1.4}),
        ({"beams": 2, "prompt": "a man"}, {"num_beams": 2, "prompt": "a man", "min_length": 4}),
    ],
)
def test_beam_search_finds_what_transformers_finds(captioner, reference, folder, changes, options):
    pixels = make_pixels(COUNT, 32, seed=1)
    ours = captioner.generate(pixels, replace(GREEDY, **changes))
    options = {"min_length": 2, "max_length": 13, **options}
    theirs = reference_texts(reference, folder, pixels, early_stopping=False, length_penalty=1.0, **options)
    # With a penalty we still name the sentence first that the model finds likeliest; theirs is among those found.
    several = captioner.generate(pixels, replace(GREEDY, **changes, num_candidates=changes["beams"]))
    found = [[caption.text for caption in one] for one in several]
    if "repetition_penalty" in changes:
        assert all(text in texts for text, texts in zip(theirs, found, strict=True))
    else:
        assert best_texts(ours) == theirs


def test_the_prompt_is_honoured(captioner):
    for several in captioner.generate(make_pixels(4, 32), replace(GREEDY, prompt="two dog on")):
        assert several[0].text.startswith("two dog on ")


def test_the_attention_cache_changes_nothing(captioner):
    # Scoring runs whole sequences without a cache, generating feeds one token a step with it.
    pixels = make_pixels(COUNT, 32)
    written = captioner.generate(pixels, replace(GREEDY, beams=4, num_candidates=4))
    ended = [[one for one in several if len(one.text.split()) < GREEDY.max_tokens] for several in written]
    assert sum(len(several) for several in ended) > COUNT
    scores = captioner.score(pixels, [[one.text for one in several] for several in ended])
    for several, scored in zip(ended, scores, strict=True):
        np.testing.assert_allclose([one.log_prob for one in several], scored, atol=2e-5)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    shutil.copytree(tiny_blip(), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no model\.safetensors.*Pickled weights"):
        TorchCaptioner(read_card(tmp_path / "model"), tmp_path / "model")


def test_weights_of_another_shape_are_refused(tmp_path):
    shutil.copytree(tiny_blip(), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lacks 26 of the captioner's weights"):
        TorchCaptioner(read_card(tmp_path / "model"), tmp_path / "model")


def test_damaged_weights_are_refused(tmp_path):
    shutil.copytree(tiny_blip(), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="can't be loaded as BlipForConditionalGeneration"):
        TorchCaptioner(read_card(tmp_path / "model"), tmp_path / "model")


def test_an_encoder_is_refused():
    card = replace(read_card(tiny_blip()), family="clip")
    with pytest.raises(ModelError, match="of family 'clip', no captioner"):
        TorchCaptioner(card, tiny_blip())
