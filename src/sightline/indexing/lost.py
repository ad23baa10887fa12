"""Forgetting files that are gone: at the end of a run, after a second look, and never for want of a disk."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Set
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sightline.indexing.spool import Scope
from sightline.indexing.writing import uninterrupted

if TYPE_CHECKING:
    from sightline.indexing.plan import Plan
    from sightline.indexing.report import IndexReport
    from sightline.store.base import Store


class LostFile(NamedTuple):
    """A known file that a walk did not meet; millions of them may be held at once."""

    scope: Scope
    key: str
    """Path below the scope's folder."""
    certain: bool
    """Whether it is to be forgotten without a second look: it was left out by pattern, say."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.scope.folder / self.key


def is_gone(path: Path, *, follow_symlinks: bool = True) -> bool:
    """Whether nothing is there; what can't be looked at counts as there."""
    try:
        path.stat(follow_symlinks=follow_symlinks)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def forget_lost(store: Store, plan: Plan, report: IndexReport, *, prune: bool) -> None:
    """Delete the rows and failures of files that are still gone, and warn of those that are kept.

    Rows that another process moved or removed meanwhile are left alone.
    """
    look = _SecondLook(plan.populated, prune=prune)
    gone = []
    for id_, file in plan.lost.items():
        row = store.find_path(file.path)
        if row is not None and row.id == id_ and look.confirms(file):
            gone.append(id_)
    report.warnings += look.warnings()
    failures: dict[Path, list[str]] = defaultdict(list)
    for file in plan.lost_failures:
        if look.confirms(file):
            failures[file.scope.root].append(file.scope.relative_of(file.key))
    with uninterrupted():
        report.removed += store.delete(gone) if gone else 0
        for root, relatives in failures.items():
            store.forget_failures(root, relatives)


class _SecondLook:
    """Tells files that someone deleted from those whose disk is not there.

    What is left of a lost file's path decides, from the file upwards: a folder in which images were found shows that
    its disk is there; one that is empty, a link to nowhere, or unreadable may be waiting for a disk to be mounted.
    """

    def __init__(self, populated: Mapping[Scope, Set[str]], *, prune: bool) -> None:
        self._populated = populated
        self._prune = prune
        self._kept: Counter[Path] = Counter()
        self._find_remains = cache(self._climb)

    def confirms(self, file: LostFile) -> bool:
        if file.certain:
            return True
        if not is_gone(file.path):
            return False
        remains = self._find_remains(file.scope, file.key.rpartition("/")[0])
        if self._prune or remains in self._populated[file.scope]:
            return True
        self._kept[file.scope.folder / remains] += 1
        return False

    def _climb(self, scope: Scope, folder: str) -> str:
        """The nearest folder upwards that is still there in some form; at most the scope's own."""
        while folder and is_gone(scope.folder / folder, follow_symlinks=False):
            folder = folder.rpartition("/")[0]
        return folder

    def warnings(self) -> list[str]:
        return [
            f"{folder} is missing or has no image left, as a disk that is not mounted: its {count:,} images are kept "
            "in the library. If they are really gone, index again with --prune."
            for folder, count in self._kept.items()
        ]
