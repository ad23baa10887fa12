"""The files of a library's images as answers: originals, thumbnails, pictures that every browser shows."""

from __future__ import annotations

import os
import re
import stat

from fastapi import UploadFile
from fastapi.responses import FileResponse, Response
from PIL import Image
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from sightline.core.images.decode import read_image, read_info
from sightline.core.images.preprocess import make_thumbnail
from sightline.core.types import ImageRecord
from sightline.errors import ImageError, InputError
from sightline.faces.service.images import unreadable
from sightline.faces.web.problems import Problem
from sightline.kit.text import valid_text

SHOWN_BY_BROWSERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")

_RANGES = re.compile(
    r"bytes=\s*(?:\d{1,18}-\d{0,18}|-\d{1,18})(?:\s*,\s*(?:\d{1,18}-\d{0,18}|-\d{1,18}))*\s*", re.ASCII
)
_YEAR_S = 365 * 24 * 3600


def original(record: ImageRecord, headers: Headers) -> Response:
    """An image's file as it is, or the ranges of it that are asked for.

    Only what is a picture is given away, whatever lies there since it was indexed.
    Raises InputError where the file is gone or no picture, a 416 problem for a range outside.
    """
    status, file_format = _look_at(record)
    response = _FileInRanges(
        record.path,
        media_type=Image.MIME.get(file_format, "application/octet-stream"),
        filename=valid_text(record.path.name),
        stat_result=status,
        content_disposition_type="inline",
        headers={"Cache-Control": "private, no-cache"},
    )
    if kept := not_modified(headers, response.headers["etag"]):
        return kept
    response.in_ranges = _asks_for_ranges(headers, status.st_size)
    return response


class _FileInRanges(FileResponse):
    """A file, in ranges only where they are well formed: others are to be passed over, as RFC 9110 has it."""

    in_ranges = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.in_ranges:
            scope = {**scope, "headers": [header for header in scope["headers"] if header[0] != b"range"]}
        await super().__call__(scope, receive, send)


def displayed(record: ImageRecord, headers: Headers) -> Response:
    """An image at full size in a format that browsers show: the file itself, or a JPEG made of it."""
    status, file_format = _look_at(record)
    if file_format in SHOWN_BY_BROWSERS:
        return original(record, headers)
    etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-jpeg"'
    if kept := not_modified(headers, etag):
        return kept
    try:
        rgb_HW3 = read_image(record.path).rgb
    except ImageError as error:
        raise unreadable(record, error) from error
    jpeg = make_thumbnail(rgb_HW3, size_px=max(rgb_HW3.shape), quality=90)
    return Response(jpeg, media_type="image/jpeg", headers={"ETag": etag, "Cache-Control": "private, no-cache"})


def thumbnail(webp: bytes, *, etag: str, kept: bool) -> Response:
    """A thumbnail, which browsers keep for good where its address has the content's version."""
    cache = f"private, max-age={_YEAR_S}, immutable" if kept else "private, no-cache"
    return Response(webp, media_type="image/webp", headers={"ETag": etag, "Cache-Control": cache})


def not_modified(headers: Headers, etag: str) -> Response | None:
    """The short answer to a client that has it already."""
    known = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
    return Response(status_code=304, headers={"ETag": etag}) if etag in known or known == ["*"] else None


def read_upload(file: UploadFile) -> bytes:
    """The bytes of an uploaded file. Raises InputError where there are none."""
    data = file.file.read()
    if not data:
        raise InputError("The upload is empty; send the bytes of a picture.", kind="image")
    return data


def _look_at(record: ImageRecord) -> tuple[os.stat_result, str]:
    try:
        status = record.path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        return status, read_info(record.path).format
    except ImageError as error:
        raise unreadable(record, error) from error
    except OSError as error:
        raise unreadable(record, ImageError(error.strerror or "can't be opened")) from error


def _asks_for_ranges(headers: Headers, size_bytes: int) -> bool:
    """True where the request has ranges that can be served. Raises a 416 problem for those outside of the file."""
    asked = headers.get("range", "")
    if not _RANGES.fullmatch(asked):
        return False
    for first, last in re.findall(r"(\d*)-(\d*)", asked):
        is_outside = int(first) >= size_bytes if first else int(last) == 0
        if is_outside or (first and last and int(last) < int(first)):
            told = {"Content-Range": f"bytes */{size_bytes}"}
            raise Problem(416, f"The file has {size_bytes} bytes.", kind="range", headers=told)
    return True
