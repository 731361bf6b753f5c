"""The layers of an ONNX graph as matrix products; their inputs are those that onnxruntime has."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from strzoo.borders import reading
from strzoo.data.calibration import Images, load_samples
from strzoo.errors import StrzooError, UsageError
from strzoo.hub.source import ImageSize, OnnxSource
from strzoo.matrices.layers import Layer, Layers, activations_file, file_stems
from strzoo.onnx.files import real_inputs
from strzoo.onnx.fused import expand_fused
from strzoo.onnx.operators import find_holders
from strzoo.onnx.shapes import Inferred, infer_shapes
from strzoo.onnx.weights import CONVOLUTIONS, WeightedNode, turn_weight, weighted_nodes

log = logging.getLogger(__name__)

_UNSCALED = ("ConvInteger", "MatMulInteger")


def read_graph(
    source: OnnxSource, size: ImageSize | None, images: Images | None, max_images: int, folder: Path
) -> Layers:
    """The layers of an ONNX model; arguments as of `export_matrices`.

    Args:
        folder: where the layers' inputs go, if there are images.
    """
    model = source.read()
    if size is None and _is_open(model):
        size = source.input_size if source.metadata.input_size else None
    with reading(source.shown, "a readable ONNX model"):
        found = infer_shapes(model, size, source.shown)
        nodes = list(weighted_nodes(found.model))
        layers = {node.name: node for node in nodes if _is_product(node)}
        outputs = {node.node.output[0] for node in nodes}
        holders = tuple(find_holders(found.model.graph, outputs))
    stems = file_stems(layers)
    inputs = {name: node.node.input[0] for name, node in layers.items()}
    saved, count = set[str](), 0
    if images is not None:
        saved, count = _save_inputs(source, model, size, images, max_images, folder, inputs, stems)
    made = tuple(_read(node, stems[n], found, n in saved) for n, node in layers.items())
    first = real_inputs(found.model)
    shape = found.shapes[first[0].name][1:] if first else ()
    return Layers(
        made,
        (*(node.name for node in nodes if node.name not in layers), *holders),
        tuple(d for d in shape if d is not None),
        count,
        notes=_describe(layers, holders),
    )


def _is_open(model: onnx.ModelProto) -> bool:
    inputs = real_inputs(model)
    dims = inputs[0].type.tensor_type.shape.dim[1:] if inputs else ()
    return any(not dim.dim_value for dim in dims)


def _is_product(node: WeightedNode) -> bool:
    plain = node.type in CONVOLUTIONS or node.weight.ndim == 2
    return plain and node.type != "ConvTranspose" and node.weight.size > 0


def _describe(layers: dict[str, WeightedNode], holders: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    if any(node.type in _UNSCALED for node in layers.values()):
        notes.append(f"weights of {' and '.join(_UNSCALED)} are integers: a later node scales them")
    if holders:
        shown = ", ".join(holders[:8])
        notes.append(f"left out: {shown} may hold weights that are not understood")
    return tuple(notes)


def _read(node: WeightedNode, stem: str, found: Inferred, saved: bool) -> Layer:
    weight = turn_weight(node)
    full = (found.shapes.get(name, ()) for name in (node.node.input[0], node.node.output[0]))
    inputs, outputs = (
        tuple(d for d in s[1:] if d is not None) if None not in s else () for s in full
    )

    def read_weight() -> NDArray[np.float32]:
        return np.ascontiguousarray(weight.reshape(len(weight), -1), np.float32)

    settings: dict[str, Any] = {}
    positions = outputs[:-1]
    if node.type in CONVOLUTIONS:
        settings = _window(node.node, weight.shape[2:], inputs[1:], outputs[1:])
        positions = outputs[1:]
    return Layer(
        name=node.name,
        stem=stem,
        type=node.type,
        shape=tuple(weight.shape),
        read_weight=read_weight,
        input_size=inputs,
        output_size=outputs,
        positions=math.prod(positions) if outputs else 0,
        activations=activations_file(stem) if saved else None,
        **settings,
    )


def _window(
    node: onnx.NodeProto, kernel: tuple[int, ...], inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> dict[str, Any]:
    """Stride, padding, dilation and groups of a convolution, with what they are by default."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    axes = len(kernel)
    stride, dilation = (
        tuple(given.get(key) or [1] * axes)[:axes] for key in ("strides", "dilations")
    )
    pads = tuple(given.get("pads") or [0] * 2 * axes)
    way = given.get("auto_pad", b"NOTSET").decode("utf-8", "replace")
    if way.startswith("SAME") and len(inputs) == len(outputs) == axes:
        needed = [
            max((o - 1) * s + (k - 1) * d + 1 - i, 0)
            for i, o, k, s, d in zip(inputs, outputs, kernel, stride, dilation, strict=True)
        ]
        less, more = tuple(n // 2 for n in needed), tuple(n - n // 2 for n in needed)
        pads = less + more if way == "SAME_UPPER" else more + less
    begin, end = pads[:axes], pads[axes:]
    return {
        "stride": stride,
        "padding": begin if begin == end else pads,
        "dilation": dilation,
        "groups": int(given.get("group", 1)),
    }


def _save_inputs(
    source: OnnxSource,
    model: onnx.ModelProto,
    size: ImageSize | None,
    images: Images,
    max_images: int,
    folder: Path,
    inputs: dict[str, str],
    stems: dict[str, str],
) -> tuple[set[str], int]:
    """Write the input of each layer; the layers whose input is a float tensor, and the images."""
    listed = real_inputs(model)
    value = listed[0] if len(listed) == 1 else None
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim] if value else []
    if value is None or len(dims) != 4:
        raise UsageError(f"{source.shown} does not take one batch of images: leave out --images")
    last = source.metadata.built_in or (dims[3] == 3 and dims[1] != 3)
    sides = [*(size or dims[1:])]
    channels, height, width = (sides[i] for i in ((2, 0, 1) if last else (0, 1, 2)))
    built_in = source.metadata.built_in
    loaded = load_samples(
        images, (channels, height, width), source.preprocessing, as_bytes=built_in
    )
    batch = loaded.images[: dims[0] or max_images].numpy()
    if last and not built_in:
        batch = batch.transpose(0, 2, 3, 1)
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    opened = expand_fused(model)
    watched = onnx.ModelProto()
    watched.CopyFrom(opened)
    names = {name for node in watched.graph.node for name in node.output}
    outputs = {output.name for output in watched.graph.output}
    wanted = sorted({name for name in inputs.values() if name in names})
    watched.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in outputs)
    session = OnnxSource(source.settings, proto=watched).open_session()
    batch = np.ascontiguousarray(batch, dtype=kind)
    try:
        results = dict(zip(wanted, session.run(wanted, {value.name: batch}), strict=True))
    except Exception as error:  # its exceptions share no base class
        reason = " ".join(str(error).split())[:200]
        raise StrzooError(f"onnxruntime cannot run {source.shown}: {reason}") from error
    results[value.name] = batch
    saved = set()
    for layer, name in inputs.items():
        array = results.get(name)
        if array is None or array.dtype.kind != "f":
            log.warning("the input of %s is no float tensor of the file; it is left out", layer)
            continue
        np.save(folder / activations_file(stems[layer]), array.astype(np.float32))
        saved.add(layer)
    return saved, len(batch)
