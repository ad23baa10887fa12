"""Captions in a library: the user's own, which stands above all others until it is taken back, and those that lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from sightline.core.captioning.fuse import fuse
from sightline.core.models.base import Encoder
from sightline.core.store.base import Store
from sightline.core.types import Caption
from sightline.errors import InputError

MAX_CAPTION_CHARS = 2000

_CHUNK_ROWS = 500


def write_caption(store: Store, image_id: int, text: str, *, encoder: Encoder | None = None) -> str | None:
    """Keep a user's caption as the image's best, in place of an earlier one, whose text is returned.

    With an encoder that has a vector of the image it gets its similarity too. Raises InputError for a text without
    words or of more than 2,000 characters, StoreError for an unknown picture.
    """
    text = " ".join(text.split())
    if not text:
        raise InputError("A caption needs words; to take yours back, remove it.")
    if len(text) > MAX_CAPTION_CHARS:
        raise InputError(f"The caption has {len(text):,} characters; at most {MAX_CAPTION_CHARS:,} are kept.")
    store.get([image_id])  # says where there is no such picture
    previous = _find_user_caption(store.captions([image_id])[image_id])
    similarity = None if encoder is None else _similarity(store, image_id, text, encoder)
    caption = Caption(text=text, source="user", similarity=similarity, best=True)
    if encoder is not None and similarity is not None:
        caption = replace(caption, model=encoder.card.name)
    store.put_captions({image_id: [caption]})
    return previous


def remove_caption(store: Store, image_id: int, *, nats_per_cosine: float = 100.0) -> str | None:
    """Take the user's caption back and let fusion choose among the others again; the text that was there.

    `nats_per_cosine` is that of the model's card (`ModelCard.nats_per_cosine`). Raises StoreError for an unknown
    picture.
    """
    store.get([image_id])
    captions = store.captions([image_id])[image_id]
    previous = _find_user_caption(captions)
    if previous is None:
        return None
    store.remove_captions([image_id], "user")
    others = [caption for caption in captions if caption.source != "user"]
    if others:
        store.put_captions({image_id: _choose_best(others, nats_per_cosine)})
    return previous


def _find_user_caption(captions: Sequence[Caption]) -> str | None:
    return next((caption.text for caption in captions if caption.source == "user"), None)


def _similarity(store: Store, image_id: int, text: str, encoder: Encoder) -> float | None:
    """Cosine to the image's stored vector; None where this model has none."""
    if store.models().get(encoder.card.name) != encoder.identity:
        return None
    _, vectors_ND = store.vectors(encoder.card.name, [image_id])
    return float(vectors_ND[0] @ encoder.encode_texts([text])[0]) if len(vectors_ND) else None


def _choose_best(captions: Sequence[Caption], nats_per_cosine: float) -> list[Caption]:
    """The captions with the flag at the one that fusion prefers."""
    clip, generated = ([c for c in captions if c.source == source] for source in ("clip", "generated"))
    best = fuse(clip[:1], generated, temperature=nats_per_cosine)[0]
    return [replace(c, best=(c.source, c.text) == (best.source, best.text)) for c in captions]


def find_uncaptioned(store: Store, *, encoder: str, captioner: str | None, root: Path | None = None) -> Iterator[Path]:
    """Images without captions that these two models ranked and wrote, by folder and path; captioner None: ranked.

    So captioning can go on where it stopped, and another captioner writes its own for all pictures.
    """
    records = iter(store.scan(root=root))
    while chunk := list(islice(records, _CHUNK_ROWS)):
        captions = store.captions([record.id for record in chunk if record.id is not None])
        for record in chunk:
            known = {(c.source, c.model) for c in captions.get(record.id or 0, [])}
            if ("clip", encoder) not in known or (captioner is not None and ("generated", captioner) not in known):
                yield record.path
