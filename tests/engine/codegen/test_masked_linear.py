"""Fully connected layers whose weights, of 16 bits, are spread over the inputs by masks."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from strzoo.engine.codegen.masked_linear import MASKED_LANES, READ, MaskedLinearKernel
from strzoo.engine.hardware import LEVELS, level_flags
from strzoo.engine.ir.masks import LARGEST_SUM, largest_sums, padded
from tests.engine.codegen.test_fixed_point import compile_for
from tests.helpers.engine.kernels import Arena, int32, normal, read, run_kernel
from tests.helpers.engine.spelled import RUNNABLE, spelled_out

SCALE = 0.25


@pytest.mark.parametrize(("lanes", "features"), [(8, ""), (16, ""), (16, "+avx512vbmi2")])
@pytest.mark.parametrize("inputs", [128, 75, 4, 2500])  # filled up, without vectors, two segments
def test_a_masked_linear_layer_spreads_its_weights_over_the_inputs(
    inputs: int, lanes: int, features: str
) -> None:
    rows = 5
    x, bias = normal(1, inputs), normal(2, rows)
    used = np.random.default_rng(3).random((rows, inputs)) < 0.4
    used[2], used[3] = False, True
    weight = (1000 * normal(0, rows, inputs) * used).astype(np.int16)
    used = weight != 0
    # Each feature is rounded to a 32766th of the largest.
    rounded = np.abs(weight).sum(1) * np.abs(x).max() / 32766 * SCALE
    # Features that are whole 14-bit numbers, the largest among them, make exact sums.
    whole = np.random.default_rng(5).integers(-16383, 16384, inputs).astype(np.float32)
    whole[0] = 16383
    exact = weight.astype(np.int64) @ whole.astype(np.int64) * SCALE + bias.astype(np.float64)
    with spelled_out(features):
        found = run_masked(lanes, weight, x, bias)
        np.testing.assert_allclose(run_masked(lanes, weight, whole, bias), exact, rtol=1e-5)
    assert (np.abs(found - (weight.astype(np.float64) @ x * SCALE + bias)) <= rounded + 1e-3).all()


def test_the_largest_sums_of_a_masked_linear_layer_fit() -> None:
    rows, inputs = 2, 2048
    weight = np.zeros((rows, inputs), np.int16)
    weight[0, 0::128] = weight[0, 1::128] = LARGEST_SUM // 32
    weight[1] = -(LARGEST_SUM // 32)
    assert (largest_sums(weight) <= LARGEST_SUM).all()
    assert (largest_sums(weight) > LARGEST_SUM - 32).all()
    x, bias = np.full(inputs, 3.0, np.float32), np.zeros(rows, np.float32)
    found = run_masked(MASKED_LANES[0], weight, x, bias)
    np.testing.assert_allclose(found, weight.astype(np.int64).sum(1) * 3.0 * SCALE, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_masked_linear_layer_makes_nan_of_what_is_not_finite(value: float) -> None:
    lanes = MASKED_LANES[0]
    weight, bias = np.ones((1, 37), np.int16), np.zeros(1, np.float32)
    for place in (0, 20, 36):
        x = np.ones(37, np.float32)
        x[place] = value
        assert np.isnan(run_masked(lanes, weight, x, bias)).all()
    zeros = np.zeros(37, np.float32)
    assert run_masked(lanes, weight, zeros, bias) == 0


def run_masked(lanes: int, weight: np.ndarray, x: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The results of the kernel, of weights that are int16 units of `SCALE`."""
    if lanes not in RUNNABLE:
        pytest.skip("no such kernel here")
    rows, inputs = weight.shape
    used = np.pad(weight != 0, ((0, 0), (0, padded(inputs) - inputs)))
    arena = Arena()
    source, target = arena.add(x), arena.reserve(rows)
    operands = {
        "source": source, "target": target, "parts": 2, "part_rows": int32(0, rows // 2, rows),
        "ends": np.concatenate(([0], np.cumsum(used.sum(1)))).astype(np.int32),
        "masks": np.packbits(used, axis=1, bitorder="little"),
        "weights": np.concatenate((weight[weight != 0], np.zeros(READ, np.int16))),
        "inputs": inputs, "bias": bias, "scales": np.full(rows, SCALE, np.float32),
    }  # fmt: skip
    kernel = MaskedLinearKernel(lanes)
    return read(run_kernel(kernel, arena, operands, threads=2), target, rows)


@pytest.mark.parametrize(
    ("cpu", "features", "lanes", "expands"),
    [
        ("znver4", "+avx512vbmi2", 16, True),
        ("icelake-server", "+avx512vbmi2", 16, True),
        ("skylake-avx512", "", 16, False),
        *((cpu, ",".join(level_flags(cpu)), LEVELS[cpu][0], False)
          for cpu in LEVELS if LEVELS[cpu][0] in MASKED_LANES),
    ],
)  # fmt: skip
def test_processors_spread_weights_as_well_as_they_can(
    cpu: str, features: str, lanes: int, expands: bool
) -> None:
    listed = ",".join(f"+{flag.strip('+')}" for flag in features.split(",") if flag)
    assembly = compile_for("x86_64-linux-gnu", cpu, listed, MaskedLinearKernel(lanes))
    # 128 inputs at a time, of which a vector has 32 or eight.
    spread = re.findall(r"vpexpandw\s+%zmm" if expands else r"vpshufb", assembly)
    assert len(spread) >= (4 if expands else 16)
    assert ("vpexpandw" in assembly) == expands
    products = re.findall(r"vpmaddwd|vpdpwssd", assembly)
    assert len(products) == (4 if expands else 8)
