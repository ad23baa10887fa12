import re
import subprocess
import sys
from importlib import resources

import jinja2
import pytest
from markupsafe import Markup

from page_checks import read_page
from sightline.errors import InputError
from sightline.kit.pages import _environment, render_page, write_page

HOSTILE = "<script>alert('x')</script> & \"more\""
ESCAPED = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;more&quot;"


TWO_SECTIONS = (Markup("<section>One</section>"), Markup("<section>Two</section>"))


def make_page(*, title="Title", lead="Lead", sections=TWO_SECTIONS):
    template = """{% extends "kit/page.html" %}
{% block style %}
.own { color: var(--accent); }
{% endblock %}
{% block main %}{% for section in sections %}{{ section }}{% endfor %}{% endblock %}"""
    return _environment().from_string(template).render(title=title, lead=lead, sections=sections)


def show(value):
    return _environment().from_string("{{ value }}").render(value=value)


def test_a_page_loads_nothing_and_shows_its_sections_in_order():
    images, text = read_page(make_page())
    assert images == []
    assert text.endswith("Title Lead One Two")


def test_a_page_has_the_shared_style_before_its_own():
    style = re.search(r"<style>\n(.*?)</style>", make_page(), re.S)[1]
    assert style.startswith(shared_style())
    assert style.endswith("\n.own { color: var(--accent); }\n")
    assert "prefers-color-scheme: dark" in style


def test_title_and_lead_are_text():
    page = make_page(title=HOSTILE, lead=HOSTILE)
    _, text = read_page(page)
    assert "<script" not in page
    assert text.count(HOSTILE) == 3  # title, heading, lead


def test_what_is_escaped_can_end_no_tag_and_no_attribute():
    assert show("<a href='x'>\"&\"") == "&lt;a href=&#x27;x&#x27;&gt;&quot;&amp;&quot;"
    assert show("caf\udce9\x1b[31m\nnight") == "caf\ufffd\ufffd[31m\ufffdnight"


def test_a_template_escapes_what_is_text_and_shows_parts_as_they_are():
    well = render_page("lab/evaluation/well.html", reason=f"{HOSTILE}\x1b\udce9")
    assert well.strip() == f'<div class="well"><p>can’t be read: {ESCAPED}\ufffd\ufffd</p></div>'
    page = make_page(title=HOSTILE, lead=7, sections=[well, HOSTILE])
    assert well in page
    assert page.count(ESCAPED) == 4  # title, heading, well, section
    assert "<script" not in page


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="'lead' is undefined"):
        render_page("kit/page.html", title="Title")


def test_templates_are_read_only_where_a_page_is_made():
    code = "import sys, sightline.lab.evaluation.qualitative; print('jinja2' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_letters_of_all_scripts_survive_escaping():
    assert show("Straße 東京 👩‍🚀 می‌خواهم") == "Straße 東京 👩‍🚀 می‌خواهم"


def test_a_page_is_written_whole_into_folders_that_are_made_and_replaces_an_older_one(tmp_path):
    target = tmp_path / "new" / "deep" / "p.html"
    for page in ("first", "the second é"):
        assert write_page(target, page) == target
        assert target.read_text(encoding="utf-8") == page
    assert list(target.parent.iterdir()) == [target]


def test_half_a_character_becomes_a_question_mark(tmp_path):
    assert write_page(tmp_path / "p.html", "caf\udce9").read_bytes() == b"caf?"


def test_a_target_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match=r"can't be written to .*p\.html: .*Choose another place"):
        write_page(tmp_path / "file" / "p.html", "page")
    assert (tmp_path / "file").read_text() == "kept"


def test_nothing_is_left_where_a_page_can_not_take_its_name(tmp_path):
    (tmp_path / "p.html").mkdir()
    with pytest.raises(InputError, match="can't be written to"):
        write_page(tmp_path / "p.html", "page")
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]


def test_colours_reach_contrast_aa_in_light_and_dark():
    blocks = re.findall(r":root \{(.*?)\}", shared_style(), re.S)
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in blocks)
    assert light.keys() == dark.keys()
    for scheme in (light, dark):
        for ground in ("paper", "card", "well", "tint"):
            for ink in ("ink", "soft", "accent", "alarm"):
                assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ink, ground, scheme)


def shared_style():
    return (resources.files("sightline.kit") / "pages.css").read_text(encoding="utf-8")


def contrast(one, other):
    """Contrast ratio of two colours, as WCAG 2.2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
