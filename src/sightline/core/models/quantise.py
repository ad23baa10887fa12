"""Turning fp32 ONNX graphs into int8 ones: one recipe for transformers, one for convolutions.

Both were measured on CPUs with VNNI (AVX-512). A recipe on the wrong kind of graph is slower than fp32: dynamic
quantisation makes a convolutional tower 3 to 7 times slower. Quantising isn't free in quality either, so whoever uses
the result measures it. `onnx` and `onnxruntime` are imported on the first call.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ModelError

CONVOLUTION_OPS = ("Conv", "Relu", "Clip", "Add", "MaxPool", "GlobalAveragePool")
"""What `quantise_static` quantises. The last projection and the normalisation stay in fp32: they cost nothing."""


def quantise_dynamic(onnx_in: Path | str, onnx_out: Path | str, *, op_types: Sequence[str] | None = None) -> None:
    """Quantise a transformer: signed int8 weights for each output channel, activations measured while it runs.

    Against unsigned weights with one scale for the whole tensor this is twice as fast on ViT-B/32, and closer to fp32.
    `op_types` narrows what is quantised (default: all that ONNX Runtime can).

    Raises:
        ModelError: `onnx_in` is missing.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(_existing(onnx_in))
    # torch's exporter records shapes that the quantiser's own inference contradicts; without them it infers afresh.
    model.graph.ClearField("value_info")
    quantize_dynamic(
        model,
        onnx_out,
        op_types_to_quantize=list(op_types) if op_types else None,
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def quantise_static(
    onnx_in: Path | str,
    onnx_out: Path | str,
    calibration_batches: Iterable[Mapping[str, NDArray[Any]]],
    *,
    reduce_range: bool = False,
    op_types: Sequence[str] = CONVOLUTION_OPS,
    keep_fp32: Collection[str] = (),
) -> None:
    """Quantise a convolutional tower: uint8 activations with fixed ranges, int8 weights for each output channel.

    `calibration_batches` yields the graph's inputs by name; the ranges are the extremes seen over all of them, so some
    hundred images do. `reduce_range` takes 7-bit weights, for CPUs without VNNI, whose 16-bit sums can saturate.
    `keep_fp32` names nodes that are left as they are.

    Raises:
        ModelError: `onnx_in` is missing, or there is no calibration batch.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        """The batches, as ONNX Runtime asks for them."""

        def __init__(self, batches: Iterator[Mapping[str, NDArray[Any]]]) -> None:
            self.batches = batches

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """The next batch, or None after the last."""
            batch = next(self.batches, None)
            return None if batch is None else {name: np.ascontiguousarray(value) for name, value in batch.items()}

    batches = iter(calibration_batches)
    first = next(batches, None)
    if first is None:
        raise ModelError("Static quantisation needs at least one calibration batch; pass some hundred images.")
    with tempfile.TemporaryDirectory() as folder:
        bare, prepared = Path(folder) / "bare.onnx", Path(folder) / "prepared.onnx"
        model = onnx.load(_existing(onnx_in))
        model.graph.ClearField("value_info")
        onnx.save(model, bare)  # given a model instead of a file, quant_pre_process loses its weights
        # Folds batch norms into their convolutions and infers every shape, without which QDQ skips nodes. ONNX's own
        # inference is enough for convolutions; the symbolic one trips over graphs of torch's exporter.
        quant_pre_process(bare, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            onnx_out,
            Batches(_chained(first, batches)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(op_types),
            nodes_to_exclude=list(keep_fp32),
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _chained(
    first: Mapping[str, NDArray[Any]], rest: Iterator[Mapping[str, NDArray[Any]]]
) -> Iterator[Mapping[str, NDArray[Any]]]:
    yield first
    yield from rest


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no ONNX graph at {path}.")
    return path
