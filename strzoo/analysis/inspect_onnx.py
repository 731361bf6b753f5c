"""inspect_onnx: the report of a checkpoint, from an ONNX file of whatever origin."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from strzoo.analysis.results import LayerReport, Report
from strzoo.arguments import checked
from strzoo.borders import naming, reading
from strzoo.errors import UsageError
from strzoo.hub.graph_sources import OnnxSource
from strzoo.hub.resolve import Model, resolve
from strzoo.hub.source import Source
from strzoo.onnx.files import read_opset, real_inputs
from strzoo.onnx.fused import expand_fused
from strzoo.onnx.operators import FREE, POOLS, find_holders, name_operator, normalises
from strzoo.onnx.shapes import Shape, fix_input_size, infer_shapes, read_shape
from strzoo.onnx.tensors import spell_kind
from strzoo.onnx.weights import (
    BIAS_INPUT,
    CONVOLUTIONS,
    WeightedNode,
    added_biases,
    weighted_nodes,
)
from strzoo.settings import Settings

_FLAT = ("Gemm", "QGemm", "FusedGemm")  # products of matrices alone, not of stacks of them


@dataclass(frozen=True)
class OnnxInspection:
    """What an ONNX model holds. `report` is that of `strzoo.report`; sizes in bytes.

    `path` is None for a model in memory.
    """

    path: Path | None
    bytes: int
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    inputs: Mapping[str, tuple[str, tuple[int | str, ...]]]
    outputs: Mapping[str, tuple[str, tuple[int | str, ...]]]
    operators: Mapping[str, int]
    weight_types: Mapping[str, int]
    metadata: Mapping[str, str]
    report: Report

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the report's document with an `onnx` object added."""
        return {
            **self.report.to_dict(),
            "onnx": {
                "path": None if self.path is None else str(self.path),
                "bytes": self.bytes,
                "producer": self.producer,
                "ir_version": self.ir_version,
                "opsets": dict(self.opsets),
                "inputs": {n: {"type": t, "shape": s} for n, (t, s) in self.inputs.items()},
                "outputs": {n: {"type": t, "shape": s} for n, (t, s) in self.outputs.items()},
                "operators": dict(self.operators),
                "weight_types": dict(self.weight_types),
                "metadata": dict(self.metadata),
            },
        }


@checked
def inspect_onnx(
    path: str | os.PathLike[str] | Model, *, input_size: tuple[int, ...] | None = None
) -> OnnxInspection:
    """Layers, weights, sparsity and MACs of an ONNX file, ours or anyone's.

    Convolutions and linears with constant weights are layers; fp32, fp16, QDQ and integer
    operators are understood. MACs are counted for one image.

    Args:
        path: the file, whatever its name; weights in external files are read too. Or its bytes, or
            an `onnx.ModelProto`.
        input_size: the first input's axes after the batch, where the file leaves them open.

    Returns:
        What the file holds, with its report.

    Raises:
        StrzooError: the file cannot be read.
        UsageError: the input size is needed, or contradicts the file; or it is another model.
        IntegrityError: it is not an ONNX model.
    """
    if isinstance(path, str | os.PathLike):
        source: Source = OnnxSource(Settings.from_env(), path=Path(path))
    else:
        source = resolve(path)
    if not isinstance(source, OnnxSource):
        raise UsageError(f"{source.shown} is {source.described}, not an ONNX model")
    model = source.read()
    with naming(source.shown), reading(source.shown, "a readable ONNX model"):
        return _inspect(source, model, input_size)


def _inspect(
    source: OnnxSource, model: onnx.ModelProto, input_size: tuple[int, ...] | None
) -> OnnxInspection:
    opened = expand_fused(fix_input_size(model, input_size), shapes_only=True)
    inferred, shapes = infer_shapes(opened, source.shown)
    graph = inferred.graph
    batch = _batch(inferred)
    nodes = list(weighted_nodes(inferred))
    makers = {name: node for node in graph.node for name in node.output}
    layers = tuple(
        _layer(node, _output_of_one(node, shapes, makers, batch), shapes, batch) for node in nodes
    )
    unsized = tuple(layer.name for layer in layers if not layer.output)
    counted = {n.node.output[0] for n in nodes}
    other, uncounted = _others(graph, shapes, batch, counted)
    holders = find_holders(opened.graph, counted)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    first = real_inputs(model)
    report = Report(
        metadata.get("strzoo.model", source.shown),
        "weights",
        tuple(d for d in shapes[first[0].name][1:] if d is not None) if first else (),
        layers,
        _count_params(graph, nodes, shapes),
        other,
        uncounted,
        _notes(graph, layers, holders, unsized),
        source.metadata.architecture,
        incomplete=tuple(holders),
        unsized=unsized,
        num_classes=_count_classes(graph, shapes),
    )
    return OnnxInspection(
        source.path,
        model.ByteSize() if source.path is None else source.path.stat().st_size,
        f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        model.ir_version,
        read_opset(model),
        {v.name: _interface(v) for v in first},
        {v.name: _interface(v) for v in model.graph.output},
        dict(Counter(name_operator(node) for node in model.graph.node).most_common()),
        dict(Counter(str(node.stored.dtype) for node in nodes)),
        metadata,
        report,
    )


def _count_classes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> int | None:
    """How many scores the first output has for an image; None if it is something else."""
    shape = shapes.get(graph.output[0].name, ()) if graph.output else ()
    return (shape[1] or None) if len(shape) == 2 else None


def _batch(model: onnx.ModelProto) -> int:
    inputs = real_inputs(model)
    shape = read_shape(inputs[0]) if inputs else ()
    return shape[0] or 1 if shape else 1


def _interface(value: onnx.ValueInfoProto) -> tuple[str, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    kind = spell_kind(tensor.elem_type, f"the input or output {value.name[:60]!r}")
    return kind, tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim
    )


def _layer(
    node: WeightedNode, output: Shape, shapes: Mapping[str, Shape], batch: int
) -> LayerReport:
    counted = tuple(d or 0 for d in output[1:])
    macs = 0
    if counted:
        if node.type == "ConvTranspose":
            space = shapes.get(node.node.input[0], ())[2:]
            positions = math.prod(d or 0 for d in space)
        elif node.type in CONVOLUTIONS:
            positions = math.prod(counted[1:])
        else:
            positions = math.prod(d or 0 for d in output[:-1]) // batch
        macs = positions * node.weight.size
    return LayerReport(
        node.name,
        node.type,
        tuple(node.weight.shape),
        counted,
        node.weight.size,
        node.weight.size - node.zeros,
        None,
        macs,
        node.zero_blocks,
    )


def _output_of_one(
    node: WeightedNode,
    shapes: Mapping[str, Shape],
    makers: Mapping[str, onnx.NodeProto],
    batch: int,
) -> Shape:
    """The shape of a layer's output, () where it is not known what of it belongs to one image: a
    product of a transposed matrix, or of other rows than there are images."""
    output = _output(node, shapes, makers)
    if not output or node.type in CONVOLUTIONS or batch == 1:
        return output
    turned = any(a.name == "transA" and a.i for a in node.node.attribute)
    return () if turned or math.prod(d or 0 for d in output[:-1]) % batch else output


def _output(
    node: WeightedNode, shapes: Mapping[str, Shape], makers: Mapping[str, onnx.NodeProto]
) -> Shape:
    """The shape of a layer's output, () if it is not known.

    Shape inference does not know the products of vendors, and not how a reshape to a computed
    shape ends: the rows of a product are then its numbers by the weights of a column.
    """
    output = shapes.get(node.node.output[0], ())
    if output and None not in output:
        return output
    switches = {a.name: a.i for a in node.node.attribute}
    if node.type in CONVOLUTIONS or node.weight.ndim != 2 or switches.get("transA"):
        return ()
    shape = node.weight.shape
    columns, inner = shape if switches.get("transB") else shape[::-1]
    source = node.node.input[0]
    given = shapes.get(source, ())
    if given and None not in given:
        return *given[:-1], columns
    maker = makers.get(source)
    if maker is None or maker.op_type not in ("Reshape", "Flatten") or node.type not in _FLAT:
        return ()
    before = shapes.get(maker.input[0], ())
    known = before and None not in before and inner
    return (math.prod(d or 0 for d in before) // inner, columns) if known else ()


def _others(
    graph: onnx.GraphProto, shapes: Mapping[str, Shape], batch: int, layers: set[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """MACs of the pools, and how often each operator outside the convention occurs."""
    macs: Counter[str] = Counter()
    uncounted: Counter[str] = Counter()
    for node in graph.node:
        if not node.output or node.output[0] in layers:
            continue
        source = shapes.get(node.input[0], ()) if node.input else ()
        name = name_operator(node)
        if name in POOLS and source and None not in source:
            macs[name] += math.prod(d or 0 for d in source) // batch
        elif name not in FREE and not normalises(node):
            uncounted[name] += 1
    return dict(macs), dict(sorted(uncounted.items()))


def _count_params(
    graph: onnx.GraphProto, nodes: list[WeightedNode], shapes: Mapping[str, Shape]
) -> int:
    """Weights and biases of the layers and of normalisations (not their running statistics)."""
    total = sum(node.weight.size for node in nodes)
    names = [
        n.node.input[BIAS_INPUT[n.type]]
        for n in nodes
        if len(n.node.input) > BIAS_INPUT.get(n.type, len(n.node.input))
    ]
    for node in graph.node:
        if normalises(node):
            names += node.input[1:3]
    names += added_biases(graph, nodes, shapes)
    for name in dict.fromkeys(names):
        total += math.prod(d or 0 for d in shapes.get(name, (0,))) if name else 0
    return total


def _notes(
    graph: onnx.GraphProto,
    layers: tuple[LayerReport, ...],
    holders: Sequence[str],
    unsized: Sequence[str],
) -> tuple[str, ...]:
    notes = []
    if holders:
        notes.append(
            f"no totals: {', '.join(holders[:8])} may hold weights that are not understood"
        )
    if not any(node.op_type == "BatchNormalization" for node in graph.node):
        notes.append("no BatchNorm in the file: if it was folded, params count its biases alone")
    if unsized:
        notes.append(
            f"no totals of MACs, output size for one image unknown: {', '.join(unsized[:5])}"
        )
    if any(a.type in (a.GRAPH, a.GRAPHS) for node in graph.node for a in node.attribute):
        notes.append("the branches of If, Loop and Scan nodes are not counted")
    if not layers:
        notes.append("no convolution or linear layer with constant weights was found")
    return tuple(notes)
