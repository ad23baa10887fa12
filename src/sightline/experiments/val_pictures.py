"""Pictures of the val pairs that a run's probes show, read again by the address of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sightline.data.addressing import load_dataset
from sightline.data.base import Pair
from sightline.errors import ImageError, InputError
from sightline.training.config import TrainConfig
from sightline.training.probe import Probe

_SIDE_PX = 96


@dataclass(kw_only=True)
class ValPictures:
    """Small pictures by id; those that can't be read are grey. Each is read once."""

    pairs: Mapping[str, Pair]
    missing: str | None = None
    """Why there are none."""
    _read: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: TrainConfig, probe: Probe) -> ValPictures:
        """The pairs that a probe was made of, or the reason why they aren't there."""
        address = config.val_data or config.data
        try:
            dataset = load_dataset(address, split=config.val_split, limit=config.val_limit)
        except InputError as error:
            return cls(pairs={}, missing=str(error))
        pairs = {pair.id: pair for pair in (dataset[row] for row in range(min(len(dataset), len(probe.ids))))}
        told = zip(probe.ids, probe.texts, strict=True)
        labelled = dataset.class_names is not None  # its texts are names of classes, not captions
        if not all(id_ in pairs and (labelled or text in pairs[id_].captions) for id_, text in told):
            return cls(pairs={}, missing=f"{address} holds other pairs now than when the run was measured.")
        return cls(pairs=pairs)

    def read(self, id_: str) -> NDArray[np.uint8]:
        """One picture as a square of RGB, (S, S, 3)."""
        if id_ not in self._read:
            self._read[id_] = self._square(id_)
        return self._read[id_]

    def _square(self, id_: str) -> NDArray[np.uint8]:
        square = Image.new("RGB", (_SIDE_PX, _SIDE_PX), "#cccccc")
        try:
            picture = Image.fromarray(self.pairs[id_].image.read(min_side_px=_SIDE_PX))
        except ImageError:
            return np.asarray(square)
        picture = ImageOps.contain(picture, (_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
        square.paste(picture, ((_SIDE_PX - picture.width) // 2, (_SIDE_PX - picture.height) // 2))
        return np.asarray(square)
