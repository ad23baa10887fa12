"""Towers on their way to int8: the recipe that fits a graph, its layers by what int8 costs them, the graph written.

There is one recipe for transformers, one for convolutions. Both were measured on CPUs with VNNI (AVX-512). A recipe on
the wrong kind of graph is slower than fp32: dynamic quantisation makes a convolutional tower 3 to 7 times slower.
Quantising isn't free in quality either, so whoever uses the result measures it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.onnx_runtime import run_in_memory
from sightline.core.models.quantise import products
from sightline.errors import ModelError

CONVOLUTION_OPS = ("Conv", "Relu", "Clip", "Add", "MaxPool", "GlobalAveragePool")
"""Nodes that `quantise_static` quantises. The last projection and the normalisation stay in fp32: they cost nothing."""
Feeds = Sequence[Mapping[str, NDArray[Any]]]
"""Inputs of a graph by name."""
_SEVEN_BIT_LEVELS = 63
_RANKED_BATCHES = 1
"""Batches that transformers are ranked by: many tensors of each are held at once, and all rank inputs alike."""
_CONVOLUTION_GROUPS = 8


def open_tower(path: Path, batches: Feeds, *, preprocessing: Preprocessing | None = None) -> Tower:
    """The tower of an fp32 graph, by what holds most of its weights.

    `batches` are inputs to calibrate and rank with; `preprocessing` is that of an image tower.
    """
    model = onnx.load(path)
    in_products = sum(product.weight_KN.size for product in products.find_products(model).values())
    in_convolutions = sum(_convolution_sizes(model).values())
    if in_products >= in_convolutions:
        return Transformer(model, batches, preprocessing=preprocessing)
    return Convolutional(path, batches)


class Tower(Protocol):
    """An fp32 graph on its way to int8."""

    def layers(self) -> list[tuple[str, ...]]:
        """Groups of layers that stay in fp32 together, the one that suffers most from int8 first."""

    def write(self, path: Path, *, keep: Collection[str]) -> float:
        """Write the int8 graph with the layers `keep` in fp32; the part of the weights that is int8."""


class Transformer:
    """int8 row by row; its layers are the inputs of its products. An image tower takes uint8 pixels where it can."""

    def __init__(self, model: Any, batches: Feeds, *, preprocessing: Preprocessing | None) -> None:
        self._model = model
        self._batches = batches
        self._preprocessing = preprocessing

    def layers(self) -> list[tuple[str, ...]]:
        return [(name,) for name in products.rank_inputs(self._model, self._batches[:_RANKED_BATCHES])]

    def write(self, path: Path, *, keep: Collection[str]) -> float:
        levels = usable_levels()
        made, share = products.quantise_products(self._model, keep=keep, levels=levels)
        if self._preprocessing is not None:
            products.take_pixels(made, self._preprocessing, levels=levels)
        onnx.save(made, path)
        return share


class Convolutional:
    """int8 with fixed ranges, found on the batches; its layers are stretches of nodes."""

    def __init__(self, path: Path, batches: Feeds) -> None:
        self._path = path
        self._batches = batches
        model = onnx.load(path)
        self._output = model.graph.output[0].name
        self._sizes = _convolution_sizes(model)
        self._names = [node.name for node in model.graph.node if node.op_type in CONVOLUTION_OPS and node.name]

    def layers(self) -> list[tuple[str, ...]]:
        """See `Tower`: each group alone is made int8, and the cosine lost at the end of the tower decides."""
        groups = [tuple(part) for part in np.array_split(self._names, min(_CONVOLUTION_GROUPS, len(self._names)))]
        losses = {group: self._loss(set(self._names) - set(group)) for group in groups}
        return sorted(groups, key=lambda group: -losses[group])

    def write(self, path: Path, *, keep: Collection[str]) -> float:
        reduce_range = usable_levels() != products.LEVELS
        quantise_static(self._path, path, self._batches, reduce_range=reduce_range, keep_fp32=keep)
        kept = sum(size for name, size in self._sizes.items() if name in keep)
        return 1 - kept / sum(self._sizes.values())

    def _loss(self, keep: Collection[str]) -> float:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            self.write(path, keep=keep)
            rough_BD = self._run(onnx.load(path))
        norms_B = np.linalg.norm(rough_BD, axis=1) * np.linalg.norm(self._exact_BD, axis=1)
        return float(1 - np.mean((rough_BD * self._exact_BD).sum(axis=1) / np.maximum(norms_B, 1e-12)))

    @cached_property
    def _exact_BD(self) -> NDArray[np.float32]:
        return self._run(onnx.load(self._path))

    def _run(self, model: Any) -> NDArray[np.float32]:
        runs = run_in_memory(model, self._batches, [self._output])
        return np.concatenate([values[self._output] for values in runs])


@cache
def usable_levels() -> int:
    """Largest int8 weight that this processor multiplies exactly: without VNNI, sums of two products saturate."""
    size = 64
    scalars = {"one": np.array(1, np.float32), "zero": np.array(0, np.uint8)}
    made: list[Any] = [numpy_helper.from_array(np.asarray(value), name) for name, value in scalars.items()]
    weight = np.full((size, size), products.LEVELS, np.float32)
    node = products.integer_product(("x", "one", "zero"), weight, output="y", made=made)
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", size])]
    graph = helper.make_graph([node], "probe", inputs, [helper.make_empty_tensor_value_info("y")], made)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    (values,) = run_in_memory(model, [{"x": np.full((size, size), 255, np.uint8)}], ["y"])
    return products.LEVELS if np.all(values["y"] == 255 * products.LEVELS * size) else _SEVEN_BIT_LEVELS


def _convolution_sizes(model: Any) -> dict[str, int]:
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    return {node.name: sizes.get(node.input[1], 0) for node in model.graph.node if node.op_type == "Conv"}


def quantise_static(
    onnx_in: Path | str,
    onnx_out: Path | str,
    calibration_batches: Iterable[Mapping[str, NDArray[Any]]],
    *,
    reduce_range: bool = False,
    keep_fp32: Collection[str] = (),
) -> None:
    """Quantise a convolutional tower: uint8 activations with fixed ranges, int8 weights for each output channel.

    `calibration_batches` yields the graph's inputs by name; the ranges are the extremes seen over all of them, so some
    hundred images do. `reduce_range` takes 7-bit weights, for CPUs without VNNI, whose 16-bit sums can saturate.
    `keep_fp32` names nodes that are left as they are. Raises ModelError where `onnx_in` or a batch is missing.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = ({name: np.ascontiguousarray(value) for name, value in feeds.items()} for feeds in calibration_batches)
    first = next(batches, None)
    if first is None:
        raise ModelError("Static quantisation needs at least one calibration batch; pass some hundred images.")
    remaining = chain([first], batches)

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        """The batches, as ONNX Runtime asks for them."""

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """The next batch, or None after the last."""
            return next(remaining, None)

    if not Path(onnx_in).is_file():
        raise ModelError(f"There is no ONNX graph at {onnx_in}.")
    model = onnx.load(onnx_in)
    model.graph.ClearField("value_info")  # shapes that torch's exporter records: the quantiser's own contradict them
    with TemporaryDirectory() as folder:
        bare, prepared = Path(folder) / "bare.onnx", Path(folder) / "prepared.onnx"
        onnx.save(model, bare)  # given a model instead of a file, quant_pre_process loses its weights
        # Folds batch norms into their convolutions and infers every shape, without which QDQ skips nodes. ONNX's own
        # inference is enough for convolutions; the symbolic one trips over graphs of torch's exporter.
        quant_pre_process(bare, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            onnx_out,
            Batches(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(CONVOLUTION_OPS),
            nodes_to_exclude=list(keep_fp32),
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
