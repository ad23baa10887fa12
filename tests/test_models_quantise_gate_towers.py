"""int8 under its gate: what passes runs, planted outliers fail and fall back, one bad layer stays in fp32."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest

from model_folders import TEXTS, cosines, own_cache, random_pixels, write_clip, write_published_layout
from sightline.core.models import precision
from sightline.core.models.cards import find_card, read_card, write_card
from sightline.core.models.files import find_graphs
from sightline.core.models.loading import load_encoder
from sightline.core.models.precision import EncoderGate, int8_path, quantised_folder, read_verdicts
from sightline.core.models.quantise import gate
from sightline.core.models.quantise.gate import needs_gate, quantise_encoder
from sightline.errors import InputError, ModelError

torch = pytest.importorskip("torch", reason="the folders are made with the extra torch")
onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402


def varied_pixels(count, side, seed=0):
    """Pictures that differ as pictures do: a few soft shapes of different colours each."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2))


def write_varied_clip(folder):
    """A tiny CLIP whose vectors spread over the sphere, so that there are neighbours to lose."""
    from transformers import CLIPModel

    write_clip(folder, seed=3)
    model = CLIPModel.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "patch_embedding" in name or "position_embedding" in name or "token_embedding" in name:
                parameter *= 50  # type: ignore[misc]
            elif name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "out_proj.weight")):
                parameter *= 2  # type: ignore[misc]
            elif ".fc" in name:
                parameter *= 0.5  # type: ignore[misc]
            if "layer_norm" in name:  # all alike, they would be one constant of the export
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)  # type: ignore[misc]
    model.save_pretrained(folder)
    return folder


def plant_outliers(exported, folder, norms, *, factor=1000.0, channels=(3, 17)):
    """A copy of an export, channels of activations larger and the weights that take them smaller: the same function."""
    shutil.copytree(exported, folder)
    write_card(folder, dataclasses.replace(read_card(folder), files={}, weights_hash=None))
    model = onnx.load(folder / "onnx" / "image.onnx")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def change(name, scale):
        values = numpy_helper.to_array(constants[name]).copy()
        values[list(channels)] *= scale  # rows of a matrix, entries of a vector
        constants[name].CopyFrom(numpy_helper.from_array(values, name))

    for layer, norm in norms:
        name = f"towers.model.vision_model.encoder.layers.{layer}.{norm}"
        (node,) = (node for node in model.graph.node if f"{name}.weight" in node.input)
        change(f"{name}.weight", factor)
        change(f"{name}.bias", factor)
        readers = [reader.input[1] for reader in model.graph.node if reader.input[0] == node.output[0]]
        assert len(readers) == (3 if norm == "layer_norm1" else 1)
        for reader in readers:
            change(reader, 1 / factor)
    onnx.save(model, folder / "onnx" / "image.onnx")
    return folder


ALL_NORMS = [(layer, norm) for layer in range(2) for norm in ("layer_norm1", "layer_norm2")]


@functools.cache
def made_folders(base):
    with own_cache(base / "cache"):
        plain = write_varied_clip(base / "plain")
        exported = load_encoder(f"dir:{plain}").folder  # type: ignore[attr-defined]
        bad = plant_outliers(exported, base / "bad", ALL_NORMS)
        partly = plant_outliers(exported, base / "partly", [(1, "layer_norm2")])
    return {"plain": plain, "bad": bad, "partly": partly}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return made_folders(tmp_path_factory.mktemp("gate"))


@pytest.fixture
def shared_cache(folders, monkeypatch):
    """The exports of the module's folders, and nothing that another test quantised."""
    cache = folders["plain"].parent / "cache"
    shutil.rmtree(cache / "int8", ignore_errors=True)
    monkeypatch.setenv("SIGHTLINE_CACHE", str(cache))


@pytest.fixture(scope="module")
def pixels():
    return varied_pixels(256, 32)


def quantise(folder, pixels, **options):
    lines = []
    return quantise_encoder(find_card(f"dir:{folder}"), pixels, tell=lines.append, **options), lines


def test_what_passes_the_gate_runs_from_then_on(folders, shared_cache, pixels):
    name = f"dir:{folders['plain']}"
    fp32 = load_encoder(name)
    assert (fp32.precision, needs_gate(fp32)) == ("fp32", True)
    verdicts, lines = quantise(folders["plain"], pixels, sample="photos")
    assert {tower: (verdict.passed, verdict.int8_share) for tower, verdict in verdicts.items()} == {
        "image": (True, 1.0),
        "text": (True, 1.0),
    }
    assert "image tower: int8 passed on 256 photos" in lines[1]
    assert not needs_gate(fp32)
    int8 = load_encoder(name)
    assert int8.precision == "int8"
    assert int8.identity == fp32.identity
    assert load_encoder(name, precision="fp32").precision == "fp32"
    fresh = varied_pixels(20, 32, seed=9)
    images, exact = int8.encode_images(fresh), fp32.encode_images(fresh)
    assert 0.999 < cosines(images, exact).min() < cosines(images, exact).max() < 1
    assert cosines(int8.encode_texts(TEXTS), fp32.encode_texts(TEXTS)).min() > 0.998
    assert int8.encode_maps(fresh).shape == (20, 4, 4, 16)


def test_int8_vectors_do_not_depend_on_their_batch(folders, shared_cache, pixels):
    quantise(folders["plain"], pixels)
    encoder = load_encoder(f"dir:{folders['plain']}", precision="int8")
    several = varied_pixels(11, 32, seed=5)
    together = encoder.encode_images(several)
    for row in (0, 5, 10):
        np.testing.assert_allclose(encoder.encode_images(several[row : row + 1])[0], together[row], atol=1e-6)
    texts = ["a dog", "a boat", "snow"]
    for text, row in zip(texts, encoder.encode_texts(texts), strict=True):
        np.testing.assert_allclose(encoder.encode_texts([text])[0], row, atol=1e-6)
    assert encoder.encode_images(several[:0]).shape == (0, 16)


def test_planted_outliers_fail_the_gate_and_fall_back_to_fp32(folders, shared_cache, pixels):
    plain, bad = (load_encoder(f"dir:{folders[name]}", precision="fp32") for name in ("plain", "bad"))
    assert cosines(plain.encode_images(pixels), bad.encode_images(pixels)).min() > 0.9999  # the same function
    verdicts, lines = quantise(folders["bad"], pixels)
    assert not verdicts["image"].passed
    assert verdicts["image"].measured["cosine_low"] < EncoderGate().cosine_low
    assert verdicts["text"].passed  # the outliers are in the image tower
    assert any("image tower: int8 failed" in line for line in lines)
    encoder = load_encoder(f"dir:{folders['bad']}")
    assert encoder.precision == "fp32"
    np.testing.assert_allclose(encoder.encode_images(pixels[:4]), bad.encode_images(pixels[:4]), atol=1e-6)
    assert not needs_gate(encoder)  # it was asked, and is not asked again
    with pytest.raises(ModelError, match=r"has not passed int8 .* failed on 256 images: cosine_mean 0\."):
        load_encoder(f"dir:{folders['bad']}", precision="int8")


def test_a_bad_layer_is_found_and_left_in_fp32(folders, shared_cache, pixels):
    verdicts, lines = quantise(folders["partly"], pixels)
    verdict = verdicts["image"]
    assert verdict.passed
    assert len(verdict.kept_fp32) == 1
    assert EncoderGate().min_int8_share <= verdict.int8_share < 1
    assert any("layers left in fp32" in line for line in lines)
    assert load_encoder(f"dir:{folders['partly']}").precision == "int8"


def test_too_few_images_are_no_gate(folders, shared_cache):
    with pytest.raises(InputError, match="needs 256 pictures that can be read; these are 255"):
        quantise(folders["plain"], varied_pixels(255, 32))
    assert load_encoder(f"dir:{folders['plain']}").precision == "fp32"
    with pytest.raises(ModelError, match="it has not been asked yet"):
        load_encoder(f"dir:{folders['plain']}", precision="int8")


def test_other_thresholds_ask_again(folders, shared_cache, pixels):
    verdicts, _ = quantise(folders["plain"], pixels, gate=EncoderGate(cosine_mean=0.999999))
    assert not verdicts["image"].passed
    graphs = fp32_graphs(folders["plain"])
    assert read_verdicts(graphs, EncoderGate(cosine_mean=0.999999)).keys() == {"image", "text"}
    assert read_verdicts(graphs) == {}


def fp32_graphs(folder):
    encoder = load_encoder(f"dir:{folder}", precision="fp32")
    return find_graphs(encoder.folder, encoder.card)  # type: ignore[attr-defined]


def test_a_damaged_int8_graph_is_not_run(folders, shared_cache, pixels):
    quantise(folders["plain"], pixels)
    path = int8_path(quantised_folder(fp32_graphs(folders["plain"])), "image")
    with path.open("ab") as file:
        file.write(b"\x00")
    encoder = load_encoder(f"dir:{folders['plain']}")
    assert encoder.precision == "fp32"
    assert needs_gate(encoder)


def test_int8_serves_the_cpu_only(folders, shared_cache, pixels, monkeypatch):
    quantise(folders["plain"], pixels)
    monkeypatch.setattr(precision, "available_providers", lambda: ["CUDAExecutionProvider"])
    encoder = load_encoder(f"dir:{folders['plain']}")
    assert (encoder.precision, needs_gate(encoder)) == ("fp32", False)
    assert load_encoder(f"dir:{folders['plain']}", precision="int8").precision == "int8"


def test_published_graphs_are_quantised_into_the_cache(folders, shared_cache, pixels, tmp_path):
    exported = load_encoder(f"dir:{folders['plain']}", precision="fp32").folder  # type: ignore[attr-defined]
    published = write_published_layout(tmp_path / "published", folders["plain"], exported)
    before = sorted(published.rglob("*"))
    verdicts, _ = quantise(published, pixels)
    assert verdicts["image"].passed
    assert sorted(published.rglob("*")) == before
    assert load_encoder(f"dir:{published}").precision == "int8"


def test_the_starter_has_nothing_to_quantise(pixels, monkeypatch):
    card = find_card("starter")
    assert not needs_gate(load_encoder("starter"))
    with pytest.raises(ModelError, match="comes in int8 only"):
        quantise_encoder(card, random_pixels(256, card.preprocessing.size_px))
    with pytest.raises(ModelError, match="holds int8 graphs only"):
        load_encoder("starter", precision="fp32")
    monkeypatch.setenv("SIGHTLINE_PRECISION", "fp32")
    with pytest.raises(ModelError, match=r"fp32 was asked for, but .* holds int8 graphs only\. Use the precision auto"):
        load_encoder("starter")
    assert load_encoder("starter", precision="auto").precision == "int8"
    monkeypatch.setenv("SIGHTLINE_PRECISION", "auto")
    assert load_encoder("starter").precision == load_encoder("starter", precision="int8").precision == "int8"


def test_without_onnx_nothing_is_made_and_what_is_missing_is_named(folders, shared_cache, pixels, monkeypatch):
    encoder = load_encoder(f"dir:{folders['plain']}")
    monkeypatch.setattr(gate, "find_spec", lambda name: None)
    assert not needs_gate(encoder)
    with pytest.raises(ModelError, match=r"needs the package onnx; .*sightline-images\[torch\]"):
        quantise(folders["plain"], pixels)


def test_a_tower_that_can_not_be_made_int8_runs_in_fp32_and_says_why(folders, shared_cache, pixels, monkeypatch):
    def fail(*_args, **_options):
        raise ValueError("an operator that nobody knows\nand its trace")

    monkeypatch.setattr("sightline.core.models.quantise.towers.open_tower", fail)
    verdicts, _ = quantise(folders["plain"], pixels)
    assert verdicts["image"].describe() == "failed: ValueError: an operator that nobody knows"
    assert load_encoder(f"dir:{folders['plain']}").precision == "fp32"
