"""The bytes of pictures as their source keeps them, where it keeps an encoded file, and files made of others."""

from __future__ import annotations

import io

from sightline.core.images.files import explain_os_error
from sightline.errors import ImageError
from sightline.lab.data.base import FileImage, ImageSource
from sightline.lab.data.tar_index import TarImage


def read_encoded(source: ImageSource) -> bytes | None:
    """The encoded file of a picture, undecoded; None where its source keeps none that can be had as it is.

    Raises ImageError where it can't be read.
    """
    try:
        if isinstance(source, FileImage):
            return source.path.read_bytes()
        if isinstance(source, TarImage):
            with source.path.open("rb") as file:
                file.seek(source.offset)
                data = file.read(source.size_bytes)
            if len(data) < source.size_bytes:
                raise ImageError("cut off (its tar is shorter than when it was indexed)")
            return data
    except OSError as error:
        raise ImageError(explain_os_error(error)) from error
    return None


def encode_png(source: ImageSource) -> bytes:
    """A picture's pixels as a PNG, without loss. Raises ImageError where it can't be read."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(source.read()).save(file, "PNG")
    return file.getvalue()
