"""The matrix products of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from strzoo.borders import naming, reading
from strzoo.data.calibration import Images, load_samples
from strzoo.errors import UsageError
from strzoo.hub.graph_sources import OnnxSource
from strzoo.hub.source import ImageSize, Source
from strzoo.matrices.products import Geometry, Product, Products, activations_file
from strzoo.onnx.files import real_inputs
from strzoo.onnx.fused import expand_fused
from strzoo.onnx.operators import find_holders
from strzoo.onnx.sessions import open_session
from strzoo.onnx.shapes import Shape, fix_input_size, infer_shapes
from strzoo.onnx.tensors import read_attributes
from strzoo.onnx.weights import CONVOLUTIONS, WeightedNode, weighted_nodes

_FLOATS: dict[int, type] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
}
_SAMPLED = (*_FLOATS, onnx.TensorProto.UINT8)


def read_graph(
    source: Source, size: ImageSize | None, images: Images | None, max_images: int, folder: Path
) -> Products:
    """As `strzoo.matrices.networks.read_network`, for an ONNX model. Inputs that are integers, of
    layers that compute with them, are not saved.

    Raises:
        IntegrityError: the graph contradicts itself.
        UsageError: the input size is needed, or images do not fit the input.
        StrzooError: onnxruntime cannot run it.
    """
    assert isinstance(source, OnnxSource)
    model = source.read()
    with naming(source.shown), reading(source.shown, "a readable ONNX model"):
        model = expand_fused(fix_input_size(model, size))
        inferred, shapes = infer_shapes(expand_fused(model, shapes_only=True), source.shown)
        nodes = list(weighted_nodes(inferred))
    products, kept, skipped = [], [], []
    for node in nodes:
        with naming(source.shown), reading(source.shown, "a readable ONNX model") as place:
            place.at = node.name
            rows = _rows(node)
            if rows is None:
                skipped.append(node.name)
                continue
            products.append(_product(node, rows, shapes))
        kept.append(node)
    skipped += find_holders(inferred.graph, {node.node.output[0] for node in nodes})
    inputs = real_inputs(model)
    shape = shapes.get(inputs[0].name, ()) if inputs else ()
    count = 0
    if images is not None:
        count = _save_inputs(source, model, kept, _read_images(source, model, images, max_images),
                             folder)  # fmt: skip
    return Products(tuple(products), tuple(skipped), _known(shape[1:]), count)


def _rows(node: WeightedNode) -> NDArray[np.float32] | None:
    """The weights [out, in]; None if the layer is no product by one matrix."""
    weight = np.asarray(node.weight, np.float32)
    if node.type == "ConvTranspose":
        return None
    if node.type in CONVOLUTIONS:
        return weight.reshape(len(weight), -1)
    if weight.ndim != 2:
        return None
    turned = node.type in ("Gemm", "FusedGemm", "QGemm", "FusedMatMul", "TransposeMatMul")
    by_rows = turned and _attribute(node.node, "transB", 0)
    return np.ascontiguousarray(weight if by_rows else weight.T)


def _product(node: WeightedNode, rows: NDArray[np.float32], shapes: Mapping[str, Shape]) -> Product:
    inputs, outputs = (
        _known(shapes.get(name, ())[1:]) for name in (node.node.input[0], node.node.output[0])
    )
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    groups, positions = 1, outputs[:-1]
    shape = tuple(node.weight.shape)
    if node.type in CONVOLUTIONS:
        ones = [1] * (len(shape) - 2)
        stride = tuple(_attribute(node.node, "strides", ones))
        dilation = tuple(_attribute(node.node, "dilations", ones))
        padding, groups = _padding(node.node, len(ones)), int(_attribute(node.node, "group", 1))
        positions = outputs[1:]
        if groups < 1 or len(rows) % groups:
            raise ValueError(f"{groups} groups of {len(rows)} filters")
    else:
        shape = tuple(rows.shape)
    geometry = Geometry(
        layer=node.name,
        type=node.type,
        shape=shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        input_size=inputs,
        output_size=outputs,
    )
    return Product(geometry, rows, positions)


def _padding(node: onnx.NodeProto, axes: int) -> tuple[int, ...] | str:
    automatic = _attribute(node, "auto_pad", b"NOTSET").decode()
    if automatic.startswith("SAME"):
        return str(automatic).lower()
    pads = tuple(_attribute(node, "pads", [0] * (2 * axes)))
    return pads[:axes] if pads[:axes] == pads[axes:] else pads


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return read_attributes(node).get(name, default)


def _known(shape: Shape) -> tuple[int, ...]:
    """The axes, () if one of them is open."""
    known = tuple(d for d in shape if d is not None)
    return known if len(known) == len(shape) else ()


def _read_images(
    source: OnnxSource, model: onnx.ModelProto, images: Images, max_images: int
) -> NDArray[Any]:
    """Images as the first input takes them."""
    inputs = real_inputs(model)
    kind = inputs[0].type.tensor_type.elem_type if inputs else 0
    shape = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if inputs else []
    if len(inputs) != 1 or len(shape) != 4 or kind not in _SAMPLED:
        raise UsageError(f"{source.name} does not take one batch of images; leave out images")
    as_bytes = kind == onnx.TensorProto.UINT8
    last = as_bytes or (shape[1] not in (1, 3, 4) and shape[3] in (1, 3, 4))
    channels, height, width = (shape[3], *shape[1:3]) if last else shape[1:]
    samples = load_samples(
        images, (channels, height, width), source.preprocessing, as_bytes=as_bytes
    )
    batch = samples.images[:max_images].numpy()
    if last and not as_bytes:
        batch = np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
    return batch.astype(_FLOATS.get(kind, np.uint8), copy=False)


def _save_inputs(
    source: OnnxSource,
    model: onnx.ModelProto,
    nodes: Sequence[WeightedNode],
    batch: NDArray[Any],
    folder: Path,
) -> int:
    """Run the images one by one, since a file may fix its batch, and save what each layer gets."""
    wanted = {node.name: node.node.input[0] for node in nodes}
    given = {value.name for value in real_inputs(model)}
    del model.graph.output[:]
    names = [name for name in dict.fromkeys(wanted.values()) if name not in given]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    (first,) = given
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    found[first] = [batch]
    if names:
        session = open_session(model.SerializeToString())
        with reading(source.shown, "a model that onnxruntime runs"):
            for image in batch:
                for name, value in zip(
                    names, session.run(names, {first: image[None]}), strict=True
                ):
                    found[name].append(value)
    for layer, name in wanted.items():
        values = np.concatenate(found[name])
        if values.dtype.kind == "f":
            np.save(folder / activations_file(layer), values.astype(np.float32))
    return len(batch)
