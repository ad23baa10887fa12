"""BLIP's matching head against transformers' own forward pass, on folders with random weights."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BlipForImageTextRetrieval

from blip_folders import make_blip_folder, make_matcher_folder, make_pixels
from sightline.core.models.cards import read_card
from sightline.core.models.inputs import Tokenizer
from sightline.core.models.loading import load_captioner, load_matcher
from sightline.core.models.torch_models import TorchMatcher
from sightline.errors import ModelError

TEXT = "two dog on the beach"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_matcher_folder(tmp_path_factory.mktemp("models") / "itm")


@pytest.fixture(scope="module")
def matcher(folder):
    return TorchMatcher(read_card(folder), folder, device="cpu")


def test_the_log_odds_are_those_of_transformers_own_head(folder, matcher):
    pixels = make_pixels(11, 32)  # more than are run at once
    reference = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    ids = torch.tensor([Tokenizer.load(folder, matcher.card.text).ids(TEXT)])
    ids[:, 0] = reference.config.text_config.vocab_size - 1  # [ENC], as BLIP's own evaluation has it
    with torch.inference_mode():
        logits = torch.cat(
            [
                reference(ids, torch.from_numpy(matcher.card.preprocessing.normalise(one[None]))).itm_score
                for one in pixels
            ]
        )
    ours = matcher.match(matcher.see(pixels), TEXT)
    np.testing.assert_allclose(ours, (logits[:, 1] - logits[:, 0]).numpy(), atol=1e-4)
    assert ours.std() > 0.01, "the head must depend on the image"
    assert np.abs(ours - matcher.match(matcher.see(pixels), "a red car")).max() > 0.01


def test_nothing_to_match_gives_nothing(matcher):
    assert matcher.match(matcher.see(make_pixels(2, 32))[:0], TEXT).shape == (0,)


def test_a_folder_with_a_matching_head_is_a_matcher_and_writes_no_captions(folder):
    assert read_card(folder).kind == "matcher"
    loaded = load_matcher(f"dir:{folder}")
    assert (loaded.card.kind, loaded.runtime) == ("matcher", f"torch:{'cuda' if torch.cuda.is_available() else 'cpu'}")
    with pytest.raises(ModelError, match="is a matcher; captions are written by a captioner"):
        load_captioner(f"dir:{folder}")


def test_a_captioner_s_weights_are_refused(tmp_path, folder):
    captioner = make_blip_folder(tmp_path / "captioner")
    (captioner / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"lacks .* of the matcher's weights"):
        load_matcher(f"dir:{captioner}")


def test_other_weights_have_another_image_side(tmp_path, folder, matcher):
    other = make_matcher_folder(tmp_path / "other", seed=1)
    assert load_matcher(f"dir:{other}").image_side != matcher.image_side
    weights = load_file(folder / "model.safetensors")
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    again = TorchMatcher(read_card(other), other, device="cpu")
    pixels = make_pixels(2, 32)
    np.testing.assert_array_equal(again.see(pixels), matcher.see(pixels))
