"""Pictures of a library by which a model's int8 graphs are judged."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.core.images.decode import read_picture
from sightline.core.images.walk import walk_images
from sightline.core.indexing.plan import Exclusion
from sightline.core.indexing.report import IndexConfig
from sightline.errors import ImageError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sightline.core.images.preprocess import Preprocessing

_MOST_FILES = 50_000
"""Files among which pictures are drawn: enough of any library, and the walk of millions isn't waited for."""
_READ_AT_ONCE = 64


def sample_pictures(
    folders: Sequence[Path], preprocessing: Preprocessing, count: int, *, config: IndexConfig | None = None
) -> NDArray[np.uint8]:
    """Pixels (B, S, S, 3) of `count` pictures below folders, drawn evenly, always the same ones of the same files.

    None of them is read where there are too few files; where too few can be read, those are given. Nothing is said of
    what can't be read: indexing does that.
    """
    import numpy as np

    drawn = draw_files(folders, config=config)
    pictures = list(itertools.islice(_readable(drawn, preprocessing), count)) if len(drawn) >= count else []
    side = preprocessing.size_px
    return np.stack(pictures) if pictures else np.zeros((0, side, side, 3), np.uint8)


def draw_files(folders: Sequence[Path], *, config: IndexConfig | None = None) -> list[Path]:
    """The picture files below folders, shuffled, always alike; a folder that can't be read holds none."""
    config = config or IndexConfig()
    found = sorted(itertools.chain.from_iterable(_files(folder, config, len(folders)) for folder in folders))
    random.Random(0).shuffle(found)
    return found


def _files(folder: Path, config: IndexConfig, n_folders: int) -> Iterable[Path]:
    exclusion = Exclusion(config.exclude, folder)
    try:
        files = walk_images(folder, on_problem=lambda path, reason: None, may_follow=config.may_follow)
    except InputError:  # indexing says what is wrong with a folder
        return []
    return itertools.islice((f.path for f in files if f.relative not in exclusion), _MOST_FILES // max(1, n_folders))


def _readable(paths: Iterable[Path], preprocessing: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    """Pixels of those that can be read, in order, a few read at once."""

    def read(path: Path) -> NDArray[np.uint8] | None:
        try:
            return preprocessing.resize(read_picture(path, min_side_px=preprocessing.size_px).rgb)
        except (ImageError, OSError):
            return None

    remaining = iter(paths)
    with ThreadPoolExecutor() as threads:
        while chosen := list(itertools.islice(remaining, _READ_AT_ONCE)):
            for pixels in threads.map(read, chosen):
                if pixels is not None:
                    yield pixels
