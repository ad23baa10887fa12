"""Some images of a set that its publisher gives as archives: its captions whole, and N images of each part one by one.

Which ones follows from their names alone, so the same command on another machine brings the same, and a larger number
adds to a smaller one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sightline.errors import DataError, ImageError, InputError
from sightline.kit.files import explained, replacing
from sightline.kit.work import Progress
from sightline.lab.data.captioned_files import check_name, read_json
from sightline.lab.data.download.archives import (
    GO_ON,
    Archive,
    ArchiveOptions,
    FetchProgress,
    Phase,
    Publisher,
    get_archives,
)
from sightline.lab.data.download.fetching import run_apart
from sightline.lab.data.download.lists import Get, ListOptions, fetching

_CAPTIONS = "annotations"
"""The part that holds captions, which every subset needs."""


@dataclass(frozen=True, kw_only=True)
class SubsetReport:
    """The images of one part that lie in its folder, those of earlier runs included."""

    part: str
    wanted: int
    images: int
    reasons: dict[str, int]
    """Why others didn't come -> how many, the most frequent first."""


def get_subset(
    publisher: Publisher,
    folder: Path,
    archives: ArchiveOptions,
    *,
    count: int,
    options: ListOptions,
    on_progress: FetchProgress,
) -> list[SubsetReport]:
    """Bring captions and `count` images of each part into `folder`, laid out as the archives would be.

    Images that are there already are not asked for. Raises InputError for a publisher without single images, DataError
    where captions can't be fetched or the folder can't be written.
    """
    if _CAPTIONS not in {archive.part for archive in publisher.archives}:
        raise InputError(f"--images takes a part of coco; {publisher.name} has no single images. Leave it out.")
    parts = publisher.choose(archives.parts)
    get_archives(publisher, folder, replace(archives, parts=(_CAPTIONS,)), on_progress=on_progress)
    site = (archives.mirror or publisher.site).rstrip("/")
    reports = []
    for archive in parts:
        if archive.part == _CAPTIONS:
            continue
        names = _choose_names(folder, archive, count)
        missing = [name for name in names if not (folder / name).is_file()]
        tell = partial(on_progress, Phase("getting", f"images of {archive.part}"))
        with explained(folder, GO_ON, error=DataError):
            reasons = run_apart(partial(_get_images, site, missing, folder, options, tell)) if missing else Counter()
        lost = dict(reasons.most_common())
        reports.append(
            SubsetReport(part=archive.part, wanted=len(names), images=len(names) - reasons.total(), reasons=lost)
        )
    return reports


def _choose_names(folder: Path, archive: Archive, count: int) -> list[str]:
    """Names of `count` of a part's images below `folder`, by a hash of their names."""
    inside = archive.members.rpartition("/")[0]
    captions = folder / "annotations" / f"captions_{inside}.json"
    content = read_json(captions)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) and "file_name" in image for image in images):
        raise InputError(f"{captions}: COCO's list `images` was expected. Delete it to fetch it anew.")
    names = [check_name(image["file_name"], where=str(captions)) for image in images]
    chosen = sorted(names, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())[:count]
    return [f"{inside}/{name}" for name in sorted(chosen)]


async def _get_images(
    site: str, names: Sequence[str], folder: Path, options: ListOptions, tell: Progress
) -> Counter[str]:
    """Fetch, check and write images; the reasons why some didn't come, with their number."""
    reasons: Counter[str] = Counter()
    waiting = iter(names)
    done = 0
    for place in {(folder / name).parent for name in names}:
        place.mkdir(parents=True, exist_ok=True)

    async def work(get: Get) -> None:
        nonlocal done
        for name in waiting:
            try:
                kept = await get(f"{site}/{name}")
                with replacing(folder / name) as path:
                    path.write_bytes(kept.data)
            except ImageError as error:
                reasons[error.reason] += 1
            done += 1
            tell(done, len(names), f"images, {reasons.total():,} failed")

    async with fetching(options) as (group, get):
        for _ in range(min(options.connections, len(names))):
            group.create_task(work(get))
    return reasons
