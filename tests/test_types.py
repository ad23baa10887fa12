import pytest

from sightline.core.types import Caption


@pytest.mark.parametrize("source", ["clip", "generated", "user"])
def test_sources_are_what_they_are(source):
    assert Caption(text="a dog", source=source).source == source


def test_a_caption_of_an_older_version_gets_todays_source():
    assert Caption(text="a dog", source="blip") == Caption(text="a dog", source="generated")  # type: ignore[arg-type]


def test_what_wrote_a_sentence_is_called_by_its_name():
    assert Caption(text="a dog", source="generated", model="starter-captioner").author == "starter-captioner"
    assert Caption(text="a dog", source="generated").author == "generated"
    assert Caption(text="a dog", source="clip", model="starter").author == "clip"
    assert Caption(text="a dog", source="user", model="starter").author == "user"
