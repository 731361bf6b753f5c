"""Layers in 16-bit fixed point compute, to the bit, what their definitions say in integers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from strzoo.engine.codegen.convolution import ConvolutionKernel
from strzoo.engine.codegen.fixed_packing import FixedPackKernel
from strzoo.engine.codegen.operands import Kernel, row_operands
from strzoo.engine.hardware import Hardware, host_hardware
from strzoo.engine.ir.fixed import (
    Dequantize,
    FixedConvolution,
    FixedGlobalAveragePool,
    Quantize,
)
from strzoo.engine.ir.graph import Bounds, Graph, Layer, MaxPool, Shape, Window
from strzoo.engine.ir.shapes import infer_shape
from strzoo.engine.layout.tiling import Tiling
from strzoo.engine.storage.plan_checks import check_plan
from tests.engine.runtime.test_run import run_engine
from tests.helpers.engine.fixed import run_fixed_graph
from tests.helpers.engine.plans import make_plan
from tests.helpers.engine.spelled import RUNNABLE

pytestmark = pytest.mark.skipif(
    not host_hardware().fixed, reason="no instruction for fixed point here"
)
RELU = Bounds(0.0)
SAME = (1, 1, 1, 1)


class Network:
    """A graph that grows by a layer in fixed point at a time, from images [channels, h, w]."""

    def __init__(self, channels: int, height: int, width: int, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.shapes: dict[str, Shape] = {"x": (channels, height, width)}
        self.layers: list[Layer] = []
        scale = self.random.uniform(1e-4, 3e-4, channels)
        self.last = self.add(Quantize, "x", scale=scale)

    def add(self, kind: type[Layer], *inputs: str, **fields: Any) -> str:
        name = f"{kind.__name__} {len(self.layers)}"
        layer = kind(name, inputs, name, **fields)
        self.shapes[name] = infer_shape(layer, [self.shapes[each] for each in inputs])
        self.layers.append(layer)
        self.last = name
        return name

    def convolution(
        self,
        out: int,
        kernel: int,
        *others: str,
        source: str | None = None,
        density: float = 0.3,
        groups: int = 1,
        bounds: Bounds | None = RELU,
        limits: bool = False,
        **window: Any,
    ) -> str:
        """Random weights, of which about `density` are not zero, small enough not to saturate."""
        source = source or self.last
        per_group = self.shapes[source][0] // groups
        shape = (out, per_group, kernel, kernel)
        terms = max(density * per_group * kernel * kernel, 1)
        weight = self.random.normal(0, 20_000 / terms**0.5, shape).clip(-32767, 32767)
        weight = np.rint(weight * (self.random.random(shape) < density)).astype(np.int32)
        bias = self.random.integers(-2000, 2000, out).astype(np.int16)
        found = None
        if limits:
            bounds = Bounds(-1.0, 6.0)
            found = np.stack(
                (-self.random.integers(0, 900, out), self.random.integers(1, 3000, out)), 1
            )
            found = found.astype(np.int16)
        return self.add(
            FixedConvolution, source, *others, weight=weight, bias=bias, groups=groups,
            window=Window((kernel, kernel), **window), bounds=bounds, limits=found,
        )  # fmt: skip

    def check(
        self, lanes: int = 4, threads: int = 1, tilings: Mapping[str, Tiling] | None = None
    ) -> None:
        shape = self.shapes[self.last]
        fixed = self.last
        if len(shape) == 3 and not isinstance(self.layers[-1], FixedGlobalAveragePool):
            self.add(Dequantize, fixed, scale=np.ones(shape[0]))
        graph = Graph("x", self.last, self.shapes, tuple(self.layers), "a test")
        images = self.random.standard_normal((2, *self.shapes["x"])).astype(np.float32)
        expected = run_fixed_graph(graph, images)
        assert np.abs(expected).max() > 100  # there is something to compare
        if isinstance(self.layers[-1], Dequantize):
            assert np.abs(expected).max() < 32767  # nothing saturates, so that order is no matter
        found = run_engine(graph, images, lanes=lanes, group=1, threads=threads, tilings=tilings)
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-6)


LANES = pytest.mark.parametrize("lanes", sorted({RUNNABLE[0], RUNNABLE[-1]}))


@pytest.mark.parametrize("lanes", RUNNABLE)
@pytest.mark.parametrize(
    ("size", "rows"), [((32, 64), True), ((96, 96), True), ((7, 9), False), ((33, 65), False)]
)
def test_images_are_brought_into_fixed_point(lanes: int, size: tuple[int, int], rows: bool) -> None:
    """By rows of pixels where blocks divide the image and are wide enough, else pixel by pixel."""
    scale = np.array([5e-5, 2e-4, 7e-5])  # some saturate
    layers = (
        Quantize("first", ("x",), "q", scale=scale),
        Dequantize("last", ("q",), "y", scale=np.ones(3)),
    )
    graph = Graph("x", "y", dict.fromkeys("xqy", (3, *size)), layers, "a test")
    images = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    expected = run_fixed_graph(graph, images)
    assert (abs(expected) == 32767).any()
    found = run_engine(graph, images, lanes=lanes, group=1, threads=2)
    assert np.array_equal(found, expected.reshape(found.shape))
    plan = make_plan(graph, Hardware(lanes, 16, identity=host_hardware().identity))
    (kernel,) = (
        each
        for each in plan.kernels
        if isinstance(each, FixedPackKernel) and each.kind == "quantize"
    )
    assert kernel.rows == rows


@pytest.mark.slow
@pytest.mark.parametrize("lanes", RUNNABLE)
@pytest.mark.parametrize(("size", "threads"), [((14, 14), 1), ((20, 11), 3)])
def test_convolutions_of_windows_of_1_3_and_5_pixels(
    lanes: int, size: tuple[int, int], threads: int
) -> None:
    network = Network(5, *size)
    network.convolution(12, 1, density=0.6)
    network.convolution(20, 3, pads=SAME)
    network.convolution(7, 5, pads=(2, 2, 2, 2), bounds=None)
    network.check(lanes, threads)


@pytest.mark.slow
@LANES
@pytest.mark.parametrize("size", [(28, 28), (13, 6)])
def test_strided_and_dilated_windows(lanes: int, size: tuple[int, int]) -> None:
    network = Network(4, *size)
    network.convolution(10, 3, pads=SAME, strides=(2, 2))
    network.convolution(9, 1, strides=(2, 2))
    network.convolution(8, 3, pads=(2, 2, 2, 2), dilations=(2, 2))
    network.check(lanes, 2)


@LANES
def test_residual_sums_are_saturated_and_then_bounded(lanes: int) -> None:
    network = Network(6, 12, 12)
    shortcut = network.convolution(16, 1, density=0.8)
    network.convolution(16, 3, pads=SAME)
    network.convolution(16, 1, shortcut)
    network.convolution(16, 1, network.last, bounds=None, density=0.5)
    network.check(lanes)


@LANES
def test_clamps_have_bounds_of_each_channel(lanes: int) -> None:
    network = Network(6, 12, 12)
    network.convolution(16, 3, pads=SAME, limits=True)
    network.convolution(16, 3, pads=SAME, limits=True, groups=16, density=1.0)
    network.check(lanes, 2)


@pytest.mark.slow
@LANES
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolutions(lanes: int, stride: int) -> None:
    network = Network(3, 16, 16)
    network.convolution(8, 1, density=0.9)
    network.convolution(8, 3, groups=8, density=1.0, pads=SAME, strides=(stride, stride))
    network.convolution(16, 3, groups=8, density=1.0, pads=SAME)  # two of each channel
    network.check(lanes, 3)


@LANES
def test_the_largest_of_windows_and_the_mean_of_planes(lanes: int) -> None:
    network = Network(3, 23, 17)
    network.convolution(8, 3, pads=SAME, bounds=None)
    network.add(MaxPool, network.last, window=Window((3, 3), (2, 2), SAME))
    network.convolution(10, 3, pads=SAME)
    scale = network.random.uniform(0.5, 2, 10)
    network.add(FixedGlobalAveragePool, network.last, scale=scale, flat=True)
    network.check(lanes, 2)


def test_blocks_of_input_channels_and_both_sets_of_sums() -> None:
    network = Network(64, 7, 7)
    name = network.convolution(40, 3, pads=SAME, density=0.4)
    last = network.convolution(40, 1, name, density=0.7)
    network.check(RUNNABLE[-1], 2, {name: Tiling(1, 4), last: Tiling(1, 2)})


@pytest.mark.parametrize("threads", [1, 2])
def test_maps_go_into_fixed_point_and_back_between_layers(threads: int) -> None:
    network = Network(4, 10, 10)
    scale = network.random.uniform(1e-4, 2e-4, 9)
    network.convolution(9, 3, pads=SAME)
    network.add(Dequantize, network.last, scale=scale)
    network.add(Quantize, network.last, scale=scale * 1.7)
    network.convolution(5, 3, pads=SAME)
    network.check(RUNNABLE[-1], threads)


def test_sums_beyond_16_bits_saturate() -> None:
    weight = np.full((2, 8, 1, 1), 32767, np.int16)
    weight[1] = -32768
    network = Network(8, 4, 4)
    network.add(
        FixedConvolution, network.last, weight=weight, bias=np.zeros(2, np.int16),
        window=Window((1, 1)),
    )  # fmt: skip
    network.add(Dequantize, network.last, scale=np.ones(2))
    graph = Graph("x", network.last, network.shapes, tuple(network.layers), "a test")
    images = np.ones((1, 8, 4, 4), np.float32)  # 3,333 to 10,000 each
    found = run_engine(graph, images, lanes=RUNNABLE[-1], group=1, threads=1)
    assert (found[0, 0] == 32767).all()
    assert (found[0, 1] == -32768).all()


def compile_for(target: str, cpu: str, features: str, kernel: Kernel) -> str:
    """The assembly of a kernel for another processor."""
    import llvmlite.binding as llvm
    from llvmlite import ir

    module = ir.Module("another")
    module.triple, module.features = target, features
    kernel.emit(module)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(target).create_target_machine(
        cpu=cpu, features=features, opt=3
    )
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return machine.emit_assembly(parsed)


@pytest.mark.parametrize(
    ("target", "cpu", "features", "lanes", "expected"),
    [
        ("aarch64-linux-gnu", "cortex-a76", "+rdm", 4, ["sqrdmlah\\tv"]),
        ("aarch64-linux-gnu", "cortex-a72", "", 4, ["sqrdmulh\\tv", "\\tadd\\tv", "sqadd\\tv"]),
        ("x86_64-linux-gnu", "haswell", "", 8, ["vpmulhrsw.*%ymm", "vpaddw", "vpaddsw"]),
        ("x86_64-linux-gnu", "znver4", "", 16, ["vpmulhrsw.*%zmm", "vpaddw", "vpaddsw"]),
        ("x86_64-linux-gnu", "core2", "", 4, ["pmulhrsw.*%xmm", "paddw", "paddsw"]),
    ],
)
def test_every_processor_multiplies_and_adds_by_its_own_instructions(
    target: str, cpu: str, features: str, lanes: int, expected: list[str]
) -> None:
    kernel = ConvolutionKernel(lanes, 4, 4, fixed=True, bounds="relu")
    assembly = compile_for(target, cpu, features, kernel)
    # Four weights at a time and then one, each times the four vectors of the tile. Of the sums of
    # four products, only the last saturates.
    for text, count in zip(expected, (5, 3, 2), strict=False):
        assert len(re.findall(text, assembly)) >= 4 * count, text


@pytest.mark.parametrize("groups", [1, 4])
def test_clamps_need_the_bounds_of_all_rows(groups: int) -> None:
    network = Network(4, 6, 6)
    name = network.convolution(4, 3, pads=SAME, limits=True, groups=groups, density=1.0)
    network.add(Dequantize, name, scale=np.ones(4))
    graph = Graph("x", network.last, network.shapes, tuple(network.layers), "a test")
    hardware = Hardware(16, 32)
    plan = make_plan(graph, hardware)
    check_plan(plan, hardware)
    index = next(i for i, layer in enumerate(plan.layers) if layer == name)
    names = [operand.name for operand in row_operands(plan.kernels[index])]
    rows = plan.rows.copy()
    rows[index, names.index("row_bounds")] = len(plan.constants) - 14  # 16 bytes are read
    with pytest.raises(ValueError, match="row_bounds: 8 items"):
        check_plan(dataclasses.replace(plan, rows=rows), hardware)
