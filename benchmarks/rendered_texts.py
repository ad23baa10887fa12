"""Signs, documents and lines of text over photos, with the words that stand there: what `reading.py` reads.

Fonts are those of this machine, one of each family, spread evenly where there are more than are wanted. Text is turned
up to 15 degrees, its colour has a contrast of 3 or more with the photo below it (WCAG's formula, medians), and images
are JPEGs of quality 85. All is drawn by a seed, so that the same fonts and photos give the same images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_FOLDERS = (
    Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".local/share/fonts",
    Path("/Library/Fonts"), Path("/System/Library/Fonts"), Path("C:/Windows/Fonts"),
)  # fmt: skip
FONTS = 60
SIZES_PX = (14, 20, 28, 40, 64)
MAX_TURN = 15.0
_SIGN_PX, _PAGE_PX = 72, 26
_LEAST_CONTRAST = 3.0
_NO_TEXT_FONTS = ("symbol", "initials", "keyboard", "math", "d050000l", "dingbat", "emoji", "icons")
_PALETTE = ("#000000", "#ffffff", "#b00020", "#00308f", "#0b6623", "#ffd400", "#ff7f11", "#7fdbff")

FIRST = "Harbour Maple Silver Corner Royal Golden Union River Castle Garden Northern Little Old Market Sunny".split()  # noqa: SIM905
SECOND = (
    "Bakery Bookshop Pharmacy Hotel Cinema Museum Station Laundry Theatre Library Brewery Florist Gallery Diner".split()  # noqa: SIM905
)
THIRD = "Open Closed Parking Entrance Tickets Breakfast Exit Delivery Sale Upstairs Welcome Repairs".split()  # noqa: SIM905
KINDS = "Invoice Receipt Contract Estimate Statement".split()  # noqa: SIM905
FOOD = "Milk Bread Butter Coffee Flour Sugar Cheese Apples Tomatoes Onions Rice Pasta Honey Salmon".split()  # noqa: SIM905
WARES = "Batteries Shampoo Candles Notebook Pencils Printer Curtains Hammer Screws Paint Ladder".split()  # noqa: SIM905
GOODS = [*FOOD, *WARES]
YEARS = tuple(range(2016, 2026))


@dataclass(frozen=True, kw_only=True)
class Written:
    """An image with text, and the truth."""

    image: Image.Image
    words: tuple[str, ...]
    query: str = ""
    font: str = ""
    size_px: int = 0
    turn: float = 0.0
    """Degrees, counterclockwise."""


def find_fonts(folders: Iterable[Path], count: int = FONTS) -> dict[str, Path]:
    """Paths by family: the plainest face of each that has letters, at most `count`."""
    import matplotlib  # carries some

    folders = [*folders, Path(matplotlib.get_data_path()) / "fonts" / "ttf"]
    families: dict[str, list[tuple[bool, int, Path]]] = {}
    for path in sorted(path for folder in folders for ext in ("ttf", "otf") for path in folder.rglob(f"*.{ext}")):
        try:
            face = ImageFont.truetype(str(path), 20)
        except OSError:
            continue
        family, style = face.getname()
        if bytes(face.getmask("a")) == bytes(face.getmask("b")):  # no letters
            continue
        if (
            family
            and not any(part in family.lower() for part in _NO_TEXT_FONTS)
            and not family.startswith(("STIX", "cm"))
        ):
            plain = (style or "").lower() in ("regular", "book", "roman", "medium")
            families.setdefault(family, []).append((not plain, len(path.name), path))
    names = sorted(families)
    if not names:
        sys.exit("No fonts were found; give folders of .ttf or .otf files with --fonts.")
    chosen = [names[place * len(names) // min(count, len(names))] for place in range(min(count, len(names)))]
    return {name: min(families[name])[2] for name in chosen}


def lines_over_photo(photo: Image.Image, font: tuple[str, Path], size_px: int, rng: np.random.Generator) -> Written:
    """Three lines of two or three words and numbers, in one font and size, turned, right on the photo."""
    words = [*FIRST, *SECOND, *THIRD, *GOODS]
    lines = [[str(rng.choice(words)) for _ in range(2)] for _ in range(3)]
    lines[int(rng.integers(3))].append(str(rng.integers(10, 9999)))
    face = ImageFont.truetype(str(font[1]), size_px)
    text = "\n".join(" ".join(line) for line in lines)
    box = [int(side) for side in ImageDraw.Draw(photo).multiline_textbbox((0, 0), text, face, spacing=size_px // 2)]
    size = box[2] - box[0] + size_px, box[3] - box[1] + size_px
    turn = float(rng.uniform(-MAX_TURN, MAX_TURN))
    mask = Image.new("L", size, 0)
    start = (size_px // 2 - box[0], size_px // 2 - box[1])
    ImageDraw.Draw(mask).multiline_text(start, text, 255, face, spacing=size_px // 2)
    mask = mask.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    image = photo.copy()
    if mask.width > image.width or mask.height > image.height:
        image = image.resize((max(image.width, mask.width), max(image.height, mask.height)))
    left, top = (int(rng.integers(0, a - b + 1)) for a, b in zip(image.size, mask.size, strict=True))
    below = image.crop((left, top, left + mask.width, top + mask.height))
    image.paste(_ink(below, rng), (left, top), mask)
    words_of = tuple(word for line in lines for word in line)
    return Written(image=image, words=words_of, font=font[0], size_px=size_px, turn=turn)


def sign(photo: Image.Image, font: tuple[str, Path], number: int, rng: np.random.Generator) -> Written:
    """A plate with three words, turned, on a photo; no two numbers below 195 have the same words."""
    words = (
        FIRST[number % len(FIRST)],
        SECOND[number // len(FIRST) % len(SECOND)],
        THIRD[(number + number // len(FIRST)) % len(THIRD)],
    )
    plate = str(rng.choice(_PALETTE))
    text = f"{words[0]} {words[1]}\n{words[2]}"
    face = ImageFont.truetype(str(font[1]), _SIGN_PX)
    box = ImageDraw.Draw(photo).multiline_textbbox((0, 0), text, face, spacing=20, align="center")
    sheet = Image.new("RGB", (int(box[2] - box[0]) + 80, int(box[3] - box[1]) + 80), plate)
    start = (40 - box[0], 40 - box[1])
    ImageDraw.Draw(sheet).multiline_text(start, text, _ink(sheet, rng), face, spacing=20, align="center")
    turn = float(rng.uniform(-MAX_TURN, MAX_TURN))
    image = _pin(sheet, photo, turn, fill=0.9)
    return Written(image=image, words=words, query=" ".join(words).lower(), font=font[0], size_px=_SIGN_PX, turn=turn)


def document(photo: Image.Image, font: tuple[str, Path], rng: np.random.Generator) -> Written:
    """A page with a shop's name, a kind, a date and six goods with prices, turned, on a photo; asked for by three."""
    kind, year = str(rng.choice(KINDS)), int(rng.choice(YEARS))
    goods = [str(one) for one in rng.choice(GOODS, 6, replace=False)]
    shop = f"{rng.choice(FIRST)} {rng.choice(SECOND)}"
    prices = rng.integers(89, 9999, 7) / 100
    day = f"{rng.integers(1, 29):02}.{rng.integers(1, 13):02}.{year}"
    lines = [shop, "", f"{kind} No {rng.integers(100, 9999)}", f"Date {day}", ""]
    rows = [f"{good:<14}{price:>10.2f}" for good, price in zip([*goods, "Total"], prices, strict=True)]
    face = ImageFont.truetype(str(font[1]), _PAGE_PX)
    sheet = Image.new("RGB", (640, 900), (250, 249, 245))
    draw = ImageDraw.Draw(sheet)
    for place, line in enumerate([*lines, *rows]):
        name, _, price = line.rpartition("  ") if line in rows else (line, "", "")
        draw.text((60, 70 + 58 * place), name.strip(), "#222222", face)
        draw.text((580, 70 + 58 * place), price.strip(), "#222222", face, anchor="ra")
    turn = float(rng.uniform(-MAX_TURN, MAX_TURN))
    words = tuple(word for line in [*lines, *rows] for word in line.split())
    query = f"{kind} {year} {rng.choice(goods)}".lower()
    image = _pin(sheet, photo.resize((1000, 1300)), turn, fill=0.98)
    return Written(image=image, words=words, query=query, font=font[0], size_px=_PAGE_PX, turn=turn)


def _pin(sheet: Image.Image, photo: Image.Image, turn: float, *, fill: float) -> Image.Image:
    """A sheet, turned, on the middle of a photo, smaller where it would leave it."""
    cut = Image.new("L", sheet.size, 255).rotate(turn, Image.Resampling.BICUBIC, expand=True)
    turned = sheet.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    scale = min(1.0, fill * photo.width / turned.width, fill * photo.height / turned.height)
    size = (int(turned.width * scale), int(turned.height * scale))
    image = photo.copy()
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    image.paste(turned.resize(size, Image.Resampling.LANCZOS), (left, top), cut.resize(size))
    return image


def _ink(below: Image.Image, rng: np.random.Generator) -> str:
    """A colour that can be read on what lies below, else the one that can be read best."""
    median_3 = np.median(np.asarray(below.convert("RGB")).reshape(-1, 3), axis=0)
    ground = _luminance(median_3)
    contrasts = {}
    for colour in _PALETTE:
        own = _luminance(np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]))
        contrasts[colour] = (max(own, ground) + 0.05) / (min(own, ground) + 0.05)
    readable = [colour for colour, contrast in contrasts.items() if contrast >= _LEAST_CONTRAST]
    return str(rng.choice(readable)) if readable else max(contrasts, key=lambda colour: contrasts[colour])


def _luminance(rgb_3: np.ndarray) -> float:
    levels_3 = np.asarray(rgb_3, dtype=np.float64) / 255
    linear_3 = np.where(levels_3 <= 0.04045, levels_3 / 12.92, ((levels_3 + 0.055) / 1.055) ** 2.4)
    return float(linear_3 @ (0.2126, 0.7152, 0.0722))


def contact_sheet(images: Sequence[Image.Image], columns: int = 4, width: int = 400) -> Image.Image:
    """Images side by side, to look at."""
    small = [image.resize((width, width * image.height // image.width)) for image in images]
    height = max(image.height for image in small)
    sheet = Image.new("RGB", (columns * width, -(-len(small) // columns) * height))
    for place, image in enumerate(small):
        sheet.paste(image, (place % columns * width, place // columns * height))
    return sheet
