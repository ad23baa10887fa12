"""Imports of the tests, scripts, benchmarks, notebooks and documents: each module and each name in it exists."""

import ast
import json

import pytest

from documented import blocks_of
from import_graph import ROOT, find_import, find_module, imported_names, names_of


def codes():
    """Where it stands, and the Python there: of files, of a notebook's cells, of a page's blocks."""
    for folder in ("tests", "scripts", "benchmarks", "notebooks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"], 1):
            if cell["cell_type"] == "code":
                yield f"{path.name}, cell {number}", "".join(cell["source"])
    for page in ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))):
        yield from ((block.place, block.code) for block in blocks_of(page) if block.is_python)


def missing_imports(code):
    """What Python code imports from the package that isn't there."""
    for module, name in imported_names(ast.parse(code)):
        if module.partition(".")[0] == "sightline":
            file = find_module(module)
            if file is None:
                yield module
            elif name and not find_module(f"{module}.{name}") and name not in names_of(file):
                yield f"{module}.{name}"


def test_whatever_is_imported_from_the_package_exists():
    found = {place: sorted(missing_imports(code)) for place, code in codes()}
    assert len(found) > 250
    assert {place: missing for place, missing in found.items() if missing} == {}


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("import sightline.nowhere", "sightline.nowhere"),
        ("from sightline.nowhere import Library", "sightline.nowhere"),
        ("def late():\n    from sightline.core.library import Libary", "sightline.core.library.Libary"),
        ("from sightline import Libary", "sightline.Libary"),
    ],
)
def test_an_import_of_nothing_would_be_found(code, missing):
    assert list(missing_imports(code)) == [missing]


@pytest.mark.parametrize(
    ("file", "package"),
    [
        ("test_models_lite.py", "onnx"),
        ("test_models_precision_captioner.py", "torch"),  # by a helper that it imports
        ("test_training_loop.py", "torch"),
        ("test_training_config.py", None),
        ("test_training_towers.py", None),  # it skips itself
    ],
)
def test_the_test_files_that_need_an_extra_are_found(file, package):
    assert find_import(ROOT / "tests" / file, {"onnx", "torch"}) == package
