"""The files that a job passes through: `python scripts/journeys.py` prints a line with their number for each job.

A file counts as entered where one of its functions runs, in any thread; a change is control that passes from one file
to another, by a call or a return. Only files below `src/sightline` count; what runs between two of them is looked
through, and importing a file isn't entering it. Each journey begins cold, in a process of its own. `--list` names the
files; names of journeys choose some. The photos are those of the demo, in a temporary folder.
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import sightline
from sightline.errors import SightlineError

ROOT = Path(sightline.__file__).parent
PHOTOS = 4
WORDS = "a cat"
COMPREHENSIONS = {"<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"}
ONE_STEP = ("batch_size=16", "samples_seen=16")


class Recorder:
    """Counts the files that are entered while it is open, in all threads that start after it was made."""

    def __init__(self) -> None:
        self.entered: Counter[str] = Counter()
        """File -> how often control came into it."""
        self._is_open = False
        self._files: dict[CodeType, str | None] = {}
        self._last: dict[int, str] = {}
        threading.setprofile(self._take)
        sys.setprofile(self._take)

    def __enter__(self) -> Self:
        self._is_open = True
        return self

    def __exit__(self, *error: object) -> None:
        self._is_open = False

    @property
    def changes(self) -> int:
        """The number of times that control passed from one file to another."""
        return max(0, self.entered.total() - len(self._last))

    def _take(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self._is_open or event not in ("call", "return") or (file := self._file_of(frame.f_code)) is None:
            return
        if event == "return":
            back = frame.f_back
            while back is not None and self._file_of(back.f_code) is None:
                back = back.f_back
            file = None if back is None else self._file_of(back.f_code)
        thread = threading.get_ident()
        if file is not None and self._last.get(thread) != file:
            self._last[thread] = file
            self.entered[file] += 1

    def _file_of(self, code: CodeType) -> str | None:
        """A function's file; None for those of others, and for bodies of modules and classes with their loops."""
        if code not in self._files:
            is_body = not code.co_flags & inspect.CO_OPTIMIZED or (
                code.co_name in COMPREHENSIONS and "<locals>" not in code.co_qualname
            )
            is_ours = not is_body and code.co_filename.startswith(f"{ROOT}{os.sep}")
            self._files[code] = str(Path(code.co_filename).relative_to(ROOT)) if is_ours else None
        return self._files[code]


def index(home: Path, recorder: Recorder) -> None:
    """Index 4 photos."""
    with recorder, sightline.Library.open(home / "new-library", model="starter") as library:
        library.index(home / "photos")


def search(home: Path, recorder: Recorder) -> None:
    """A cold search by words."""
    with recorder, sightline.Library.open(home / "library") as library:
        library.search(WORDS)


def caption(home: Path, recorder: Recorder) -> None:
    """Caption 1 photo."""
    photo = next((home / "photos").iterdir())
    with recorder:
        list(sightline.caption([photo], model="starter", captioner="starter-captioner"))


def encoder(home: Path, recorder: Recorder) -> None:
    """Load the starter encoder."""
    with recorder:
        sightline.load_encoder("starter")


def train(home: Path, recorder: Recorder) -> None:
    """One training step on a few rendered scenes, with its measurements."""
    from sightline import lab

    config = sightline.make_config("scenes-scratch", ONE_STEP, smoke=True)
    with recorder:
        lab.train(config, home / "run")


def web(home: Path, recorder: Recorder) -> None:
    """A web search request, in a server that is up."""
    from fastapi.testclient import TestClient

    from sightline.faces.web.app import create_app
    from sightline.faces.web.config import ServeConfig

    config = ServeConfig(libraries=(home / "library",))
    with TestClient(create_app(config), base_url=f"http://127.0.0.1:{config.port}") as client:
        client.headers["X-Sightline-Token"] = config.token
        with recorder:
            client.get("/api/search", params={"q": WORDS}).raise_for_status()


JOURNEYS: dict[str, Callable[[Path, Recorder], None]] = {
    journey.__name__: journey for journey in (index, search, caption, encoder, train, web)
}
NEEDS = {"train": "torch", "web": "fastapi"}
"""Journey -> what must be installed for it besides the core."""
WITHOUT_PHOTOS = {"encoder", "train"}


def measure(name: str, home: Path) -> tuple[int, dict[str, int]]:
    """Make a journey in this process: its changes, and how often each file was entered."""
    recorder = Recorder()
    JOURNEYS[name](home, recorder)
    return recorder.changes, dict(recorder.entered)


def prepare(home: Path) -> None:
    """Photos, and a library that holds them."""
    from sightline.faces.demo.photos import gather_photos, load_photos

    gathered = gather_photos(load_photos(), home / "all")
    (home / "photos").mkdir()
    for photo in gathered.photos[:PHOTOS]:
        (home / "all" / photo.file).rename(home / "photos" / photo.file)
    with sightline.Library.open(home / "library", model="starter") as library:
        library.index(home / "photos")


def main() -> None:
    """Make the journeys and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journeys", nargs="*", metavar="JOURNEY", help=f"of {', '.join(JOURNEYS)} [default: all]")
    parser.add_argument("--list", action="store_true", help="name the files, those entered most often first")
    options = parser.parse_args()
    if unknown := set(options.journeys) - set(JOURNEYS):
        parser.error(f"there is no journey {min(unknown)!r}; there are {', '.join(JOURNEYS)}")
    chosen = options.journeys or list(JOURNEYS)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if not set(chosen) <= WITHOUT_PHOTOS:
            prepare(home)
        for name in chosen:
            if name in NEEDS and find_spec(NEEDS[name]) is None:
                print(f"{name:<8}  left out: it needs {NEEDS[name]}")
                continue
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                changes, entered = pool.apply(measure, (name, home))
            print(f"{name:<8}  {len(entered):>4} files  {changes:>9,} changes  {inspect.getdoc(JOURNEYS[name])}")
            if options.list:
                for file, times in sorted(entered.items(), key=lambda item: -item[1]):
                    print(f"    {times:>9,}  {file}")


if __name__ == "__main__":
    try:
        main()
    except SightlineError as error:
        sys.exit(f"error: {error}")
