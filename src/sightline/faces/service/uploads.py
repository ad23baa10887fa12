"""Pictures that clients send: read under limits, kept in memory for a while, never on disk."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.decode import DecodedImage, read_image, read_info
from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.core.models.base import Encoder
from sightline.core.search.engine import embed_pixels
from sightline.errors import GoneError, ImageError, InputError

MAX_UPLOAD_PIXELS = 100_000_000
"""Below the limit for the user's own files: what a stranger sends can take 23 bytes of memory a pixel."""
MAX_IMAGE_BYTES = 16 * 2**20
"""Largest image that an assistant sends along."""
PREVIEW_PX = 160

_KEPT = 32
_KEPT_BYTES = 128 * 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class Upload:
    """A picture that a client sent."""

    key: str
    data: bytes
    width: int
    height: int
    preview: str
    """A `data:` address."""
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Model -> what it made of the picture (D,)."""

    def vector(self, encoder: Encoder) -> NDArray[np.float32]:
        """The picture's vector (D,) by a model, computed once."""
        name = encoder.card.name
        if name not in self.vectors:
            image = decode_upload(self.data, min_side_px=encoder.card.preprocessing.size_px)
            self.vectors[name] = embed_pixels(encoder, image.rgb)
        return self.vectors[name]


class Uploads:
    """The latest uploads, by the hash of their bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Upload] = OrderedDict()

    def add(self, data: bytes, encoder: Encoder) -> Upload:
        """Keep a picture and embed it. Raises InputError for bytes that are no readable picture."""
        key = hashlib.sha256(data).hexdigest()[:32]
        with self._lock:
            upload = self._kept.get(key)
        if upload is None:
            image = decode_upload(data, min_side_px=max(PREVIEW_PX, encoder.card.preprocessing.size_px))
            preview = data_uri(make_thumbnail(image.rgb, size_px=PREVIEW_PX, format="WEBP"), "WEBP")
            info = image.info
            upload = Upload(key=key, data=data, width=info.width, height=info.height, preview=preview)
            upload.vectors[encoder.card.name] = embed_pixels(encoder, image.rgb)
        with self._lock:
            self._kept[key] = upload
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT or sum(len(one.data) for one in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return upload

    def get(self, key: str) -> Upload:
        """An upload by its key. Raises GoneError where it isn't kept any more."""
        with self._lock:
            if key not in self._kept:
                raise GoneError("This picture isn't kept any more; send it again.", kind="upload-gone")
            self._kept.move_to_end(key)
            return self._kept[key]


def decode_upload(data: bytes, *, min_side_px: int | None = None) -> DecodedImage:
    """Bytes that a client sent -> upright pixels. Raises InputError that says why they can't be read.

    How many pixels there are is looked at before any is decoded.
    """
    try:
        info = read_info(data)
        if info.width * info.height > MAX_UPLOAD_PIXELS:
            raise ImageError(f"too large: {info.width} x {info.height} pixels; uploads may have {MAX_UPLOAD_PIXELS:,}")
        return read_image(data, min_side_px=min_side_px)
    except ImageError as error:
        raise InputError(f"The picture can't be read: {error.reason}.", kind="image") from error
