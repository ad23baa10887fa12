"""The teacher: an ImageNet-trained MobileNetV2 trunk (Apache-2.0), used frozen; its parameters go nowhere.

Layout of the arrays: the README of the shared material. Architecture: Sandler et al. 2018, arXiv:1801.04381.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F  # noqa: N812
from corpus import Corpus, squash
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

TEACHER_PX, FLICKR_PX, ENLARGED_PX = 224, 192, 128
STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Teacher:
    """The frozen trunk: normalised pixels (B, 3, 224, 224) -> pooled features (B, 1280)."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self.arrays = {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        """Pooled features (B, 1280)."""
        x = F.relu6(self._conv(image_BCHW, "conv0", "batchnorm0", stride=2, padding=1))
        for block, stride in enumerate(STRIDES):
            name = f"linearbottleneck{block}_"
            y = F.relu6(self._conv(x, f"{name}conv0", f"{name}batchnorm0"))
            y = F.relu6(self._conv(y, f"{name}conv1", f"{name}batchnorm1", stride=stride, padding=1, groups=y.shape[1]))
            y = self._conv(y, f"{name}conv2", f"{name}batchnorm2")
            x = x + y if stride == 1 and x.shape == y.shape else y
        return F.relu6(self._conv(x, "conv1", "batchnorm1")).mean(dim=(2, 3))

    def _conv(self, x: Tensor, conv: str, norm: str, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        a = self.arrays
        # The batch norm folded into the convolution: y = conv(x) * scale + shift.
        scale = a[f"{norm}_gamma"] / torch.sqrt(a[f"{norm}_running_var"] + 1e-5)
        shift = a[f"{norm}_beta"] - a[f"{norm}_running_mean"] * scale
        weight = a[f"{conv}_weight"] * scale[:, None, None, None]
        return F.conv2d(x, weight, shift, stride=stride, padding=padding, groups=groups)


@torch.inference_mode()
def teacher_targets(teacher_file: Path, images: list[Path], cache: Path) -> NDArray[np.float32]:
    """Whitened unit targets (N, 512): each image's features, averaged with those of its mirror image."""
    if not cache.exists():
        teacher = Teacher(teacher_file)
        mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
        std = torch.tensor(IMAGENET_STD)[:, None, None]
        features = []
        for start in range(0, len(images), 50):
            stacked = np.stack([_squashed(file, TEACHER_PX) for file in images[start : start + 50]])
            batch = (torch.from_numpy(stacked).permute(0, 3, 1, 2) / 255 - mean) / std
            batch = batch.contiguous(memory_format=torch.channels_last)
            features.append(((teacher(batch) + teacher(batch.flip(-1))) / 2).numpy())
        np.save(cache, _whitened(np.concatenate(features)))
    targets: NDArray[np.float32] = np.load(cache)
    return targets


def _squashed(file: Path, size_px: int) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        return squash(image, size_px)


def _whitened(features: NDArray[np.float32], dim: int = 512, ridge: float = 0.1) -> NDArray[np.float32]:
    """PCA whitening to `dim` axes, then unit length; the ridge keeps the faintest axes from being mostly noise."""
    centred = features - features.mean(0)
    variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    variance, axes = variance[::-1][:dim], axes[:, ::-1][:, :dim]
    white = centred @ axes / np.sqrt(variance + ridge * variance.mean())
    return (white / np.linalg.norm(white, axis=1, keepdims=True)).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherFeatures:
    """Whitened features (N, 512), not of unit length, of Flickr8k's train and val images and of Tiny ImageNet's."""

    train: NDArray[np.float32]
    val: NDArray[np.float32]
    tiny: NDArray[np.float32]


def teacher_features(teacher_file: Path, corpus: Corpus, cache: Path) -> TeacherFeatures:
    """The teacher's features of every image, whitened by Flickr8k's train images.

    Flickr8k at its stored 192 px, averaged over both mirror images; Tiny ImageNet's 64 px enlarged to 128.
    """
    raw = {}
    for name, files in (("train", corpus.train_files), ("val", corpus.val_files)):
        path = cache / f"teacher-raw-{name}-{len(files)}.npy"
        if not path.exists():
            run = _fast_teacher(teacher_file, FLICKR_PX)
            batches = [files[start : start + 50] for start in range(0, len(files), 50)]
            stacks = (np.stack([_squashed(file, FLICKR_PX) for file in batch]) for batch in batches)
            np.save(path, np.concatenate([(run(stack) + run(stack[:, :, ::-1])) / 2 for stack in stacks]))
        raw[name] = np.load(path)
    path = cache / f"teacher-raw-tiny-{len(corpus.tiny_pixels)}.npy"
    if not path.exists():
        run = _fast_teacher(teacher_file, ENLARGED_PX)
        starts = range(0, len(corpus.tiny_pixels), 100)
        np.save(path, np.concatenate([run(_enlarged(corpus.tiny_pixels[start : start + 100])) for start in starts]))
    raw["tiny"] = np.load(path)
    mean = raw["train"].mean(0)
    centred = raw["train"] - mean
    variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    variance, axes = variance[::-1][:512], axes[:, ::-1][:, :512]
    axes = axes / np.sqrt(variance + 0.1 * variance.mean())
    return TeacherFeatures(**{name: ((values - mean) @ axes).astype(np.float32) for name, values in raw.items()})


def _fast_teacher(path: Path, size_px: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """uint8 (B, S, S, 3) -> features (B, 1280), through ONNX Runtime, which runs the teacher twice as fast as torch."""

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = Teacher(path)

        def forward(self, pixels: Tensor) -> Tensor:
            mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
            return self.teacher((pixels / 255 - mean) / std)

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "teacher.onnx"
        example = torch.zeros(2, 3, size_px, size_px)
        torch.onnx.export(
            Graph().eval(), (example,), graph, dynamo=True, external_data=False, verbose=False,
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1)}},
        )  # fmt: skip
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        image = np.ascontiguousarray(pixels_BHWC.transpose(0, 3, 1, 2), np.float32)
        features: NDArray[np.float32] = session.run(None, {name: image})[0]
        return features

    return run


def _enlarged(pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([squash(Image.fromarray(pixels), ENLARGED_PX) for pixels in pixels_BHWC])
