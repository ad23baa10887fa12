"""Pictures in a column of parquet files, read a row group at a time."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.core.images.files import explain_os_error
from sightline.errors import ImageError, InputError, install_advice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_CACHED_BYTES = 512 * 2**20
_MAX_CACHED_FILES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetImage:
    """A picture in a row of a parquet file, as the bytes of an image file."""

    path: Path
    row: int
    column: str = "image"

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) uint8. Raises ImageError where the row can't be read or decoded."""
        from sightline.core.images.decode import read_picture

        return read_picture(self.read_bytes(), min_side_px=min_side_px).rgb

    def read_bytes(self) -> bytes:
        """The picture's file as the row holds it. Raises ImageError where it can't be read."""
        try:
            group, row = _locate(self.path, self.row)
            data = _columns.read(self.path, group, self.column)[row].as_py()
        except OSError as error:  # pyarrow's too, for damaged files
            reason = explain_os_error(error) if error.errno is not None else "damaged parquet file"
            raise ImageError(reason) from error
        if not isinstance(data, bytes):
            raise ImageError("the row holds no picture")
        return data


def import_pyarrow() -> Any:
    """The module `pyarrow.parquet`. Raises InputError with what to install where it is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"Parquet files need pyarrow: {install_advice('train')}") from error
    return pyarrow.parquet


def read_columns(path: Path, columns: list[str], *, beside: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Whole columns of a file as lists.

    Raises InputError for a damaged file, and for columns that it doesn't have, those `beside` them included.
    """
    parquet = import_pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            missing = [name for name in (*columns, *beside) if name not in file.schema_arrow.names]
            if missing:
                has = ", ".join(file.schema_arrow.names)
                raise InputError(f"{path} has no column {', '.join(missing)}; its columns are {has}.")
            return dict(file.read(columns=columns).to_pydict())
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise InputError(f"{path} can't be read as parquet: {str(error).splitlines()[0]}") from error


@lru_cache(maxsize=_MAX_CACHED_FILES)
def _starts_of_groups(path: Path) -> tuple[int, ...]:
    """The first row of each row group, and the number of all rows."""
    try:
        metadata = import_pyarrow().read_metadata(path)
    except ValueError as error:  # ArrowInvalid
        raise ImageError("damaged parquet file") from error
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return tuple(accumulate(sizes, initial=0))


def _locate(path: Path, row: int) -> tuple[int, int]:
    """Row group, and row in it."""
    starts = _starts_of_groups(path)
    if not 0 <= row < starts[-1]:
        raise ImageError("the parquet file has fewer rows than when it was listed")
    group = bisect_right(starts, row) - 1
    return group, row - starts[group]


@dataclass
class _ColumnCache:
    """The columns read last, up to a total size: pictures are mostly asked for in order. Shared by all threads."""

    columns: OrderedDict[tuple[Path, int, str], Any] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, path: Path, group: int, column: str) -> Any:
        key = (path, group, column)
        with self.lock:
            if key not in self.columns:
                self.columns[key] = _read_group(path, group, column)
                while len(self.columns) > 1 and sum(c.nbytes for c in self.columns.values()) > _MAX_CACHED_BYTES:
                    self.columns.popitem(last=False)
            self.columns.move_to_end(key)
            return self.columns[key]


def _read_group(path: Path, group: int, column: str) -> Any:
    try:
        with import_pyarrow().ParquetFile(path) as file:
            return file.read_row_group(group, columns=[column]).column(column)
    except (ValueError, KeyError) as error:
        raise ImageError("damaged parquet file") from error


_columns = _ColumnCache()
