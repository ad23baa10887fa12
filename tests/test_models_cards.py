"""Cards: written and read again, derived from transformers' files, and clear about what is wrong."""

import json

import pytest

from model_folders import CLIP_MEAN, CLIP_STD, write_preprocessor
from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import ModelCard, TextSpec, card_from_json, card_to_json, read_card, write_card
from sightline.errors import ModelError

CLIP_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 2}


def full_card():
    return ModelCard(
        name="tiny",
        kind="encoder",
        family="sightline-clip",
        source="package",
        preprocessing=Preprocessing(size_px=112, resize_mode="squash", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3)),
        text=TextSpec(context_length=32, pad_id=0, bos_id=1, eos_id=2, padding="fixed", lowercase=True),
        dim=256,
        licence="MIT",
        temperature=14.0,
        figures={"image_retrieval_recall@10": 0.3},
        files={"tokenizer.json": "ab" * 32},
        weights_hash="cd" * 32,
    )


def write_config(folder, config, preprocessor=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if preprocessor is not None:
        write_preprocessor(folder, preprocessor)
    return folder


def test_a_written_card_reads_back_equal(tmp_path):
    write_card(tmp_path, full_card())
    assert read_card(tmp_path) == full_card()


def test_the_file_has_the_documented_keys(tmp_path):
    values = card_to_json(full_card())
    assert {"name", "kind", "family", "dim", "image", "text", "licence", "source", "figures", "files"} <= set(values)
    assert values["image"] == {
        "size_px": 112,
        "resize": "squash",
        "interpolation": "bicubic",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.3],
    }
    assert values["text"]["context_length"] == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "unknown key 'colour'. Valid keys: activation"),
        ({"kind": "dancer"}, "kind is 'dancer'; it must be one of encoder, captioner"),
        ({"family": "resnet"}, "family is 'resnet'"),
        ({"dim": None}, "dim is None"),
        ({"image": {"size_px": 0, "resize": "squash"}}, "size_px is 0"),
        ({"image": {"size_px": 8, "resize": "stretch"}}, "resize_mode is 'stretch'; it must be one of squash, crop"),
        ({"image": {"size_px": 8}}, "image: missing resize"),
        ({"image": {"size_px": 8, "resize": "crop", "mean": [0.5]}}, "three numbers"),
        ({"image": {"size_px": 8, "resize": "crop", "std": ["a", "b", "c"]}}, "image: could not convert"),
        ({"image": {"size_px": 8, "resize": "crop", "interpolation": "nearest"}}, "interpolation is 'nearest'"),
        ({"text": {"context_length": 8, "pad_id": 0, "padding": "left"}}, "padding is 'left'"),
        ({"text": "long"}, "text must be a JSON object"),
    ],
)
def test_a_bad_value_names_the_key_and_what_is_allowed(change, message):
    with pytest.raises(ModelError, match=message.replace("(", r"\(")):
        card_from_json({**card_to_json(full_card()), **change}, origin="sightline.json")


def test_a_missing_key_is_named():
    values = card_to_json(full_card())
    del values["image"]
    with pytest.raises(ModelError, match="missing image"):
        card_from_json(values, origin="sightline.json")


def test_openais_configuration_of_2021_gives_the_true_end_token(tmp_path):
    config = {"model_type": "clip", "projection_dim": 512, "text_config": CLIP_TEXT, "vision_config": {}}
    size = {"size": 224, "crop_size": 224, "do_center_crop": True, "resample": 3}
    card = read_card(write_config(tmp_path, config, {**size, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}))
    assert card.preprocessing == Preprocessing(size_px=224, resize_mode="crop")
    assert card.text == TextSpec(context_length=77, pad_id=49407, bos_id=49406, eos_id=49407)
    assert (card.kind, card.family, card.dim, card.activation) == ("encoder", "clip", 512, "quick_gelu")


def test_siglip_2_squashes_pads_to_64_and_lowercases(tmp_path):
    # What google/siglip2-base-patch16-224 holds: values equal to transformers' defaults are left out.
    config = {"model_type": "siglip", "text_config": {"vocab_size": 256000}, "vision_config": {}}
    half = [0.5, 0.5, 0.5]
    size = {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": half, "image_std": half}
    folder = write_config(tmp_path, config, size)
    added = {"0": {"content": "<pad>"}, "1": {"content": "<eos>"}}
    settings = {"pad_token": "<pad>", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    card = read_card(folder)
    assert card.dim == 768
    assert card.text == TextSpec(context_length=64, pad_id=0, padding="fixed", lowercase=True)
    assert card.preprocessing.resize_mode == "squash"
    assert card.preprocessing.interpolation == "bilinear"
    assert card.preprocessing.mean == (0.5, 0.5, 0.5)


def test_blip_is_a_captioner_whose_sentences_end_with_sep(tmp_path):
    config = {"model_type": "blip", "text_config": {}, "vision_config": {"image_size": 384}}
    card = read_card(write_config(tmp_path, config, {"size": {"height": 384, "width": 384}, "resample": 3}))
    assert (card.kind, card.family, card.dim) == ("captioner", "blip", None)
    assert (card.text.bos_id, card.text.eos_id, card.text.pad_id) == (30522, 102, 0)
    assert (card.preprocessing.size_px, card.preprocessing.resize_mode) == (384, "squash")


def test_transformers_5s_nested_processor_file_is_read(tmp_path):
    folder = write_config(tmp_path, {"model_type": "clip", "vision_config": {"image_size": 32}, "text_config": {}})
    nested = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3]}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": nested}), encoding="utf-8")
    assert read_card(folder).preprocessing.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("config", "preprocessor", "message"),
    [
        ({"model_type": "bert"}, None, "model_type 'bert' is not supported. Supported: clip, siglip, blip"),
        ({"model_type": "clip"}, {"size": 256, "crop_size": 224}, "needs all of them equal"),
        ({"model_type": "clip"}, {"size": {"height": 224, "width": 112}}, "one square"),
        ({"model_type": "clip"}, {"size": 224, "resample": 0}, "resample 0 is not supported"),
        ({"model_type": "siglip"}, {"size": 224}, "no pad token found"),
    ],
)
def test_what_we_can_not_run_right_is_refused(tmp_path, config, preprocessor, message):
    with pytest.raises(ModelError, match=message):
        read_card(write_config(tmp_path, config, preprocessor))


def test_folders_without_a_model_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"neither sightline\.json nor config.json"):
        read_card(tmp_path)
    with pytest.raises(ModelError, match="There is no model folder"):
        read_card(tmp_path / "absent")
    (tmp_path / "sightline.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="can't be read as JSON"):
        read_card(tmp_path)
