"""Where words match a picture, as `sightline explain --method map` finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sightline.core.images.decode import read_picture
from sightline.errors import ModelError
from sightline.faces.web.models import AreaAnswer, HeatmapAnswer
from sightline.faces.web.problems import Problem
from sightline.lab.experiments.explain import explain_picture

if TYPE_CHECKING:
    from sightline.core.models.base import Encoder
    from sightline.core.types import ImageRecord


def make_heatmap(encoder: Encoder, record: ImageRecord, words: str) -> HeatmapAnswer:
    """The cosine of each place with the words. Raises ImageError for the file, a 409 problem where there is no map."""
    picture = read_picture(record.path, min_side_px=encoder.card.preprocessing.size_px)
    try:
        (match,) = explain_picture(encoder, picture.rgb, [words], method="map")
    except ModelError as error:
        raise Problem(409, f"The model {encoder.card.name} has no map of where words match.", kind="no-map") from error
    values_HW = np.round(match.heat_HW.astype(np.float64), 5)
    area = match.area
    return HeatmapAnswer(
        rows=values_HW.shape[0],
        columns=values_HW.shape[1],
        values=values_HW.tolist(),
        low=float(values_HW.min()),
        high=float(values_HW.max()),
        model=encoder.card.name,
        area=AreaAnswer(left=area.left, top=area.top, width=area.width, height=area.height),
    )
