"""Words in images: how many are found, whether a search finds the image by them, and what reading costs.

python benchmarks/reading.py --data ../shared/data [--fonts DIR]... [--cache DIR] [--images N] [--quick]

Images are rendered text on the photos of coco-mini (`rendered_texts.py`): of four one is a sign, one a document, two
hold lines right on the photo. Each is read by us and by RapidOCR alone, in turns; a word counts that stands in what was
read, case aside. What we read goes into a library of the starter, beside photos without text, and each sign and
document is asked for by words that stand on it. What is read stays in `--cache`, so a run that was cut short goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rendered_texts import FONT_FOLDERS, SIZES_PX, Written, document, find_fonts, lines_over_photo, sign
from report import Row, show

from sightline.core.images.decode import read_image
from sightline.core.indexing.text import MIN_SIDE_PX, RapidReader
from sightline.core.library import Library
from sightline.core.search.relevance import UNLIKELY_BELOW
from sightline.core.store.texts import split_words
from sightline.core.types import TextLine, TextReading

PHOTO_PX = (1024, 768)
NO_TEXT = 20
"""Photos without rendered text that lie in the library, too."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """An image as both read it, with its truth."""

    file: str
    kind: str
    words: Sequence[str]
    query: str
    font: str
    size_px: int
    lines: Sequence[tuple[str, float, Sequence[float]]]
    alone: str
    """What RapidOCR alone read."""
    seconds: float
    alone_seconds: float
    cpu_seconds: float
    alone_cpu_seconds: float

    @property
    def text(self) -> str:
        """What we read."""
        return "\n".join(text for text, _, _ in self.lines)


def render(number: int, photos: Sequence[Path], fonts: Sequence[tuple[str, Path]]) -> tuple[str, Written]:
    """One image: the same for the same number, photos and fonts."""
    rng = np.random.default_rng(number)
    kind = ("lines", "sign", "lines", "document")[number % 4]
    photo = Image.open(photos[number % len(photos)]).convert("RGB").resize(PHOTO_PX)
    font = fonts[(number // 2 if kind == "lines" else number // 4) % len(fonts)]
    if kind == "lines":
        return kind, lines_over_photo(photo, font, SIZES_PX[number // 2 % len(SIZES_PX)], rng)
    return kind, sign(photo, font, 17 * (number // 4), rng) if kind == "sign" else document(photo, font, rng)


def read_all(count: int, photos: Sequence[Path], fonts: Sequence[tuple[str, Path]], cache: Path) -> list[Read]:
    """The first images, read by both; those of an earlier run come from its cache."""
    from rapidocr import RapidOCR

    kept = cache / "readings.jsonl"
    known = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    found = [Read(**one) for one in known][:count]
    ours, alone = RapidReader(), RapidOCR(params={"Global.log_level": "critical"})
    (cache / "images").mkdir(parents=True, exist_ok=True)
    for number in range(len(found), count):
        kind, written = render(number, photos, fonts)
        path = cache / "images" / f"{number:04}.jpg"
        written.image.save(path, quality=85)
        if number < 2:
            ours.read(read_image(path, min_side_px=MIN_SIDE_PX).rgb), alone(str(path))  # loads the models
        lines: list[TextLine] = []
        texts: list[str] = []

        def read_ours(path: Path = path, lines: list[TextLine] = lines) -> None:
            lines += ours.read(read_image(path, min_side_px=MIN_SIDE_PX).rgb)

        def read_alone(path: Path = path, texts: list[str] = texts) -> None:
            texts.extend(alone(str(path), use_det=True, use_cls=True, use_rec=True).txts or ())

        if number % 2:
            times, alone_times = timed(read_ours), timed(read_alone)
        else:
            alone_times, times = timed(read_alone), timed(read_ours)
        one = Read(
            file=path.name,
            kind=kind,
            words=written.words,
            query=written.query,
            font=written.font,
            size_px=written.size_px,
            lines=[(line.text, line.score, line.corners) for line in lines],
            alone="\n".join(texts),
            seconds=times[0],
            alone_seconds=alone_times[0],
            cpu_seconds=times[1],
            alone_cpu_seconds=alone_times[1],
        )
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(one)) + "\n")
        found.append(one)
    return found


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds of a call, and of all cores for it."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def count_words(text: str, words: Iterable[str]) -> tuple[int, int]:
    """How many of some words a text holds, each as often as it stands there, and how many they are."""
    there = Counter(part for word in split_words(text) for part in (*word.parts, *word.joined))
    wanted = Counter(part for spaced in words for word in split_words(spaced) for part in word.parts)
    return sum((there & wanted).values()), wanted.total()


def recall(reads: Iterable[Read], text_of: Callable[[Read], str]) -> float:
    """The share of all words that was read, in percent."""
    counts = np.array([count_words(text_of(read), read.words) for read in reads]).reshape(-1, 2).sum(axis=0)
    return round(100 * float(counts[0]) / max(int(counts[1]), 1), 1)


def search_all(reads: Sequence[Read], photos: Sequence[Path], cache: Path) -> list[Row]:
    """Signs and documents asked for by what stands on them, and the same without those that hold it."""
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        library = Library.open(Path(folder) / "library", model="starter")
        for photo in photos[:NO_TEXT]:
            shutil.copy(photo, cache / "images" / f"photo-{photo.name}")
        library.index(cache / "images")
        by_file = {read.file: read for read in reads}
        library.store.put_readings(
            {
                record.content_hash: TextReading(
                    engine="benchmark", lines=tuple(TextLine(*line) for line in by_file[record.path.name].lines)
                )
                for record in library.store.scan()
                if record.path.name in by_file
            }
        )
        rows = []
        for kind in ("sign", "document"):
            asked = [read for read in reads if read.kind == kind]
            first = likely = told = false = 0
            for read in asked:
                right = {
                    other.file for other in asked if set(read.query.split()) <= set(_tokens("\n".join(other.words)))
                }
                hits = library.search(read.query, top=1)
                if hits and hits[0].image.path.name in right:
                    first += 1
                    likely += (hits[0].probability or 0.0) >= UNLIKELY_BELOW
                    told += hits.verdict.matches
                listed = ", ".join(f"'{name}'" for name in sorted(right))
                without = library.search(read.query, top=1, where=f"not name in ({listed})")
                false += bool(without) and without.verdict.matches
            of = f"of {len(asked)} {kind}s asked for by 3 words"
            share = [round(100 * number / max(len(asked), 1), 1) for number in (first, likely, told, false)]
            rows += [
                Row(
                    journey=f"{of}: the right image first",
                    unit="%",
                    ours=share[0],
                    goal=">= 90%",
                    reached=share[0] >= 90,
                ),
                Row(journey=f"{of}: first, and said to be likely", unit="%", ours=share[1]),
                Row(journey=f"{of}: first, and said to match", unit="%", ours=share[2]),
                Row(journey=f"{of}: said to match without it", unit="%", ours=share[3]),
            ]
    return rows


def _tokens(text: str) -> list[str]:
    return [part for word in split_words(text) for part in word.parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--fonts", type=Path, action="append", default=[], help="a folder of fonts beside the system's")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sightline-reading")
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--quick", action="store_true", help="8 images: a smoke run")
    arguments = parser.parse_args()
    count = 8 if arguments.quick else arguments.images
    photos = sorted((arguments.data / "coco-mini" / "train2017").glob("*.jpg"))
    fonts = sorted(find_fonts([*arguments.fonts, *FONT_FOLDERS]).items())
    reads = read_all(count, photos, fonts, arguments.cache)
    rows = []
    parts = [(f"lines of {size} pixels", [one for one in reads if one.size_px == size]) for size in SIZES_PX]
    for kind, name in (("lines", "all lines on photos"), ("sign", "signs"), ("document", "documents")):
        parts.append((name, [one for one in reads if one.kind == kind]))
    for name, some in parts:
        mine, other = recall(some, lambda one: one.text), recall(some, lambda one: one.alone)
        journey = f"words read, {name} ({len(some)} images)"
        rows.append(
            Row(
                journey=journey,
                unit="%",
                ours=mine,
                other=other,
                alternative="RapidOCR alone",
                ratio=mine / max(other, 1),
            )
        )
    rows += search_all(reads, photos, arguments.cache)
    for unit, name, ours, alone in (
        ("s", "an image, elapsed", "seconds", "alone_seconds"),
        ("s", "an image, processor time", "cpu_seconds", "alone_cpu_seconds"),
    ):
        pairs = [(getattr(one, ours), getattr(one, alone)) for one in reads]
        ratio = statistics.median(b / a for a, b in pairs)
        rows.append(
            Row(
                journey=f"reading {name} (decoding included)",
                unit=unit,
                ours=statistics.median(a for a, _ in pairs),
                other=statistics.median(b for _, b in pairs),
                alternative="RapidOCR alone",
                ratio=ratio,
                goal="<= 1.2 times as long",
                reached=1 / ratio <= 1.2,
            )
        )
    used = {one.font for one in reads}
    print(f"{len(reads)} images in {len(used)} of {len(fonts)} fonts: {', '.join(sorted(used))}")
    show("reading-quick" if arguments.quick else "reading", rows)


if __name__ == "__main__":
    main()
