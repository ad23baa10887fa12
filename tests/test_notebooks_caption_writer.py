"""The notebooks' language model: how it is trained, and the weights that lie beside the notebooks."""

import gzip
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SHIPPED = NOTEBOOKS / "caption-writer"
LARGEST_BYTES = 3_000_000
NOUNS, VERBS, PLACES = ("dog", "cat", "boy", "horse"), ("runs", "sits", "plays"), ("on grass", "by the sea")
DOCUMENTS = [[f"a {n} {v} {p}", f"the {n} {v}", f"a {n} {p}"] for n in NOUNS for v in VERBS for p in PLACES]


@pytest.fixture(scope="module")
def writer():
    spec = importlib.util.spec_from_file_location("caption_writer", NOTEBOOKS / "caption_writer.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def shipped():
    return AutoModelForCausalLM.from_pretrained(SHIPPED), AutoTokenizer.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def small(writer):
    config = writer.WriterConfig(
        vocabulary=320, width=16, layers=1, heads=2, longest=64, batch=8, epochs=3, lr=0.02, warmup_steps=2
    )
    return config, writer.make_tokenizer(DOCUMENTS, config)


def test_what_is_shipped_is_small_safe_and_says_its_terms():
    files = list(SHIPPED.iterdir())
    assert sum(file.stat().st_size for file in files) <= LARGEST_BYTES
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".py")]
    assert "non-commercial research and educational use" in (SHIPPED / "README.md").read_text("utf-8")
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.json"} <= {file.name for file in files}


def test_the_shipped_model_knows_captions(writer, shipped):
    model, tokenizer = shipped
    told = json.loads((SHIPPED / writer.LOG_FILE).read_text("utf-8"))
    assert model.num_parameters() == told["parameters"]
    assert told["epochs"][-1]["val_loss"] < told["baselines"]["pairs of tokens"] - 0.3

    def mean_log_probability(text):
        ids = tokenizer(f"{text}\n", return_tensors="pt")["input_ids"]
        return float(writer.log_probability(model, ids, pad=tokenizer.pad_token_id).mean())

    assert mean_log_probability("A dog is running through the grass") > -2.5
    assert mean_log_probability("grass the through running is dog a") < -5


def test_its_chat_template_takes_what_a_request_quotes(shipped):
    _, tokenizer = shipped
    request = [{"role": "user", "content": 'Text in JSON: ["a dog", "a brown dog"]\nWrite one sentence.'}]
    assert tokenizer.apply_chat_template(request, tokenize=False) == "<start>a dog\na brown dog\n"


def test_training_learns_and_goes_on_where_it_was_stopped(writer, small, tmp_path):
    config, tokenizer = small
    learned, held_out = writer.split(DOCUMENTS, held_out=6)
    corpora = writer.Corpus(learned, tokenizer, config), writer.Corpus(held_out, tokenizer, config)
    whole = writer.make_model(tokenizer, config)
    losses = [row["val_loss"] for row in writer.train(whole, corpora, config)]
    assert losses[-1] < losses[0] < writer.count_baselines(*corpora, vocabulary=len(tokenizer))["guessing"]

    state = tmp_path / "state.pt"
    next(writer.train(writer.make_model(tokenizer, config), corpora, config, state=state))
    resumed = writer.make_model(tokenizer, replace(config, seed=5))  # its weights come from the state
    assert [row["epoch"] for row in writer.train(resumed, corpora, config, state=state)] == [2, 3]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_the_loss_is_the_mean_surprise_without_padding(writer, small):
    config, tokenizer = small
    model, pad = writer.make_model(tokenizer, config).eval(), tokenizer.pad_token_id
    ids = torch.tensor([[1, 7, 8, 9, 2], [1, 9, 2, pad, pad]])
    log_BL = writer.log_probability(model, ids, pad=pad)
    loss = writer.next_token_loss(model(ids, attention_mask=(ids != pad).long()).logits, ids, pad=pad)
    assert loss.item() == pytest.approx(-log_BL.sum().item() / 6, rel=1e-5)
    alone = writer.log_probability(model, ids[1:, :3], pad=pad)
    assert torch.allclose(log_BL[1:, :2], alone, atol=1e-5)


def test_saved_models_load_again_and_compute_in_full_precision(writer, small, tmp_path):
    config, tokenizer = small
    model = writer.make_model(tokenizer, config).eval()
    writer.save(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    ids = AutoTokenizer.from_pretrained(tmp_path)("A dog", return_tensors="pt")["input_ids"]
    assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=0.01)


def test_captions_are_read_by_fives_and_stay_with_their_image(writer, tmp_path):
    lines = [f"Caption {n} of {image} ." for image in range(26) for n in range(5)]
    (tmp_path / "plain.txt").write_text("\n".join(lines))
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    plain = writer.read_documents(str(tmp_path / "plain.txt"))
    assert plain == writer.read_documents(str(tmp_path / "packed.txt.gz"))
    assert plain[1] == [f"caption {n} of 1" for n in range(5)]
    assert len(writer.read_documents("scenes:0", limit=3)) == 3
    learned, held_out = writer.split(plain)
    assert len(learned) == 24
    assert [lines[0] for lines in held_out] == ["caption 0 of 0", "caption 0 of 25"]


def test_captions_are_described_by_their_pairs_of_words(writer):
    told = writer.describe_captions(["a dog a dog", "a dog"])
    assert told == {"words": 3.0, "distinct_pairs": 0.5, "repeated_pairs": pytest.approx(1 / 6)}
