"""`scripts/web_types.py`: the types of the page's scripts are those of the service's answers."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("pydantic")

SCRIPT = Path(__file__).parents[1] / "scripts" / "web_types.py"


def test_the_types_of_the_scripts_are_those_that_the_schemas_make():
    spec = importlib.util.spec_from_file_location("web_types", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.TARGET.read_text(encoding="utf-8") == script.render_types(), "run: python scripts/web_types.py"
