"""Every request and answer of the service, as pydantic checks and documents them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sightline.core.models.cards import ModelKind
from sightline.core.search.when_where import Kind
from sightline.core.types import MAX_EXAMPLES, MAX_NAME_CHARS, CaptionSource, Reason, read_source

MAX_TEXT = 2000
"""Characters of a query, a caption or a text to embed: every text tower reads far fewer."""
MAX_ID = 2**63 - 1
MAX_WEIGHT = 1000.0
LOG_PATTERN = r"^set-aside-[^/\x00]+\.jsonl$"
"""The name of a log of files that were set aside."""

ImageId = Annotated[int, Field(ge=1, le=MAX_ID, description="Row number of an image in the library.", examples=[12])]
JobKind = Literal["index", "caption", "add_model"]
JobState = Literal["queued", "running", "paused", "done", "failed", "cancelled"]


Told = dict[str, str | float | list[str]]
"""Facts of an image's file that are there, by name."""


class Model(BaseModel):
    """Base of all models. Unknown fields of an answer are passed over: the server may be newer than the client."""

    model_config = ConfigDict(protected_namespaces=())


class RequestModel(Model):
    """Base of requests: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


# --- problems ---------------------------------------------------------------------------------------------------


class FieldProblem(Model):
    """A problem with one field of a request."""

    field: str = Field(examples=["query.limit"])
    message: str = Field(examples=["Input should be less than or equal to 500"])


class ProblemAnswer(Model):
    """An error, as RFC 9457 describes them."""

    type: str = Field(description="`about:blank`, or `/problems/KIND`.", examples=["/problems/unknown-image"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["The library has no image with the id 12."])
    instance: str = Field(examples=["/api/images/12"])
    errors: list[FieldProblem] | None = None


# --- searching --------------------------------------------------------------------------------------------------


def check_part(part: Any, *things: str) -> None:
    """Raise ValueError unless a part is one of some things, weighs something and, where it is words, is no mark."""
    if sum(getattr(part, thing) is not None for thing in things) != 1:
        raise ValueError(f"a part has exactly one of {', '.join(things[:-1])} and {things[-1]}")
    if part.mark and part.text is not None:
        raise ValueError("only an image is marked right or wrong")
    if part.weight == 0:
        raise ValueError("weight must be a number other than 0")


class PartRequest(RequestModel):
    """One part of a query: words, an image of the library, or an upload."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT, examples=["dogs in the snow"])] | None = None
    id: ImageId | None = None
    upload: Annotated[str, Field(pattern="^[0-9a-f]{32}$", examples=["9f86d081884c7d659a2feaa0c55ad015"])] | None = None
    weight: float = Field(default=1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT, examples=[1.0])
    mark: bool = Field(
        default=False,
        description="True for an image that was marked right (weight above 0) or wrong (below): the list is ranked "
        "anew, with the right ones in it and without the wrong ones.",
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> PartRequest:
        check_part(self, "text", "id", "upload")
        return self


class QueryPart(Model):
    """A part of a query as it was understood."""

    label: str = Field(examples=["dogs in the snow"])
    weight: float = Field(examples=[1.0])
    kind: Literal["text", "image"]


class HitAnswer(Model):
    """One image of a search's answer."""

    id: int = Field(examples=[12])
    path: str = Field(examples=["/home/me/photos/rex.jpg"])
    name: str = Field(examples=["rex.jpg"])
    width: int = Field(description="Of the upright picture, in pixels.", examples=[4000])
    height: int = Field(examples=[3000])
    similarity: float | None = Field(description="Cosine to the query; null without one.", examples=[0.287])
    probability: float | None = Field(
        default=None,
        description="How probable it is that it shows what was asked; null without a query.",
        examples=[0.83],
    )
    why: list[Reason] = Field(
        default_factory=list,
        description="What speaks for it: what it shows (`picture`), and where words of the query are written about it.",
        examples=[["picture", "name"]],
    )
    caption: str | None = Field(description="The best caption.", examples=["a dog in the snow"])
    copies: int = Field(default=0, description="Other images with the same bytes, which this one stands for.")
    taken_at: str | None = Field(examples=["2024-05-01T12:30:00"])
    content_hash: str = Field(examples=["5f1d7a84db00d2fce00b31a7fc73224f"])
    thumbnail: str = Field(examples=["/api/images/12/thumbnail?v=5f1d7a84"])
    placeholder: str | None = Field(
        description="A blurred picture of some pixels, as a `data:` address; null until its thumbnail is made.",
        examples=["data:image/webp;base64,UklGRjwAAABXRUJQVlA4IDAAAADwAQCdASoKAAcAAMASJQBOgBukhFcAAP7+"],
    )


class VerdictAnswer(Model):
    """What is to be said of a query as a whole."""

    present: float | None = Field(
        description="How probable it is that the images under the filter show what was asked; null where that can't be "
        "told.",
        examples=[0.91],
    )
    matches: bool = Field(description="False where nothing matches; the nearest images are given all the same.")
    likely: int | None = Field(
        description="How many hits there are before only unlikely ones follow, which a page may fold; null where the "
        "nearest are wanted, however likely (images, marks, words that were taught), or where they are thousands.",
        examples=[42],
    )
    unlikely_below: float = Field(description="Hits of a lower probability are less likely.", examples=[0.1])
    notices: list[str] = Field(
        description="Sentences for the user: nothing matches, words that the model doesn't know, a query that was cut."
    )


class ReadAsAnswer(Model):
    """Words of a query that are a filter, or may be."""

    kind: Kind
    words: str = Field(examples=["july 2023"])
    label: str = Field(examples=["taken in July 2023"])
    where: str = Field(examples=["taken_at = '2023-07'"])
    left_out: int = Field(description="Images that can't meet it, for want of a date or a place.", examples=[12])


class SearchAnswer(Model):
    """Hits, best first (or newest first, without a query or with `sort`)."""

    hits: list[HitAnswer]
    next: str | None = Field(description="Give it back as `cursor` for what follows; null at the end.")
    total: int = Field(description="How many hits there are in all.", examples=[7000])
    took_ms: float = Field(examples=[12.5])
    model: str = Field(examples=["starter"])
    parts: list[QueryPart]
    note: str | None = Field(description="Why nothing is there, in one sentence; null where something is.")
    verdict: VerdictAnswer | None = Field(default=None, description="Null without a query.")
    read_as: list[ReadAsAnswer] = Field(default_factory=list, description="Words of the query that became filters.")
    offered: list[ReadAsAnswer] = Field(
        default_factory=list, description="Filters that words may stand for, which stayed words."
    )


class TeachRequest(RequestModel):
    """A word of the user's own, and images of the library that show what it means."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS, examples=["Rex"])
    images: list[ImageId] = Field(min_length=1, max_length=MAX_EXAMPLES, description="Three to ten are best.")
    kind: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_NAME_CHARS,
        description="What it is in a word of the language: it stands for the name inside of sentences.",
        examples=["dog"],
    )


class WordAnswer(Model):
    """A word that was taught by example."""

    name: str = Field(examples=["Rex"])
    kind: str | None = Field(examples=["dog"])
    examples: int = Field(description="Number of images that it was taught with.", examples=[3])
    images: list[int] = Field(description="Those of them that are in the library now.", examples=[[12, 15]])


class WordsAnswer(Model):
    """All words that were taught, by name."""

    words: list[WordAnswer]


class UploadAnswer(Model):
    """A picture that was given for searching, kept in memory for a while."""

    key: str = Field(description='Name it as a part: `{"upload": KEY}`.', examples=["9f86d081884c7d659a2feaa0c55ad015"])
    width: int
    height: int
    thumbnail: str = Field(description="A `data:` address.")


# --- images -----------------------------------------------------------------------------------------------------


class CaptionAnswer(Model):
    """One sentence about one image."""

    text: str = Field(examples=["a dog in the snow"])
    source: Annotated[CaptionSource, BeforeValidator(read_source)]
    similarity: float | None = Field(description="Cosine of the caption's and the image's vectors.", examples=[0.301])
    log_prob: float | None = Field(description="Mean log-probability for each token, in nats.", examples=[-1.2])
    model: str | None = Field(examples=["starter"])
    best: bool


class TextLineAnswer(Model):
    """A line of text that was read in an image."""

    text: str = Field(examples=["INVOICE 2023"])
    score: float = Field(description="How sure the reader is, 0 to 1.")
    corners: list[float] = Field(
        description="x and y of the four corners, clockwise from the first letter, in parts of the image's sides."
    )


class ImageAnswer(Model):
    """All that is known of an image."""

    id: int = Field(examples=[12])
    path: str = Field(examples=["/home/me/photos/rex.jpg"])
    name: str = Field(examples=["rex.jpg"])
    folder: str = Field(examples=["/home/me/photos"])
    width: int
    height: int
    format: str = Field(examples=["JPEG"])
    size_bytes: int
    taken_at: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    facts: Told = Field(default_factory=dict)
    content_hash: str
    modified_at: str = Field(examples=["2024-05-01T12:30:00"])
    thumbnail: str
    placeholder: str | None
    captions: list[CaptionAnswer]
    text: list[TextLineAnswer] | None = Field(
        default=None, description="Lines that were read in it, from top to bottom; null where it was never read."
    )
    duplicates: list[int] = Field(description="Other images with the same bytes.")
    models: list[str] = Field(description="Models that have its vector.")
    exists: bool = Field(description="Whether the file is there now.")


class AreaAnswer(Model):
    """A part of a picture, in fractions of its width and height."""

    left: float
    top: float
    width: float
    height: float


class HeatmapAnswer(Model):
    """Match of words in an image: the cosine of each cell of the model's last feature map."""

    rows: int
    columns: int
    values: list[list[float]]
    low: float
    high: float
    model: str
    area: AreaAnswer = Field(description="What the cells cover: models that crop see the middle only.")


class CaptionsAnswer(Model):
    """An image's captions, the best first."""

    captions: list[CaptionAnswer]
    previous: str | None = Field(default=None, description="The user's caption before the change, for undoing it.")


class CaptionRequest(RequestModel):
    """The user's own caption."""

    text: str = Field(min_length=1, max_length=MAX_TEXT, examples=["Rex's first winter"])


# --- embedding and captioning -----------------------------------------------------------------------------------


class EmbedRequest(RequestModel):
    """Texts to embed."""

    texts: list[Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]] = Field(
        min_length=1, max_length=256, examples=[["a dog", "a cat"]]
    )


class EmbedAnswer(Model):
    """Vectors of length 1, in the order of what was given."""

    model: str = Field(examples=["starter"])
    dim: int = Field(examples=[256])
    vectors: list[list[float]]


class DualCaptionAnswer(Model):
    """Both kinds of captions of one picture, and the fused best."""

    clip: list[CaptionAnswer]
    generated: list[CaptionAnswer]
    best: CaptionAnswer
    took_ms: float


# --- jobs -------------------------------------------------------------------------------------------------------


class JobRequest(RequestModel):
    """Work to do in the background."""

    kind: JobKind
    folders: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(
        default=[], max_length=100, description="Empty: all folders of the library.", examples=[["/home/me/photos"]]
    )
    model: Annotated[str, Field(min_length=1, max_length=500, description="The encoder.")] | None = None
    captioner: Annotated[str, Field(min_length=1, max_length=500, description="`none` only ranks.")] | None = None


class SkippedFile(Model):
    """A file that was left out."""

    path: str
    reason: str = Field(examples=["truncated JPEG"])


class JobProgress(Model):
    """Progress of a job."""

    done: int = 0
    total: int | None = Field(default=None, description="Null while folders are still walked.")
    found: int = Field(default=0, description="Images found so far, while folders are walked.")
    rate_per_s: float | None = None
    seconds_left: float | None = None
    skipped: list[SkippedFile] = Field(default=[], description="The last hundred.")
    skipped_count: int = 0


class JobAnswer(Model):
    """A job, queued, under way or ended."""

    id: str
    kind: JobKind
    state: JobState
    library: str
    folders: list[str] = []
    model: str | None = None
    progress: JobProgress
    created_at: str
    ended_at: str | None
    summary: str | None
    error: str | None
    captioner: str | None = None
    started_at: str | None = None
    stopping: Literal["pause", "cancel"] | None = Field(
        default=None, description="What was asked of a running job, which ends at its next safe point."
    )
    interruptions: int = Field(default=0, description="How often the server ended, or was killed, during this job.")

    @property
    def has_ended(self) -> bool:
        """True where nothing of it is left to do."""
        return self.state in ("done", "failed", "cancelled")


class JobsAnswer(Model):
    """Jobs, newest first."""

    jobs: list[JobAnswer]


# --- models, libraries, folders ---------------------------------------------------------------------------------


class ModelAnswer(Model):
    """A model that is known."""

    name: str
    kind: ModelKind
    vectors: int = Field(description="Images of this library that have its vector.")
    available: bool = Field(description="Whether it can run now, without network.")
    dim: int | None
    licence: str
    size_bytes: int | None
    figures: dict[str, Any] = Field(default={}, description="Published or measured quality, and on what.")


class ModelsAnswer(Model):
    """Models, and which of them searches use."""

    default: str | None
    models: list[ModelAnswer]


class DefaultModelRequest(RequestModel):
    """The model that searches are to use."""

    name: str = Field(min_length=1, max_length=500, examples=["starter"])


class LibraryAnswer(Model):
    """One of the libraries that are served."""

    name: str
    images: int
    default: bool


class FolderAnswer(Model):
    """A folder that may be added."""

    name: str
    path: str


class FoldersAnswer(Model):
    """Folders of the library, folders below which others may be added, and what lies in one of those."""

    roots: list[str]
    allow_roots: list[str]
    set_aside: str = Field(default="", description="Where copies go that are set aside, unless a folder is named.")
    path: str | None = None
    folders: list[FolderAnswer] = []


DuplicateKind = Annotated[
    Literal["exact", "copy", "alike"],
    Field(
        description="`exact`: the same bytes. `copy`: the same picture in other bytes, such as a smaller one, a part, "
        "mirrored or turned. `alike`: other shots of one scene."
    ),
]


class DuplicateImageAnswer(ImageAnswer):
    """An image of a group."""

    keep: bool = Field(default=False, description="Whether it is the one to keep.")
    link: bool = Field(default=False, description="Whether it is a link, or another name of a file in the group.")


class DuplicateGroupAnswer(Model):
    """Images that show the same."""

    kind: DuplicateKind
    similarity: float = Field(description="The least that joined it: of pixels, or the cosine of what is alike.")
    reason: str = Field(default="", description="Why the first one is to be kept.", examples=["most pixels"])
    count: int = Field(description="How many images there are in the group.")
    movable: int = Field(default=0, description="How many files can be set aside: copies, without links.")
    images: list[DuplicateImageAnswer] = Field(description="The first fifty, the one to keep first.")
    differences: list[str] = Field(examples=[["size 2.1 MB / 0.4 MB"]])


class DuplicatesAnswer(Model):
    """Groups of images that are there more than once."""

    groups: list[DuplicateGroupAnswer]
    total: int = Field(description="How many groups there are in all.")
    not_compared: int = Field(
        default=0, description="Images that were compared by their bytes alone: their files can't be read now."
    )


FolderAside = Annotated[
    Annotated[str, Field(min_length=1, max_length=4096, examples=["/home/me/set-aside"])] | None,
    Field(description="Below a folder that the server was allowed; null for the one beside the library's."),
]


class SetAsideRequest(RequestModel):
    """Groups of copies of which all files but the one to keep are to be moved."""

    kind: DuplicateKind | None = Field(default=None, description="As it was when the groups were asked for.")
    keep: list[ImageId] = Field(min_length=1, max_length=10_000, description="The image to keep of each group.")
    files: int = Field(ge=1, description="How many files that moves, as their groups say; else none is moved.")
    folder: FolderAside = None


class UndoRequest(RequestModel):
    """The log of files that are to be moved back."""

    log: str = Field(max_length=255, pattern=LOG_PATTERN, examples=["set-aside-20260501-123000.jsonl"])
    folder: FolderAside = None


class MovesAnswer(Model):
    """Files that were moved. Nothing is deleted."""

    moved: int
    left: list[SkippedFile] = Field(description="The first hundred files that stayed where they are, and why.")
    folder: str = Field(description="Below which they lie.")
    log: str | None = Field(description="Its name moves them back; null where none was moved.")


# --- comparing and training -------------------------------------------------------------------------------------


class ComparedModel(Model):
    """Hits of one model."""

    name: str
    hits: list[HitAnswer]
    took_ms: float


class CompareAnswer(Model):
    """Hits of several models for one query."""

    models: list[ComparedModel]
    agreement: float | None = Field(description="How many of their first tens models share, 0 to 1, mean of pairs.")


class RunAnswer(Model):
    """A training run."""

    name: str
    modified_at: str
    step: int | None = None
    steps: int | None = Field(default=None, description="How many the run will have, where that is known.")
    ended: bool = Field(
        default=False, description="True where it is done or was stopped; false also for one that was killed."
    )
    metrics: dict[str, float] = {}


class RunsAnswer(Model):
    """Training runs, newest first."""

    runs: list[RunAnswer]


class RunDetailAnswer(RunAnswer):
    """A training run with its settings and its log."""

    config: dict[str, Any]
    rows: list[dict[str, Any]] = Field(description="Of the log: `step`, `kind` and what they showed.")
    next: int = Field(description="Give it back as `after` for the rows that come after these.")


# --- the whole --------------------------------------------------------------------------------------------------


class StatsAnswer(Model):
    """Contents of a library, and the pages there are."""

    library: str
    images: int
    captions: int
    model: str | None = Field(description="What searches use.")
    models: dict[str, int]
    folders: list[str]
    offline_folders: list[str] = Field(description="Those that aren't there now, such as of a disk not mounted.")
    unreadable: int
    unreadable_files: list[SkippedFile] = Field(description="The first two hundred.")
    size_bytes: int
    version: str
    pages: list[str]


class HealthAnswer(Model):
    """Readiness of the server."""

    status: Literal["ok", "starting", "failed"]
    detail: str | None = None


# --- events -----------------------------------------------------------------------------------------------------


class LibraryEvent(Model):
    """Content of the event `library` of `/api/events`."""

    library: str
    images: int
    captions: int
