"""What the starter models learn from: pairs, names that people use, sentences, and the tokenizer of all that."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

from names import PLAIN_NAMES

from sightline.data.addressing import load_dataset
from sightline.data.base import Dataset
from sightline.data.tiny_imagenet import split_synonyms
from sightline.evaluation.prompts import default_templates, fill
from sightline.models.tokenizing import Tokenizer
from sightline.training.vocabulary import text_spec, train_tokenizer, write_tokenizer

CONTEXT_LENGTH = 32
VOCABULARY = 5000
SYNONYMS = 3  # of ImageNet's own, beside the everyday names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """The material, and where parts of it were prepared in `folder`."""

    folder: Path
    flickr: str  # addresses
    tiny: str
    train: Dataset
    val: Dataset
    told: list[list[str]]  # sentences without pictures, those of one picture together
    tokenizer: Tokenizer

    @property
    def tokenizer_folder(self) -> Path:
        """Holds `tokenizer.json`."""
        return self.folder / "tokenizer"


def load_corpus(data: Path, folder: Path) -> Corpus:
    """`data` is the folder that holds `flickr8k/` and the others; `folder` takes what is made of them."""
    flickr = f"flickr8k:{data / 'flickr8k'}"
    tiny = _with_plain_names(data / "tiny-imagenet", folder / "tiny-imagenet")
    train = load_dataset(flickr, split="train")
    told = _told(data / "captions" / "flickr30k-train.en.txt.gz")
    home = folder / "tokenizer"
    if not (home / "tokenizer.json").is_file():
        names = [name for names in load_dataset(tiny, split="train").class_names or () for name in names]
        texts = [caption for pair in train for caption in pair.captions]
        texts += [sentence for sentences in told for sentence in sentences]
        texts += [fill(template, name) for name in names for template in default_templates()]
        write_tokenizer(train_tokenizer(texts, vocab_size=VOCABULARY), home)
    return Corpus(
        folder=folder,
        flickr=flickr,
        tiny=tiny,
        train=train,
        val=load_dataset(flickr, split="val"),
        told=told,
        tokenizer=Tokenizer.load(home, text_spec(CONTEXT_LENGTH)),
    )


def smoke_corpus(corpus: Corpus) -> Corpus:
    """A few hundred of everything."""
    return dataclasses.replace(
        corpus,
        train=corpus.train.take(range(80), why="smoke"),
        val=corpus.val.take(range(50), why="smoke"),
        told=corpus.told[:200],
    )


def _with_plain_names(source: Path, folder: Path) -> str:
    """Tiny ImageNet under names that people search for: links to its tables beside a list of classes of our own."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in source.glob("*.parquet"):
        if not (folder / table.name).exists():
            (folder / table.name).symlink_to(table.resolve())
    classes = json.loads((source / "classes.json").read_text(encoding="utf-8"))
    for entry in classes:
        own = split_synonyms(entry["names"])
        plain = PLAIN_NAMES.get(entry["names"], PLAIN_NAMES.get(own[0], ()))
        entry["names"] = ", ".join(dict.fromkeys([*plain, *(name.lower() for name in own[:SYNONYMS])]))
    (folder / "classes.json").write_text(json.dumps(classes, indent=1), encoding="utf-8")
    return f"tiny-imagenet:{folder}"


def _told(path: Path) -> list[list[str]]:
    """Captions of pictures that we don't have. The list has five for each picture, one after the other."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    return [lines[start : start + 5] for start in range(0, len(lines), 5)]
