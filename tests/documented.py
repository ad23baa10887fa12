"""Shell and Python blocks of a Markdown page, and the commands that they and recipes give, as smoke runs of them."""

import glob
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

SUBSTITUTIONS = {
    "ViT-B-32/openai": "dir:models/clip",
    "--expand MODEL": "--expand dir:models/writer",
    "flickr8k:PATH": "flickr8k:sets/flickr8k",
    "coco:PATH": "coco:sets/coco",
    "cc:PATH": "cc:sets/cc",
    "tiny-imagenet:PATH": "tiny-imagenet:sets/tiny-imagenet",
    "data imagenet:PATH": "data imagenet:sets/imagenet",
    "classes:PATH": "classes:sets/classes",
    "folder:PATH": "folder:sets/folder",
    "folder:MY_PHOTOS": "folder:sets/folder",
    "train --output DIR --resume": "train --output runs/stopped --resume",
    "RECIPE --output DIR --smoke": "scenes-scratch --output runs/any --smoke",
    "--set epochs=20": "--set epochs=2",
    "batch_size=64,128 seed=0,1,2": "seed=0,1",
    "torchrun --nproc-per-node 8": "torchrun --nproc-per-node 2",
}
"""What the desk has instead of what a reader has, in a command's text."""

ADDITIONS = {
    "train": ["--smoke"],
    "sweep": ["--smoke"],
    "generate": ["--steps", "3", "--set", "views=1", "--set", "bank=20"],
    "eval": ["--limit", "16"],
    "compare": ["--limit", "16"],
    "serve": ["--port", "0"],
}
"""Options that make a command one of seconds, or one that several tests can give at once."""

NOT_WITH = {"train": {"--list", "--resume", "--smoke"}}
"""Options of a command which its additions don't go with, or which are enough by themselves."""

NOT_RUN = {
    "git clone": "the network",
    "cd": "it leads into the clone",
    "pip install": "the network",
    "pipx install": "the network",
    "uv tool": "the network",
    "sightline models pull": "the network",
    "sightline data get": "the network",
    "make demo": ".ci/run calls it",
    "make test": ".ci/run calls it",
    "make study": "an hour",
}
"""How the lines begin that no test runs, and why. What can be read of them is read all the same."""

LISTINGS = {
    "docs/data.md": {"flickr8k/", "coco/", "cc/", "photos/"},
    "docs/evaluation.md": {'{"model":'},
}
"""The first words of blocks that show files or an output: there is nothing to run."""


@dataclass(frozen=True, kw_only=True)
class Block:
    place: str
    language: str | None
    code: str

    @property
    def is_listing(self):
        return self.code.split()[0] in LISTINGS.get(self.place.partition(":")[0], ())

    @property
    def is_session(self):
        return self.language == "console"

    @property
    def is_python(self):
        return self.language == "python" or self.code.split()[0] in ("import", "from")

    def commands(self):
        """The lines of a shell block, without comments."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line for line in lines if shlex.split(line, comments=True)]

    def exchanges(self):
        """Of a session, each command with the lines that it printed."""
        for exchange in re.split(r"^\$ ", self.code, flags=re.MULTILINE)[1:]:
            command, *printed = exchange.splitlines()
            yield command, printed


def blocks_of(page):
    """Every block of a page below the repository's root, indented or fenced, in order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found, number, after_blank = [], 0, True
    while number < len(lines):
        start, language, code = number, None, []
        if fence := re.match(r"```(\w*)", lines[number]):
            language, number = fence[1], number + 1
            while not lines[number].startswith("```"):
                code.append(lines[number])
                number += 1
        elif after_blank and lines[number].startswith("    "):
            while number < len(lines) and (not lines[number] or lines[number].startswith("    ")):
                code.append(lines[number][4:])
                number += 1
            number -= 1
        if code:
            found.append(Block(place=f"{page}:{start + 1}", language=language, code="\n".join(code).strip() + "\n"))
        after_blank = number < len(lines) and not lines[number]
        number += 1
    return found


def words_of(line):
    return shlex.split(line, comments=True)


def why_not_run(line):
    """The reason why no test runs a line; None for one that is run."""
    return next((why for start, why in NOT_RUN.items() if words_of(line)[: len(start.split())] == start.split()), None)


def smoke_words(line):
    """The words of a command after a shell and, where it is one of ours, the two tables went over it."""
    for documented, made in SUBSTITUTIONS.items():
        line = line.replace(documented, made)
    words = []
    for word in words_of(line):
        word = os.path.expanduser(word)  # noqa: PTH111 (as a shell does)
        words += sorted(glob.glob(word)) or [word]  # noqa: PTH207 (of a name that is relative or not)
    command = words[words.index("sightline") + 1] if "sightline" in words else None
    if not NOT_WITH.get(command, set()) & set(words):
        words += ADDITIONS.get(command, [])
    return words
