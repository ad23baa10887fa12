"""Prompt templates: sentences with `{}` where the name of a class goes."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path

from sightline.errors import InputError

DEFAULT_PROMPTS = "photos"
HOLE = "{}"


@cache
def known_prompts() -> dict[str, tuple[str, ...]]:
    """The sets of templates that Sightline brings, by name."""
    text = resources.files("sightline.evaluation").joinpath("prompts.toml").read_text(encoding="utf-8")
    return {name: tuple(values["templates"]) for name, values in tomllib.loads(text).items()}


def default_templates() -> tuple[str, ...]:
    """The set that is used when none is named."""
    return known_prompts()[DEFAULT_PROMPTS]


def load_prompts(name_or_path: str) -> tuple[str, ...]:
    """Templates of a known set, or of a file with one on each line (empty lines and those from `#` are passed over).

    Raises InputError for a name that is neither, and for a line without exactly one `{}`.
    """
    if name_or_path in known_prompts():
        return known_prompts()[name_or_path]
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        known = ", ".join(known_prompts())
        raise InputError(f"{name_or_path!r} is neither a file nor a set of prompts; the sets are {known}.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read as UTF-8 text: {error}") from error
    templates = [
        check_template(line.strip(), where=f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    ]
    if not templates:
        raise InputError(f"{path} has no prompt; write one on each line, such as: a photo of a {HOLE}")
    return tuple(templates)


def check_template(template: str, *, where: str) -> str:
    """The template. Raises InputError, naming `where`, unless it holds exactly one `{}`."""
    if template.count(HOLE) != 1:
        raise InputError(f"{where}: {template!r} must hold {HOLE} exactly once, where the name of the class goes.")
    return template


def fill(template: str, name: str) -> str:
    """The sentence of one class; braces in the name stay as they are."""
    return template.replace(HOLE, name)
