"""Copies between layouts: by whole vectors where few of them hold what a vector takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from strzoo.engine.codegen.permuting import PermuteKernel
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Convolution, Graph, Window
from tests.engine.runtime.test_run import run_engine
from tests.helpers.engine.building import chain
from tests.helpers.engine.plans import make_plan
from tests.helpers.engine.reference import run_graph
from tests.helpers.engine.spelled import RUNNABLE

HARDWARE = {lanes: Hardware(lanes, 32 if lanes == 16 else 16) for lanes in (4, 8, 16)}
CHANNELS = 7  # not a multiple of the planes that are copied at once


def strided(side: int, kernel: int) -> Graph:
    """A convolution that moves in steps of two, behind another."""
    random = np.random.default_rng(side)
    pads = (kernel // 2,) * 4
    first, second = (
        random.standard_normal((CHANNELS, CHANNELS, size, size)).astype(np.float32)
        * (random.random((CHANNELS, CHANNELS, size, size)) < 0.3)
        for size in (1, kernel)
    )
    bias = random.standard_normal(CHANNELS).astype(np.float32)
    return chain(
        Convolution("a", ("x",), "a", first, bias, Window((1, 1))),
        Convolution("y", ("a",), "y", second, bias, Window((kernel, kernel), (2, 2), pads)),
        shape=(CHANNELS, side, side),
    )


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(
    ("lanes", "side", "permuted"),
    [
        *((8, 10, True), (8, 20, True), (8, 7, True), (8, 14, False), (4, 14, False)),
        *((16, 14, True), (16, 28, True), (16, 13, True), (16, 20, False)),
    ],
)
def test_pixels_are_copied_by_whole_vectors(
    kernel: int, lanes: int, side: int, permuted: bool
) -> None:
    if lanes not in RUNNABLE:
        pytest.skip("no such vectors here")
    graph = strided(side, kernel)
    plan = make_plan(graph, HARDWARE[lanes])
    if kernel == 3:
        without = dataclasses.replace(HARDWARE[lanes], fixed=False)  # AVX alone
        assert not any(isinstance(k, PermuteKernel) for k in make_plan(graph, without).kernels)
        assert any(isinstance(each, PermuteKernel) for each in plan.kernels) == permuted
    images = np.random.default_rng(0).standard_normal((3, CHANNELS, side, side)).astype(np.float32)
    found = run_engine(graph, images, lanes=lanes, group=1, threads=2)
    expected = np.asarray(run_graph(graph, images)).reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_infinities_and_nan_are_copied_as_they_are() -> None:
    """Numbers that a vector does not take must not leave a trace in it."""
    if 8 not in RUNNABLE:
        pytest.skip("no such vectors here")
    graph = strided(10, 1)
    images = np.random.default_rng(0).standard_normal((1, CHANNELS, 10, 10)).astype(np.float32)
    images[0, :, 1::2], images[0, :, :, 1::2] = np.nan, np.inf  # where the window never stands
    found = run_engine(graph, images, lanes=8, group=1, threads=1)
    images[0, :, 1::2], images[0, :, :, 1::2] = 0, 0
    np.testing.assert_array_equal(found, run_engine(graph, images, lanes=8, group=1, threads=1))
