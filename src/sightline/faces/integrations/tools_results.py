"""What tools answer: frozen models. Texts that came with pictures are of the types of `tools_text.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sightline.core.types import CaptionSource
from sightline.faces.integrations.tools_text import CaptionText, NameText, PathText

Cosine = Annotated[float, AfterValidator(lambda value: round(value, 4)), Field(description="Cosine; higher is closer.")]


class ToolResult(BaseModel):
    """What they share."""

    model_config = ConfigDict(frozen=True, from_attributes=True, protected_namespaces=())

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The images that the answer is about, in its order."""
        return ()


class FoundImage(ToolResult):
    """One image of an answer."""

    id: int
    name: NameText
    path: PathText
    width: int = Field(description="Of the upright picture, in pixels.")
    height: int
    similarity: Cosine | None
    caption: CaptionText | None
    taken_at: NameText | None


class SearchResult(ToolResult):
    """Images, best first."""

    hits: tuple[FoundImage, ...]
    total: int = Field(description="How many there are in all.")
    next_cursor: str | None = Field(description="Give it back as `cursor` for what follows; null at the end.")
    model: NameText
    note: PathText | None = Field(description="Why nothing was found; null where something was.")

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The hits."""
        return tuple(hit.id for hit in self.hits)


class SourcedCaption(ToolResult):
    """One sentence about one image."""

    text: CaptionText
    source: CaptionSource = Field(description="Ranked candidate, generated sentence, or the user's.")
    similarity: Cosine | None
    log_prob: Annotated[float, AfterValidator(lambda value: round(value, 4))] | None = Field(
        description="Mean log-probability for each token under the generator, in nats."
    )
    model: NameText | None
    best: bool


class ImageDescription(ToolResult):
    """All that is known of one image."""

    id: int
    name: NameText
    path: PathText
    width: int
    height: int
    format: str
    size_bytes: int
    taken_at: NameText | None
    modified_at: str
    camera: NameText | None
    latitude: float | None
    longitude: float | None
    captions: tuple[SourcedCaption, ...] = Field(description="Those that are kept, the best first.")
    duplicates: tuple[int, ...] = Field(description="Other images with the same bytes.")
    models: tuple[NameText, ...] = Field(description="Models that have its vector.")
    exists: bool = Field(description="Whether the file is there now.")

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The image."""
        return (self.id,)


class CaptionResult(ToolResult):
    """Both kinds of captions of one picture. They are not kept."""

    image_id: int | None
    best: SourcedCaption = Field(description="The fused choice.")
    clip: tuple[SourcedCaption, ...] = Field(description="Candidates ranked by CLIP, most similar first.")
    generated: tuple[SourcedCaption, ...] = Field(description="Sentences of the captioner, most probable first.")


class DuplicateGroup(ToolResult):
    """Images that show the same."""

    kind: Literal["exact", "near"]
    similarity: Cosine
    count: int = Field(description="How many images there are in the group.")
    images: tuple[FoundImage, ...] = Field(description="The first twenty, the largest picture first.")
    differences: tuple[PathText, ...] = Field(description="What tells them apart, as `size 2.1 MB / 0.4 MB`.")


class DuplicatesResult(ToolResult):
    """Groups of images that are there more than once."""

    groups: tuple[DuplicateGroup, ...]
    total: int = Field(description="How many groups there are in all.")
    next_cursor: str | None

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The images of all groups."""
        return tuple(image.id for group in self.groups for image in group.images)


class LibraryStats(ToolResult):
    """What a library holds."""

    images: int
    captions: int
    model: NameText | None = Field(description="What searches use.")
    models: dict[str, int] = Field(description="Model -> images that have its vector.")
    folders: tuple[PathText, ...]
    offline_folders: tuple[PathText, ...] = Field(description="Those that are not there now.")
    unreadable: int = Field(description="Files that could not be read.")
    size_bytes: int
    writable: bool = Field(description="Whether set_caption is allowed.")


class CaptionKept(ToolResult):
    """A caption that was written."""

    image_id: int
    caption: SourcedCaption
    previous: CaptionText | None = Field(description="The user's caption before, for taking this one back.")

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The image."""
        return (self.image_id,)
