"""Random graphs: reading them back and simplifying them changes nothing they compute."""

from __future__ import annotations

import numpy as np
import onnxruntime
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from strzoo.engine.frontend.read import read_graph
from strzoo.engine.ir.graph import Combine, Graph
from strzoo.engine.passes import simplify
from tests.helpers.engine.graphs import graphs
from tests.helpers.engine.reference import run_graph
from tests.helpers.engine.writing import to_onnx

SLOWLY = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def images(graph: Graph, batch: int) -> np.ndarray:
    shape = (batch, *graph.shapes[graph.input])
    return np.random.default_rng(batch).standard_normal(shape, dtype=np.float32)


def largest_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative to the largest output."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))


@given(graphs(), st.integers(1, 3))
@SLOWLY
def test_simplifying_a_graph_changes_nothing_it_computes(graph: Graph, batch: int) -> None:
    x = images(graph, batch)
    simplified = simplify(graph)
    assert len(simplified.layers) <= len(graph.layers)
    assert largest_error(run_graph(simplified, x), run_graph(graph, x)) < 1e-6


@given(graphs(), st.integers(1, 3))
@SLOWLY
def test_a_graph_written_as_onnx_reads_back_as_what_onnxruntime_computes(
    graph: Graph, batch: int
) -> None:
    # Beside a map of one pixel, the file's [N, C, 1, 1] of a vector is a map: onnxruntime's.
    combined = [
        graph.shapes[layer.inputs[0]] for layer in graph.layers if isinstance(layer, Combine)
    ]
    assume(all(shape[1:] != (1, 1) for shape in combined))
    x = images(graph, batch)
    model = to_onnx(graph)
    found = read_graph(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    expected = session.run(None, {"x": x})[0]
    assert largest_error(run_graph(found, x), expected) < 1e-5
    assert largest_error(run_graph(simplify(found), x), expected) < 1e-5
