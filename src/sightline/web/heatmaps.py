"""Where words match a picture: cosines of the cells of a model's last feature map.

Shape suffixes: H W the map's rows and columns, D dimension, S the side of what the model sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sightline.images.decode import read_picture
from sightline.web.models import AreaAnswer, HeatmapAnswer
from sightline.web.problems import Problem

if TYPE_CHECKING:
    from sightline.images.preprocess import Preprocessing
    from sightline.models.base import Encoder
    from sightline.types import ImageRecord


def make_heatmap(encoder: Encoder, record: ImageRecord, words: str) -> HeatmapAnswer:
    """The cosine of each cell with the words. Raises ImageError for the file, a 409 problem where there is no map."""
    preprocessing = encoder.card.preprocessing
    picture = read_picture(record.path, min_side_px=preprocessing.size_px)
    map_1HWD = encoder.encode_maps(preprocessing.resize(picture.rgb)[None])
    if map_1HWD is None:
        raise Problem(409, f"The model {encoder.card.name} has no map of where words match.", kind="no-map")
    cells_HWD = map_1HWD[0] / np.maximum(np.linalg.norm(map_1HWD[0], axis=-1, keepdims=True), 1e-12)
    cosines_HW = cells_HWD @ encoder.encode_texts([words])[0]
    return HeatmapAnswer(
        rows=cosines_HW.shape[0],
        columns=cosines_HW.shape[1],
        values=np.round(cosines_HW.astype(np.float64), 5).tolist(),
        low=round(float(cosines_HW.min()), 5),
        high=round(float(cosines_HW.max()), 5),
        model=encoder.card.name,
        area=_seen_area(preprocessing, picture.info.width, picture.info.height),
    )


def _seen_area(preprocessing: Preprocessing, width: int, height: int) -> AreaAnswer:
    """What the model sees of a picture: all of it squashed, or the square in its middle."""
    if preprocessing.resize_mode == "squash":
        return AreaAnswer(left=0, top=0, width=1, height=1)
    side = min(width, height)
    seen_width, seen_height = side / width, side / height
    return AreaAnswer(left=(1 - seen_width) / 2, top=(1 - seen_height) / 2, width=seen_width, height=seen_height)
