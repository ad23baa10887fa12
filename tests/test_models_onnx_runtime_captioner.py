"""The ONNX captioner against the PyTorch one, on graphs exported from a BLIP folder with random weights."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from blip_folders import BASE, make_blip_folder, make_pixels, tiny_blip, tiny_blip_onnx
from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import read_card
from sightline.core.models.export import export_captioner
from sightline.core.models.loading import load_captioner
from sightline.core.models.onnx_runtime import OnnxCaptioner, _Grid
from sightline.core.models.precision import write_int8
from sightline.core.models.torch_models import TorchCaptioner
from sightline.errors import ModelError

GREEDY = GenerationConfig(beams=1, max_tokens=12, min_tokens=1, no_repeat_ngram=0)
BEAM = replace(GREEDY, beams=3, num_candidates=3, no_repeat_ngram=3)


@pytest.fixture(scope="module")
def captioner():
    return OnnxCaptioner(read_card(tiny_blip_onnx()), tiny_blip_onnx(), threads=1)


@pytest.fixture(scope="module")
def torch_captioner():
    return TorchCaptioner(read_card(tiny_blip()), tiny_blip(), device="cpu")


def texts_of(captions):
    return [[one.text for one in several] for several in captions]


def log_probs_of(captions):
    return [one.log_prob for several in captions for one in several]


@pytest.mark.parametrize("config", [GREEDY, BEAM, replace(GREEDY, prompt="two dog")])
def test_both_runtimes_write_the_same(captioner, torch_captioner, config):
    pixels = make_pixels(20, 32)
    ours, theirs = captioner.generate(pixels, config), torch_captioner.generate(pixels, config)
    assert texts_of(ours) == texts_of(theirs)
    assert len({texts[0] for texts in texts_of(ours)}) > len(pixels) // 2, "the captions must depend on the images"
    np.testing.assert_allclose(log_probs_of(ours), log_probs_of(theirs), atol=1e-4)


def test_both_runtimes_score_the_same(captioner, torch_captioner):
    pixels = make_pixels(3, 32)
    texts = [["a dog on the grass", "two men"], [], ["snow"] * (17)]
    ours, theirs = captioner.score(pixels, texts), torch_captioner.score(pixels, texts)
    assert [len(several) for several in ours] == [2, 0, 17]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


def test_a_folder_without_graphs_is_refused():
    with pytest.raises(ModelError, match=r"lacks the graphs of a captioner, onnx/image\.onnx and onnx/decoder\.onnx"):
        OnnxCaptioner(read_card(tiny_blip()), tiny_blip())


def test_a_decoder_without_a_cache_is_refused(tmp_path):
    shutil.copytree(tiny_blip_onnx(), tmp_path / "model")
    graphs = tmp_path / "model" / "onnx"
    shutil.copyfile(graphs / "image.onnx", graphs / "decoder.onnx")
    with pytest.raises(ModelError, match=r"keeps nothing of earlier tokens.*exported again"):
        OnnxCaptioner(read_card(tmp_path / "model"), tmp_path / "model", threads=1)


def test_quantised_graphs_are_used_where_there_are_no_others(captioner, tmp_path):
    shutil.copytree(tiny_blip_onnx(), tmp_path / "model")
    for name in ("image", "decoder"):
        (tmp_path / "model" / "onnx" / f"{name}.onnx").rename(tmp_path / "model" / "onnx" / f"{name}.int8.onnx")
    quantised = OnnxCaptioner(captioner.card, tmp_path / "model", threads=1)
    pixels = make_pixels(2, 32)
    assert quantised.generate(pixels, GREEDY) == captioner.generate(pixels, GREEDY)


def test_int8_captions_are_nearly_those_of_fp32_and_depend_on_nothing_else_in_the_batch(captioner, tmp_path):
    graphs = {name: tmp_path / f"{name}.int8.onnx" for name in ("image", "decoder")}
    for name, path in graphs.items():
        write_int8(tiny_blip_onnx() / "onnx" / f"{name}.onnx", path)
    quantised = OnnxCaptioner(captioner.card, tiny_blip_onnx(), graphs=graphs, threads=1)
    assert (captioner.precision, quantised.precision) == ("fp32", "int8")
    pixels = make_pixels(6, 32)
    together = quantised.generate(pixels, BEAM)
    assert together == [several for one in pixels for several in quantised.generate(one[None], BEAM)]
    texts = [[one.text for one in several] for several in captioner.generate(pixels, GREEDY)]
    np.testing.assert_allclose(quantised.score(pixels, texts), captioner.score(pixels, texts), rtol=0.1)


def test_only_the_newest_token_is_computed(captioner, monkeypatch):
    run, lengths = captioner._decoder.run, []

    def counted(feeds, outputs=None):
        lengths.append(feeds["input_ids"].shape)
        return run(feeds, outputs)

    monkeypatch.setattr(captioner._decoder, "run", counted)
    captioner.generate(make_pixels(2, 32), replace(BEAM, prompt="two dog", min_tokens=8))
    assert lengths[0] == (2, 1, 3), "the prompt at once, one row an image"
    assert {new for _, _, new in lengths[1:]} == {1}
    assert len(lengths) > 6


@pytest.mark.parametrize("images", [[0, 0, 2, 1], [3], [1, 1, 1], [2, 0, 1, 0, 2, 2]])
def test_rows_find_their_place_among_those_of_their_image(images):
    grid = _Grid(np.array(images))
    assert list(grid.images) == sorted(set(images))
    counts = [images.count(image) for image in grid.images]
    each = len(grid.rows_G) // len(counts)
    assert each == (max(2, *counts) if len(counts) == 1 else max(counts))
    assert [grid.rows_G[place] for place in grid.place_N] == list(range(len(images)))
    image_of_place = np.repeat(grid.images, each)
    assert [images[row] for row in grid.rows_G] == image_of_place.tolist(), "padding repeats a row of the same image"


@pytest.mark.parametrize("graph", ["image", "decoder"])
def test_graphs_whose_output_is_not_finite_are_refused(tmp_path, graph):
    shutil.copytree(tiny_blip_onnx(), tmp_path / "model")
    path = tmp_path / "model" / "onnx" / f"{graph}.onnx"
    model = onnx.load(path)
    for initializer in model.graph.initializer:
        if initializer.data_type == onnx.TensorProto.FLOAT and len(initializer.dims) == 2:
            values = numpy_helper.to_array(initializer)
            initializer.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), initializer.name))
    onnx.save(model, path)
    damaged = OnnxCaptioner(read_card(tmp_path / "model"), tmp_path / "model", threads=1)
    with pytest.raises(ModelError, match="not finite"):
        damaged.generate(make_pixels(1, 32), GREEDY)
    with pytest.raises(ModelError, match="not finite"):
        damaged.score(make_pixels(1, 32), [["a dog"]])


@pytest.mark.slow
def test_both_runtimes_write_the_same_at_the_shapes_of_blip_base(tmp_path):
    folder = make_blip_folder(tmp_path / "base", BASE)
    card = read_card(folder)
    assert (card.preprocessing.size_px, card.text.bos_id, card.text.eos_id) == (384, 30522, 102)
    export_captioner(card, folder, tmp_path / "exported")
    pixels = make_pixels(2, 384)
    ours = OnnxCaptioner(read_card(tmp_path / "exported"), tmp_path / "exported").generate(pixels, GREEDY)
    theirs = TorchCaptioner(card, folder, device="cpu").generate(pixels, GREEDY)
    assert texts_of(ours) == texts_of(theirs)
    assert ours[0][0].text != ours[1][0].text
    np.testing.assert_allclose(log_probs_of(ours), log_probs_of(theirs), atol=1e-3)


@pytest.mark.hub
@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_blip_base_describes_the_merlion(runtime):
    """The answer that LAVIS prints for docs/_static/merlion.png, with its prompt and lengths."""
    named = os.environ.get("SIGHTLINE_HUB_IMAGES")
    if not named or not (Path(named) / "merlion.png").is_file():
        pytest.skip("set SIGHTLINE_HUB_IMAGES to a folder with LAVIS' merlion.png")
    captioner = load_captioner("blip-base", runtime=runtime, download=True)
    with Image.open(Path(named) / "merlion.png") as image:
        rgb = np.asarray(image.convert("RGB"))
    config = GenerationConfig(beams=3, prompt="a picture of", min_tokens=9, max_tokens=29, no_repeat_ngram=0)
    ((caption,),) = captioner.generate(captioner.card.preprocessing.resize(rgb)[None], config)
    assert caption.text == "a large fountain spewing water into the air"
