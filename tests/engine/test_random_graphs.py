"""Random graphs: reading them back and simplifying them changes nothing they compute."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from strzoo.engine.frontend.read import read_alone
from strzoo.engine.ir.graph import AveragePool, Combine, Graph, Normalize, Rearrange, Resample
from strzoo.engine.passes import simplify
from tests.helpers.engine.graphs import graphs
from tests.helpers.engine.models import OLD_PEER
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


@pytest.mark.slow
@given(graphs(), st.integers(1, 3))
@SLOWLY
def test_a_graph_written_as_onnx_reads_back_as_what_onnxruntime_computes(
    graph: Graph, batch: int
) -> None:
    # One pixel's channels may be first or last, a vector or a map: the engine alone may refuse it.
    several = [layer for layer in graph.layers if isinstance(layer, Combine | Normalize)]
    assume(all(graph.shapes[layer.inputs[0]][1:] != (1, 1) for layer in several))
    # A narrow image whose channels go last looks like one that has them last.
    assume(not any(isinstance(x, Normalize) and graph.input in x.inputs for x in several))
    # So does one whose single channel goes last; each number of it becomes the shift.
    single = (x for x in several if graph.shapes[x.inputs[0]][0] == 1)
    assume(not any(isinstance(x, Normalize) for x in single))
    pools = [layer for layer in graph.layers if isinstance(layer, AveragePool)]
    assume(not (OLD_PEER and any(pool.count_padding for pool in pools)))
    # What only moves numbers may move none, and is no network then.
    assume(not all(isinstance(layer, Rearrange) for layer in graph.layers))
    # ONNX has sums of pixels as Resize alone, which test_resizing compares.
    assume(not any(isinstance(layer, Resample) for layer in graph.layers))
    x = images(graph, batch)
    model = to_onnx(graph)
    read = read_alone(model)
    (found,), (result,) = read.graphs, read.division.results
    assert result.shape is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    expected = session.run(None, {"x": x})[0]
    for one in (found, simplify(found)):
        made = run_graph(one, x).reshape(batch, *result.shape)
        assert largest_error(made, expected) < 1e-5
