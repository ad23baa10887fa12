"""Reading JSON files whose reader should hear what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sightline.errors import ModelError


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises ModelError where it can't be read or isn't JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} can't be read as JSON: {error}. Restore the file from where the model came."
        ) from error
