"""Exports: ONNX agrees with PyTorch, is made once, complete or absent, and shares the weights' identity."""

import json
import shutil
import time

import numpy as np
import pytest

from model_folders import TEXTS, cosines, own_cache, random_pixels, source_and_export, write_clip
from sightline.core.models import export, loading
from sightline.core.models.cards import read_card
from sightline.core.models.export import export_encoder
from sightline.core.models.files import hash_file
from sightline.core.models.loading import load_encoder
from sightline.errors import ModelError
from sightline.kit.config import cache_dir

pytest.importorskip("torch")
pytest.importorskip("transformers")

PARITY = 0.9999


def both(folder):
    return load_encoder(f"dir:{folder}", runtime="torch"), load_encoder(f"dir:{folder}")


def assert_parity(torch_encoder, onnx_encoder, side):
    pixels = random_pixels(5, side)
    for count in (1, 2, 5):
        images = cosines(torch_encoder.encode_images(pixels[:count]), onnx_encoder.encode_images(pixels[:count]))
        assert images.min() >= PARITY
    assert cosines(torch_encoder.encode_texts(TEXTS), onnx_encoder.encode_texts(TEXTS)).min() >= PARITY
    for text in TEXTS:
        assert cosines(torch_encoder.encode_texts([text]), onnx_encoder.encode_texts([text])).min() >= PARITY


def test_clip_with_the_end_token_of_2021_exports_once_silently_and_agrees(tmp_path, monkeypatch, capfd):
    folder = write_clip(tmp_path / "legacy", legacy_eos=True, seed=1)
    capfd.readouterr()
    torch_encoder, onnx_encoder = both(folder)
    assert capfd.readouterr() == ("", "")
    assert_parity(torch_encoder, onnx_encoder, 32)
    assert torch_encoder.identity == onnx_encoder.identity
    assert onnx_encoder.identity.weights_hash == hash_file(folder / "model.safetensors")
    monkeypatch.setattr(export, "export_encoder", None)
    assert load_encoder(f"dir:{folder}").identity == onnx_encoder.identity
    monkeypatch.setattr(loading, "torch_installed", lambda: False)
    assert load_encoder(f"dir:{folder}").identity == onnx_encoder.identity
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_act"] = "gelu"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"sightline-images\[torch\]"):  # another activation needs another export
        load_encoder(f"dir:{folder}")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_an_exported_folder_agrees_with_its_source(tmp_path_factory, kind):
    source, exported = source_and_export(tmp_path_factory, kind)
    torch_encoder = load_encoder(f"dir:{source}", runtime="torch")
    onnx_encoder = load_encoder(f"dir:{exported}")
    assert_parity(torch_encoder, onnx_encoder, 32)
    assert torch_encoder.identity.weights_hash == onnx_encoder.identity.weights_hash
    assert onnx_encoder.card.temperature == pytest.approx(torch_encoder.temperature)  # type: ignore[attr-defined]
    assert set(onnx_encoder.card.files) == {"onnx/image.onnx", "onnx/text.onnx"}


def test_maps_agree_between_the_runtimes(tmp_path_factory):
    source, exported = source_and_export(tmp_path_factory, "clip")
    maps = [
        load_encoder(f"dir:{folder}", runtime=runtime).encode_maps(random_pixels(2, 32))  # type: ignore[arg-type]
        for folder, runtime in ((source, "torch"), (exported, "onnx"))
    ]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-4)


def test_a_tampered_graph_is_refused(tmp_path_factory, tmp_path):
    folder = shutil.copytree(source_and_export(tmp_path_factory, "clip")[1], tmp_path / "export")
    with (folder / "onnx" / "image.onnx").open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(ModelError, match=r"onnx/image.onnx is not what the model's card says"):
        load_encoder(f"dir:{folder}")


def test_a_failed_export_leaves_nothing_and_says_what_to_do(tmp_path_factory, tmp_path, monkeypatch):
    source, _ = source_and_export(tmp_path_factory, "clip")

    def fail(*_args, **_options):
        raise RuntimeError("unsupported operator\nlong trace")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(ModelError, match=r"RuntimeError: unsupported operator. In Python, load_encoder"):
        export_encoder(read_card(source), source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_not_replaced(tmp_path_factory, tmp_path, monkeypatch):
    source, exported = source_and_export(tmp_path_factory, "clip")
    monkeypatch.setattr(export, "export_graph", lambda module, example, path, **options: path.write_bytes(b"graph"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dog.jpg").write_bytes(b"")
    with pytest.raises(ModelError, match="is not empty and holds no model"):
        export_encoder(read_card(source), source, tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["dog.jpg"]
    replaced = shutil.copytree(exported, tmp_path / "old")
    export_encoder(read_card(source), source, replaced)
    assert (replaced / "onnx" / "text.onnx").read_bytes() == b"graph"
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "old"}


def test_without_torch_weights_alone_name_the_extra(tmp_path_factory, monkeypatch):
    source, exported = source_and_export(tmp_path_factory, "clip")
    monkeypatch.setattr(loading, "torch_installed", lambda: False)
    for runtime in ("auto", "torch"):
        with pytest.raises(ModelError, match=r"pip install 'sightline-images\[torch\]'"):
            load_encoder(f"dir:{source}", runtime=runtime)
    with pytest.raises(ModelError, match="holds no PyTorch weights"):
        load_encoder(f"dir:{exported}", runtime="torch")


@pytest.mark.slow
def test_a_folder_of_true_vit_b_32_shapes_loads_exports_and_agrees(tmp_path):
    """151 million random weights: 512 dimensions, both runtimes equal, QuickGELU measurably not GELU."""
    folder = write_clip(tmp_path / "b32", true_shapes=True)
    with own_cache(tmp_path / "cache"):
        torch_encoder, onnx_encoder = both(folder)
        assert torch_encoder.dim == onnx_encoder.dim == 512
        assert torch_encoder.encode_images(random_pixels(2, 224)).shape == (2, 512)
        assert_parity(torch_encoder, onnx_encoder, 224)
        assert (cache_dir() / "exports").is_dir()
        report_rates(torch_encoder, onnx_encoder)
        config = json.loads((folder / "config.json").read_text())
        for part in ("text_config", "vision_config"):
            config[part]["hidden_act"] = "gelu"
        (folder / "config.json").write_text(json.dumps(config))
        gelu = load_encoder(f"dir:{folder}", runtime="torch")
        pixels = random_pixels(2, 224)
        assert cosines(gelu.encode_images(pixels), onnx_encoder.encode_images(pixels)).max() < 0.99999


def report_rates(*runtimes):
    pixels = random_pixels(32, 224)
    for encoder in runtimes:
        encoder.encode_images(pixels[:8])
        started = time.perf_counter()
        encoder.encode_images(pixels)
        rate = len(pixels) / (time.perf_counter() - started)
        started = time.perf_counter()
        for _ in range(10):
            encoder.encode_texts(["two dogs in the snow"])
        print(f"{encoder.runtime}: {rate:.1f} images/s, {(time.perf_counter() - started) * 100:.1f} ms a text")
