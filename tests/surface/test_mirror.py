"""The tests mirror the source: each module has a test file of its name, or a test file whose docstring covers it."""

import ast
import re

from import_graph import ROOT, find_module

SOURCE = ROOT / "src" / "sightline"
SMALL_LINES = 60
"""A module up to this length is tested by way of those that use it."""

TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def covered():
    """Modules that test files say they cover: `Covers: sightline.a.b, sightline.c.` in the docstring."""
    for test in TESTS:
        told = ast.get_docstring(ast.parse(test.read_text("utf-8"))) or ""
        for listed in re.findall(r"^Covers: ([\w., \n]+)\.$", told, re.MULTILINE):
            yield from re.split(r",\s+", listed)


def has_mirror(module):
    """Is there a `test_<room>_<module>*.py`? Wings have no part in names of tests, nor have routes of the web app."""
    name = re.sub(r"^(core|lab|faces)\.", "", module.removeprefix("sightline.")).replace(".", "_")
    mirror = re.compile(rf"test_({name}|{name.replace('web_routes_', 'web_')})(_\w+)?")
    return any(mirror.fullmatch(test.stem) for test in TESTS)


def test_every_module_has_a_test_of_its_name_or_one_that_covers_it():
    paths = [path for path in SOURCE.rglob("*.py") if not path.name.startswith("__")]
    large = [path for path in paths if len(path.read_text("utf-8").splitlines()) > SMALL_LINES]
    modules = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in large}
    assert len(modules) > 100
    assert sorted(module for module in modules - set(covered()) if not has_mirror(module)) == []


def test_what_is_covered_exists_and_has_no_test_of_its_own():
    listed = list(covered())
    assert [module for module in listed if not find_module(module)] == []
    assert [module for module in listed if has_mirror(module)] == []
    assert len(listed) == len(set(listed))
