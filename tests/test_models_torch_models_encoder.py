"""The PyTorch runtime: what transformers computes, from safetensors only, and clear where weights don't fit."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from model_folders import TEXTS, cosines, random_pixels, source_and_export, write_clip, write_clip_tokenizer
from sightline.core.models.cards import read_card, write_card
from sightline.core.models.loading import load_encoder
from sightline.errors import ModelError
from test_models_cards import full_card

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return source_and_export(tmp_path_factory, "clip")[0]


@pytest.fixture
def own_folder(clip_folder, tmp_path):
    return shutil.copytree(clip_folder, tmp_path / "own")


def load(folder):
    return load_encoder(f"dir:{folder}", runtime="torch")


def test_embeddings_are_those_of_transformers_own_pipeline(clip_folder):
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    encoder, pixels = load(clip_folder), random_pixels(3, 32)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokenizer = CLIPTokenizer(str(clip_folder / "vocab.json"), str(clip_folder / "merges.txt"))
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    with torch.no_grad():
        output = model(
            **tokenizer(TEXTS, padding=True, truncation=True, max_length=24, return_tensors="pt"),
            pixel_values=processor([Image.fromarray(image) for image in pixels], return_tensors="pt")["pixel_values"],
        )
    assert cosines(encoder.encode_images(pixels), output.image_embeds.numpy()).min() > 0.9999
    assert cosines(encoder.encode_texts(TEXTS), output.text_embeds.numpy()).min() > 0.9999
    assert encoder.temperature == pytest.approx(float(model.logit_scale.detach().exp()))


def test_quick_gelu_is_honoured(tmp_path):
    quick = load(write_clip(tmp_path / "quick", hidden_act="quick_gelu"))
    plain = load(write_clip(tmp_path / "plain", hidden_act="gelu"))
    assert (quick.card.activation, plain.card.activation) == ("quick_gelu", "gelu")
    images = cosines(quick.encode_images(random_pixels(4, 32)), plain.encode_images(random_pixels(4, 32)))
    texts = cosines(quick.encode_texts(TEXTS), plain.encode_texts(TEXTS))
    assert images.max() < 0.99999  # the runtimes differ by 1e-6
    assert texts.max() < 0.99999


def test_a_configuration_with_the_wrong_activation_is_refused(own_folder):
    card = dataclasses.replace(load(own_folder).card, activation="quick_gelu")
    config = json.loads((own_folder / "config.json").read_text())
    config["text_config"]["hidden_act"] = "gelu"
    (own_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"hidden_act gelu|hidden_act 'gelu', the card of .* 'quick_gelu'"):
        load_encoder(card, runtime="torch")


def test_maps_lie_in_the_joint_space_patch_by_patch(clip_folder):
    encoder = load(clip_folder)
    maps = encoder.encode_maps(random_pixels(2, 32))
    assert maps.shape == (2, 4, 4, 16)
    tower, projection = encoder.towers.model.vision_model, encoder.towers.model.visual_projection
    with torch.no_grad():
        pixels = torch.from_numpy(encoder.card.preprocessing.normalise(random_pixels(2, 32)))
        tokens = tower(pixel_values=pixels).last_hidden_state
        expected = projection(tower.post_layernorm(tokens))
    np.testing.assert_allclose(maps[1, 2, 3], expected[1, 1 + 2 * 4 + 3].numpy(), atol=1e-5)
    class_token = expected[:, 0].numpy()
    class_token /= np.linalg.norm(class_token, axis=1, keepdims=True)
    assert cosines(class_token, encoder.encode_images(random_pixels(2, 32))).min() > 0.9999


def test_features_before_the_projection_lead_to_the_embeddings(clip_folder):
    encoder = load(clip_folder)
    features_BF = encoder.encode_features(random_pixels(3, 32))
    with torch.no_grad():
        projected_BD = encoder.towers.model.visual_projection(torch.from_numpy(features_BF)).numpy()
    projected_BD /= np.linalg.norm(projected_BD, axis=1, keepdims=True)
    assert cosines(projected_BD, encoder.encode_images(random_pixels(3, 32))).min() > 0.9999
    assert np.linalg.norm(features_BF, axis=1).max() > 1.01  # not normalised


def test_siglip_has_no_maps_and_no_projection(tmp_path_factory):
    encoder = load(source_and_export(tmp_path_factory, "siglip")[0])
    pixels = random_pixels(1, 32)
    assert encoder.encode_maps(pixels) is None
    features_BF = encoder.encode_features(pixels)
    assert cosines(features_BF / np.linalg.norm(features_BF), encoder.encode_images(pixels)).min() > 0.9999


def test_a_saved_convclip_loads_and_its_map_averages_to_its_embedding(tmp_path):
    from sightline.core.models.convolutional import ConvClip, ConvClipConfig

    torch.manual_seed(0)
    config = ConvClipConfig(
        size_px=32, image_width=4, image_blocks=(1, 1), vocab_size=600, text_width=16, text_layers=1, dim=8, pad_id=599
    )
    ConvClip(config).eval().save_pretrained(tmp_path)
    write_clip_tokenizer(tmp_path, 600)
    card = full_card()
    text = dataclasses.replace(card.text, pad_id=599, bos_id=598, eos_id=599)
    preprocessing = dataclasses.replace(card.preprocessing, size_px=32)
    write_card(
        tmp_path,
        dataclasses.replace(card, dim=8, text=text, preprocessing=preprocessing, files={}, weights_hash=None),
    )
    encoder = load(tmp_path)
    images, maps = encoder.encode_images(random_pixels(2, 32)), encoder.encode_maps(random_pixels(2, 32))
    means = maps.mean(axis=(1, 2))
    assert cosines(images, means / np.linalg.norm(means, axis=1, keepdims=True)).min() > 0.99999
    assert encoder.encode_texts(TEXTS).shape == (len(TEXTS), 8)
    assert encoder.encode_features(random_pixels(2, 32)) is None


def test_weights_that_lack_tensors_are_refused(own_folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(own_folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, own_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the encoder's weights \(visual_projection.weight"):
        load(own_folder)


def test_damaged_weights_are_refused(own_folder):
    (own_folder / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(ModelError, match="can't be loaded as CLIPModel"):
        load(own_folder)


def test_pickles_are_never_loaded(own_folder):
    torch.save({}, own_folder / "pytorch_model.bin")
    (own_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"\.bin"):
        load(own_folder)


def test_a_card_of_another_dimension_is_refused(own_folder):
    card = dataclasses.replace(load(own_folder).card, dim=512)
    with pytest.raises(ModelError, match="gives 16 dimensions, the card"):
        load_encoder(card, runtime="torch")


def test_loading_is_silent(own_folder, capfd):
    load(own_folder)
    assert capfd.readouterr() == ("", "")


def test_a_captioner_is_no_encoder(own_folder):
    card = dataclasses.replace(read_card(own_folder), kind="captioner", family="blip")
    with pytest.raises(ModelError, match="is a captioner; searching needs an encoder"):
        load_encoder(card)
