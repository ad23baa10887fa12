"""What frozen towers say of pictures and texts, computed once and kept in files.

Shape suffixes: N pictures, K views, F features, T texts, E text width, S side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from corpus import Corpus
from lite_captioner import CELL_PX
from numpy.typing import NDArray
from published import MEAN, STD
from torch import Tensor, nn

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.export import BATCH, export_graph
from sightline.core.models.lite import CELL_WIDTH, BertTextTower, LiteImageTower
from sightline.core.models.onnx_runtime import open_session
from sightline.lab.data.base import Dataset
from sightline.lab.data.pixel_cache import open_pixel_cache
from sightline.lab.training.batches import Augmentation, Changes, FixedCrops, augment

CACHE_PX = 192
"""What Flickr8k's pictures measure here."""
USED_PX = 240
"""Things are smaller in whole pictures at this size than in crops at the size of tuning (arXiv:1906.06423)."""
NAMES_PX = 64
"""What Tiny ImageNet's pictures measure."""
N_NAMED = 3000
"""Pictures of Tiny ImageNet whose cells are kept."""
CROPS = Augmentation(crop_min=0.5, aspect_jitter=1.5, colour_jitter=0.0)
WHOLE_AND_MIRRORED = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])


def cached_pixels(dataset: Dataset, size_px: int) -> NDArray[np.uint8]:
    """All pictures, squashed: uint8 (N, S, S, 3), memory-mapped."""
    return open_pixel_cache(dataset, preprocessing=Preprocessing(size_px=size_px, resize_mode="squash")).pixels_NSS3


def as_images(pixels_BSS3: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> float (B, 3, S, S) in [0, 1]."""
    return pixels_BSS3.permute(0, 3, 1, 2).float() / 255


def normalise(image_B3SS: Tensor) -> Tensor:
    """Pixels in [0, 1] as the towers take them, channels side by side in memory."""
    return ((image_B3SS - MEAN[0]) / STD[0]).contiguous(memory_format=torch.channels_last)


class _Cells(nn.Module):
    """Pixels in [0, 1] -> cells (B, M, 1280), or their mean (B, 1280)."""

    def __init__(self, tower: LiteImageTower, *, pooled: bool) -> None:
        super().__init__()
        self.tower, self.pooled = tower, pooled

    def forward(self, image_B3SS: Tensor) -> Tensor:
        cells_BCM = self.tower((image_B3SS - MEAN[0]) / STD[0]).flatten(2)
        return cells_BCM.mean(dim=2) if self.pooled else cells_BCM.transpose(1, 2)


def tower_features(
    tower: LiteImageTower, dataset: Dataset, path: Path, *, size_px: int, crops: int = 0, pooled: bool = True
) -> NDArray[np.float16]:
    """What the tower says of the whole picture and, with `crops`, of its mirror image and so many fixed crops.

    Pooled features (N, K, F) or cells (N, K, M, F), kept at `path`, from where they are read as needed. ONNX Runtime
    runs the tower several times as fast as PyTorch.
    """
    if not path.is_file():
        graph = path.with_suffix(".onnx")
        example = (torch.zeros(2, 3, size_px, size_px),)
        module = _Cells(tower, pooled=pooled).eval()
        export_graph(module, example, graph, names=(("pixels",), ("features",)), dynamic=({0: BATCH},))
        session = open_session(graph)
        affine_NK23 = WHOLE_AND_MIRRORED[: 2 if crops else 1].expand(len(dataset), -1, 2, 3)
        if crops:
            fixed = FixedCrops.draw(torch.full((len(dataset),), 1 + crops), CROPS, seed=0)
            drawn_NK23 = fixed.affine_C23.unflatten(0, (len(dataset), 1 + crops))[:, 1:]
            affine_NK23 = torch.cat([affine_NK23, drawn_NK23], dim=1)
        pixels_NSS3 = cached_pixels(dataset, CACHE_PX if crops else size_px)
        partial = path.with_suffix(".partial.npy")
        cells = () if pooled else ((-(-size_px // CELL_PX)) ** 2,)
        shape = (*affine_NK23.shape[:2], *cells, CELL_WIDTH)
        made = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
        for k in range(shape[1]):
            for start in range(0, len(dataset), 32):
                part = slice(start, min(start + 32, len(dataset)))
                changes = Changes(affine_B23=affine_NK23[part, k], colour_3B=torch.ones(3, part.stop - start))
                image_B3SS = augment(torch.from_numpy(np.array(pixels_NSS3[part])), size_px, CROPS, changes)
                made[part, k] = session.run({"pixels": image_B3SS.numpy()})["features"]
        made.flush()
        partial.replace(path)
    kept: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return kept


def tuned_cells(
    tower: LiteImageTower, dataset: Dataset, name: str, corpus: Corpus, *, crops: int = 0
) -> NDArray[np.float16]:
    """Cells (N, K, M, F) of the tuned tower, kept for all stages that need them."""
    path = corpus.folder / "features" / f"tuned-{name}.npy"
    return tower_features(tower, dataset, path, size_px=USED_PX, crops=crops, pooled=False)


def pool(cells_NKMF: NDArray[np.float16]) -> NDArray[np.float32]:
    """The means over cells (N, K, F)."""
    return np.stack([image.astype(np.float32).mean(1) for image in cells_NKMF])


@torch.inference_mode()
def text_features(tower: BertTextTower, texts: list[str], corpus: Corpus, path: Path) -> Tensor:
    """What the text tower says of each text (T, E), kept at `path`."""
    if not path.is_file():
        ids = [corpus.tokenizer.truncate(row) for row in corpus.tokenizer.ids_of(texts)]
        order = sorted(range(len(texts)), key=lambda row: len(ids[row]))
        features_TE = np.empty((len(texts), tower.positions.shape[1]), np.float32)
        for start in range(0, len(order), 256):
            part = order[start : start + 256]
            padded = torch.zeros(len(part), len(ids[part[-1]]), dtype=torch.int64)
            for row, text in enumerate(part):
                padded[row, : len(ids[text])] = torch.tensor(ids[text])
            with torch.autocast("cpu", torch.bfloat16):
                features_TE[part] = tower.eval()(padded).float()
        partial = path.with_suffix(".partial.npy")
        np.save(partial, features_TE)
        partial.replace(path)
    return torch.from_numpy(np.load(path))
