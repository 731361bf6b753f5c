"""Small graphs by hand, and what every pass must hold to: the same outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from strzoo.engine.ir.graph import Convolution, Graph, Layer, Shape, Window
from strzoo.engine.ir.shapes import infer_shape
from tests.helpers.engine.reference import run_graph

SHAPE: Shape = (2, 4, 5)


def chain(*layers: Layer, shape: Shape = SHAPE, output: str = "") -> Graph:
    """A graph of input "x"; its output is that of the last layer unless given."""
    shapes = {"x": shape}
    for layer in layers:
        shapes[layer.output] = infer_shape(layer, [shapes[name] for name in layer.inputs])
    return Graph("x", output or layers[-1].output, shapes, layers, "test")


def conv(name: str, source: str = "x", *, inputs: int = 2, outputs: int = 2, **fields: Any) -> Any:
    """A 1x1 convolution of random weights; its value has its name."""
    random = np.random.default_rng(sum(name.encode()))
    return Convolution(
        name,
        (source,),
        name,
        weight=random.standard_normal((outputs, inputs, 1, 1)).astype(np.float32),
        bias=random.standard_normal(outputs).astype(np.float32),
        **{"window": Window((1, 1)), **fields},
    )


def assert_same_outputs(graph: Graph, rewritten: Graph) -> None:
    images = np.random.default_rng(0).standard_normal((3, *graph.shapes["x"]))
    expected = run_graph(graph, images)
    np.testing.assert_allclose(run_graph(rewritten, images), expected, rtol=1e-6, atol=1e-6)


def names(graph: Graph) -> list[str]:
    return [layer.name for layer in graph.layers]
