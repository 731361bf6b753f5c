"""Each kernel, compiled alone, computes what its numpy formulation says, for any number of threads.

Vectors have four lanes. Arrays of the arena are [tile][plane][vector of the tile][lane].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from strzoo.engine.codegen.convolution import ConvolutionKernel
from strzoo.engine.codegen.elementwise import ElementwiseKernel, SoftmaxKernel
from strzoo.engine.codegen.global_pool import GlobalPoolKernel
from strzoo.engine.codegen.linear import LinearKernel
from strzoo.engine.codegen.packing import PackKernel, UnpackKernel
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


@THREADS
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("wide", [False, True])
def test_a_sparse_linear_layer_is_a_matrix_product(images: int, wide: bool, threads: int) -> None:
    rows, inputs = 5, 40
    weight = normal(0, rows, inputs) * (np.random.default_rng(1).random((rows, inputs)) < 0.5)
    x, bias = normal(2, inputs, images), normal(3, rows)
    row, column = np.nonzero(weight)
    arena = Arena()
    source, target = arena.add(x), arena.reserve(rows, images)
    operands = {
        "source": source,
        "target": target,
        "parts": 2,
        "part_rows": int32(0, 2, rows),
        "ends": np.searchsorted(row, np.arange(rows + 1)).astype(np.int32),
        "entries": column.astype(np.uint32 if wide else np.uint16),
        "weights": weight[row, column],
        "inputs": inputs,
        "bias": bias,
        "low": -1.0,
        "high": 2.0,
    }
    kernel = LinearKernel(images, wide=wide, bounds="clamp")
    found = read(run_kernel(kernel, arena, operands, threads=threads), target, rows, images)
    assert_close(found, np.clip(weight @ x + bias[:, None], -1, 2))


@THREADS
def test_a_dense_linear_layer_reads_every_weight(threads: int) -> None:
    rows, inputs = 3, 75  # two turns of 8 vectors, then one by one
    weight, x, bias = normal(0, rows, inputs), normal(1, inputs), normal(2, rows)
    arena = Arena()
    source, target = arena.add(x), arena.reserve(rows)
    operands = {
        "source": source, "target": target, "parts": 3, "part_rows": int32(0, 1, 2, 3),
        "weights": weight, "inputs": inputs, "bias": bias,
    }  # fmt: skip
    kernel = LinearKernel(1, LANES, dense=True, bounds="relu")
    found = read(run_kernel(kernel, arena, operands, threads=threads), target, rows)
    assert_close(found, np.maximum(weight @ x + bias, 0))


@pytest.mark.parametrize("images", [1, 4])
def test_softmax_sums_to_one_whatever_the_size_of_its_input(images: int) -> None:
    x = normal(0, 9, images) * np.float32(30)
    arena = Arena()
    source, target = arena.add(x), arena.reserve(9, images)
    operands = {"source": source, "target": target, "features": 9}
    found = read(run_kernel(SoftmaxKernel(images), arena, operands, threads=2), target, 9, images)
    powers = np.exp(x.astype(np.float64) - x.max(0))
    assert_close(found, powers / powers.sum(0))


@THREADS
@pytest.mark.parametrize("kind", ["add", "affine", "clamp"])
def test_elementwise_kernels_work_tile_by_tile_in_every_piece(kind: str, threads: int) -> None:
    # Five tiles of 5 vectors in three pieces of two; the last tile has 3.
    planes, tile, tiles, vectors = 3, 5, 5, 23
    shape = (6, planes, tile, LANES)  # the sixth tile is not used
    arena = Arena()
    x, y = normal(0, *shape), normal(1, *shape)
    places = {"source": arena.add(x), "other": arena.add(y), "target": arena.reserve(*shape)}
    scales, shifts = normal(2, planes), normal(3, planes)
    pixels = np.random.default_rng(4).random(tiles * tile * LANES) < 0.7
    operands = {
        **places,
        **strides("source", planes, tile),
        **strides("other", planes, tile),
        **strides("target", planes, tile),
        "tile": tile, "tiles": tiles, "piece_tiles": 2, "pitch": 2 * planes * tile * VECTOR,
        "target_vectors": vectors, "planes": planes, "scales": scales, "shifts": shifts,
        "mask": np.where(pixels, 0xFFFFFFFF, 0).astype(np.uint32), "low": -0.5, "high": 1.0,
    }  # fmt: skip
    kernel = ElementwiseKernel(LANES, kind, True, "clamp")
    floats = run_kernel(kernel, arena, operands, threads=threads)
    found = read(floats, places["target"], *shape)
    per_plane = (slice(None), None, None)
    values = {"add": x + y, "affine": x * scales[per_plane] + shifts[per_plane], "clamp": x}[kind]
    mask = pixels.reshape(tiles, 1, tile, LANES)
    expected = np.where(mask, np.clip(values[:tiles], -0.5, 1.0), 0)
    assert_close(found[:4], expected[:4])
    assert_close(found[4, :, :3], expected[4, :, :3])
    assert np.isnan(found[4, :, 3:]).all()  # beyond the last vector nothing is written
    assert np.isnan(found[5]).all()


@THREADS
@pytest.mark.parametrize("images", [1, 2])
def test_the_global_pool_adds_pixels_alone(images: int, threads: int) -> None:
    planes, tile, vectors = 4, 2, 3
    x = normal(0, 2, planes, tile, LANES)
    pixels = np.random.default_rng(1).random((vectors, LANES)) < 0.6
    arena = Arena()
    source, target = arena.add(x), arena.reserve(planes, images)
    operands = {
        "source": source, **strides("source", planes, tile), "tile": tile, "tiles": 2,
        "piece_tiles": 2, "target": target, "target_vectors": vectors, "planes": planes,
        "mask": np.where(pixels, 0xFFFFFFFF, 0).astype(np.uint32), "scale": 0.25,
    }  # fmt: skip
    kernel = GlobalPoolKernel(LANES, images)
    floats = run_kernel(kernel, arena, operands, threads=threads)
    found = read(floats, target, planes, images)
    flat = x.transpose(1, 0, 2, 3).reshape(planes, -1, LANES)[:, :vectors]
    # Lanes are [block][image]: those of one image are `images` apart.
    sums = np.where(pixels, flat, 0).sum(1).reshape(planes, -1, images).sum(1)
    assert_close(found, 0.25 * sums)


@THREADS
@pytest.mark.parametrize("fill", [0.0, -7.0])
def test_packing_copies_images_and_repeats_the_last_of_a_short_group(
    fill: float, threads: int
) -> None:
    images, planes, pixels, tile, vectors = 2, 3, 6, 2, 3
    given = normal(0, 1, planes, pixels)  # one image of a group of two
    # Float (vector, block, image) holds pixel `vector * 2 + block`, reversed; one is no pixel.
    places = np.repeat(np.arange(pixels)[::-1] * 4, images).astype(np.int32)
    mask = np.full(places.shape, 0xFFFFFFFF, np.uint32)
    mask[4:6] = 0
    arena = Arena()
    target = arena.reserve(2, planes, tile, LANES)
    operands = {
        "planes": planes, "phases": 1, "source_plane": 4 * pixels,
        "source_image": 4 * planes * pixels, "target": target, **strides("target", planes, tile),
        "tile": tile, "tiles": 2, "piece_tiles": 2, "target_vectors": vectors,
        "places": places, "mask": mask, "fill": fill,
    }  # fmt: skip
    kernel = PackKernel(LANES, images, "input", True, fill != 0)
    floats = run_kernel(kernel, arena, operands, threads=threads, given=given)
    found = read(floats, target, 2, planes, tile, LANES).transpose(1, 0, 2, 3)
    found = found.reshape(planes, -1)[:, : vectors * LANES]
    expected = np.repeat(given[0, :, ::-1], images, axis=1)
    expected[:, 4:6] = fill
    assert np.array_equal(found, expected)


@THREADS
@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("wide", [4, 7, 10, 13])
def test_packing_of_rows_transposes_four_pixels_of_each_lane(
    lanes: int, wide: int, threads: int
) -> None:
    # Blocks of 3 rows of `wide` pixels, one below the other, one for each lane. The last tile
    # has one row of a block, the others two.
    planes, high = 2, 3
    x = normal(0, 1, planes, lanes * high, wide)
    vectors, tile = high * wide, 2 * wide
    vector, lane = np.divmod(np.arange(vectors * lanes), lanes)
    row, column = np.divmod(vector, wide)
    arena = Arena()
    target = arena.reserve(2, planes, tile, lanes)
    operands = {
        "planes": planes, "phases": 1, "source_plane": 4 * lanes * high * wide,
        "source_image": 4 * planes * lanes * high * wide, "target": target,
        "target_plane": 4 * lanes * tile, "target_tile": 4 * lanes * tile * planes,
        "tile": tile, "tiles": 2, "piece_tiles": 2, "target_vectors": vectors,
        "places": (((lane * high + row) * wide + column) * 4).astype(np.int32),
    }  # fmt: skip
    kernel = PackKernel(lanes, 1, "input", rows=True)
    floats = run_kernel(kernel, arena, operands, threads=threads, given=x)
    found = read(floats, target, 2, planes, tile, lanes).transpose(1, 0, 2, 3)
    found = found.reshape(planes, -1, lanes)[:, :vectors]
    # [plane][lane][row of the block][pixel] with the lanes last.
    expected = x[0].reshape(planes, lanes, vectors).transpose(0, 2, 1)
    assert np.array_equal(found, expected)


@THREADS
def test_packing_splits_the_planes_of_a_buffer_into_phases(threads: int) -> None:
    planes, phases = 2, 3
    x = normal(0, planes, 16)
    places = np.random.default_rng(1).permutation(16)[: phases * LANES].astype(np.int32) * 4
    arena = Arena()
    source, target = arena.add(x), arena.reserve(planes * phases, LANES)
    operands = {
        "planes": planes, "phases": phases, "source": source, "source_plane": 64,
        "target": target, **strides("target", planes * phases, 1), "tile": 1, "tiles": 1,
        "piece_tiles": 1, "target_vectors": 1, "places": places,
    }  # fmt: skip
    floats = run_kernel(PackKernel(LANES, 1), arena, operands, threads=threads)
    found = read(floats, target, planes, phases * LANES)
    assert np.array_equal(found, x[:, places // 4])


@THREADS
@pytest.mark.parametrize("count", [1, 2])
def test_unpacking_gives_the_caller_as_many_images_as_he_has(count: int, threads: int) -> None:
    images, planes, pixels = 2, 3, 5
    x = normal(0, planes, 20)
    places = np.array([0, 8, 24, 40, 72], np.int32)  # of the first image; the second is next to it
    arena = Arena()
    source, result = arena.add(x), np.full((count, planes, pixels), np.nan, np.float32)
    operands = {
        "planes": planes, "source": source, "source_plane": 80, "target_plane": 4 * pixels,
        "target_image": 4 * planes * pixels, "pixels": pixels, "places": places,
    }  # fmt: skip
    kernel = UnpackKernel(LANES, images, "output")
    run_kernel(kernel, arena, operands, threads=threads, result=result, images=count)
    for image in range(count):
        assert np.array_equal(result[image], x[:, places // 4 + image])


def test_unpacking_to_features_puts_images_side_by_side() -> None:
    x = normal(0, 2, 12)
    places = np.array([0, 16, 40], np.int32)
    arena = Arena()
    source, target = arena.add(x), arena.reserve(2, 3, 2)
    operands = {
        "planes": 2, "source": source, "source_plane": 48, "target": target,
        "target_plane": 24, "pixels": 3, "places": places,
    }  # fmt: skip
    floats = run_kernel(UnpackKernel(LANES, 2), arena, operands)
    expected = np.stack([x[:, places // 4], x[:, places // 4 + 1]], axis=-1)
    assert np.array_equal(read(floats, target, 2, 3, 2), expected)


@THREADS
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize(
    ("twice", "tile", "last", "bounds"),
    [(False, 3, 2, "clamp"), (True, 3, 2, "clamp"), (False, 3, 3, "sigmoid"),
     (False, 13, 7, "sigmoid"), (False, 11, 1, "leaky")],
)  # fmt: skip
def test_a_sparse_convolution_in_place(
    blocks: int, twice: bool, tile: int, last: int, bounds: str, threads: int
) -> None:
    # Where results are many, a function that takes long is computed where they are stored.
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "clamp": lambda sums: np.clip(sums, -2, 2),
        "sigmoid": lambda sums: 1 / (1 + np.exp(-sums)),
        "leaky": lambda sums: np.where(sums > 0, sums, -2 * sums),
    }
    planes, rows, tiles = 6, 5, 2
    weight = normal(0, rows, planes) * (np.random.default_rng(1).random((rows, planes)) < 0.7)
    x, residual = normal(2, tiles, planes, tile, LANES), normal(3, tiles, rows, tile, LANES)
    bias = normal(4, rows)
    pixels = np.random.default_rng(5).random((tiles * tile, LANES)) < 0.8
    arena = Arena()
    source, added = arena.add(x), arena.add(residual)
    target = arena.reserve(tiles, rows, tile, LANES)
    starts = np.arange(blocks + 1) * planes // blocks
    # Rows are computed from the last to the first.
    order = np.tile(np.arange(rows)[::-1], blocks)
    table = [
        np.nonzero(weight[row, starts[b] : starts[b + 1]])[0]
        for b in range(blocks)
        for row in range(rows)[::-1]
    ]
    factors = [
        weight[row, starts[b] : starts[b + 1]][table[b * rows + rows - 1 - row]]
        for b in range(blocks)
        for row in range(rows)[::-1]
    ]
    operands = {
        "source": source, **strides("source", planes, tile),
        "target": target, **strides("target", rows, tile),
        "residual": added, **strides("residual", rows, tile),
        "tiles": tiles, "piece_tiles": 2, "rows": rows, "parts": 2, "part_rows": int32(0, 2, rows),
        "blocks": blocks, "order": order.astype(np.int32),
        "ends": np.cumsum([0, *map(len, table)]).astype(np.int32),
        "entries": (np.concatenate(table) * tile).astype(np.uint16),
        "weights": np.concatenate(factors), "bias": bias,
        "mask": np.where(pixels, 0xFFFFFFFF, 0).astype(np.uint32),
        "block_planes": starts.astype(np.int32), "low": -2.0, "high": 2.0, "slab": 4096,
    }  # fmt: skip
    kernel = ConvolutionKernel(
        LANES, tile, last, 1, twice=twice, blocked=blocks > 1, residual=True, masked=True,
        bounds=bounds,
    )  # fmt: skip
    floats = run_kernel(kernel, arena, operands, threads=threads)
    found = read(floats, target, tiles, rows, tile, LANES)
    sums = np.einsum("rp,tpvl->trvl", weight, x) + bias[:, None, None] + residual
    mask = pixels.reshape(tiles, 1, tile, LANES)
    expected = np.where(mask, functions[bounds](sums), 0)
    assert_close(found[0], expected[0])
    assert_close(found[1, :, :last], expected[1, :, :last])
    assert np.isnan(found[1, :, last:]).all()


@THREADS
def test_a_dense_convolution_computes_groups_of_rows(threads: int) -> None:
    planes, rows, group, tile = 5, 6, 2, 3
    weight, bias = normal(0, rows, planes), normal(1, rows)
    x = normal(2, 1, planes, tile, LANES)
    arena = Arena()
    source, target = arena.add(x), arena.reserve(1, rows, tile, LANES)
    entry = np.zeros((rows // group, planes), [("offset", "<i4"), ("weights", "<f4", (group,))])
    entry["offset"] = np.arange(planes) * tile * VECTOR
    entry["weights"] = weight.reshape(-1, group, planes).transpose(0, 2, 1)
    header = np.zeros(16, np.int32)
    header[0] = planes
    operands = {
        "source": source, **strides("source", planes, tile),
        "target": target, **strides("target", rows, tile), "tiles": 1, "piece_tiles": 1,
        "rows": rows, "parts": 3, "part_rows": int32(0, 2, 4, 6), "blocks": 1,
        "ends": int32(0, planes), "bias": bias, "block_planes": int32(0, planes),
        "entries": np.concatenate([header.view(np.uint8), entry.reshape(-1).view(np.uint8)]),
    }  # fmt: skip
    kernel = ConvolutionKernel(LANES, tile, tile, group)
    floats = run_kernel(kernel, arena, operands, threads=threads)
    expected = np.einsum("rp,tpvl->trvl", weight, x) + bias[:, None, None]
    assert_close(read(floats, target, 1, rows, tile, LANES), expected)
