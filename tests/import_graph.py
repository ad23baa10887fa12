"""Import statements of source files, read without running any, and what an import reaches through others."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "src", ROOT / "tests")
"""Where a module of ours lies: the package by its dotted name, a helper of the tests by its bare one."""


@cache
def find_module(name):
    """File of a module of ours, or None."""
    for folder in FOLDERS:
        path = folder.joinpath(*name.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def imported_names(tree):
    """Pairs of a module and the name that is taken from it, or None where the module itself is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)


@cache
def names_of(file):
    """Every name that a module binds outside its functions and classes, whatever the branch, and those in `__all__`."""
    found, nodes = set(), [ast.parse(file.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            found.update(ast.literal_eval(node.value))
        nodes.extend(ast.iter_child_nodes(node))
    return found


@cache
def steps_of(file):
    """What the import of this file does first to last: (is it an `importorskip`?, name of a module) each."""
    steps = []
    for statement in ast.parse(file.read_text("utf-8")).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for module, name in imported_names(statement):
                steps += [(False, module)] if name is None else [(False, module), (False, f"{module}.{name}")]
        elif asked := re.match(r"(?:\w+ = )?pytest\.importorskip\('(.+?)'", ast.unparse(statement)):
            steps.append((True, asked[1]))
    return steps


def find_import(file, packages, seen=None):
    """One of `packages` without which this file can't be imported, or None. A file that skips itself can."""
    seen = set() if seen is None else seen
    if file in seen:
        return None
    seen.add(file)
    for skips, name in steps_of(file):
        parts = name.split(".")
        if parts[0] in packages:
            return None if skips else parts[0]
        for module in (find_module(".".join(parts[:count])) for count in range(1, len(parts) + 1)):
            if module and (package := find_import(module, packages, seen)):
                return package
    return None
