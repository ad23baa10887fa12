"""`/healthz`: whether the server is up and its model loaded."""

from __future__ import annotations

from fastapi import APIRouter

from sightline.faces.web.libraries import AllLibraries
from sightline.faces.web.models import HealthAnswer

router = APIRouter(tags=["server"])


@router.get("/healthz")
async def check_health(libraries: AllLibraries) -> HealthAnswer:
    """Say whether searches can be answered: `starting` while the model loads, `failed` where it can't be."""
    if libraries.failure is not None:
        return HealthAnswer(status="failed", detail=libraries.failure)
    return HealthAnswer(status="ok" if libraries.is_ready else "starting")
