"""The lock: `requirements/lock.txt` and `requirements/lowest.txt`, made anew from the ranges of `pyproject.toml`.

`lock.txt` holds the newest versions that the ranges admit, for every system and Python that we support, as constraints
for plain pip; `lowest.txt` holds the lower bounds. `make lock` runs this in an environment with uv, which resolves
both.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")

_HEADER = """\
# Exact versions that are tested together, made by `make lock` for Linux (x86-64, arm64) and macOS (arm64), CPython 3.11
# to 3.14. `make demo` and `make test` install with them, and so can you: pip install -c requirements/lock.txt .
# torch's dependencies are those of its CPU build; a CUDA build brings its own libraries along.
"""
_LOWEST_HEADER = """\
# The lower bounds of pyproject.toml and what they need, made by `make lock` for CPython 3.11 on Linux. `make lowest`
# runs the tests with them.
"""
_ENVIRONMENT = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}  # onnxruntime has no wheels for older ones
_PYTHON = re.compile(r"python_full_version (?:<|>=) '3\.1[0-4]'")


def main() -> int:
    """Write both files, then see that every system finds wheels of the locked versions."""
    lock = REPOSITORY / "requirements" / "lock.txt"
    lines = _compile("--universal", "--python-version", PYTHONS[0]).splitlines()
    lock.write_text(_HEADER + "".join(f"{_shorten(line)}\n" for line in lines), encoding="utf-8")
    lowest = _compile(
        "--resolution", "lowest-direct", "--python-version", PYTHONS[0], "--python-platform", PLATFORMS[0]
    )
    (REPOSITORY / "requirements" / "lowest.txt").write_text(_LOWEST_HEADER + lowest, encoding="utf-8")
    return max([_check(lock, python, platform) for python in PYTHONS for platform in PLATFORMS])


def _shorten(line: str) -> str:
    """A line without the markers that a constraint needs not: only what differs between Pythons counts."""
    version, _, marker = line.partition(" ; ")
    bounds = dict.fromkeys(_PYTHON.findall(marker))
    return f"{version} ; {' and '.join(bounds)}" if bounds else version


def _check(lock: Path, python: str, platform: str) -> int:
    """0 where a system's installer would find a wheel for everything that the lock names, else 1."""
    arguments = ("--constraint", str(lock), "--python-version", python, "--python-platform", platform)
    try:
        _compile(*arguments, "--only-binary", ":all:")
    except subprocess.CalledProcessError as error:
        print(f"{python} on {platform}:\n{error.stderr}", file=sys.stderr)
        return 1
    print(f"{python} on {platform}: wheels of every locked version")
    return 0


def _compile(*arguments: str) -> str:
    """What uv resolves. Raises CalledProcessError where it can't."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--all-extras", "--strip-extras"]
    command += ["--no-header", "--no-annotate", "--quiet", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, env=_ENVIRONMENT).stdout


if __name__ == "__main__":
    sys.exit(main())
