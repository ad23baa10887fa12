"""Where prompts come from, and the other texts that a picture is told from."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from sightline.errors import InputError
from sightline.kit.config import expand
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.scenes.dataset import load_scenes

MAX_PROMPT_CHARS = 1000
_SCENES = re.compile(r"scenes(?::([0-9]{1,9}))?")
_DEFAULT_SCENES = 50
_RUN_FILE = "run.json"


def load_prompts(source: str) -> list[str]:
    """The lines of a text file, or `scenes:N`: captions of N val scenes, which training has never seen.

    The captions take turns: relations, things, places, counts and denials. Raises InputError for a file that can't be
    read or holds no line, and more scenes than can be told apart.
    """
    if match := _SCENES.fullmatch(source):
        pairs = load_scenes(split="val", limit=int(match[1] or _DEFAULT_SCENES))
        return [pair.captions[number % len(pair.captions)] for number, pair in enumerate(pairs)]
    path = expand(source)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--prompts {source}: the file can't be read ({error}). Give a text file, one prompt a line, or scenes:50."
        ) from error
    return check_prompts([line.strip() for line in lines if line.strip()], where=source)


def check_prompts(prompts: Sequence[str], *, where: str = "the command line") -> list[str]:
    """The prompts without outer spaces. Raises InputError where there are none, or one is empty or far too long."""
    if not prompts:
        raise InputError(f"{where}: there is no prompt. Give words, or a file with one prompt a line.")
    for prompt in prompts:
        if not prompt.strip():
            raise InputError(f"{where}: a prompt is empty. Say what is to be seen, as in 'a red circle'.")
        if len(prompt) > MAX_PROMPT_CHARS:
            raise InputError(
                f"{where}: a prompt has {len(prompt):,} characters; at most {MAX_PROMPT_CHARS:,} are taken."
            )
    return [prompt.strip() for prompt in prompts]


def load_bank(against: str | None, models: Sequence[str], *, limit: int) -> tuple[list[str], str]:
    """Texts that a picture is told from, at most `limit`, and where they are from, in words.

    `against` is a text file or the address of a data set, whose training captions are taken. Without it the captions
    that the first model was trained on, where its folder names data that is here; else the package's own bank of
    captions of photos. Raises InputError for what can't be read.
    """
    if against is not None:
        path = expand(against)
        texts = load_prompts(against) if path.is_file() else _captions_of(against, limit)
        return texts[:limit], against
    trained_on = _data_of(models[0])
    if trained_on is not None:
        try:
            return _captions_of(trained_on, limit), f"captions of {trained_on}, which {models[0]} was trained on"
        except InputError:
            pass  # the data is no longer where it was
    from sightline.core.captioning.bank import load_bank as load_photo_bank

    return list(load_photo_bank().prompts[:limit]), "the package's bank of captions of photos"


def _captions_of(address: str, limit: int) -> list[str]:
    """One caption of each of the first pictures, another one each time."""
    dataset = load_dataset(address, split="train", limit=limit)
    texts = [pair.captions[number % len(pair.captions)] for number, pair in enumerate(dataset) if pair.captions]
    if not texts:
        raise InputError(f"{address} has no captions to tell a picture from. Name a text file with --against.")
    return texts


def _data_of(model: str) -> str | None:
    """The address of what a model's run was trained on, where its folder tells."""
    path = Path(model.removeprefix("dir:")).expanduser() / _RUN_FILE
    if not model.startswith("dir:") or not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8")).get("data")
    except (OSError, ValueError, AttributeError):
        return None  # a note of where texts may be found, not something that must be there
    return data if isinstance(data, str) and data else None
