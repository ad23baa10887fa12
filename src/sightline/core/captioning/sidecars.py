"""A text file beside each photo, as training tools read them: `photo.jpg` -> `photo.txt`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sightline.core.captioning.dual import DualCaption
from sightline.core.captioning.writers import CaptionWriter, Existing, Plan, explain_write_errors
from sightline.core.images.files import is_image_name
from sightline.errors import InputError


class SidecarWriter(CaptionWriter):
    """Writes each image's best caption to `<stem>.txt`, beside it or at the same place below another folder.

    Where photos of one folder share a stem (`a.jpg`, `a.png`), each gets `<full name>.txt` instead (`a.jpg.txt`), so
    that no photo is given another's caption, whichever are captioned and in whatever order.
    """

    def __init__(self, folder: Path | None = None, *, roots: tuple[Path, ...] = (), existing: Existing) -> None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; text files of captions need a folder, such as --output captions/")
        self._folder = folder
        self._roots = tuple(dict.fromkeys(root.absolute() for root in roots if root.is_dir()))
        self._existing = existing
        self._stems: dict[Path, Counter[str]] = {}

    def target(self, path: Path) -> Path:
        """The text file of a photo."""
        name = path.stem if is_image_name(path.name) and not self._shares_stem(path) else path.name
        return self._place(path.absolute().parent) / f"{name}.txt"

    def _place(self, folder: Path) -> Path:
        if self._folder is None:
            return folder
        root = next((root for root in self._roots if root == folder or root in folder.parents), None)
        if root is None:
            return self._folder
        below = folder.relative_to(root)
        return self._folder / below if len(self._roots) == 1 else self._folder / root.name / below

    def plan(self, paths: Iterable[Path]) -> Plan:
        """As promised; also raises InputError where two photos of different folders would share a text file."""
        photos = {path.absolute(): path for path in paths}
        targets = Counter(self.target(path) for path in photos)
        if shared := next((target for target, number in targets.items() if number > 1), None):
            raise InputError(f"Several photos would share {shared}. Caption their folders in separate runs.")
        if self._existing == "refuse" and (taken := [target for target in targets if target.exists()]):
            raise InputError(
                f"{len(taken)} of {len(photos)} photos have a text file already, the first is {taken[0]}. "
                "Keep these with --skip-existing, or write them anew with --overwrite."
            )
        return super().plan(photos.values())

    def has(self, path: Path) -> bool:
        """Whether the photo's text file exists; never, where they are to be replaced."""
        return self._existing != "replace" and self.target(path).exists()

    def write(self, caption: DualCaption) -> None:
        """Write the best caption, one line; the file appears whole or not at all."""
        target = self.target(caption.path)
        if self.has(caption.path):
            raise InputError(f"{target} exists. Keep it with --skip-existing, or write it anew with --overwrite.")
        partial = target.with_name(f".sightline-{os.getpid()}.partial")
        with explain_write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_text(f"{caption.best.text}\n", encoding="utf-8")
                partial.replace(target)
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is kept open."""

    def _shares_stem(self, path: Path) -> bool:
        """Whether another image of the folder has this stem, upper and lower case alike (as on macOS and Windows)."""
        folder = path.absolute().parent
        if folder not in self._stems:
            self._stems[folder] = _count_stems(folder)
        return self._stems[folder][path.stem.casefold()] != 1


def _count_stems(folder: Path) -> Counter[str]:
    """Stems of a folder's images; empty where it can't be listed, so that full names are used there."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return Counter()
    return Counter(Path(name).stem.casefold() for name in names if is_image_name(name))
