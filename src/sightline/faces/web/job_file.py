"""The jobs of a library on disk: a server that is closed, or killed, finds them again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from sightline.errors import StoreError
from sightline.faces.web.models import JobAnswer

_VERSION = 1
_log = logging.getLogger(__name__)


class JobFile:
    """`jobs.json` of a library, which one server at a time owns."""

    def __init__(self, library: Path) -> None:
        self.path = library / "jobs.json"
        self._lock = FileLock(library / "jobs.lock", thread_local=False)

    def own(self) -> bool:
        """Whether this server may run the library's jobs: no other does, now and until `release`.

        Raises StoreError where the library's folder can't be written.
        """
        if not self._lock.is_locked:
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                return False
            except OSError as error:
                raise StoreError(
                    f"{self.path.parent} can't be written ({error.strerror}), so no work can be done in this library."
                ) from error
        return True

    def release(self) -> None:
        """Let another server have them."""
        self._lock.release()

    def load(self) -> list[JobAnswer]:
        """The jobs as they were saved; a file that is damaged is put aside, a job that can't be understood left out."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            return self._put_aside(str(error))
        try:
            saved = json.loads(text)
            if not isinstance(saved, dict) or saved.get("version") != _VERSION or not isinstance(saved["jobs"], list):
                raise ValueError(f"version {_VERSION} was expected")
        except (ValueError, KeyError, RecursionError) as error:
            return self._put_aside(str(error))
        return list(self._understood(saved["jobs"]))

    def save(self, jobs: Iterable[JobAnswer]) -> None:
        """Replace the file whole, as long as this server owns it.

        A disk that refuses costs what is known of the jobs, never the jobs themselves.
        """
        if not self._lock.is_locked:
            return
        text = json.dumps({"version": _VERSION, "jobs": [job.model_dump(mode="json") for job in jobs]})
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as error:
            _log.warning("%s can't be written (%s): a restart would not know of the latest jobs.", self.path, error)

    def _understood(self, saved: Iterable[object]) -> Iterable[JobAnswer]:
        for entry in saved:
            try:
                yield JobAnswer.model_validate(entry)
            except ValidationError as error:
                _log.warning("A job in %s can't be understood and is left out: %s", self.path, error)

    def _put_aside(self, reason: str) -> list[JobAnswer]:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        _log.warning("%s is damaged (%s); it is kept as %s.", self.path, reason, aside.name)
        self.path.replace(aside)
        return []
