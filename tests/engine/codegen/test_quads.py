"""Layers in 8 bits compute, to the bit, what their definitions say in integers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from strzoo.engine.codegen.convolution import ConvolutionKernel
from strzoo.engine.codegen.quad_packing import QuadPackKernel
from strzoo.engine.hardware import Hardware, host_hardware
from strzoo.engine.ir.graph import Graph, Layer, MaxPool, Shape, Window
from strzoo.engine.ir.quads import (
    DequantizeQuads,
    QuadConvolution,
    QuantizeQuads,
)
from strzoo.engine.ir.shapes import infer_shape
from strzoo.engine.layout.tiling import Tiling
from tests.engine.codegen.test_fixed_point import compile_for
from tests.engine.runtime.test_run import run_engine
from tests.helpers.engine.fixed import run_fixed_graph
from tests.helpers.engine.plans import make_plan
from tests.helpers.engine.spelled import LANES, needs_lanes

SAME = (1, 1, 1, 1)


def make_graph(seed: int) -> Graph:
    """Windows, strides, a residual of another zero, counts of channels that are no multiples of
    four. Scales are powers of two: fp32 holds every result, so rounding has one outcome."""
    random = np.random.default_rng(seed)
    shapes: dict[str, Shape] = {"x": (3, 13, 9)}
    layers: list[Layer] = []

    def add(kind: type[Layer], name: str, *inputs: str, **fields: Any) -> None:
        layer = kind(name, inputs, name, **fields)
        shapes[name] = infer_shape(layer, [shapes[each] for each in inputs])
        layers.append(layer)

    def convolve(
        name: str, *inputs: str, out: int, kernel: int, zero: int = 0, **window: Any
    ) -> None:
        channels = shapes[inputs[0]][0]
        weight = random.integers(-127, 128, (out, channels, kernel, kernel))
        kept = random.random((out, -(-channels // 4), kernel, kernel)) < 0.4
        weight = weight * kept.repeat(4, 1)[:, :channels]
        source = next(layer for layer in layers if layer.output == inputs[0])
        add(
            QuadConvolution, name, *inputs, weight=weight.astype(np.int8),
            bias=random.integers(-5000, 5000, out).astype(np.int32),
            window=Window((kernel, kernel), **window), bounds=None,
            scales=(2.0 ** random.integers(-10, -7, out)).astype(np.float32),
            residual_scale=0.5 * (len(inputs) > 1), shift=zero + 0.25,
            source_zero=getattr(source, "zero", 0), zero=zero,
        )  # fmt: skip

    add(QuantizeQuads, "u", "x", scale=2.0**-5, zero=128)
    convolve("stem", "u", out=10, kernel=3, strides=(2, 2), pads=SAME)
    add(MaxPool, "pool", "stem", window=Window((3, 3), (1, 1), SAME))
    convolve("side", "pool", out=13, kernel=1, zero=128)
    convolve("deep", "pool", out=18, kernel=3, pads=SAME)
    convolve("sum", "deep", "side", out=13, kernel=3, pads=SAME)
    convolve("last", "sum", out=7, kernel=5, strides=(2, 2), pads=(2, 2, 2, 2), zero=128)
    add(DequantizeQuads, "y", "last", scale=1.0, zero=128)
    return Graph("x", "y", shapes, tuple(layers), "a test")


@needs_lanes
@pytest.mark.parametrize("lanes", LANES)
def test_convolutions_are_exact(lanes: int) -> None:
    graph = make_graph(lanes)
    images = np.random.default_rng(1).standard_normal((3, 3, 13, 9)).astype(np.float32)
    expected = run_fixed_graph(graph, images)
    assert len(np.unique(expected)) > 50  # few saturate
    tilings = {"sum": Tiling(4, 3), "deep": Tiling(4, 1)}  # one has blocks of input channels
    hardware = Hardware(lanes, 32 if lanes == 16 else 16)
    kernels = make_plan(graph, hardware, 1, tilings, 2).kernels
    layers = [kernel for kernel in kernels if isinstance(kernel, ConvolutionKernel)]
    for each in ("twice", "blocked", "residual"):
        assert {getattr(kernel, each) for kernel in layers} == {True, False}
    found = run_engine(graph, images, lanes=lanes, group=1, threads=2, tilings=tilings)
    np.testing.assert_array_equal(found, expected)


@needs_lanes
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(("channels", "side"), [(1, 32), (3, 32), (4, 48), (6, 32), (3, 13)])
def test_images_become_numbers_of_8_bits_four_pixels_at_a_time(
    channels: int, side: int, lanes: int
) -> None:
    shapes: dict[str, Shape] = dict.fromkeys("xuy", (channels, side, side))
    layers = (
        QuantizeQuads("u", ("x",), "u", scale=0.125, zero=128),
        DequantizeQuads("y", ("u",), "y", scale=0.125, zero=128),
    )
    graph = Graph("x", "y", shapes, layers, "a test")
    hardware = Hardware(lanes, 32 if lanes == 16 else 16, identity=host_hardware().identity)
    plan = make_plan(graph, hardware, 1, None, 2)
    packing = next(kernel for kernel in plan.kernels if isinstance(kernel, QuadPackKernel))
    assert (packing.kind, packing.rows) == ("quantize", side > 13)
    assert packing.parts == min(channels, 4)
    images = 9 * np.random.default_rng(2).standard_normal((3, *shapes["x"])).astype(np.float32)
    found = run_engine(graph, images, lanes=lanes, group=1, threads=2)
    expected = (np.rint(images * 8 + 128).clip(0, 255) - 128) / 8
    np.testing.assert_array_equal(found.reshape(images.shape), expected)


@pytest.mark.parametrize(
    ("cpu", "lanes", "register"),
    [("alderlake", 8, "ymm"), ("znver4", 16, "zmm"), ("icelake-server", 16, "zmm")],
)
def test_every_processor_has_its_dot_product(cpu: str, lanes: int, register: str) -> None:
    kernel = ConvolutionKernel(lanes, 4, 4, quads=True)
    assembly = compile_for("x86_64-linux-gnu", cpu, "", kernel)
    # Four weights at a time and then one, each times the four vectors of the tile.
    assert len(re.findall(rf"vpdpbusd.*%{register}", assembly)) == 4 * 5
    assert "vpackuswb" in assembly
