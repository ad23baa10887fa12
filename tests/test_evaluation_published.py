import pytest

from sightline.evaluation.published import load_published, pull_commands
from sightline.models.registry import find_card


def test_every_figure_has_a_model_that_we_know_and_a_source():
    tables = load_published()
    assert {table.key for table in tables} == {"imagenet", "flickr8k", "flickr30k", "coco"}
    for table in tables:
        assert table.source.startswith("github.com/")
        assert "commit" in table.source
        for model, figures in table.metrics.items():
            assert find_card(model).kind == "encoder"
            assert all(0 < figure < 1 for figure in figures.values())


def test_recall_grows_with_k():
    for table in load_published():
        for figures in table.metrics.values():
            for name in ("image_retrieval_recall@", "text_retrieval_recall@"):
                recalls = [figures[key] for k in (1, 5, 10) if (key := f"{name}{k}") in figures]
                assert recalls == sorted(recalls)


@pytest.mark.parametrize("model", ["ViT-B-32/openai", "ViT-B-16/openai", "ViT-L-14/openai"])
def test_they_agree_with_the_cards(model):
    published = next(table for table in load_published() if table.key == "imagenet").metrics[model]["acc1"]
    assert find_card(model).figures["imagenet_zeroshot_acc1"] == pytest.approx(published, abs=0.002)


def test_commands_repeat_them():
    tables = load_published()
    assert pull_commands(tables)[0] == "sightline models pull ViT-B-32/openai"
    assert len(pull_commands(tables)) == 4
    command = next(table for table in tables if table.key == "flickr30k").command
    assert command.startswith("sightline compare --models ViT-B-32/openai,ViT-B-16/openai,")
    assert command.endswith("--data flickr30k:PATH --split test")


def test_headlines_are_the_strictest_of_each_kind():
    headlines = {table.key: table.headlines for table in load_published()}
    assert headlines["imagenet"] == ["acc1"]
    assert headlines["coco"] == ["image_retrieval_recall@1", "text_retrieval_recall@1"]
