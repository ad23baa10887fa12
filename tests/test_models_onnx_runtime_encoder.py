"""The ONNX runtime: our folders and the published layout, in a process that has no torch."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from model_folders import TEXTS, cosines, random_pixels, source_and_export, write_published_layout
from sightline.core.models import inputs, onnx_runtime
from sightline.core.models.cards import find_card, read_card, write_card
from sightline.core.models.loading import load_encoder
from sightline.core.models.onnx_runtime import OnnxEncoder
from sightline.errors import ModelError

pytest.importorskip("torch", reason="the folders are made with the extra torch")

RUN_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
import numpy as np
from sightline.core.models.loading import load_encoder
encoder = load_encoder(sys.argv[1])
side = encoder.card.preprocessing.size_px
pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
np.savez(sys.argv[2], images=encoder.encode_images(pixels), texts=encoder.encode_texts(["a dog", "snow " * 99]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return source_and_export(tmp_path_factory, "clip")


@pytest.fixture
def encoder(folders):
    return load_encoder(f"dir:{folders[1]}")


def run_without_torch(name, out):
    subprocess.run([sys.executable, "-W", "error", "-c", RUN_WITHOUT_TORCH, name, str(out)], check=True)
    return np.load(out)


def test_the_published_layout_runs_without_torch(folders, tmp_path):
    published = write_published_layout(tmp_path / "published", *folders)
    made = run_without_torch(f"dir:{published}", tmp_path / "out.npz")
    reference = load_encoder(f"dir:{folders[0]}", runtime="torch")
    images = reference.encode_images(random_pixels(3, 32))
    assert cosines(made["images"], images).min() > 0.9999
    assert cosines(made["texts"], reference.encode_texts(["a dog", "snow " * 99])).min() > 0.9999


def test_a_cached_published_export_is_the_model_of_its_card(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    card = find_card("ViT-B-32/openai")
    snapshot = tmp_path / "models--Xenova--clip-vit-base-patch32" / "snapshots" / card.onnx.revision
    write_published_layout(snapshot, *folders)
    with pytest.raises(ModelError, match="is not what the model's card says"):
        load_encoder(card)
    tiny = load_encoder(f"dir:{folders[0]}", runtime="torch").card
    tiny_b32 = dataclasses.replace(card, files={}, dim=16, text=tiny.text, preprocessing=tiny.preprocessing)
    encoder = load_encoder(tiny_b32)
    assert encoder.identity.name == "ViT-B-32/openai"
    assert encoder.identity.weights_hash == card.weights_hash
    assert encoder.encode_maps(random_pixels(1, 32)) is not None


def test_siglips_published_graphs_name_their_output_differently(tmp_path_factory, tmp_path):
    """onnx-community's SigLIP 2 export calls both outputs `pooler_output`."""
    onnx = pytest.importorskip("onnx")
    _, export = source_and_export(tmp_path_factory, "siglip")
    reference = load_encoder(f"dir:{export}")
    (tmp_path / "onnx").mkdir()
    for name, published, output in (("image", "vision", "image_embeds"), ("text", "text", "text_embeds")):
        model = onnx.load(export / "onnx" / f"{name}.onnx")
        for node in model.graph.node:
            node.output[:] = ["pooler_output" if value == output else value for value in node.output]
        model.graph.output[0].name = "pooler_output"
        onnx.save(model, tmp_path / "onnx" / f"{published}_model.onnx")
    (tmp_path / "tokenizer.json").write_bytes((export / "tokenizer.json").read_bytes())
    encoder = OnnxEncoder(reference.card, tmp_path, weights_hash="0")
    assert cosines(encoder.encode_texts(TEXTS), reference.encode_texts(TEXTS)).min() > 0.99999
    assert (
        cosines(encoder.encode_images(random_pixels(2, 32)), reference.encode_images(random_pixels(2, 32))).min()
        > 0.99999
    )


def test_a_large_batch_equals_its_parts(encoder, monkeypatch):
    pixels, texts = random_pixels(7, 32), [f"dog {'snow ' * (index % 5)}" for index in range(9)]
    images, embeds = encoder.encode_images(pixels), encoder.encode_texts(texts)
    maps = encoder.encode_maps(pixels)
    monkeypatch.setattr(onnx_runtime, "CPU_IMAGES_PER_RUN", 3)
    monkeypatch.setattr(inputs, "TEXTS_PER_RUN", 2)
    np.testing.assert_allclose(encoder.encode_images(pixels), images, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_maps(pixels), maps, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(texts), embeds, atol=1e-6)


def test_batches_given_to_the_runtime_are_bounded(encoder, monkeypatch):
    sizes = []
    graph = encoder._image_tower(19).graph
    run = graph.run
    monkeypatch.setattr(
        graph, "run", lambda feeds, names: sizes.append(len(feeds["pixel_values"])) or run(feeds, names)
    )
    encoder.encode_images(random_pixels(19, 32))
    assert sorted(sizes) == [3, 8, 8]  # threads run them side by side, in any order


def test_int8_graphs_are_used_where_they_are_all_there_is(folders, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folders[1] / name).read_bytes())
    write_card(tmp_path, dataclasses.replace(read_card(folders[1]), files={}))
    (tmp_path / "onnx").mkdir()
    for name in ("image", "text"):
        (tmp_path / "onnx" / f"{name}.int8.onnx").write_bytes((folders[1] / "onnx" / f"{name}.onnx").read_bytes())
    assert load_encoder(f"dir:{tmp_path}").precision == "int8"
    (tmp_path / "onnx" / "text.onnx").write_bytes(b"broken, and preferred")
    with pytest.raises(ModelError, match=r"text\.onnx can't be loaded"):
        load_encoder(f"dir:{tmp_path}").encode_texts(["a dog"])


def test_a_card_that_does_not_fit_its_graphs_is_refused(folders):
    card = load_encoder(f"dir:{folders[1]}").card
    with pytest.raises(ModelError, match="gives 16 dimensions, the card"):
        OnnxEncoder(dataclasses.replace(card, dim=512), folders[1], weights_hash="0").encode_texts(["a dog"])
    with pytest.raises(ModelError, match="doesn't say how many dimensions"):
        OnnxEncoder(dataclasses.replace(card, dim=None), folders[1], weights_hash="0")
    onnx = dataclasses.replace(find_card("ViT-B-32/openai").onnx, image="onnx/text.onnx", text="onnx/text.onnx")
    with pytest.raises(ModelError, match="has no ONNX graphs"):
        OnnxEncoder(dataclasses.replace(card, onnx=onnx), folders[0], weights_hash="0")


def test_a_graph_with_other_outputs_is_refused(folders, tmp_path):
    (tmp_path / "onnx").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folders[1] / name).read_bytes())
    for name in ("image", "text"):
        (tmp_path / "onnx" / f"{name}.onnx").write_bytes((folders[1] / "onnx" / "text.onnx").read_bytes())
    with pytest.raises(ModelError, match="has the outputs text_embeds; expected one of image_embeds"):
        OnnxEncoder(load_encoder(f"dir:{folders[1]}").card, tmp_path, weights_hash="0").encode_images(
            random_pixels(1, 32)
        )


def test_words_open_no_image_tower(encoder, folders):
    fresh = OnnxEncoder(encoder.card, folders[1], weights_hash="0")
    fresh.encode_texts(["a dog"])
    assert fresh._image_towers == {}
    fresh.encode_images(random_pixels(1, 32))
    assert list(fresh._image_towers) == [False]


def test_many_images_run_side_by_side_and_few_together(encoder, folders, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "usable_cpus", lambda: 3)
    pixels = random_pixels(13, 32)
    expected = encoder.encode_images(pixels[:2])
    assert list(encoder._image_towers) == [False]
    several = encoder.encode_images(pixels)
    assert list(encoder._image_towers) == [False, True]
    np.testing.assert_allclose(several[:2], expected, atol=1e-6)
    alone = OnnxEncoder(encoder.card, folders[1], weights_hash="0", threads=1)
    np.testing.assert_allclose(alone.encode_images(pixels), several, atol=1e-6)
    assert list(alone._image_towers) == [False]  # whoever asks for threads gets those
    np.testing.assert_allclose(encoder.encode_maps(pixels), alone.encode_maps(pixels), atol=1e-5)


def test_one_copy_of_the_weights_serves_both(encoder, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "usable_cpus", lambda: 2)
    encoder.encode_images(random_pixels(9, 32))
    encoder.encode_images(random_pixels(1, 32))
    assert list(encoder._image_towers) == [True]
    assert encoder.runtime.startswith("onnx:")
