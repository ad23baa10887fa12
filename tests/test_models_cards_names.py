"""Names: known ones, folders, repositories; an unknown one is answered with the nearest, never guessed."""

import dataclasses

import pytest

from model_folders import write_clip_tokenizer
from sightline.core.models import cards
from sightline.core.models.cards import find_card, known_cards, write_card
from sightline.errors import ModelError
from test_models_cards import full_card, write_config

NAMES = [
    "ViT-B-32/openai",
    "ViT-B-16/openai",
    "ViT-L-14/openai",
    "ViT-L-14-336/openai",
    "ViT-B-32/laion2b_s34b_b79k",
    "ViT-B-16/laion2b_s34b_b88k",
    "ViT-B-16-SigLIP2/webli",
    "TinyCLIP-ViT-8M-16/yfcc15m",
    "blip-base",
    "blip-large",
]


@pytest.mark.parametrize("name", NAMES)
def test_each_named_model_has_a_whole_card(name):
    card = find_card(name)
    assert card.name == name
    assert card.source.count("/") == 1
    assert card.licence != "unknown"
    assert card.paper
    assert card.paper.startswith("https://")
    assert (card.dim is None) == (card.kind == "captioner")
    assert all(len(digest) == 64 for digest in card.files.values())


def test_cards_hold_what_makes_embeddings_right():
    openai, laion, siglip = (
        find_card(name) for name in ("ViT-B-32/openai", "ViT-B-32/laion2b_s34b_b79k", "ViT-B-16-SigLIP2/webli")
    )
    assert (openai.activation, laion.activation) == ("quick_gelu", "gelu")
    assert openai.onnx is not None
    assert openai.onnx.repo == "Xenova/clip-vit-base-patch32"
    assert (openai.onnx.image, openai.onnx.text) == ("onnx/vision_model.onnx", "onnx/text_model.onnx")
    assert (openai.preprocessing.resize_mode, openai.text.padding) == ("crop", "longest")
    assert (siglip.preprocessing.resize_mode, siglip.text.padding, siglip.text.lowercase) == ("squash", "fixed", True)


def test_all_models_of_one_set_of_weights_have_different_hashes():
    hashes = [card.weights_hash for card in known_cards().values() if card.weights_hash]
    assert len(hashes) == len(set(hashes)) >= 4


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("ViT-B-32/openAI", "ViT-B-32/openai"),
        ("vit-b-32", "ViT-B-32/openai"),
        ("blip", "blip-base"),
        ("sarter", "starter"),
    ],
)
def test_an_unknown_name_lists_the_nearest_and_the_prefixes(wrong, nearest):
    with pytest.raises(ModelError) as caught:
        find_card(wrong)
    message = str(caught.value)
    assert nearest in message.split("Did you mean")[1].split("?")[0]
    assert "hf:ORG/NAME" in message
    assert "dir:PATH" in message


def test_a_name_like_nothing_suggests_nothing():
    with pytest.raises(ModelError) as caught:
        find_card("qqqqqqqq")
    assert "Did you mean" not in str(caught.value)
    assert "starter" in str(caught.value)


def test_a_folder_keeps_its_path_as_name_and_source(tmp_path):
    write_card(tmp_path, dataclasses.replace(full_card(), name="something", source="package"))
    card = find_card(f"dir:{tmp_path}")
    assert (card.name, card.source) == (f"dir:{tmp_path}", str(tmp_path))


def test_a_relative_folder_and_one_in_the_home_are_made_absolute(tmp_path, monkeypatch):
    write_card(tmp_path, full_card())
    monkeypatch.chdir(tmp_path.parent)
    assert find_card(f"dir:{tmp_path.name}").source == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert find_card(f"dir:~/{tmp_path.name}").source == str(tmp_path)


def test_a_cached_repository_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--tiny-clip" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    write_config(snapshot, {"model_type": "clip", "text_config": {}, "vision_config": {}, "projection_dim": 7})
    write_clip_tokenizer(snapshot, 600)
    card = find_card("hf:someone/tiny-clip")
    assert (card.name, card.source, card.revision, card.dim) == ("hf:someone/tiny-clip", "someone/tiny-clip", "main", 7)
    assert find_card(f"hf:someone/tiny-clip@{'a' * 40}").revision == "a" * 40


@pytest.mark.parametrize("name", ["hf:", "hf:clip", "hf:a/b/c", "hf:/b"])
def test_a_malformed_repository_name_is_refused(name):
    with pytest.raises(ModelError, match="is no repository name"):
        find_card(name)


def test_a_package_without_its_starter_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(cards._PACKAGE_NAMES, "starter", tmp_path)
    with pytest.raises(ModelError, match="install sightline again"):
        find_card("starter")
    assert "starter" not in known_cards()
