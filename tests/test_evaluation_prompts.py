import pytest

from sightline.errors import InputError
from sightline.evaluation.prompts import check_template, default_templates, fill, known_prompts, load_prompts


def test_every_set_that_ships_can_be_used():
    assert {"plain", "names", "photos", "thumbnails", "drawings"} <= set(known_prompts())
    for name, templates in known_prompts().items():
        assert templates
        assert len(set(templates)) == len(templates)
        for template in templates:
            check_template(template, where=name)
    assert load_prompts("photos") == default_templates()


def test_a_file_holds_one_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(
        "\ufeffa photo of a {}\n\n# mine\n  the {} of {{braces}}  \r\n".replace("{{", "<"), encoding="utf-8"
    )
    assert load_prompts(str(path)) == ("a photo of a {}", "the {} of <braces}}")


@pytest.mark.parametrize("line", ["a photo", "a {} and a {}", "a {name}"])
def test_a_line_without_exactly_one_hole_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "prompts.txt"
    path.write_text(f"a {{}}\n{line}\n")
    with pytest.raises(InputError, match=r"prompts.txt, line 2: .* exactly once"):
        load_prompts(str(path))


def test_an_empty_file_and_an_unknown_name_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="has no prompt"):
        load_prompts(str(tmp_path / "empty.txt"))
    with pytest.raises(
        InputError, match="'photo' is neither a file nor a set of prompts; the sets are plain, names, ph"
    ):
        load_prompts("photo")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"ein {} f\xfcr dich")
    with pytest.raises(InputError, match="can't be read as UTF-8"):
        load_prompts(str(tmp_path / "latin.txt"))


def test_braces_in_a_name_stay():
    assert fill("a {} here", "{x} {}") == "a {x} {} here"
