"""What an assistant may do with a library: search, look, caption, count. Plain functions of a request.

Both faces (MCP and smolagents) call these, through `tools_registry.py`. The first paragraph of a docstring is what an
assistant reads. Images are named by id; no function takes a path. Errors are those of `sightline.errors`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from sightline.core.captioning.dual import CaptionConfig, caption_picture
from sightline.core.captioning.editing import write_caption
from sightline.core.images.decode import Picture, read_picture
from sightline.errors import ImageError, InputError, StoreError
from sightline.faces.integrations.tools_results import (
    CaptionKept,
    CaptionResult,
    DuplicateGroup,
    DuplicatesResult,
    FoundImage,
    ImageDescription,
    LibraryStats,
    SearchResult,
    SourcedCaption,
)
from sightline.faces.integrations.tools_text import MAX_MESSAGE_CHARS
from sightline.faces.web.cursors import Cursor, read_cursor, write_cursor
from sightline.faces.web.duplicates import describe_differences
from sightline.faces.web.files import unreadable
from sightline.faces.web.problems import Problem
from sightline.faces.web.records import show_hits, show_image
from sightline.faces.web.searching import Asked, Term, answer, read_terms
from sightline.faces.web.uploads import decode_upload
from sightline.kit.text import neutralise

if TYPE_CHECKING:
    from sightline.core.search.duplicates import DuplicateGroup as Group
    from sightline.core.types import Caption
    from sightline.faces.integrations.tools_library import ToolLibrary
    from sightline.faces.integrations.tools_requests import (
        CaptionRequest,
        DescribeRequest,
        DuplicatesRequest,
        PictureRequest,
        QueryPart,
        SearchRequest,
        SetCaptionRequest,
        SimilarRequest,
        StatsRequest,
    )

MAX_GROUP_IMAGES = 20
PICTURE_SIZES_PX = (320, 640)
"""Longer sides of the small pictures: those of lists, and that of one image."""

_BUSY_FROM = 429

Given = ParamSpec("Given")
Done = TypeVar("Done")


def _plainly(function: Callable[Given, Done]) -> Callable[Given, Done]:
    """Turn the web's problems, which carry an HTTP status, into this package's errors."""

    @functools.wraps(function)
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Done:
        try:
            return function(*args, **kwargs)
        except Problem as problem:
            kind = StoreError if problem.status_code >= _BUSY_FROM else InputError
            raise kind(neutralise(problem.detail, max_chars=MAX_MESSAGE_CHARS)) from problem

    return called


@_plainly
def search_images(library: ToolLibrary, request: SearchRequest) -> SearchResult:
    """Find images of the library by what they show: by words, by other images, by both, each with a weight.

    Raises InputError for a broken query, filter or cursor, ModelError where the model can't run.
    """
    terms = read_terms(q=request.query, parts=_write_parts(library, request.parts), like=None)
    opened = library.opened
    asked = Asked(
        terms=terms,
        model=opened.model_name(None),
        where=request.where if request.where.strip() else None,
        min_similarity=request.min_similarity,
        match=request.match,
    )
    return _answer(library, asked, limit=request.limit, cursor=request.cursor)


@_plainly
def similar_images(library: ToolLibrary, request: SimilarRequest) -> SearchResult:
    """Find the images of the library that look most like one of them, or like a picture that is sent along.

    Raises as `search_images` does.
    """
    where = request.where if request.where.strip() else None
    asked = Asked(terms=(_picture_term(library, request),), model=library.opened.model_name(None), where=where)
    return _answer(library, asked, limit=request.limit, cursor=request.cursor)


@_plainly
def describe_image(library: ToolLibrary, request: DescribeRequest) -> ImageDescription:
    """Tell all that is known of an image of the library: its captions of both kinds, size, date, camera, place, copies.

    Raises InputError for an unknown image.
    """
    opened = library.opened
    return ImageDescription.model_validate(show_image(opened, opened.image(request.image_id)))


@_plainly
def caption_image(library: ToolLibrary, request: CaptionRequest) -> CaptionResult:
    """Caption an image of the library, or a picture sent along, both ways: by CLIP and a captioner. Nothing is kept.

    Raises InputError for an unknown image or one that can't be read, StoreError where too many wait.
    """
    encoder = library.opened.encoder
    config = CaptionConfig(candidates=request.candidates or None)
    with library.desk.take_turn(own_candidates=config.candidates is not None) as captioner:
        sides_px = [model.card.preprocessing.size_px for model in (encoder, captioner) if model is not None]
        picture = _read(library, request, min_side_px=max(sides_px))
        result = caption_picture(picture.rgb, encoder=encoder, captioner=captioner, config=config)
    return CaptionResult(
        image_id=request.image_id,
        best=_show_caption(result.best),
        clip=tuple(map(_show_caption, result.clip)),
        generated=tuple(map(_show_caption, result.generated)),
    )


@_plainly
def find_duplicates(library: ToolLibrary, request: DuplicatesRequest) -> DuplicatesResult:
    """Find images that are in the library more than once, as exact copies or, with min_similarity, as near ones.

    Raises InputError for a cursor of another request or an older library, and where too many images are alike.
    """
    version, digest = library.opened.version, f"duplicates {request.min_similarity}"
    place = read_cursor(request.cursor, query=digest) if request.cursor else None
    if place is not None and place.version != version:
        raise InputError("The library has changed since this cursor was given: ask again without one.")
    groups = library.duplicates.find(library.opened, request.min_similarity).result()
    start = place.offset if place is not None else 0
    end = start + request.limit
    following = Cursor(query=digest, version=version, offset=end)
    return DuplicatesResult(
        groups=tuple(_show_group(library, group) for group in groups[start:end]),
        total=len(groups),
        next_cursor=write_cursor(following) if end < len(groups) else None,
    )


@_plainly
def library_stats(library: ToolLibrary, request: StatsRequest) -> LibraryStats:
    """Count what the library holds: images, captions, folders, models, files that could not be read."""
    store, stats = library.opened.library.store, library.opened.stats
    return LibraryStats(
        images=stats.images,
        captions=stats.captions,
        model=library.opened.library.default_model,
        models=dict(stats.models),
        folders=tuple(map(str, stats.roots)),
        offline_folders=tuple(map(str, stats.extra["offline_roots"])),
        unreadable=len(store.failures()),
        size_bytes=stats.size_bytes,
        writable=library.allow_write,
    )


@_plainly
def set_caption(library: ToolLibrary, request: SetCaptionRequest) -> CaptionKept:
    """Keep a caption as an image's best, in the user's name, in place of an earlier one, which is given back.

    Raises InputError where the library is open for reading only, and for an unknown image.
    """
    if not library.allow_write:
        raise InputError("The library is open for reading only; the one who started this can allow writing.")
    opened = library.opened
    opened.image(request.image_id)
    store = opened.library.store
    previous = write_caption(store, request.image_id, request.text, encoder=opened.encoder)
    opened.changed()
    kept = next(one for one in store.captions([request.image_id])[request.image_id] if one.source == "user")
    return CaptionKept(image_id=request.image_id, caption=_show_caption(kept), previous=previous)


@_plainly
def make_picture(library: ToolLibrary, image_id: int, *, size_px: int) -> bytes:
    """A small upright copy (WEBP) of an image; `size_px` is one of PICTURE_SIZES_PX.

    Raises InputError where the file is gone or can't be read.
    """
    record = library.opened.image(image_id)
    thumbnails = library.opened.thumbnails
    try:
        return thumbnails.find(record.content_hash, size_px) or thumbnails.make(record, size_px)
    except ImageError as error:
        raise unreadable(record, error) from error


def _answer(library: ToolLibrary, asked: Asked, *, limit: int, cursor: str) -> SearchResult:
    page = answer(library.opened, asked, limit=limit, cursor=cursor or None)
    hits = tuple(map(FoundImage.model_validate, page.hits))
    return SearchResult(hits=hits, total=page.total, next_cursor=page.next, model=page.model, note=page.note)


def _write_parts(library: ToolLibrary, parts: Sequence[QueryPart]) -> str | None:
    """Parts as the web's search takes them; a picture is kept there under a key."""
    written = [
        {"text": part.text, "id": part.image_id, "upload": _keep_upload(library, part.image), "weight": part.weight}
        for part in parts
    ]
    return json.dumps([{name: value for name, value in part.items() if value is not None} for part in written])


def _keep_upload(library: ToolLibrary, image: bytes | None) -> str | None:
    return None if image is None else library.opened.uploads.add(image, library.opened.encoder).key


def _picture_term(library: ToolLibrary, request: PictureRequest) -> Term:
    if request.image_id is not None:
        return Term(kind="id", value=str(request.image_id), weight=1.0)
    return Term(kind="upload", value=_keep_upload(library, request.image) or "", weight=1.0)


def _read(library: ToolLibrary, request: PictureRequest, *, min_side_px: int) -> Picture:
    if request.image is not None:
        return decode_upload(request.image, min_side_px=min_side_px)
    record = library.opened.image(request.image_id or 0)
    try:
        return read_picture(record.path, min_side_px=min_side_px)
    except ImageError as error:
        raise unreadable(record, error) from error


def _show_caption(caption: Caption) -> SourcedCaption:
    return SourcedCaption.model_validate(caption)


def _show_group(library: ToolLibrary, group: Group) -> DuplicateGroup:
    images = group.images[:MAX_GROUP_IMAGES]
    shown = show_hits(library.opened, [(image.id or 0, None) for image in images])
    return DuplicateGroup(
        kind=group.kind,
        similarity=group.similarity,
        count=len(group.images),
        images=tuple(map(FoundImage.model_validate, shown)),
        differences=tuple(describe_differences(images)),
    )
