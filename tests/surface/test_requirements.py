from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
RANGES = [
    Requirement(line)
    for line in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    if Requirement(line).name != PROJECT["name"]
]
OPTIONAL = {"datasets": "the message of `data/hugging_face.py` names it; few sets need it, and it is large"}


def read_pins(name: str) -> list[Requirement]:
    lines = (REPOSITORY / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def pinned(name: str, package: str) -> list[Version]:
    """A package's versions in a lock: more than one where Pythons differ."""
    pins = [pin for pin in read_pins(name) if canonicalize_name(pin.name) == canonicalize_name(package)]
    return [Version(spec.version) for pin in pins for spec in pin.specifier]


def test_requirements_file_lists_what_pyproject_lists() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == PROJECT["dependencies"]


def test_extra_all_holds_every_extra_that_users_need() -> None:
    (requirement,) = EXTRAS["all"]
    assert Requirement(requirement).extras == set(EXTRAS) - {"all", "dev", "ocr"}  # ocr brings 200 MB, with OpenCV


@pytest.mark.parametrize("requirement", RANGES, ids=lambda one: one.name)
def test_every_range_has_two_ends_and_the_locks_hold_to_them(requirement: Requirement) -> None:
    ends = {spec.operator: spec.version for spec in requirement.specifier}
    assert set(ends) == {">=", "<"}
    locked = pinned("lock.txt", requirement.name)
    assert locked, "run `make lock`"
    assert all(version in requirement.specifier for version in locked), "run `make lock`"
    (lowest,) = pinned("lowest.txt", requirement.name)
    assert str(lowest).startswith(str(Version(ends[">="]))), "the lower bound isn't what `make lowest` tests"


@pytest.mark.parametrize("name", ["lock.txt", "lowest.txt"])
def test_locks_name_exact_versions_and_nothing_of_cuda(name: str) -> None:
    pins = read_pins(name)
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in pins)
    assert not [pin.name for pin in pins if re.match(r"nvidia|cuda|triton", pin.name)]


def test_one_python_has_one_version_of_each_package() -> None:
    for version in ("3.11", "3.12", "3.13", "3.14"):
        environment = {"python_full_version": f"{version}.0", "python_version": version}
        names = [pin.name for pin in read_pins("lock.txt") if pin.marker is None or pin.marker.evaluate(environment)]
        assert len(names) == len(set(names))


def test_what_is_imported_is_declared() -> None:
    declared = {canonicalize_name(one.name) for one in RANGES}
    missing = {
        name: module
        for name, module in third_party_imports().items()
        if not declared & {canonicalize_name(one) for one in packages_distributions().get(name, [name])}
    }
    assert not missing


@cache
def third_party_imports() -> dict[str, str]:
    """Packages that modules of ours import, each with one that does."""
    known = {*sys.stdlib_module_names, "sightline", *OPTIONAL}
    found: dict[str, str] = {}
    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.append(node.module)
            found |= {top: path.name for name in names if (top := name.partition(".")[0]) not in known}
    return found
