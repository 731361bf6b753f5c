"""Islands: nodes that onnxruntime runs, cut out of a network as ONNX models of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from strzoo.engine.frontend.inputs import read_inputs, read_port
from strzoo.engine.frontend.problems import Whole
from strzoo.engine.frontend.reading import Left, Reading
from strzoo.engine.frontend.types import fill_batch, holds_batch, open_batch
from strzoo.engine.ir.parts import Division, Feed, Island, Problem
from strzoo.errors import UsageError
from strzoo.onnx.order import list_reads


def cut_out(reading: Reading, lefts: Sequence[Left], outputs: Sequence[str]) -> Island:
    """The model of nodes that were left over, in order, that makes `outputs`."""
    builder, batch = reading.builder, reading.batch
    nodes = [left.node for left in lefts]
    weights = {tensor.name: tensor for tensor in reading.model.graph.initializer}
    made = {name for node in nodes for name in node.output}
    feeds: list[Feed] = []
    sizes: list[tuple[str, np.ndarray]] = []
    inputs: list[onnx.ValueInfoProto] = []
    constants: list[TensorProto] = []
    for name in dict.fromkeys(name for node in nodes for name in list_reads(node)):
        if name in made:
            continue
        if name in builder.constants:
            array = builder.constants[name]
            if batch is None and holds_batch(array):
                sizes.append((name, array))
                inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, array.shape))
            elif name in weights:
                constants.append(weights[name])
            else:
                constants.append(numpy_helper.from_array(fill_batch(array, batch or 1), name))
        elif name in builder.opaque:
            kind = builder.opaque[name]
            if kind is None or not kind.tensor_type.elem_type:
                raise Whole(Problem("islands", name, "whose type ONNX cannot tell"))
            feeds.append(Feed(name, name))
            inputs.append(onnx.ValueInfoProto(name=name, type=open_batch(kind)))
        else:
            view = builder.view(name)
            feeds.append(Feed(name, view.value, view.shape))
            shape = [batch or "images", *view.shape]
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes, "island", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], constants
    )
    model = helper.make_model(graph, opset_imports=list(reading.model.opset_import))
    model.ir_version = reading.model.ir_version
    operators = Counter(node.op_type for node in nodes)
    macs = sum(left.macs for left in lefts)
    return Island(_serialize(model), tuple(feeds), tuple(outputs), tuple(sizes), operators, macs)


def keep_whole(
    model: onnx.ModelProto, size: tuple[int, int] | None, problems: Sequence[Problem] = ()
) -> Division:
    """All of a network as one island."""
    inputs = tuple(given.port for given in read_inputs(model, size))
    outputs = tuple(read_port(value) for value in model.graph.output)
    names = tuple(port.name for port in outputs)
    island = Island(
        _serialize(model),
        tuple(Feed(port.name, port.name) for port in inputs),
        names,
        (),
        Counter(node.op_type for node in model.graph.node),
    )
    results = tuple(Feed(name, name) for name in names)
    firsts = {port.shape[0] if port.shape else 0 for port in inputs}
    batch = firsts.pop() if len(firsts) == 1 else None
    return Division(inputs, outputs, (island,), results, batch or None, (), tuple(problems))


def _serialize(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:  # more than protobuf's 2 GB
        raise UsageError("what onnxruntime would run of it is larger than 2 GB") from error
