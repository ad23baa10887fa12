"""Routes: models, and which of them searches use."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from sightline.core.models.cards import ModelCard, known_cards
from sightline.core.models.files import is_available
from sightline.errors import ModelError
from sightline.faces.web.encoders import require_here, require_name
from sightline.faces.web.libraries import OpenLibrary, PickedLibrary
from sightline.faces.web.models import DefaultModelRequest, ModelAnswer, ModelsAnswer
from sightline.kit.text import valid_text

router = APIRouter(tags=["models"])


@router.get("/api/models")
def list_models(library: PickedLibrary) -> ModelsAnswer:
    """Models with vectors in the library first, then those that Sightline knows.

    `available` ones can be added: POST /api/jobs with `{"kind": "add_model", "model": NAME}`.
    """
    return _answer(library)


@router.put("/api/models/default")
async def set_default(library: PickedLibrary, request: DefaultModelRequest) -> ModelsAnswer:
    """Let searches use a model that the library has vectors of. The others' vectors stay."""
    name = await run_in_threadpool(_require_held, library, request.name)
    return await library.compute(name, "words", _use, library, name)


def _require_held(library: OpenLibrary, name: str) -> str:
    return require_name(name, library.library.store.models())


def _use(library: OpenLibrary, name: str) -> ModelsAnswer:
    library.encoder_of(name)  # says now, not at the next search, that it can't run
    library.library.use_model(name)
    library.changed()
    return _answer(library)


def _answer(library: OpenLibrary) -> ModelsAnswer:
    vectors = library.library.store.stats().models
    models = [_describe_indexed(name, count) for name, count in vectors.items()]
    models += [_describe(card) for name, card in known_cards().items() if name not in vectors]
    return ModelsAnswer(default=library.library.model, models=models)


def _describe_indexed(name: str, vectors: int) -> ModelAnswer:
    """A model of the library, whose files may be gone by now."""
    card = _find_card(name)
    if card is not None:
        return _describe(card, vectors=vectors)
    return ModelAnswer(
        name=valid_text(name),
        kind="encoder",
        vectors=vectors,
        available=False,
        dim=None,
        licence="unknown",
        size_bytes=None,
    )


def _find_card(name: str) -> ModelCard | None:
    try:
        return require_here(name)
    except ModelError:
        return None


def _describe(card: ModelCard, *, vectors: int = 0) -> ModelAnswer:
    return ModelAnswer(
        name=valid_text(card.name),
        kind=card.kind,
        vectors=vectors,
        available=is_available(card),
        dim=card.dim,
        licence=card.licence,
        size_bytes=card.size_bytes,
        figures=dict(card.figures),
    )
