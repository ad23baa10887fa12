import pytest

from sightline.kit.text import neutralise, one_line, printable, valid_text, visible

ODD = "a\nb\x1b[31m\udcff‮c"


def test_a_terminal_is_shown_what_steers_it_and_can_copy_odd_names():
    assert printable(ODD) == "a\\nb\\x1b[31m\udcff\\u202ec"


def test_a_line_is_one_line_and_no_longer_than_asked():
    assert one_line("  a\n\n b\x00c ") == "a b c"
    assert one_line("a" * 12, max_chars=10) == "a" * 10 + "..."
    assert one_line(7) == "7"


def test_pages_and_answers_hold_valid_text():
    assert visible(ODD) == "a�b�[31m�‮c"
    assert valid_text(ODD).encode("utf-8").decode("utf-8") == "a\nb\x1b[31m�‮c"


@pytest.mark.parametrize("hidden", ["\n", "\x1b", "‮", "\U000e0041", "\U000e0100"])
def test_nothing_hides_from_an_assistant(hidden):
    shown = neutralise(f"name{hidden}.jpg", max_chars=100)
    assert shown.isprintable()
    assert "\\" in shown


def test_what_is_too_long_is_cut():
    assert neutralise("b" * 50, max_chars=10) == "b" * 9 + "…"
