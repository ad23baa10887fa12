import re
from collections import Counter
from typing import Any

import pytest

from sightline.core.captioning.bank import (
    MAX_CANDIDATE_CHARS,
    Action,
    Noun,
    Sentence,
    load_bank,
    parse_bank,
    read_candidates,
)
from sightline.core.captioning.rank import open_details
from sightline.errors import InputError

BANK = load_bank()
NOUNS = [option.value for option in BANK.options if isinstance(option.value, Noun)]

JUDGING = (
    "beautiful|ugly|pretty|handsome|attractive|sexy|fat|skinny|obese|poor|rich|homeless|criminal|thief|drunk|"
    "terrorist|immigrant|refugee|foreign|exotic|normal|crazy|insane|disabled|crippled|midget|gay|lesbian|straight|"
    "muslim|christian|jewish|hindu|buddhist|black man|white man|black woman|white woman|asian|african|european|"
    "latino|gypsy|indian|native|tribal|primitive|monkey|ape|gorilla|chimpanzee|orangutan|baboon|slave|prostitute"
)


def compose_all(noun):
    """Every sentence of this noun with one detail, and one with all of them."""
    kind = BANK.kinds[noun.kind]
    bare = Sentence(subject=noun, link=kind.link)
    values: dict[str, list[Any]] = {}
    for detail in open_details(bare, kind):
        facet = "subject" if detail == "companion" else detail
        values[detail] = [o.value for o in BANK.options if o.facet == facet and o.list in kind.lists[detail]]
        yield from (Sentence(subject=noun, link=kind.link, **{detail: value}) for value in values[detail])
    yield Sentence(subject=noun, link=kind.link, **{detail: several[-1] for detail, several in values.items()})


def test_there_are_some_hundreds_of_everything_in_all():
    counts = Counter(option.facet for option in BANK.options)
    assert counts["subject"] > 1000
    assert counts["action"] > 200
    assert counts["place"] > 100
    assert min(counts[facet] for facet in ("attribute", "condition", "medium")) >= 35


@pytest.mark.parametrize("kind", sorted(BANK.kinds))
def test_every_entry_composes_to_clean_english(kind):
    of_kind = [noun for noun in NOUNS if noun.kind == kind]
    assert of_kind
    for sentence in compose_all(of_kind[0]):
        check_english(sentence.text)
    for noun in of_kind:
        check_english(Sentence(subject=noun).text)
        if noun.number == "one":
            check_english(Sentence(subject=noun, count="two").text)


def check_english(text):
    assert re.fullmatch(r"[A-Za-z][A-Za-z' -]*[A-Za-z]", text), text
    assert "  " not in text
    assert not re.search(r"\b(\w+) \1\b", text), text
    assert not re.search(r"\ba (?:[aei]|o(?!ne)|u(?!ni|ku))", text), text
    assert not re.search(r"\ban (?!hour|X-ray)[^aeiouAEIOU]", text), text
    assert not re.search(r"\b(?:two|three|four|several|many) (?:an?|the)\b", text), text
    assert not re.search(r"\b(?:an?|the) (?:an?|the)\b", text), text


def test_no_entry_stands_twice():
    assert [noun for noun, times in Counter(n.text for n in NOUNS).items() if times > 1] == []
    rows = Counter((option.facet, option.list, str(option.value)) for option in BANK.options)
    assert [row for row, times in rows.items() if times > 1] == []


def test_the_common_subjects_are_subjects():
    common = re.search(r"^common = \[(.*?)\]", bank_text(), re.DOTALL | re.MULTILINE)[1]
    assert set(re.findall(r'"([^"]+)"', common)) == {noun.text for noun in NOUNS if noun.common}


def test_nothing_judges_people_or_their_identity():
    words = [option.value.one if isinstance(option.value, Action) else option.prompt for option in BANK.options]
    assert [text for text in words if re.search(rf"\b(?:{JUDGING})s?\b", text, re.IGNORECASE)] == []


def test_no_attribute_is_ever_given_to_people():
    assert [name for name in ("person", "people", "body") if "attribute" in BANK.kinds[name].lists] == []


def bank_text():
    from importlib import resources

    return (resources.files("sightline.core.captioning") / "bank.toml").read_text(encoding="utf-8")


def test_a_kind_that_names_an_unknown_list_is_refused():
    broken = bank_text().replace('condition = ["light", "background"]', 'condition = ["moonlight"]', 1)
    with pytest.raises(InputError, match=r"'body'.*'moonlight'.*condition.*light"):
        parse_bank(broken)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_candidates_are_read_in_order_without_comments_blanks_and_repetitions(tmp_path):
    path = write(tmp_path / "c.txt", "\ufeffa dog\n\n# a comment\n  a   cat \r\na dog\nein Käse\n")
    assert read_candidates(path) == ("a dog", "a cat", "ein Käse")


def test_a_missing_candidates_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.txt can't be read: No such file"):
        read_candidates(tmp_path / "missing.txt")


@pytest.mark.parametrize("content", ["", "\n \n", "# only a comment\n"])
def test_a_candidates_file_without_captions_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="holds no caption"):
        read_candidates(write(tmp_path / "c.txt", content))


def test_candidates_that_are_not_utf8_are_refused_with_the_place(tmp_path):
    with pytest.raises(InputError, match=r"isn't UTF-8 \(byte 6\)"):
        read_candidates(write(tmp_path / "c.txt", b"a dog\n\xff\xfe"))


def test_a_candidate_that_no_model_would_read_to_its_end_is_refused(tmp_path):
    path = write(tmp_path / "c.txt", "fine\n" + "x" * (MAX_CANDIDATE_CHARS + 1))
    with pytest.raises(InputError, match=r"Line 2 .* has 401 characters; at most 400"):
        read_candidates(path)
    assert read_candidates(write(path, "x" * MAX_CANDIDATE_CHARS)) == ("x" * MAX_CANDIDATE_CHARS,)


@pytest.mark.parametrize(
    "text", ["two men on a bench", "A group of friends.", "a ballet dancer", "kids", "a ladies' choir"]
)
def test_people_are_known_by_their_nouns(text):
    assert load_bank().names_people(text)


@pytest.mark.parametrize("text", ["a manual on a table", "a group of dogs", "the woolly monkey", ""])
def test_other_things_are_not_people(text):
    assert not load_bank().names_people(text)
