"""int8 for transformers: products with constant weights, rewritten for integer arithmetic. Needs `onnx`.

A product `X @ W` becomes `scales * (uint8 X @ int8 W)`. Each output channel of the weights has a scale of its own, and
so has each token: what a row gives never depends on its neighbours in a batch, and a token with outliers spoils only
itself. Against one fixed scale for all tokens this costs a tenth of the speed of ViT-B/32. What stays in fp32 is chosen
by input: products of one input (query, key, value) suffer alike.

The first layer of a vision transformer takes uint8 pixels as they come: a convolution whose patches don't overlap is a
product with each patch, and `(x / 255 - mean) / std` is linear too. So nothing is lost on the pixels' side, and no
float copy of a batch is made.

Shape suffixes: K inner dimension, N outputs of a product, R rows; of patches: S side in pixels, P side of a patch,
G patches along a side, D width of the tower, K = P * P * 3.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.onnx_runtime import ROWS_INDEPENDENT, run_in_memory

LEVELS = 127
"""Largest int8 weight."""
PIXELS_INPUT = "pixels"
"""Name of the input (B, S, S, 3) uint8."""
_CONTRIB = "com.microsoft"
_LEAST_TABLE = 1_000_000
"""Entries from which a table of embeddings is quantised: smaller ones cost nothing to load."""
_ROWS_RANKED = 256
_AXES_AS_INPUT_OPSET = 18
_TINY = 1e-12
"""Scale of a row or a channel of zeros."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product with constant weights."""

    input: str
    weight_KN: NDArray[np.float32]
    bias: str | None
    """The constant that a Gemm adds."""
    output: str


def find_products(model: Any) -> dict[str, Product]:
    """All products of a model with two-dimensional constants, by output. Transposed constants are folded, in place.

    Folding comes first because exporters share weights: one Transpose may feed two products.
    """
    constants = _fold_transposes(model)
    products = (_as_product(node, constants) for node in model.graph.node)
    return {product.output: product for product in products if product is not None}


def rank_inputs(model: Any, batches: Iterable[Mapping[str, NDArray[Any]]]) -> list[str]:
    """Inputs of products, the one that suffers most from int8 first: by the cosine that its products' rows lose."""
    products = find_products(model)
    losses = {product.input: 0.0 for product in products.values()}
    outputs = [helper.make_empty_tensor_value_info(name) for name in losses]
    graph = helper.make_graph(model.graph.node, "probe", model.graph.input, outputs, model.graph.initializer)
    for values in run_in_memory(_model_of(model, graph), batches, list(losses)):
        for product in products.values():
            losses[product.input] = max(losses[product.input], _lost_cosine(product, values[product.input]))
    return sorted(losses, key=lambda name: -losses[name])


def quantise_products(model: Any, *, keep: Collection[str] = (), levels: int = LEVELS) -> tuple[Any, float]:
    """A model with int8 products, except those of the inputs `keep`, and the part of their weights that is int8.

    Large tables of embeddings become int8 too, each row with a scale. `levels` is the largest int8 weight: 127, or 63
    for processors whose 16-bit sums would saturate.
    """
    products = find_products(model)
    chosen = {output: product for output, product in products.items() if product.input not in keep}
    made = _shared_constants()
    opset = next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    nodes, scaled = [], set[str]()
    for node in model.graph.node:
        product = chosen.get(node.output[0])
        if product is None:
            nodes += _table_lookup(node, model, made) or [node]
            continue
        if product.input not in scaled:
            scaled.add(product.input)
            nodes += _scale_rows(product.input, opset=opset)
        nodes += _integer_product(product, made, levels=levels)
    share = sum(p.weight_KN.size for p in chosen.values()) / max(1, sum(p.weight_KN.size for p in products.values()))
    quantised = _rebuilt(model, nodes, made)
    helper.set_model_props(quantised, {ROWS_INDEPENDENT: "yes"})
    return quantised, share


def quantise_weights(
    weight_KN: NDArray[np.float32], *, levels: int = LEVELS
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 weights (K, N) and the scale of each output channel (N,)."""
    scale_N = np.maximum(np.abs(weight_KN).max(axis=0) / levels, _TINY).astype(np.float32)
    quantised_KN: NDArray[np.int8] = np.rint(weight_KN / scale_N).astype(np.int8)
    return quantised_KN, scale_N


def integer_product(
    scaled: tuple[str, str, str], weight_KN: NDArray[np.float32], *, output: str, made: list[Any], levels: int = LEVELS
) -> Any:
    """A node of ONNX Runtime's own; `scaled` names a uint8 tensor, its scale and zero point; constants go to `made`."""
    int8_KN, scale_N = quantise_weights(weight_KN, levels=levels)
    values: dict[str, NDArray[Any]] = {"int8": int8_KN, "scales": scale_N, "int8_zero": np.array(0, np.int8)}
    made += [numpy_helper.from_array(value, f"{output}/{part}") for part, value in values.items()]
    tensor, scale, zero = scaled
    inputs = [tensor, f"{output}/int8", scale, f"{output}/scales", zero, f"{output}/int8_zero"]
    return helper.make_node("MatMulIntegerToFloat", inputs, [output], domain=_CONTRIB)


def _fold_transposes(model: Any) -> dict[str, Any]:
    """Constants by name, those that were only transposed among them."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in constants]:
        values = numpy_helper.to_array(constants[node.input[0]])
        turned = np.ascontiguousarray(values.transpose(_attributes(node).get("perm")))
        constants[node.output[0]] = numpy_helper.from_array(turned, node.output[0])
        model.graph.initializer.append(constants[node.output[0]])
        model.graph.node.remove(node)
    return constants


def _as_product(node: Any, constants: Mapping[str, Any]) -> Product | None:
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in constants or node.input[0] in constants:
        return None
    options = _attributes(node)
    if options.get("transA", 0) or options.get("alpha", 1.0) != 1.0 or options.get("beta", 1.0) != 1.0:
        return None
    weight = numpy_helper.to_array(constants[node.input[1]])
    if weight.ndim != 2 or weight.dtype != np.float32:
        return None
    return Product(
        input=node.input[0],
        weight_KN=weight.T if options.get("transB", 0) else weight,
        bias=node.input[2] if len(node.input) > 2 else None,
        output=node.output[0],
    )


def _shared_constants() -> list[Any]:
    scalars = {"one": 1.0, "step": 1 / LEVELS, "tiny": _TINY}
    values: dict[str, NDArray[Any]] = {name: np.array(value, np.float32) for name, value in scalars.items()}
    values |= {"middle": np.array(128, np.uint8), "last_axis": np.array([-1], np.int64)}
    return [numpy_helper.from_array(value, f"int8/{name}") for name, value in values.items()]


def _scale_rows(name: str, *, opset: int) -> list[Any]:
    """Nodes that turn a tensor into uint8, 128 standing for zero, and a scale for each of its rows."""
    size, largest, scale, ratio = (f"{name}/{part}" for part in ("size", "largest", "row_scale", "ratio"))
    if opset < _AXES_AS_INPUT_OPSET:
        reduce = helper.make_node("ReduceMax", [size], [largest], axes=[-1], keepdims=1)
    else:
        reduce = helper.make_node("ReduceMax", [size, "int8/last_axis"], [largest], keepdims=1)
    return [
        helper.make_node("Abs", [name], [size]),
        reduce,
        helper.make_node("Mul", [largest, "int8/step"], [f"{scale}/any"]),
        helper.make_node("Max", [f"{scale}/any", "int8/tiny"], [scale]),
        helper.make_node("Div", [name, scale], [ratio]),
        helper.make_node("QuantizeLinear", [ratio, "int8/one", "int8/middle"], [f"{name}/uint8"]),
    ]


def _integer_product(product: Product, made: list[Any], *, levels: int) -> list[Any]:
    unscaled = f"{product.output}/unscaled"
    scaled = f"{product.input}/uint8", "int8/one", "int8/middle"
    output = product.output if product.bias is None else f"{product.output}/unbiased"
    nodes = [
        integer_product(scaled, product.weight_KN, output=unscaled, made=made, levels=levels),
        helper.make_node("Mul", [unscaled, f"{product.input}/row_scale"], [output]),
    ]
    if product.bias is not None:
        nodes.append(helper.make_node("Add", [output, product.bias], [product.output]))
    return nodes


def _table_lookup(node: Any, model: Any, made: list[Any]) -> list[Any] | None:
    """A large table of embeddings with int8 rows, each with a scale; None for any other node."""
    if node.op_type != "Gather" or _attributes(node).get("axis", 0) != 0:
        return None
    table = next((tensor for tensor in model.graph.initializer if tensor.name == node.input[0]), None)
    if table is None or table.data_type != TensorProto.FLOAT or len(table.dims) != 2:
        return None
    if np.prod(table.dims) < _LEAST_TABLE:
        return None
    rows_KN, scale_K = quantise_weights(numpy_helper.to_array(table).T)
    output = node.output[0]
    names = [f"{output}/{part}" for part in ("table", "scales", "int8", "float", "scale")]
    made += [
        numpy_helper.from_array(np.ascontiguousarray(rows_KN.T), names[0]),
        numpy_helper.from_array(scale_K[:, None], names[1]),
    ]
    return [
        helper.make_node("Gather", [names[0], node.input[1]], [names[2]]),
        helper.make_node("Cast", [names[2]], [names[3]], to=TensorProto.FLOAT),
        helper.make_node("Gather", [names[1], node.input[1]], [names[4]]),
        helper.make_node("Mul", [names[3], names[4]], [output]),
    ]


def _rebuilt(model: Any, nodes: list[Any], made: list[Any]) -> Any:
    """The model with other nodes; constants that none of them uses are left out, and so are recorded shapes."""
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in [*model.graph.initializer, *made] if tensor.name in used]
    return _model_of(model, helper.make_graph(nodes, "int8", model.graph.input, model.graph.output, constants))


def _model_of(model: Any, graph: Any) -> Any:
    opsets = [*(entry for entry in model.opset_import if entry.domain != _CONTRIB), helper.make_opsetid(_CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version, functions=model.functions)


def _lost_cosine(product: Product, x: NDArray[np.float32]) -> float:
    """1 - the mean cosine of a product's rows in int8 to those in fp32."""
    rows_RK = x.reshape(-1, x.shape[-1])
    rows_RK = rows_RK[:: max(1, len(rows_RK) // _ROWS_RANKED)]
    scale_R1 = np.maximum(np.abs(rows_RK).max(axis=1, keepdims=True) / LEVELS, _TINY)
    weight_KN, scale_N = quantise_weights(product.weight_KN)
    exact_RN = rows_RK @ product.weight_KN
    rough_RN = (np.rint(rows_RK / scale_R1) @ weight_KN.astype(np.float32)) * scale_N * scale_R1
    norms_R = np.linalg.norm(exact_RN, axis=1) * np.linalg.norm(rough_RN, axis=1)
    return float(1 - np.mean((exact_RN * rough_RN).sum(axis=1) / np.maximum(norms_R, _TINY)))


def _attributes(node: Any) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def take_pixels(model: Any, preprocessing: Preprocessing, *, levels: int = LEVELS) -> bool:
    """Make a model take uint8 pixels (B, S, S, 3), in place; False, and nothing done, where it can't be."""
    source = model.graph.input[0].name
    readers = [node for node in model.graph.node if source in node.input]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    conv = next((node for node in readers if node.op_type == "Conv"), None)
    if conv is None or not _cuts_patches(conv, constants, side=preprocessing.size_px):
        return False
    if any(node.op_type != "Shape" for node in readers if node is not conv):
        return False
    made: list[Any] = []
    nodes: list[Any] = []
    for node in model.graph.node:
        if node is conv:
            nodes += _patch_product(conv, constants, preprocessing, made, levels=levels)
        else:
            nodes += _shape_of_planes(node, made) if node in readers else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(made)
    declared, side = model.graph.input[0], preprocessing.size_px
    batch = declared.type.tensor_type.shape.dim[0]
    shape = [batch.dim_param or batch.dim_value or "batch", side, side, 3]
    declared.CopyFrom(helper.make_tensor_value_info(PIXELS_INPUT, TensorProto.UINT8, shape))
    return True


def _cuts_patches(conv: Any, constants: Mapping[str, Any], *, side: int) -> bool:
    """True where a convolution sees each pixel of a square image once."""
    options = _attributes(conv)
    weight = constants.get(conv.input[1])
    if weight is None or len(weight.dims) != 4 or any(name not in constants for name in conv.input[1:]):
        return False
    _, channels, height, width = weight.dims
    padded = any(options.get("pads", [])) or options.get("auto_pad", b"").startswith(b"S")
    plain = options.get("group", 1) == 1 and not padded and set(options.get("dilations", [1])) == {1}
    cuts = height == width and list(options.get("strides", [])) == [height, width] and side % height == 0
    return bool(plain and cuts and channels == 3)


def _patch_product(
    conv: Any, constants: Mapping[str, Any], preprocessing: Preprocessing, made: list[Any], *, levels: int
) -> list[Any]:
    """Pixels -> patches (B, G * G, K) uint8 -> their product with the int8 weights -> what the convolution gave."""
    weight_DCPP = numpy_helper.to_array(constants[conv.input[1]]).astype(np.float64)
    bias_D = numpy_helper.to_array(constants[conv.input[2]]) if len(conv.input) > 2 else 0.0
    std_C11 = np.array(preprocessing.std)[:, None, None]
    patch_DPPC = (weight_DCPP / (255 * std_C11)).transpose(0, 2, 3, 1)
    width, patch = weight_DCPP.shape[0], weight_DCPP.shape[2]
    grid = preprocessing.size_px // patch
    weight_KD = patch_DPPC.reshape(width, -1).T.astype(np.float32)
    # The mean is taken off by the weights as they were rounded: what rounding changed meets centred pixels only.
    rounded_KD, scale_D = quantise_weights(weight_KD, levels=levels)
    mean_K = np.tile(255 * np.array(preprocessing.mean), patch * patch)
    shift_D = bias_D - mean_K @ (rounded_KD * scale_D)
    out = conv.output[0]
    shapes = {
        "cut": [-1, grid, patch, grid, patch, 3],
        "rows": [-1, grid * grid, patch * patch * 3],
        "planes": [-1, width, grid, grid],
    }
    values = {"one": np.array(1, np.float32), "zero": np.array(0, np.uint8), "shift": shift_D.astype(np.float32)}
    values |= {name: np.array(shape, np.int64) for name, shape in shapes.items()}
    made += [numpy_helper.from_array(value, f"{out}/{name}") for name, value in values.items()]
    scaled = f"{out}/patches", f"{out}/one", f"{out}/zero"
    return [
        helper.make_node("Reshape", [PIXELS_INPUT, f"{out}/cut"], [f"{out}/six"]),
        helper.make_node("Transpose", [f"{out}/six"], [f"{out}/turned"], perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", [f"{out}/turned", f"{out}/rows"], [scaled[0]]),
        integer_product(scaled, weight_KD, output=f"{out}/product", made=made, levels=levels),
        helper.make_node("Add", [f"{out}/product", f"{out}/shift"], [f"{out}/embedded"]),
        helper.make_node("Transpose", [f"{out}/embedded"], [f"{out}/channels_first"], perm=[0, 2, 1]),
        helper.make_node("Reshape", [f"{out}/channels_first", f"{out}/planes"], [out]),
    ]


def _shape_of_planes(node: Any, made: list[Any]) -> list[Any]:
    """Nodes that give the shape (B, 3, S, S) of pixels (B, S, S, 3), in place of a Shape node."""
    options = _attributes(node)
    order, sizes = f"{node.output[0]}/order", f"{node.output[0]}/sizes"
    wanted = [0, 3, 1, 2][options.get("start", 0) : options.get("end")]
    made.append(numpy_helper.from_array(np.array(wanted, np.int64), order))
    return [
        helper.make_node("Shape", [PIXELS_INPUT], [sizes]),
        helper.make_node("Gather", [sizes, order], [node.output[0]]),
    ]
