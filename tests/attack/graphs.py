"""ONNX files for the attacks: a sound one, and any nodes in front of its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), list(outputs), f"n_{outputs[0]}", **attributes)


def value(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def weight(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def claimed(name: str, dims: Sequence[int], kind: int = TensorProto.FLOAT) -> onnx.TensorProto:
    """A tensor that says it has these dimensions, and four bytes."""
    made = TensorProto(name=name, data_type=kind, raw_data=bytes(4))
    made.dims.extend(dims)
    return made


def graph(
    nodes: Sequence[Any],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    shape: Shape = ("N", 3, 8, 8),
    output: str = "y",
    opset: int = 17,
    **options: Any,
) -> onnx.ModelProto:
    """A model from `x` of that shape to `output`."""
    made = helper.make_graph(
        list(nodes), "g", [value("x", shape)], [value(output, ["N", "C"])], list(weights)
    )
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_model(made, opset_imports=sets, ir_version=8, **options)


def convolution(
    source: str = "x", made: str = "c", name: str = "w", **attributes: Any
) -> onnx.NodeProto:
    return node("Conv", [source, name], [made], **{"pads": [1] * 4, **attributes})


def head(source: str = "c", made: str = "y") -> list[onnx.NodeProto]:
    """A map to logits."""
    return [
        node("GlobalAveragePool", [source], [f"{source}_g"]),
        node("Flatten", [f"{source}_g"], [made]),
    ]


WEIGHT = np.linspace(-1, 1, 10 * 3 * 3 * 3, dtype=np.float32).reshape(10, 3, 3, 3)


def convolution_graph(**attributes: Any) -> onnx.ModelProto:
    return graph([convolution(**attributes), *head()], [weight("w", WEIGHT)])


def save(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path
