"""Training a CLIP on JPEGs: Sightline's loop beside a plain PyTorch loop of the same towers, batch and precision.

python benchmarks/training.py [FLICKR8K] [--vit] [--images N] [--batch N]

FLICKR8K is a folder in Kaggle's layout; without one, pictures of its size are rendered. Epochs take turns, and the
first of each is left out. The plain loop is what one writes first: a Dataset that decodes with Pillow, two DataLoader
workers, random resized crops, texts padded to the context length. `--vit` takes ViT-B/32's shape for the towers.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sightline.core.models.inputs import Tokenizer
from sightline.lab.data.addressing import load_dataset
from sightline.lab.training.config import TowersConfig, TrainConfig
from sightline.lab.training.loop import prepare, update
from sightline.lab.training.parallel import World
from sightline.lab.training.recorder import Run

ROUNDS = 3
B32 = TowersConfig(
    architecture="vit", size_px=224, image_width=768, image_layers=12, image_heads=12, patch_px=32, text_width=512,
    text_layers=12, text_heads=8, dim=512, dropout=0.0, context_length=77,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flickr8k", nargs="?", type=Path)
    parser.add_argument("--vit", action="store_true")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SIGHTLINE_CACHE"] = str(Path(scratch) / "cache")
        address = f"flickr8k:{options.flickr8k}" if options.flickr8k else _render(Path(scratch), options.images + 64)
        towers = B32 if options.vit else TowersConfig()
        config = TrainConfig(
            recipe="benchmark", data=address, towers=towers, limit=options.images, val_limit=16, epochs=100,
            batch_size=options.batch, cache_px=None if options.vit else 128,
        )  # fmt: skip
        run = prepare(config, Path(scratch) / "run", World(), report=lambda line: None, resumed=False)
        name = "ViT-B/32 shape" if options.vit else "the starter's towers"
        print(
            f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {name}, "
            f"{options.images:,} JPEGs, batch {options.batch}, bf16 autocast"
        )
        compare(run, options.images, options.batch)


def compare(run: Run, n_images: int, batch: int) -> None:
    seen = n_images // batch * batch
    ours, plain = our_epochs(run), plain_epochs(run, batch)
    next(ours), next(plain)
    ratios = []
    for _ in range(ROUNDS):
        our_s, plain_s = next(ours), next(plain)
        ratios.append(plain_s / our_s)
        print(f"ours {seen / our_s:7.1f} images/s   plain {seen / plain_s:7.1f} images/s   ratio {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}")


def our_epochs(run: Run) -> Iterator[float]:
    step = 0
    while True:
        started = time.perf_counter()
        for _ in range(run.plan.steps_per_epoch):
            update(run, step)
            step += 1
        yield time.perf_counter() - started


class PlainPairs(TorchDataset[tuple[Tensor, Tensor]]):
    """What one writes first: decode, crop, resize and mirror with Pillow for each picture that is asked for."""

    def __init__(self, pairs: list[tuple[str, tuple[str, ...]]], tokenizer: Tokenizer, size_px: int) -> None:
        self.pairs, self.size_px = pairs, size_px
        self.ids = [[tokenizer.encode([caption])[0] for caption in captions] for _, captions in pairs]
        self.context_length, self.pad_id = tokenizer.spec.context_length, tokenizer.spec.pad_id

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.pairs[index][0]) as file:
            image = file.convert("RGB")
        side = random.uniform(0.7, 1.0)
        width, height = int(image.width * side), int(image.height * side)
        left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
        box = (left, top, left + width, top + height)
        image = image.resize((self.size_px, self.size_px), Image.Resampling.BICUBIC, box=box)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        pixels = (pixels - torch.tensor([0.48, 0.46, 0.41])[:, None, None]) / torch.tensor([0.27, 0.26, 0.28])[
            :, None, None
        ]
        ids = torch.full((self.context_length,), self.pad_id)
        own = random.choice(self.ids[index])
        ids[: len(own)] = torch.from_numpy(own)
        return pixels, ids


def plain_epochs(run: Run, batch: int) -> Iterator[float]:
    import copy

    model: Any = copy.deepcopy(run.model.towers)
    for parameter in model.parameters():  # as PyTorch makes them; ours orders convolutions by channels
        parameter.data = parameter.data.contiguous()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    pairs = [(str(pair.image.path), pair.captions) for pair in run.batches.dataset]  # type: ignore[attr-defined]
    dataset = PlainPairs(pairs, run.model.tokenizer, run.model.card.preprocessing.size_px)
    loader = DataLoader(dataset, batch_size=batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
    while True:
        started = time.perf_counter()
        for image_B3SS, ids_TL in loader:
            with torch.autocast("cpu", torch.bfloat16):
                image_BD = F.normalize(model.embed_images(image_B3SS)[0], dim=-1)
                text_TD = F.normalize(model.embed_texts(ids_TL), dim=-1)
                logits_BT = model.model.logit_scale.exp() * image_BD @ text_TD.T
            target = torch.arange(len(logits_BT))
            loss = (F.cross_entropy(logits_BT, target) + F.cross_entropy(logits_BT.T, target)) / 2
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        yield time.perf_counter() - started


def _render(folder: Path, count: int) -> str:
    """Pictures of Flickr8k's size here (192 x 192 JPEGs) with captions, in its layout."""
    scenes = load_dataset("scenes:0", limit=count)
    (folder / "flickr8k" / "Images").mkdir(parents=True)
    lines = ["image,caption"]
    splits = {"trainImages": [], "devImages": []}  # type: dict[str, list[str]]
    for number, pair in enumerate(scenes):
        name = f"{number:05}.jpg"
        Image.fromarray(pair.image.read()).resize((192, 192)).save(folder / "flickr8k" / "Images" / name, quality=82)
        lines += [f"{name},{caption}" for caption in pair.captions]
        splits["devImages" if number < 64 else "trainImages"].append(name)
    (folder / "flickr8k" / "captions.txt").write_text("\n".join(lines) + "\n")
    for split, names in splits.items():
        (folder / "flickr8k" / f"Flickr_8k.{split}.txt").write_text("\n".join(names) + "\n")
    return f"flickr8k:{folder / 'flickr8k'}"


if __name__ == "__main__":
    main()
