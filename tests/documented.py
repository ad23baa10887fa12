"""Shell and Python blocks of a Markdown page, indented or fenced, each with the line where it starts."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Block:
    place: str
    kind: str
    """`shell`, `python`, or `other`: a listing or an output, which nobody runs."""
    code: str

    def commands(self):
        """Argument lists of a shell block's lines, without comments."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(page):
    """Every block of a page below the repository's root, in order."""
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
            text = "\n".join(code).strip() + "\n"
            found.append(Block(place=f"{page}:{start + 1}", kind=kind_of(language, text), code=text))
        after_blank = number < len(lines) and not lines[number]
        number += 1
    return found


def kind_of(language, code):
    first = code.split()[0]
    if language in ("sh", "bash", "shell") or first in ("sightline", "pip", "pipx", "uv", "make", "torchrun", "export"):
        return "shell"
    return "python" if language == "python" or first in ("import", "from") else "other"
