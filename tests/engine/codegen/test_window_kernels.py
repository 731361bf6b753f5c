"""Kernels whose windows read patches compute what numpy computes on a line of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from strzoo.engine.codegen.convolution import ConvolutionKernel
from strzoo.engine.codegen.operands import Kernel
from strzoo.engine.codegen.patches import PatchForm
from strzoo.engine.codegen.windows import DepthwiseKernel, PoolKernel, Walk
from tests.helpers.engine.kernels import (
    LANES,
    VECTOR,
    Arena,
    assert_close,
    int32,
    normal,
    read,
    run_kernel,
    strides,
)

THREADS = pytest.mark.parametrize("threads", [1, 3])
# A line of 20 pixels in four blocks: pixel p is vector p % 5 of lane p // 5. Tiles have 2, 2 and 1
# vectors, and a window reads pixels p and p + 1. Vector 5 of a tile is vector 0 with its lanes
# moved by one block.
SIZE, TILE, TILES, LAST = 5, 2, 3, 1
FORM = PatchForm(
    size=3, columns=TILE, down=3, across=1, images=1, grid_rows=1, grid_columns=LANES, after=1
)


def patch_operands() -> dict[str, Any]:
    """The copies of each tile: those without a move of lanes, then those by one block."""
    ends, copies = [0], []
    for tile in range(TILES):
        vectors = [TILE * tile + v for v in range(min(TILE, SIZE - TILE * tile) + 1)]
        for moved in (False, True):
            chosen = [(v, place) for place, v in enumerate(vectors) if (v >= SIZE) == moved]
            copies += [(v % SIZE * VECTOR, place * VECTOR) for v, place in chosen]
            ends.append(len(copies))
    return {
        "copy_ends": int32(*ends), "copies": np.array(copies, np.int32),
        "source_plane": SIZE * VECTOR, "tiles": TILES, "piece_tiles": TILES,
    }  # fmt: skip


def to_vectors(lines: np.ndarray) -> np.ndarray:
    """[planes, pixels] as [planes, vectors, lanes]."""
    return np.ascontiguousarray(lines.reshape(len(lines), LANES, SIZE).transpose(0, 2, 1))


def from_tiles(floats: np.ndarray, place: int, planes: int) -> np.ndarray:
    """The target [tile][plane][vector][lane] as lines [planes, pixels]."""
    found = read(floats, place, TILES, planes, TILE, LANES).transpose(1, 0, 2, 3)
    vectors = found.reshape(planes, -1, LANES)
    assert np.isnan(vectors[:, SIZE:]).all()
    return vectors[:, :SIZE].transpose(0, 2, 1).reshape(planes, -1)


def following(lines: np.ndarray, beyond: float) -> np.ndarray:
    """The next pixel of each; `beyond` after the last."""
    return np.concatenate([lines[:, 1:], np.full((len(lines), 1), beyond, np.float32)], axis=1)


@THREADS
def test_a_convolution_over_patches(threads: int) -> None:
    planes, rows = 3, 2
    x, bias = normal(0, planes, LANES * SIZE), normal(1, rows)
    weight = normal(2, rows, planes, 2)
    arena = Arena()
    source, target = arena.add(to_vectors(x)), arena.reserve(TILES, rows, TILE, LANES)
    plane, tap = np.divmod(np.arange(2 * planes), 2)
    operands = {
        **patch_operands(), "source": source, "target": target, **strides("target", rows, TILE),
        "rows": rows, "parts": 1, "part_rows": int32(0, rows), "blocks": 1,
        "order": int32(0, 1), "ends": int32(0, 6, 12),
        "entries": np.tile(plane * FORM.size + tap, rows).astype(np.uint16),
        "weights": weight, "bias": bias, "block_planes": int32(0, planes), "slab": 0,
    }  # fmt: skip
    kernel = ConvolutionKernel(LANES, TILE, LAST, 1, FORM)
    floats = run_kernel(kernel, arena, operands, threads=threads)
    expected = weight[..., 0] @ x + weight[..., 1] @ following(x, 0) + bias[:, None]
    assert_close(from_tiles(floats, target, rows), expected)


def run_window_kernel(kernel: Kernel, x: np.ndarray, planes: int, **more: Any) -> np.ndarray:
    arena = Arena()
    source, target = arena.add(to_vectors(x)), arena.reserve(TILES, planes, TILE, LANES)
    operands = {
        **patch_operands(), "source": source, "target": target, **strides("target", planes, TILE),
        "tile": TILE, "target_vectors": SIZE, "planes": planes, "offsets": int32(0, VECTOR),
        **more,
    }  # fmt: skip
    return from_tiles(run_kernel(kernel, arena, operands, threads=2), target, planes)


WALK = Walk(LANES, TILE, LAST, FORM)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_depthwise_convolution_reads_one_channel_for_each_plane(multiplier: int) -> None:
    channels = 11  # more than are copied together
    planes = channels * multiplier
    x, weight, bias = normal(0, channels, LANES * SIZE), normal(1, planes, 2), normal(2, planes)
    kernel = DepthwiseKernel(WALK, 2, multiplier > 1, "relu")
    given = {"weights": weight, "bias": bias, "multiplier": multiplier}
    found = run_window_kernel(kernel, x, planes, **given)
    read_by = np.repeat(x, multiplier, axis=0)
    expected = weight[:, :1] * read_by + weight[:, 1:] * following(read_by, 0) + bias[:, None]
    assert_close(found, np.maximum(expected, 0))


def test_a_maximum_pool_fills_what_is_no_pixel() -> None:
    x = normal(0, 9, LANES * SIZE)
    found = run_window_kernel(PoolKernel(WALK, "max"), x, 9, taps=2, fill=float("-inf"))
    assert np.array_equal(found, np.maximum(x, following(x, -np.inf)))


def test_an_average_pool_divides_by_what_counts() -> None:
    x = normal(0, 9, LANES * SIZE)
    counts = np.full((1, LANES * SIZE), 2, np.float32)
    counts[0, -1] = 1
    scales = to_vectors(1 / counts)[0]
    found = run_window_kernel(PoolKernel(WALK, "mean"), x, 9, taps=2, scales=scales)
    assert_close(found, (x + following(x, 0)) / counts)
