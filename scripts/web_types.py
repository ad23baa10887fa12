"""The types of the API's answers for the page's scripts: `python scripts/web_types.py` writes `types.js` anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from sightline.faces.service import schemas

TARGET = Path(__file__).parents[1] / "src/sightline/faces/web/static/js/types.js"

_SHOWN = (
    schemas.SearchAnswer,
    schemas.ImageAnswer,
    schemas.HeatmapAnswer,
    schemas.DualCaptionAnswer,
    schemas.JobAnswer,
    schemas.ModelAnswer,
    schemas.DuplicatesAnswer,
    schemas.MovesAnswer,
    schemas.FoldersAnswer,
    schemas.RunDetailAnswer,
    schemas.RunAnswer,
    schemas.StatsAnswer,
    schemas.WordAnswer,
)
_NAMES = {"SearchAnswer": "SearchAnswer", "ImageAnswer": "Picture", "ModelAnswer": "ModelEntry"}
"""Where a script's name for an answer is another one than its own without `Answer`."""

_HEAD = """\
/**
 * What the server answers, as the scripts use it. Nothing here runs. Made by `python scripts/web_types.py`.
"""
_PLAIN = {"integer": "number", "number": "number", "string": "string", "boolean": "boolean", "null": "null"}


def render_types() -> str:
    """The file, made from the schemas of the answers."""
    _, found = models_json_schema([(model, "serialization") for model in _SHOWN], ref_template="{model}")
    return "".join(
        [_HEAD, *(_describe(name, schema) for name, schema in found["$defs"].items()), " */\n\nexport {};\n"]
    )


def _describe(name: str, schema: dict[str, Any]) -> str:
    lines = [f" *\n * @typedef {{object}} {_name(name)}\n"]
    lines += [f" * @property {{{_type(field)}}} {key}\n" for key, field in schema["properties"].items()]
    return "".join(lines)


def _name(model: str) -> str:
    return _NAMES.get(model, model.removesuffix("Answer"))


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return _name(field["$ref"])
    if "anyOf" in field or "enum" in field:
        return " | ".join(_alternatives(field))
    match field.get("type"):
        case "array":
            inner = _type(field["items"])
            return f"({inner})[]" if " " in inner else f"{inner}[]"
        case "object":
            values = field.get("additionalProperties")
            return f"Record<string, {_type(values) if isinstance(values, dict) else 'any'}>"
        case str(kind):
            return _PLAIN[kind]
        case _:
            return "any"


def _alternatives(field: dict[str, Any]) -> Iterator[str]:
    yield from map(_type, field.get("anyOf", ()))
    yield from map(json.dumps, field.get("enum", ()))


if __name__ == "__main__":
    TARGET.write_text(render_types(), encoding="utf-8")
