"""ONNX models written as text, and what onnxruntime makes of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

from strzoo.engine.frontend.read import read_graph
from strzoo.engine.passes import simplify
from tests.helpers.engine.reference import run_graph

IMAGE = "float[N, 4, 7, 6] x"


def build(
    body: str,
    *,
    image: str = IMAGE,
    output: str = "float[N, M] y",
    opset: int = 18,
    **weights: np.ndarray,
) -> onnx.ModelProto:
    """A model of nodes in ONNX's text form that makes `y` of `x`; `weights` by their names."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({image}) => ({output}) {{ {body} }}'
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return model


def images(shape: tuple[int, ...], batch: int = 3) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((batch, *shape), dtype=np.float32)


# Of onnxruntime: with the padding counted, AveragePool divides the last row by less.
OLD_PEER = tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 24)


def run_onnxruntime(model: onnx.ModelProto | str, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Older ones draw a Pad into a pool, which then refuses it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options)
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return result


def assert_agrees(
    model: onnx.ModelProto | str,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 3,
    tolerance: float = 1e-5,
) -> None:
    """What is read of `model`, before and after the passes, computes what onnxruntime does."""
    graph = read_graph(model, size=size)
    x = images(graph.shapes[graph.input], batch)
    expected = run_onnxruntime(model, x)
    scale = np.abs(expected).max()
    assert scale > 0
    for found in (graph, simplify(graph)):
        output = run_graph(found, x)
        assert output.shape == expected.shape
        assert np.abs(output - expected).max() <= tolerance * scale
