"""Images with their captions: in a table or a file such as `metadata.jsonl`, or in a `.txt` beside each image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sightline.core.images.files import explain_os_error, is_image_name
from sightline.errors import InputError
from sightline.kit.config import is_file
from sightline.lab.data.base import Split, in_order
from sightline.lab.data.captioned_files import (
    CaptionedFiles,
    CaptionReader,
    check_name,
    find_split_paths,
    first_line,
    list_some,
    parse_split,
    read_lines,
    read_rows,
    require_split,
    split_named,
)

METADATA = "metadata.jsonl"
COLUMNS = ("filepath", "title")
"""Of tables, by open_clip's names."""

_METADATA_TABLE = "metadata.csv"
_NAME_COLUMNS = ("file_name", "filepath")
_TEXT_COLUMNS = ("text", "caption", "title")
_DELIMITERS = "\t,;"
_SUFFIXES = (".csv", ".tsv")
_NO_SIDECARS = frozenset({"readme", "license", "licence", "notice"})
"""Text files that speak of the folder, not of an image."""


class TableReader(CaptionReader):
    """A table, or a folder of them; several rows of one image add captions; other columns are ignored.

    A column `split` decides where it is there; else a table's name (`train.csv`, `val.tsv`); else all is train.
    Relative paths start at the table's folder. Absolute ones are allowed: open_clip's tables and those that
    `sightline caption` writes have them.
    """

    kind = "csv"

    def recognises(self, path: Path) -> bool:
        """True where a file, or one in a folder, is a table with both columns."""
        return bool(_find_tables(path))

    def read(self, path: Path, *, only: Split | None = None) -> CaptionedFiles:
        """All captions. Raises InputError for wrong columns, a broken row, and several tables that could be meant."""
        files = CaptionedFiles(path)
        for table in [path] if is_file(path) else _choose_tables(path):
            delimiter = _table_delimiter(table)
            if delimiter is None:
                raise _explain_columns(table)
            table_split = split_named(table.stem) or "train"
            for line, row in read_rows(table, delimiter=delimiter):
                where = f"{table}:{line}"
                name = check_name(row["filepath"], where=where, absolute=True)
                split = parse_split(row["split"], where=where) if "split" in row else table_split
                files.add(name, (row["title"],), where=where, split=split)
        return files


def _choose_tables(path: Path) -> list[Path]:
    """A folder's only table, or one for each split."""
    tables = _find_tables(path)
    if by_split := find_split_paths(tables):
        return list(by_split.values())
    if not tables:
        others = sorted(file.name for suffix in _SUFFIXES for file in path.glob(f"*{suffix}"))
        there = f"; {list_some(others)} has other columns" if others else ""
        raise InputError(f"{path} has no CSV or TSV with the columns {' and '.join(COLUMNS)}{there}.")
    if len(tables) > 1:
        names = list_some([table.name for table in tables])
        raise InputError(f"{path} has {len(tables)} tables: {names}. Give one of them: csv:{tables[0]}")
    return tables


def _find_tables(path: Path) -> list[Path]:
    files = [path] if is_file(path) else [file for suffix in _SUFFIXES for file in path.glob(f"*{suffix}")]
    return sorted(file for file in files if file.suffix.lower() in _SUFFIXES and _table_delimiter(file))


def _table_delimiter(path: Path) -> str | None:
    first, second = (_find_delimiter(path, (column,)) for column in COLUMNS)
    return first if first == second else None


def _find_delimiter(path: Path, columns: Sequence[str]) -> str | None:
    """The character between the cells of a table whose header has one of some columns; None for another file."""
    header = first_line(path)
    for delimiter in _DELIMITERS:
        if not {name.strip('" ') for name in header.split(delimiter)}.isdisjoint(columns):
            return delimiter
    return None


def _explain_columns(path: Path) -> InputError:
    next(read_lines(path))  # an empty file, or one that isn't UTF-8, is told as such
    found = max((first_line(path).split(delimiter) for delimiter in _DELIMITERS), key=len)
    shown = ", ".join(repr(name[:40]) for name in found[:8])
    return InputError(f"{path}:1: the columns are {shown}; {' and '.join(COLUMNS)} were expected, split may be.")


class FolderReader(CaptionReader):
    """Images with a file of captions or `.txt` sidecars; folders named train, val, test.

    A file of captions is Hugging Face's `metadata.jsonl` or `metadata.csv`, or what `sightline caption --write` made.
    One at the top alone decides (of the latter only where no folders are named after splits); the split of a line is
    its `split`, else the first folder of its `file_name` where that is a split's name, else train. Otherwise each
    split's folder has its own such file or sidecars; without such folders all is train.
    """

    kind = "folder"

    def recognises(self, path: Path) -> bool:
        """True where a folder, or one of its splits' folders, has a file of captions or an image with a sidecar.

        Tables of other names, such as `captions.csv`, are left to the kind `csv`.
        """
        if not path.is_dir():
            return _is_written(path)
        folders = [path, *_named_after_splits(path)]
        return any(
            is_file(folder / METADATA)
            or _is_table(folder / _METADATA_TABLE)
            or any(map(_is_written, folder.glob("*.jsonl")))
            or has_sidecar(_list_names(folder))
            for folder in folders
        )

    def read(self, path: Path, *, only: Split | None = None) -> CaptionedFiles:
        """All captions, of one split's folder where splits lie in folders of their own.

        Raises InputError for a folder without captions, a broken line (with file and line), a text without its image,
        an image in two splits, and a name that leads out of the folder.
        """
        is_captions = path.suffix.lower() in (".jsonl", *_SUFFIXES) and is_file(path)
        captions = path if is_captions else _find_metadata(path)
        if captions is None and not _named_after_splits(path):
            captions = _find_captions(path)
        files = CaptionedFiles(captions or path)
        if captions is not None:
            _add_captions(files, captions, below="", split=None)
            return files
        folders = find_split_paths(_named_after_splits(path)) or {"train": path}
        if only is not None:
            require_split(only, folders, source=path)
        for split in [only] if only else in_order(folders):
            folder = folders[split]
            if captions := _find_captions(folder):
                _add_captions(files, captions, below="" if folder == path else f"{folder.name}/", split=split)
            else:
                _add_sidecars(files, folder, root=path, split=split)
        return files


def _find_metadata(folder: Path) -> Path | None:
    """Hugging Face's file of captions directly in a folder. Raises InputError where there is no folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Give the folder that holds the images and their captions.")
    return next((folder / name for name in (METADATA, _METADATA_TABLE) if is_file(folder / name)), None)


def _find_captions(folder: Path) -> Path | None:
    """The file of captions directly in a folder. Raises InputError where it could be one of several."""
    if metadata := _find_metadata(folder):
        return metadata
    found = [path for path in sorted(folder.glob("*.jsonl")) if _is_written(path)]
    found += [path for suffix in ("csv", "tsv") for path in sorted(folder.glob(f"*.{suffix}")) if _is_table(path)]
    if len(found) > 1:
        names = list_some([path.name for path in found])
        raise InputError(f"{folder} has {len(found)} files of captions: {names}. Give one of them: folder:{found[0]}")
    return found[0] if found else None


def _is_written(path: Path) -> bool:
    """True for what `sightline caption --write jsonl` makes."""
    start = first_line(path) if path.suffix == ".jsonl" else ""
    return start.startswith("{") and '"path"' in start and '"best"' in start


def _is_table(path: Path) -> bool:
    return _find_delimiter(path, _NAME_COLUMNS) is not None and _find_delimiter(path, _TEXT_COLUMNS) is not None


def _add_captions(files: CaptionedFiles, path: Path, *, below: str, split: Split | None) -> None:
    """Add what a file of captions says; names are those of its folder, or absolute where we wrote them."""
    prefix = f"{Path(os.path.abspath(path.parent)).as_posix()}/"  # noqa: PTH100 - resolve() would follow links
    for where, record in _read_records(path):
        key = next((key for key in (*_NAME_COLUMNS, "path") if key in record), None)
        text_key = next((key for key in (*_TEXT_COLUMNS, "best") if key in record), None)
        if key is None or text_key is None:
            raise InputError(f"{where}: found {', '.join(record) or 'nothing'}; file_name and text were expected.")
        name = check_name(record[key], where=where, absolute=key != "file_name").removeprefix(prefix)
        text = record[text_key]
        texts = [text["text"]] if text_key == "best" and isinstance(text, dict) and "text" in text else text
        line_split = split or _split_of(record, name=name, where=where)
        files.add(below + name, _texts(texts, where=where), where=where, split=line_split)


def _read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line of a JSONL file or row of a table, with its `file:line`."""
    if path.suffix != ".jsonl":
        for number, row in read_rows(path, delimiter=_find_delimiter(path, _NAME_COLUMNS) or ","):
            yield f"{path}:{number}", dict(row)
        return
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: {error}. One JSON object a line was expected; is the file cut off?") from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: found {type(record).__name__}; file_name and text were expected.")
        yield where, record


def _named_after_splits(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return [Path(entry) for entry in entries if split_named(entry.name) and entry.is_dir()]
    except OSError:
        return []


def _list_names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are all that counts, 100,000 of them
    except OSError:
        return []


def _split_of(record: dict[str, Any], *, name: str, where: str) -> Split:
    if "split" in record:
        return parse_split(str(record["split"]), where=where)
    folder, slash, _ = name.partition("/")
    return (split_named(folder) if slash else None) or "train"


def _texts(text: Any, *, where: str) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list) or not all(isinstance(item, str) for item in texts):
        raise InputError(f"{where}: text is {text!r:.80}; a text or a list of texts was expected.")
    return texts


def _add_sidecars(files: CaptionedFiles, folder: Path, *, root: Path, split: Split) -> None:
    """Add each image that has a text file; images without one have no captions and are left out."""
    alone, n_images = [], 0
    for place, names in _walk(folder):
        below = "" if place == root else f"{place.relative_to(root).as_posix()}/"
        paired, unused = pair_sidecars(names, folder=place)
        for name, text_name in paired.items():
            captions = [line for _, line in read_lines(place / text_name)]
            files.add(below + name, captions, where=str(place / text_name), split=split)
        n_images += sum(map(is_image_name, names))
        alone += [below + name for name in unused]
    if alone:
        raise InputError(
            f"{len(alone)} text files of {root} have no image beside them: {list_some(alone)}. Put the images there, "
            "or take the texts away (readme.txt and license.txt may stay)."
        )
    if split not in files.splits():
        raise InputError(
            f"{folder} has {n_images} images and no caption. A {METADATA} with lines like "
            '{"file_name": "photo.jpg", "text": "a caption"} was expected, or a photo.txt beside photo.jpg.'
        )


def has_sidecar(names: list[str]) -> bool:
    """True where one of a folder's files is the text of another, an image."""
    texts = _texts_by_stem(names)
    return any(name in texts or _stem(name) in texts for name in names if is_image_name(name))


def pair_sidecars(names: list[str], *, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Each image of a folder with its text, and the texts that belong to none.

    A text is `a.jpg.txt`, or `a.txt` for the one image `a` that has no such. Raises InputError where it could be of
    several.
    """
    texts = _texts_by_stem(names)
    images = list(filter(is_image_name, names))
    paired = {name: name if name in texts else _stem(name) for name in images if {name, _stem(name)} & texts.keys()}
    sharing: dict[str, list[str]] = {}
    for name, text in paired.items():
        sharing.setdefault(text, []).append(name)
    if several := next((names for names in sharing.values() if len(names) > 1), None):
        unclear = folder / texts[paired[several[0]]]
        raise InputError(f"{unclear} could be of {' or '.join(several)}. Name it after one of them: {several[0]}.txt")
    # a.txt is of an image also where all its images have a text of their full name
    owned = {*images, *map(_stem, images)}
    alone = [text for stem, text in texts.items() if stem not in owned and stem.lower() not in _NO_SIDECARS]
    return {name: texts[stem] for name, stem in paired.items()}, alone


def _texts_by_stem(names: list[str]) -> dict[str, str]:
    """Text files by what stands before `.txt`, upper or lower case."""
    return {_stem(name): name for name in names if name[-4:].lower() == ".txt"}


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - called for every file


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, each with its files by name; hidden ones are passed over."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} can't be read: {explain_os_error(error)}.") from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(place), sorted(name for name in names if not name.startswith("."))


READERS = (FolderReader(), TableReader())
