"""`python -m sightline.faces.demo`: the demo, as `make demo` runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sightline.errors import SightlineError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo or print its credits; 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(prog="python -m sightline.faces.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for photos, library and page")
    parser.add_argument(
        "--only-redistributable",
        action="store_true",
        help="only photos that may be committed, at most 320 pixels (for docs/contact-sheet.webp)",
    )
    parser.add_argument("--credits", action="store_true", help="print docs/credits.md and stop")
    options = parser.parse_args(arguments)
    try:
        if options.credits:
            from sightline.faces.demo.photos import format_credits, load_photos

            print(format_credits(load_photos()), end="")
            return 0
        from sightline.faces.demo.run import run_demo

        print(run_demo(options.out, only_redistributable=options.only_redistributable))
    except SightlineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
