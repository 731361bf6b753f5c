"""Plans compute what the graph says: against float64, for any vector width, grouping, threads."""

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strzoo.engine.hardware import Hardware, host_hardware
from strzoo.engine.ir.graph import Affine, Convolution, GlobalAveragePool, Graph, Shape, Window
from strzoo.engine.passes import simplify
from strzoo.engine.runtime import run as runtime
from strzoo.engine.runtime.memory import aligned
from strzoo.engine.runtime.run import Program, Runner
from strzoo.engine.storage.machine_code import MachineCode, compile_kernels
from strzoo.engine.storage.plan_checks import check_plan
from tests.helpers.engine.graphs import graphs
from tests.helpers.engine.plans import make_plan
from tests.helpers.engine.reference import run_graph
from tests.helpers.engine.spelled import spelled_out
from tests.helpers.fuzzing import QUIETLY

pytest.importorskip("llvmlite")

TOLERANCE = 1e-4  # of the largest output


class Code:
    """The machine code of any kernels, each compiled once: the examples have many in common."""

    known: ClassVar[dict[str, MachineCode]] = {}

    def __init__(self, kernels, hardware):
        for kernel in kernels:
            if kernel.name not in self.known:
                self.known[kernel.name] = compile_kernels([kernel], hardware)
        self.addresses: dict[str, int] = {}
        for kernel in kernels:
            self.addresses |= self.known[kernel.name].addresses


def run_engine(graph, images, *, lanes, group, threads, tilings=None):
    registers = 32 if lanes == 16 else 16
    hardware = Hardware(lanes, registers, identity=host_hardware().identity)
    plan = make_plan(graph, hardware, min(group, lanes), tilings, threads)
    check_plan(plan, hardware)
    result = np.full((len(images), *plan.output_shape), np.nan, np.float32)
    with spelled_out() as patch:
        # What a kernel reads without having written it first shows in the result.
        patch.setattr(runtime, "aligned", poisoned)
        program = Program(plan, Code(plan.kernels, hardware))
        Runner(threads).run(program, images, result)
    return result


def poisoned(size):
    memory = aligned(size)
    memory[:] = 0xFF  # every float is a NaN
    return memory


CASES: dict[str, Any] = {
    "graph": graphs(),
    "batch": st.integers(1, 17),
    "lanes": st.sampled_from([4, 8, 16]),
    "group": st.sampled_from([1, 2, 4, 8, 16]),
    "threads": st.sampled_from([1, 2, 3]),
    "seed": st.integers(0, 2**32 - 1),
}


@pytest.mark.slow
@settings(max_examples=6, **QUIETLY)  # `python -m tests.fuzz.graphs` runs any number
@given(**CASES)
def test_random_graphs_agree_with_float64(graph, batch, lanes, group, threads, seed):
    check_agreement(graph, batch, lanes, group, threads, seed)


def check_agreement(graph, batch, lanes, group, threads, seed):
    images = np.random.default_rng(seed).standard_normal((batch, *graph.shapes[graph.input]))
    images = images.astype(np.float32)
    expected = run_graph(graph, images)
    found = run_engine(simplify(graph), images, lanes=lanes, group=group, threads=threads)
    expected = np.asarray(expected).reshape(found.shape)
    largest = np.abs(expected).max() if expected.size else 0.0
    assert np.abs(found - expected).max() <= TOLERANCE * max(largest, 1e-3)


def test_a_residual_of_single_pixels_is_not_overwritten_before_it_is_added():
    weight = np.full((2, 2, 1, 1), 0.5, np.float32)
    zero, two = np.zeros(2, np.float32), np.full(2, 2, np.float32)
    shapes: dict[str, Shape] = {
        "x": (2, 3, 3),
        "mean": (2, 1, 1),
        "twice": (2, 1, 1),
        "y": (2, 1, 1),
    }
    graph = Graph(
        "x",
        "y",
        shapes,
        (
            GlobalAveragePool("pool", ("x",), "mean"),
            Affine("double", ("mean",), "twice", two, zero),
            Convolution("product", ("mean", "twice"), "y", weight, zero, Window((1, 1))),
        ),
        "a test",
    )
    images = np.arange(36, dtype=np.float32).reshape(2, 2, 3, 3)
    found = run_engine(graph, images, lanes=4, group=1, threads=1)
    # The planes' means are 4 and 13, 22 and 31: half of both, and twice each.
    assert found[..., 0, 0].tolist() == [[8.5 + 8, 8.5 + 26], [26.5 + 44, 26.5 + 62]]


@pytest.mark.slow
def test_a_grouped_layer_wider_than_an_entry_can_tell_apart_is_blocked():
    channels = 2400  # a patch of 51 vectors each: more than 65,536 in all
    weight = np.zeros((channels, 1, 3, 3), np.float32)
    weight[:, 0, 0, 1], weight[:, 0, 2, 2] = 1, 2
    shape = (channels, 32, 32)
    window = Window((3, 3), pads=(1, 1, 1, 1))
    layer = Convolution(
        "layer", ("x",), "y", weight, np.zeros(channels, np.float32), window, channels
    )
    graph = Graph("x", "y", {"x": shape, "y": shape}, (layer,), "a test")
    images = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    found = run_engine(graph, images, lanes=16, group=1, threads=1)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = padded[..., :-2, 1:-1] + 2 * padded[..., 2:, 2:]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
