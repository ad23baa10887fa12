"""The starter captioner's modules: what it tells its decoder, what that sees, and that its graphs say the same."""

import dataclasses
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blip_folders import make_pixels, tiny_blip
from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import read_card
from sightline.core.models.export import export_captioner
from sightline.core.models.inputs import Tokenizer
from sightline.core.models.onnx_runtime import OnnxCaptioner
from sightline.errors import ModelError

FOLDER = str(Path(__file__).parents[1] / "scripts" / "starter")
sys.path.insert(0, FOLDER)
from lite_captioner import LiteCaptioner, LiteCaptionerConfig, OwnParts  # noqa: E402

sys.path.remove(FOLDER)

CAPTIONER = LiteCaptionerConfig(
    size_px=64, image_width=0.25, image_depth=0.5, nouns=6, classes=9, told=2, vocab_size=30, context_length=8,
    text_width=16, text_layers=2, text_heads=2,
)  # fmt: skip


def images(count=3):
    return torch.randn(count, 3, CAPTIONER.size_px, CAPTIONER.size_px, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def captioner():
    torch.manual_seed(0)
    model = LiteCaptioner(CAPTIONER).eval()
    for layer in (model.nouns, model.classes):
        torch.nn.init.zeros_(layer.weight)
    model.nouns.bias.data = torch.tensor([-9.0, 2.0, -9.0, 1.0, -9.0, -9.0])
    model.classes.bias.data = torch.tensor([0.0, 0, 0, 9, 0, 0, 0, 0, 7])
    return model


def test_the_likeliest_nouns_and_classes_are_found_with_their_probabilities(captioner):
    concept_BT, sure_BT = captioner.find_concepts(torch.randn(2, 1280))
    assert concept_BT.tolist() == [[1, 3, 6 + 3, 6 + 8]] * 2
    expected = torch.cat([torch.tensor([2.0, 1.0]).sigmoid(), captioner.classes.bias.softmax(0)[[3, 8]]])
    torch.testing.assert_close(sure_BT, expected.expand(2, 4))


def test_the_memory_is_cells_and_what_was_found_in_them(captioner):
    memory_BNE = captioner.encode_images(images())
    assert memory_BNE.shape == (3, 4 + 4, 16)
    renamed = LiteCaptioner(CAPTIONER).eval()
    renamed.load_state_dict(captioner.state_dict())
    renamed.concepts.weight.data[[0, 1]] = renamed.concepts.weight.data[[1, 0]]  # what stands for a noun changes
    changed_N = (renamed.encode_images(images()) != memory_BNE).any(2).any(0)
    assert changed_N.tolist() == [False] * 4 + [True, False, False, False]


def test_a_told_concept_changes_what_is_said_and_nothing_looks_ahead(captioner):
    ids, memory = torch.tensor([[1, 5, 6, 7]]), captioner.encode_images(images(1))
    logits = captioner.decode(ids, memory)
    assert logits.shape == (1, 4, 30)
    assert not torch.allclose(logits, captioner.decode(ids, memory[:, :-1]))
    torch.testing.assert_close(logits[:, :2], captioner.decode(torch.tensor([[1, 5, 9, 9]]), memory)[:, :2])


def test_a_saved_captioner_loads_as_what_it_is(captioner, tmp_path):
    captioner.save_pretrained(tmp_path / "lite")
    loaded = LiteCaptioner.from_pretrained(tmp_path / "lite")
    torch.testing.assert_close(loaded.encode_images(images(1)), captioner.encode_images(images(1)))
    with pytest.raises(ModelError, match=r"has no config\.json"):
        LiteCaptioner.from_pretrained(tmp_path)


def test_a_captioner_cant_be_told_more_than_it_knows():
    with pytest.raises(ModelError, match=r"told \(7\) must be at most nouns \(6\) and classes \(9\)"):
        dataclasses.replace(CAPTIONER, told=7)


def test_its_graphs_write_what_the_modules_find_likeliest(tmp_path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = LiteCaptioner(replace(CAPTIONER, size_px=32, vocab_size=60, context_length=12, text_layers=1)).eval()
    with torch.no_grad():
        model.tokens.weight.normal_(std=1.0)
    model.save_pretrained(tmp_path / "own")
    shutil.copyfile(tiny_blip() / "vocab.txt", tmp_path / "own" / "vocab.txt")
    card = read_card(tiny_blip())
    text = replace(card.text, context_length=12, bos_id=2, eos_id=3)
    card = replace(card, family="sightline-captioner", text=text)
    export_captioner(card, tmp_path / "own", tmp_path / "out", parts=OwnParts(model))
    assert json.loads((tmp_path / "out" / "sightline.json").read_text())["family"] == "sightline-captioner"
    pixels = make_pixels(3, 32)
    captioner = OnnxCaptioner(read_card(tmp_path / "out"), tmp_path / "out", threads=1)
    written = captioner.generate(pixels, GenerationConfig(beams=1, max_tokens=8, min_tokens=1, no_repeat_ngram=0))
    cells = model.encode_images(torch.from_numpy(card.preprocessing.normalise(pixels)))
    for image, (caption,) in enumerate(written):
        ids = [2]
        while len(ids) <= 8 and ids[-1] != 3:
            logits = model.decode(torch.tensor([ids]), cells[image : image + 1])[0, -1]
            logits[[0, 2]] = -torch.inf
            if len(ids) == 1:
                logits[3] = -torch.inf
            ids.append(int(logits.argmax()))
        assert caption.text == Tokenizer.load(tmp_path / "own", text).decode(ids[1:])
