"""What an endpoint takes in one request."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class EndpointLimits:
    """Bounds of one request. They are told with the card, so that clients keep to them."""

    max_images: int = 64
    max_texts: int = 256
    max_maps: int = 4
    """Images whose feature maps are given at once: these are large."""
    max_text_chars: int = 2_000
    max_image_bytes: int = 20_000_000
    max_request_bytes: int = 64_000_000
    """All images of a request together."""
    max_image_pixels: int = 50_000_000
    max_candidates: int = 8
    """Captions of an image, and width of the beam."""

    def check_count(self, what: str, count: int, limit: int) -> None:
        """Raises InputError for more than the limit."""
        if count > limit:
            raise InputError(f"{count:,} {what} are too many for one request; at most {limit:,} are taken.")
