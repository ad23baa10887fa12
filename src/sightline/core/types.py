"""Plain records that rooms hand to each other. Nothing here computes or does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float32Array = NDArray[np.float32]

Precision = Literal["fp32", "int8"]
"""Precision of the model run that made a vector (how it is stored is the store's matter)."""

CaptionSource = Literal["clip", "generated", "user"]
"""Author of a caption: ranked candidate, generated sentence, or the user."""


TextKind = Literal["name", "folder", "caption", "keyword", "text"]
TEXT_KINDS: tuple[TextKind, ...] = get_args(TextKind)
"""Where words about an image stand: its file's name, its folder, its caption (the chosen one and the user's own), its
title, description, keywords, author and place, and what is read in it."""

Reason = Literal["picture", "name", "folder", "caption", "keyword", "text"]
"""Why an image is a hit: by what it shows, or by what is written about it."""


def read_source(source: str) -> str:
    """A caption's source under its name of today: up to 0.1, `generated` was called `blip`, whatever model wrote it."""
    return "generated" if source == "blip" else source


SIDECAR_MARK = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a camera, a person or a map says of an image beside its pixels; None or empty where nothing is said."""

    altitude_m: float | None = None
    """Above the sea."""
    lens: str | None = None
    f_number: float | None = None
    exposure_s: float | None = None
    iso: int | None = None
    focal_mm: float | None = None
    rating: int | None = None
    """0 to 5; -1 for rejected."""
    title: str | None = None
    description: str | None = None
    author: str | None = None
    keywords: tuple[str, ...] = ()
    city: str | None = None
    region: str | None = None
    country: str | None = None
    version: int = 0
    """By which rules they were read; the next indexing reads older ones anew. `SIDECAR_MARK` is added where an XMP file
    beside the image had a part in them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keywords", tuple(self.keywords))

    @property
    def had_sidecar(self) -> bool:
        """True where an XMP file lay beside the image when they were read."""
        return self.version > SIDECAR_MARK

    @property
    def told(self) -> dict[str, Any]:
        """Those that are there, by name."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "version"}
        return {name: value for name, value in values.items() if value not in (None, ())}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInfo:
    """Facts that an image file tells of itself. Width and height are those of the upright image, in pixels."""

    width: int
    height: int
    format: str
    """Upper case, as Pillow names it: JPEG, PNG, WEBP, ..."""
    taken_at: str | None = None
    """ISO 8601 without a zone, such as `2024-05-01T12:30:00`, from EXIF."""
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    """Position in degrees, north and east positive, from EXIF."""
    facts: Facts = Facts()
    pixels_version: int = 0
    """By which rules its pixels were read; other rules concern other versions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """One sentence about one image."""

    text: str
    source: CaptionSource
    similarity: float | None = None
    """Cosine of the caption's and the image's CLIP embeddings."""
    log_prob: float | None = None
    """Mean log-probability for each token under the generator, in nats."""
    model: str | None = None
    """Name of the model that wrote or ranked it."""
    best: bool = False
    """True where fusion chose it as the image's caption."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", read_source(self.source))

    @property
    def author(self) -> str:
        """Its author, as tables tell it: the name of the model that wrote the sentence, else the source."""
        return self.model or self.source if self.source == "generated" else self.source


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One image of a library: where it lies, what was known of the file when it was read, what it shows."""

    root: Path
    """The indexed folder, absolute."""
    relative: str
    """Path below the root, with `/`; bytes that are not UTF-8 are kept as surrogate escapes."""
    size_bytes: int
    mtime_ns: int
    content_hash: str
    """Hash of the file's bytes; equal means an exact duplicate."""
    info: ImageInfo
    id: int | None = None
    """Row number in the store; None before it is written."""

    @property
    def path(self) -> Path:
        """The file's absolute path."""
        return self.root / self.relative


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line of text that was read in an image."""

    text: str
    score: float
    """How sure the reader is, 0 to 1."""
    corners: tuple[float, ...]
    """x and y of the four corners, clockwise from the first letter, in parts of the upright image's sides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextReading:
    """What was read in the pixels of one content; without lines where there is no text."""

    engine: str
    lines: tuple[TextLine, ...] = ()

    @property
    def text(self) -> str:
        """The lines, from top to bottom."""
        return "\n".join(line.text for line in self.lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """One L2-normalised vector (D,) float32 of one model, with the precision of the run that made it."""

    model: str
    vector: Float32Array
    precision: Precision = "fp32"
    hubness: float | None = None
    """How near it lies to what people ask in general, where the model has a bank that tells (`core.models.bank`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """The traits that must be equal for two vectors to be comparable. A store refuses vectors of another identity."""

    name: str
    weights_hash: str
    preprocessing_version: int
    """Fingerprint of what is done to pixels on their way to the weights; opaque."""
    dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One result of a search, best first."""

    image: ImageRecord
    similarity: float
    """Cosine to the query in [-1, 1]; higher is closer."""
    caption: str | None = None
    """The image's best caption where one is stored."""
    copies: int = 0
    """Other images of the library with the same bytes, which this one stands for."""
    probability: float | None = None
    """How probable it is that it shows what was asked; None where it wasn't asked."""
    why: tuple[Reason, ...] = ()
    """What speaks for it: what it shows (`picture`), and where words of the query are written about it."""


MAX_EXAMPLES = 100
MAX_NAME_CHARS = 60
"""Limits of a word that is taught by example."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One image that a word was taught with."""

    path: Path
    """The place where it lay then, absolute."""
    content_hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TaughtWord:
    """A word of the user's own, which queries use like any other."""

    name: str
    """As the user writes it; queries find it in any case."""
    kind: str | None = None
    """A word of the language for what it is, such as `dog`; text towers read it in place of the name."""
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreStats:
    """Counts of a store."""

    images: int
    captions: int
    roots: tuple[Path, ...]
    models: Mapping[str, int] = field(default_factory=dict)
    """Model name -> number of images that have its vector."""
    size_bytes: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
