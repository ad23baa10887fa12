"""The door to encoders: which model a new library gets, and what asking costs."""

import dataclasses

import pytest

from sightline.core.models import hub, loading
from sightline.core.models.cards import find_card
from sightline.core.models.loading import default_model_name, load_encoder
from sightline.errors import ModelError


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def answer(question, *, says, asked):
    asked.append(question)
    return says


def test_a_model_that_can_run_now_is_taken_without_asking(monkeypatch):
    monkeypatch.setattr(loading, "is_available", lambda card: card.name == "ViT-B-32/openai")
    assert default_model_name(confirm=lambda question: pytest.fail("asked")) == ("ViT-B-32/openai", None)


def test_without_a_terminal_nothing_is_asked_or_fetched(monkeypatch):
    monkeypatch.setattr(hub, "hub_answers", lambda *_args, **_options: pytest.fail("touched the network"))
    name, notice = default_model_name(confirm=None)
    assert name == "starter"
    assert "sightline models pull ViT-B-32/openai" in notice


def test_an_unreachable_hub_asks_nothing():
    name, notice = default_model_name(confirm=lambda question: pytest.fail("asked"))
    assert name == "starter"
    assert notice


def test_yes_fetches_after_one_question_with_the_size(monkeypatch):
    asked, fetched = [], []
    monkeypatch.setattr(hub, "hub_answers", lambda *_args, **_options: True)
    monkeypatch.setattr(loading, "resolve_folder", lambda card, download: fetched.append((card.name, download)))
    chosen = default_model_name(confirm=lambda question: answer(question, says=True, asked=asked))
    assert chosen == ("ViT-B-32/openai", None)
    assert len(asked) == 1
    assert "608 MB" in asked[0]
    assert fetched == [("ViT-B-32/openai", True)]


def test_no_gives_the_starter_and_fetches_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "hub_answers", lambda *_args, **_options: True)
    monkeypatch.setattr(loading, "resolve_folder", lambda *_args, **_options: pytest.fail("fetched"))
    name, notice = default_model_name(confirm=lambda question: answer(question, says=False, asked=asked))
    assert name == "starter"
    assert notice
    assert len(asked) == 1


def test_the_size_is_asked_for_where_the_card_has_none(monkeypatch):
    card = dataclasses.replace(find_card("ViT-B-32/openai"), size_bytes=None)
    asked = []
    monkeypatch.setattr(loading, "find_card", lambda name: card)
    monkeypatch.setattr(hub, "hub_answers", lambda *_args, **_options: True)
    monkeypatch.setattr(hub, "download_size", lambda *_args, **_options: 123_000_000)
    default_model_name(confirm=lambda question: answer(question, says=False, asked=asked))
    assert "123 MB" in asked[0]


def test_captioners_and_unknown_names_are_refused():
    with pytest.raises(ModelError, match="is a captioner"):
        load_encoder("blip-base")
    with pytest.raises(ModelError, match="Did you mean"):
        load_encoder("startr")
