"""The training material, decoded once: pixels in memory-mapped arrays, captions, names and the tokenizer.

Nothing here is kept in the repository: the caches lie in the run's output folder.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CACHE_PX = 128
TINY_PX = 64
TINY_VAL_ROWS = 40  # the last rows of each class, in file order: held out, never trained on
SPECIAL_TOKENS = ("[PAD]", "[BOS]", "[EOS]", "[UNK]")
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)
CONTEXT_LENGTH = 32

TEMPLATES = (
    "{a}", "a photo of {a}", "a picture of {a}", "{bare}", "a close up of {a}", "there is {a} in the picture",
    "a small photo of {a}", "{a} in the photo",
)  # fmt: skip

# Everyday words for classes that ImageNet names too finely to be searched for by that name.
PLAIN_NAMES: dict[str, tuple[str, ...]] = {
    "Egyptian cat": ("cat", "kitten"), "tabby, tabby cat": ("cat", "kitten"), "Persian cat": ("cat",),
    "German shepherd": ("dog",), "Labrador retriever": ("dog",), "golden retriever": ("dog",), "Chihuahua": ("dog",),
    "Yorkshire terrier": ("dog",), "standard poodle": ("dog",), "espresso": ("coffee", "cup of coffee"),
    "school bus": ("bus",), "trolleybus": ("bus",), "bullet train": ("train",), "freight car": ("train",),
    "sports car": ("car",), "convertible": ("car",), "limousine": ("car",), "beach wagon": ("car",),
    "police van": ("van",), "moving van": ("truck", "van"), "African elephant": ("elephant",),
    "American alligator": ("alligator", "crocodile"), "brown bear": ("bear",), "king penguin": ("penguin",),
    "monarch": ("butterfly",), "sulphur butterfly": ("butterfly",), "Arabian camel": ("camel",),
    "boa constrictor": ("snake",), "tarantula": ("spider",), "black widow": ("spider",), "bullfrog": ("frog",),
    "tailed frog": ("frog",), "European fire salamander": ("salamander", "lizard"), "goldfish": ("fish",),
    "albatross": ("bird",), "goose": ("bird",), "black stork": ("bird", "stork"), "chimpanzee": ("monkey", "ape"),
    "baboon": ("monkey",), "orangutan": ("monkey", "ape"), "computer keyboard": ("keyboard",), "hog": ("pig",),
    "dining table": ("table",), "seashore": ("beach", "sea"), "lakeside": ("lake",),
    "alp": ("mountain", "snowy mountain"),
    "cliff": ("rocks",), "suspension bridge": ("bridge",), "steel arch bridge": ("bridge",), "viaduct": ("bridge",),
    "beer bottle": ("bottle", "beer"), "pop bottle": ("bottle",), "frying pan": ("pan",), "mashed potato": ("food",),
    "guacamole": ("food",), "meat loaf": ("food", "meat"), "pizza": ("food",), "ice cream": ("dessert",),
    "American lobster": ("lobster",), "spiny lobster": ("lobster",), "ox": ("cow", "bull"), "bison": ("buffalo",),
    "bighorn": ("sheep",), "lion": ("big cat",), "cougar": ("big cat",), "orange": ("fruit", "oranges"),
    "banana": ("fruit", "bananas"), "lemon": ("fruit", "lemons"), "pomegranate": ("fruit",),
    "teddy": ("stuffed animal",),
    "bell pepper": ("vegetable",), "cauliflower": ("vegetable",), "beacon": ("tower",), "water tower": ("tower",),
    "remote control": ("remote",), "barn": ("building", "farm"), "gondola": ("boat",), "lifeboat": ("boat",),
    "swimming trunks": ("shorts",), "sunglasses": ("glasses",), "desk": ("office desk",), "bee": ("insect",),
    "fly": ("insect",), "grasshopper": ("insect",), "mantis": ("insect",), "cockroach": ("insect",),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Everything the stages train and measure on; arrays of pixels are uint8 NHWC and memory-mapped."""

    train_pixels: NDArray[np.uint8]
    val_pixels: NDArray[np.uint8]
    train_captions: list[list[str]]
    val_captions: list[list[str]]
    train_files: list[Path]
    val_files: list[Path]
    tiny_pixels: NDArray[np.uint8]
    tiny_labels: NDArray[np.int64]
    tiny_is_train: NDArray[np.bool_]
    class_names: list[list[str]]
    text_only: list[str]
    tokenizer: Tokenizer


def load_corpus(data: Path, cache: Path, *, val_px: int) -> Corpus:
    """Decode what isn't cached yet and load everything. `data` is the folder that holds `flickr8k/` and the others."""
    cache.mkdir(parents=True, exist_ok=True)
    flickr = {split: _flickr_split(data / "flickr8k", split) for split in ("train", "val")}
    train_files, train_captions = flickr["train"]
    val_files, val_captions = flickr["val"]
    tiny_pixels, tiny_labels = _tiny_pixels(data / "tiny-imagenet", cache)
    class_names = _class_names(data / "tiny-imagenet" / "classes.json")
    with gzip.open(data / "captions" / "flickr30k-train.en.txt.gz", "rt", encoding="utf-8") as file:
        text_only = [line.strip() for line in file if line.strip()]
    spoken = [caption for captions in train_captions for caption in captions]
    named = [name for names in class_names for name in names] * 20
    return Corpus(
        train_pixels=_squashed(train_files, cache / f"flickr8k-train-{CACHE_PX}.npy", CACHE_PX),
        val_pixels=_squashed(val_files, cache / f"flickr8k-val-{val_px}.npy", val_px),
        train_captions=train_captions,
        val_captions=val_captions,
        train_files=train_files,
        val_files=val_files,
        tiny_pixels=tiny_pixels,
        tiny_labels=tiny_labels,
        tiny_is_train=_train_rows(tiny_labels),
        class_names=class_names,
        text_only=text_only,
        tokenizer=_tokenizer([*spoken, *text_only, *named], cache / "tokenizer.json"),
    )


def squash(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """An image as a square (size, size, 3): what the models' card asks of the runtime."""
    return np.asarray(image.convert("RGB").resize((size_px, size_px), Image.Resampling.BICUBIC))


def token_rows(tokenizer: Tokenizer, texts: list[str]) -> NDArray[np.int64]:
    """Texts as rows of ids with BOS and EOS, cut and padded to `CONTEXT_LENGTH`. An EOS is kept when a text is cut."""
    rows = np.full((len(texts), CONTEXT_LENGTH), PAD_ID, np.int64)
    for row, encoding in zip(rows, tokenizer.encode_batch(texts), strict=True):
        ids = encoding.ids
        if len(ids) > CONTEXT_LENGTH:
            ids = [*ids[: CONTEXT_LENGTH - 1], EOS_ID]
        row[: len(ids)] = ids
    return rows


def words(text: str) -> list[str]:
    """The lower-case words of a text, without punctuation."""
    return re.findall(r"[\w']+", text.lower())


def with_article(name: str) -> str:
    """A name after "a" or "an"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def with_plain_accents(tokenizer: Tokenizer) -> Tokenizer:
    """Set the normaliser: lower case, accents and curly quotes made plain, punctuation dropped."""
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace("\u2019", "'"),
            normalizers.Replace(Regex(r"[^\w\s']|_"), " "),
        ]
    )
    return tokenizer


def _flickr_split(folder: Path, split: str) -> tuple[list[Path], list[list[str]]]:
    """The files and captions of one Karpathy split."""
    listing = json.loads((folder / "dataset_flickr8k.json").read_text(encoding="utf-8"))
    images = [image for image in listing["images"] if image["split"] == split]
    files = [folder / "Images" / image["filename"] for image in images]
    return files, [[sentence["raw"].strip() for sentence in image["sentences"]] for image in images]


def _squashed(files: list[Path], path: Path, size_px: int) -> NDArray[np.uint8]:
    """The files' pixels as one memory-mapped array, decoded on the first call."""
    if not path.exists():
        pixels = np.empty((len(files), size_px, size_px, 3), np.uint8)
        for row, file in zip(pixels, files, strict=True):
            with Image.open(file) as image:
                row[:] = squash(image, size_px)
        _save(path, pixels)
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return mapped


def _tiny_pixels(folder: Path, cache: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Tiny ImageNet's pixels and labels, in file order."""
    labels_path, pixels_path = cache / "tiny-labels.npy", cache / f"tiny-{TINY_PX}.npy"
    if not (labels_path.exists() and pixels_path.exists()):
        tables = [parquet.read_table(file, columns=["image", "label"]) for file in sorted(folder.glob("*.parquet"))]
        encoded = [item for table in tables for item in table["image"].to_pylist()]
        pixels = np.empty((len(encoded), TINY_PX, TINY_PX, 3), np.uint8)
        for row, item in zip(pixels, encoded, strict=True):
            with Image.open(io.BytesIO(item)) as image:
                row[:] = np.asarray(image.convert("RGB"))
        _save(pixels_path, pixels)
        _save(labels_path, np.concatenate([table["label"].to_numpy() for table in tables]).astype(np.int64))
    return np.load(pixels_path, mmap_mode="r"), np.load(labels_path)


def _train_rows(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for all rows but the last `TINY_VAL_ROWS` of each class."""
    keep = np.ones(len(labels), np.bool_)
    for label in np.unique(labels):
        keep[np.flatnonzero(labels == label)[-TINY_VAL_ROWS:]] = False
    return keep


def _class_names(path: Path) -> list[list[str]]:
    """For each label its names: the everyday ones first, then at most three of ImageNet's synonyms."""
    classes = sorted(json.loads(path.read_text(encoding="utf-8")), key=lambda item: int(item["label"]))
    names = []
    for item in classes:
        synonyms = [name.strip() for name in item["names"].split(",")]
        plain = PLAIN_NAMES.get(item["names"], PLAIN_NAMES.get(synonyms[0], ()))
        names.append(list(dict.fromkeys([*plain, *(name.lower() for name in synonyms[:3])])))
    return names


def _tokenizer(texts: Iterable[str], path: Path) -> Tokenizer:
    """A lower-casing byte-pair encoding of 5,000 entries; punctuation is dropped, so "a dog." equals "A dog"."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    with_plain_accents(tokenizer)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=5000, min_frequency=2, special_tokens=list(SPECIAL_TOKENS), end_of_word_suffix="</w>",
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", BOS_ID), ("[EOS]", EOS_ID)]
    )
    tokenizer.save(str(path))
    return tokenizer


def _save(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array so that a half-written cache is never mistaken for a whole one."""
    partial = path.with_suffix(".partial.npy")
    np.save(partial, array)
    partial.replace(path)
