"""What the starter models learn from: pairs, sentences without pictures, and the tokenizer of all that."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from published import text_folder
from tokenizers import Tokenizer as Backend
from tokenizers import processors

from sightline.core.models.cards import TextSpec
from sightline.core.models.inputs import Tokenizer
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.base import Dataset

CONTEXT_LENGTH = 64
VOCABULARY = 10_500
N_HELD_OUT = 500
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)
SPEC = TextSpec(context_length=CONTEXT_LENGTH, pad_id=PAD_ID, bos_id=BOS_ID, eos_id=EOS_ID)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """The material, and where parts of it were prepared in `folder`."""

    folder: Path
    data: Path
    train: Dataset
    held_out: Dataset  # of Flickr8k train, by hash: no training sees them; weights of later choices are fitted on them
    val: Dataset
    coco: Dataset
    told: list[list[str]]  # sentences without pictures, those of one picture together
    tokenizer: Tokenizer
    old_ids: list[int]  # each token's row in the published embeddings

    @property
    def tokenizer_folder(self) -> Path:
        """Holds `tokenizer.json`."""
        return self.folder / "tokenizer"

    def tiny(self, split: str, limit: int | None = None) -> Dataset:
        """Tiny ImageNet's small pictures."""
        return load_dataset(f"tiny-imagenet:{self.data / 'tiny-imagenet'}", split=split, limit=limit)  # type: ignore[arg-type]


def load_corpus(data: Path, folder: Path, names: Iterable[str], *, smoke: bool = False) -> Corpus:
    """`data` holds `flickr8k/` and the others, `folder` takes what is made of them; `names` must be sayable, too."""
    whole = load_dataset(f"flickr8k:{data / 'flickr8k'}", split="train")
    val = load_dataset(f"flickr8k:{data / 'flickr8k'}", split="val")
    chosen = held_out_rows([pair.id for pair in whole])
    others = sorted(set(range(len(whole))) - set(chosen))
    told = _told(data / "captions" / "flickr30k-train.en.txt.gz")
    home = folder / "tokenizer"
    if not (home / "old_ids.json").is_file():
        texts = [caption for pair in whole for caption in pair.captions]
        _write_tokenizer([*texts, *(sentence for group in told for sentence in group)], names, home)
    return Corpus(
        folder=folder,
        data=data,
        train=whole.take(others[: 120 if smoke else None], why="not held out"),
        held_out=whole.take(chosen[: 20 if smoke else None], why="held out"),
        val=val.take(range(50), why="smoke") if smoke else val,
        coco=load_dataset(f"coco:{data / 'coco-mini'}", split="train", hold_out=False),
        told=told[:200] if smoke else told,
        tokenizer=Tokenizer.load(home, SPEC),
        old_ids=json.loads((home / "old_ids.json").read_text(encoding="utf-8")),
    )


def held_out_rows(ids: list[str]) -> list[int]:
    """Rows of the 500 pictures whose names' SHA-256 are smallest, whatever else the set holds."""
    order = sorted(range(len(ids)), key=lambda row: hashlib.sha256(ids[row].encode()).hexdigest())
    return sorted(order[:N_HELD_OUT])


def _write_tokenizer(sentences: list[str], names: Iterable[str], folder: Path) -> None:
    """MiniLM's word pieces without those that nobody needs here: what is said, every character, then its own order.

    BERT's vocabulary is ordered by frequency in English, so its first words fill what room is left.
    """
    published = json.loads((text_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    backend = Backend.from_str(json.dumps(published))
    backend.no_padding()
    backend.no_truncation()
    old: dict[str, int] = published["model"]["vocab"]
    said = Counter(i for encoding in backend.encode_batch(sentences, add_special_tokens=False) for i in encoding.ids)
    named = {i for encoding in backend.encode_batch(list(names), add_special_tokens=False) for i in encoding.ids}
    kept = {i for i, count in said.items() if count > 2} | named
    by_rank = sorted(old, key=lambda token: old[token])
    kept |= {old[token] for token in by_rank if token.isascii() and len(token.removeprefix("##")) == 1}
    for token in by_rank:
        if len(kept) >= VOCABULARY - len(_SPECIAL):
            break
        if token.isascii() and token.isalpha():
            kept.add(old[token])
    old_ids = [old[token] for token in _SPECIAL] + sorted(kept - {old[token] for token in _SPECIAL})
    words = {i: token for token, i in old.items()}
    published["model"]["vocab"] = {words[i]: new for new, i in enumerate(old_ids)}
    published["added_tokens"] = [
        {**entry, "id": _SPECIAL.index(entry["content"])}
        for entry in published["added_tokens"]
        if entry["content"] in _SPECIAL
    ]
    published["truncation"] = published["padding"] = published["post_processor"] = None
    trimmed = Backend.from_str(json.dumps(published))
    trimmed.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", BOS_ID), ("[SEP]", EOS_ID)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    trimmed.save(str(folder / "tokenizer.json"))
    (folder / "old_ids.json").write_text(json.dumps(old_ids), encoding="utf-8")


def _told(path: Path) -> list[list[str]]:
    """Captions of pictures that we don't have. The list has five for each picture, one after the other."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    return [lines[start : start + 5] for start in range(0, len(lines), 5)]
