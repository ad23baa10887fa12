"""Run the notebooks from top to bottom and keep what they show.

    python notebooks/run.py [--smoke] [--keep DIR] [NAME...]

A full run writes the outputs into the notebook, whole or not at all, and only where every cell ran and all claims held.
`--smoke` shrinks everything to seconds, checks that each cell runs, and writes nothing. `--keep DIR` also writes what
was run there, whatever came of it: to look at what failed.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from claims import SMOKE_VARIABLE
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).resolve().parent
CELL_TIMEOUT_S = 15 * 60
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where all notebooks ran; 1, and nothing written of those that didn't; 130 when interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks; all of the folder if none is named")
    parser.add_argument("--smoke", action="store_true", help="tiny settings, no output is written")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write what was run there, failed or not")
    options = parser.parse_args(arguments)
    try:
        paths = find_notebooks(options.names)
    except FileNotFoundError as error:
        parser.error(str(error))
    try:
        failed = [path.name for path in paths if not _run_and_tell(path, smoke=options.smoke, keep=options.keep)]
    except KeyboardInterrupt:
        print("Stopped; the notebook that was running is as it was.", file=sys.stderr)
        return 130
    return 1 if failed else 0


def find_notebooks(names: Sequence[str]) -> list[Path]:
    """The files of notebooks by name, with or without `.ipynb`. Raises FileNotFoundError for one that isn't there."""
    known = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    stems = [Path(name).name.removesuffix(".ipynb") for name in names] or list(known)
    if unknown := [stem for stem in stems if stem not in known]:
        raise FileNotFoundError(f"there is no notebook {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[stem] for stem in stems]


def _run_and_tell(path: Path, *, smoke: bool, keep: Path | None) -> bool:
    print(f"{path.name}: running{' as a smoke run' if smoke else ''} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        notebook = execute(path, smoke=smoke, keep=keep)
        if not smoke:
            write_notebook(notebook, path)
    except (CellExecutionError, CellTimeoutError, DeadKernelError, ValueError) as error:
        print(f"{path.name}: failed, nothing was written.\n{error}", file=sys.stderr)
        return False
    print(f"{path.name}: done in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return True


def execute(path: Path, *, smoke: bool = False, keep: Path | None = None) -> nbformat.NotebookNode:
    """The notebook with new outputs, tidied; the file stays as it is. What ran is written to a folder to keep it in.

    Raises nbclient's errors where a cell fails, takes too long or kills its kernel, ValueError where an output shows a
    path of this machine.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="sightline-notebook-") as scratch:
        environment = {**os.environ, "IPYTHONDIR": scratch, SMOKE_VARIABLE: "1" if smoke else ""}
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",  # that of the interpreter that runs this
            record_timing=False,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": str(path.parent)}},
        )
        try:
            client.execute(env=environment)
        finally:
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                write_notebook(notebook, keep / path.name)
    tidy(notebook)
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave only what says something: no times, no versions, no metadata of the machine.

    Raises ValueError where an output holds a path of this machine.
    """
    notebook.metadata = nbformat.from_dict({"kernelspec": _KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.metadata = nbformat.from_dict({})
        cell.id = f"cell-{number:02d}"
        for output in cell.get("outputs", []):
            if found := sorted({private for text in _texts(output) for private in _private_paths() if private in text}):
                raise ValueError(f"An output of cell {number} shows {', '.join(found)}, which is of this machine only.")


def _texts(output: Any) -> Iterator[str]:
    """What an output says, pictures left out."""
    yield output.get("text", "")
    for kind, data in output.get("data", {}).items():
        if not kind.startswith("image/"):
            yield str(data)


def _private_paths() -> list[str]:
    """Beginnings of paths that mean nothing elsewhere."""
    folders = [FOLDER.parent, Path.home(), Path(tempfile.gettempdir()), *_study_folders()]
    return [str(folder) for folder in folders if len(folder.parts) > 1] + [f"/home/{getpass.getuser()}"]


def _study_folders() -> list[Path]:
    named = os.environ.get("SIGHTLINE_STUDY")
    return [Path(named).resolve()] if named else []


def write_notebook(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    nbformat.validate(notebook)
    partial = path.with_name(f".{path.name}.partial")
    try:
        nbformat.write(notebook, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
