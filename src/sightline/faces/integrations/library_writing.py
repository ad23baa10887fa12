"""A text model at work on a library: captions merged picture by picture, albums named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.core.captioning.editing import write_caption
from sightline.errors import InputError
from sightline.faces.integrations.albums import cluster_vectors, name_groups
from sightline.faces.integrations.rewriting import Style, merge_captions
from sightline.faces.integrations.text_generation import TextGenerator, Written
from sightline.kit.config import expand

if TYPE_CHECKING:
    from sightline.core.library import Library
    from sightline.core.types import Caption, ImageRecord

_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class MergedImage:
    """A picture of the library with its merged captions."""

    image: ImageRecord
    captions: tuple[str, ...]
    written: Written
    kept: bool = False
    """True where the text is now the user's caption of the picture."""


@dataclass(frozen=True, kw_only=True)
class NamedAlbum:
    """A folder or cluster with its name."""

    key: str
    written: Written
    images: tuple[ImageRecord, ...]
    captioned: int
    """Number of the images that have captions."""


def merge_in_library(
    library: Library,
    generator: TextGenerator | None,
    *,
    paths: Sequence[Path] = (),
    max_chars: int = 125,
    style: Style = "sentence",
    keep: bool = False,
) -> Iterator[MergedImage]:
    """Merge the captions of the pictures named (default: of all that have captions), as they are done.

    With `keep`, what the model wrote becomes the user's caption; one that the user has is never replaced. Raises
    InputError for a path that isn't in the library or has no captions.
    """
    todo = _captioned(library, paths)
    for start in range(0, len(todo), _AT_ONCE):
        batch = todo[start : start + _AT_ONCE]
        # Told of one picture: the best, and what else was written of it.
        texts = [tuple(dict.fromkeys(caption.text for caption in captions))[:4] for _, captions in batch]
        written = merge_captions(texts, generator, max_chars=max_chars, style=style)
        for (image, captions), given, one in zip(batch, texts, written, strict=True):
            kept = keep and one.changed and all(caption.source != "user" for caption in captions)
            if kept and image.id is not None:
                write_caption(library.store, image.id, one.text)
            yield MergedImage(image=image, captions=given, written=one, kept=kept)


def name_albums(
    library: Library, generator: TextGenerator | None, *, clusters: int | None = None, seed: int = 0
) -> list[NamedAlbum]:
    """Names for the library's folders, or for so many clusters of like pictures; those without captions are left out.

    Raises InputError where nothing has captions, or there are fewer pictures than clusters.
    """
    groups = _by_folder(library) if clusters is None else _by_cluster(library, clusters, seed)
    captions = {key: _best_captions(library, images) for key, images in groups.items()}
    captioned = {key: texts for key, texts in captions.items() if texts}
    if not captioned:
        raise InputError("No picture of this library has a caption to name albums by; run: sightline caption")
    names = name_groups(captioned, generator)
    return [
        NamedAlbum(key=key, written=names[key], images=tuple(groups[key]), captioned=len(captioned[key]))
        for key in captioned
    ]


def _captioned(library: Library, paths: Sequence[Path]) -> list[tuple[ImageRecord, list[Caption]]]:
    records = [_find(library, path) for path in paths] if paths else list(library.store.scan())
    captions = library.store.captions([record.id for record in records if record.id is not None])
    found = [(record, captions[record.id]) for record in records if record.id is not None]
    bare = next((record for record, several in found if not several), None)
    if paths and bare is not None:
        raise InputError(f"{bare.path} has no captions to merge; run: sightline caption {bare.path}")
    return [(record, several) for record, several in found if several]


def _find(library: Library, path: Path) -> ImageRecord:
    record = library.store.find_path(expand(path).absolute())
    if record is None:
        raise InputError(f"{path} is no picture of this library; index its folder first.")
    return record


def _by_folder(library: Library) -> dict[str, list[ImageRecord]]:
    groups: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in library.store.scan():
        groups[str(record.path.parent)].append(record)
    return dict(groups)


def _by_cluster(library: Library, count: int, seed: int) -> dict[str, list[ImageRecord]]:
    ids, vectors_ND = library.store.vectors(library.model)
    clusters = cluster_vectors(vectors_ND, count, seed=seed)
    groups: dict[str, list[ImageRecord]] = {f"cluster {number}": [] for number in range(1, count + 1)}
    for record, cluster in zip(library.store.get(ids.tolist()), clusters, strict=True):
        groups[f"cluster {cluster + 1}"].append(record)
    return groups


def _best_captions(library: Library, images: Sequence[ImageRecord]) -> list[str]:
    captions = library.store.captions([image.id for image in images if image.id is not None])
    return [several[0].text for several in captions.values() if several]
