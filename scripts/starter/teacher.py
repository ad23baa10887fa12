"""The teacher: an ImageNet-trained MobileNetV2 trunk (Apache-2.0), used frozen; its parameters go nowhere.

Layout of the arrays: the README of the shared material. Architecture: Sandler et al. 2018, arXiv:1801.04381.

Shape suffixes: B images, C channels, H W height and width, F features, N pictures, K crops.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from pixels import cached_pixels, normalise
from torch import Tensor, nn

from sightline.data.base import Dataset
from sightline.models.graph_export import BATCH, export_graph
from sightline.models.onnx_session import open_session
from sightline.training.augment import Augmentation, Changes, FixedCrops, augment

FEATURES_PX, CACHE_PX = 224, 192
STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
CROPS = Augmentation(crop_min=0.5, aspect_jitter=1.5, colour_jitter=0.0)
WHOLE_AND_MIRRORED = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])


class Trunk(nn.Module):
    """The trunk without its pooling: normalised pixels (B, 3, S, S) -> cells (B, 1280, S / 32, S / 32).

    Batch norms are folded into their convolutions, y = conv(x) * scale + shift, and move with them where it is tuned.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        with np.load(path) as arrays:
            conv = {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
        self.convs = nn.ParameterDict()
        for weight in [name for name in conv if name.endswith("_weight")]:
            name = weight.removesuffix("_weight")
            norm = name.replace("conv", "batchnorm")
            scale = conv[f"{norm}_gamma"] / torch.sqrt(conv[f"{norm}_running_var"] + 1e-5)
            self.convs[weight] = conv[weight] * scale[:, None, None, None]
            self.convs[f"{name}_bias"] = conv[f"{norm}_beta"] - conv[f"{norm}_running_mean"] * scale

    def forward(self, image_B3SS: Tensor) -> Tensor:
        """Cells of the last layer."""
        x = F.relu6(self._conv(image_B3SS, "conv0", stride=2, padding=1))
        for block, stride in enumerate(STRIDES):
            name = f"linearbottleneck{block}_"
            y = F.relu6(self._conv(x, f"{name}conv0"))
            y = F.relu6(self._conv(y, f"{name}conv1", stride=stride, padding=1, groups=y.shape[1]))
            y = self._conv(y, f"{name}conv2")
            x = x + y if stride == 1 and x.shape == y.shape else y
        return F.relu6(self._conv(x, "conv1"))

    def _conv(self, x: Tensor, name: str, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        weight, bias = self.convs[f"{name}_weight"], self.convs[f"{name}_bias"]
        return F.conv2d(x, weight, bias, stride=stride, padding=padding, groups=groups)


class _Pooled(nn.Module):
    """Pixels in [0, 1] -> pooled features (B, 1280)."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, image_B3SS: Tensor) -> Tensor:
        return self.trunk(normalise(image_B3SS)).mean(dim=(2, 3))


def teacher_features(trunk: Trunk, dataset: Dataset, folder: Path, *, crops: int) -> NDArray[np.float16]:
    """Pooled features of the whole picture, its mirror image, and `crops` fixed crops: (N, 2 + crops, 1280).

    Computed once; ONNX Runtime runs the trunk three times as fast as PyTorch.
    """
    path = folder / f"features-{dataset.fingerprint}-{crops}.npy"
    if not path.is_file():
        graph = folder / "trunk.onnx"
        example = (torch.zeros(2, 3, FEATURES_PX, FEATURES_PX),)
        export_graph(_Pooled(trunk), example, graph, names=(("pixels",), ("features",)), dynamic=({0: BATCH},))
        session = open_session(graph)
        pixels_NSS3 = cached_pixels(dataset, CACHE_PX)
        fixed = FixedCrops.draw(torch.full((len(dataset),), 1 + crops), CROPS, seed=0)
        affine_NK23 = fixed.affine_C23.unflatten(0, (len(dataset), 1 + crops))[:, 1:]
        affine_NK23 = torch.cat([WHOLE_AND_MIRRORED.expand(len(dataset), 2, 2, 3), affine_NK23], dim=1)
        features_NKF = np.empty((*affine_NK23.shape[:2], 1280), np.float16)
        for k in range(features_NKF.shape[1]):
            for start in range(0, len(dataset), 32):
                part = slice(start, min(start + 32, len(dataset)))
                changes = Changes(affine_B23=affine_NK23[part, k], colour_3B=torch.ones(3, part.stop - start))
                image_B3SS = augment(torch.from_numpy(np.array(pixels_NSS3[part])), FEATURES_PX, CROPS, changes)
                features_NKF[part, k] = session.run({"pixels": image_B3SS.numpy()})["features"]
        partial = path.with_suffix(".partial.npy")
        np.save(partial, features_NKF)
        partial.replace(path)
    features: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return features


class Whitening:
    """PCA whitening of features to `dim` axes; the ridge keeps the faintest axes from being mostly noise."""

    def __init__(self, features_NF: NDArray[np.float32], *, dim: int = 512, ridge: float = 0.1) -> None:
        self.mean_F = features_NF.mean(0)
        centred = features_NF - self.mean_F
        variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
        variance, axes = variance[::-1][:dim], axes[:, ::-1][:, :dim]
        self.axes_FD = (axes / np.sqrt(variance + ridge * variance.mean())).astype(np.float32)

    def __call__(self, features_NF: NDArray[np.float16]) -> NDArray[np.float32]:
        """(..., F) -> (..., D)."""
        whitened: NDArray[np.float32] = (features_NF.astype(np.float32) - self.mean_F) @ self.axes_FD
        return whitened
