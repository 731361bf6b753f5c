"""Patches hold what the windows of a tile read, wherever in the map that is."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from strzoo.engine.ir.graph import Window
from strzoo.engine.layout.buffers import Blocking, Buffer, Layout, choose_blocking
from strzoo.engine.layout.patches import find_patch, fits_rows, list_copies
from strzoo.engine.layout.taps import direct_taps, window_taps

FILL = -7.0


def read_patch(memory, copies, tile, lanes, vectors):
    """What the kernel does, lane by lane: the patch of one plane."""
    kinds = copies.form.kinds
    patch = np.full((vectors, lanes), np.nan)
    for number, kind in enumerate(kinds):
        index = tile * len(kinds) + number
        for source, target in copies.copies[copies.ends[index] : copies.ends[index + 1]]:
            vector = np.append(memory[source // 4 : source // 4 + lanes], FILL)
            patch[target // 4 // lanes] = vector[copies.form.lanes_of(kind, lanes)]
    return patch


@pytest.mark.slow
@given(
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=st.integers(1, 2),
    strides=st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 1)]),
    lanes=st.sampled_from([4, 8, 16]),
    images=st.sampled_from([1, 2, 4]),
    data=st.data(),
)
def test_every_tap_of_every_output_is_where_the_kernel_looks(
    size, kernel, pads, dilation, strides, lanes, images, data
):
    window = Window(kernel, strides, pads, (dilation, dilation))
    height, width = (
        (size[a] + pads[a] + pads[2 + a] - dilation * (kernel[a] - 1) - 1) // strides[a] + 1
        for a in (0, 1)
    )
    target_size = (height, width)
    assume(min(target_size) > 0)
    # The source's blocking are so many times the output's as the window strides.
    small = choose_blocking(
        max(height, -(-size[0] // strides[0])), max(width, -(-size[1] // strides[1])),
        lanes // images,
    )  # fmt: skip
    block = (small.block[0] * strides[0], small.block[1] * strides[1])
    tiles = [t for t in range(1, min(28, small.vectors) + 1) if fits_rows(t, small)]
    tile = data.draw(st.sampled_from(tiles))
    layout = Layout(size[0], size[1], Blocking(small.grid, block), images, lanes, tile)
    target = Layout(height, width, small, images, lanes, tile)
    source = Buffer("source", 1, size[0], size[1], own_layout=layout, place=0)

    pixels = np.random.default_rng(0).standard_normal((*size, images))
    memory = np.full(layout.tiles * tile * lanes, FILL)
    rows, columns = np.indices(size)
    for image in range(images):
        memory[source.bytes(layout.places(rows, columns) + image) // 4] = pixels[..., image]
    find_taps = direct_taps if strides != (1, 1) else window_taps
    taps = find_taps(window, size, target_size)
    patch = find_patch(taps, tile, small)
    copies = list_copies(taps, patch, source, target)
    offsets = patch.byte_offsets(taps, lanes) // (4 * lanes)
    for index, (y, x) in itertools.product(range(target.tiles), np.ndindex(*target_size)):
        place = int(target.places(np.array(y), np.array(x)))
        vector, lane = divmod(place, lanes)
        if vector // tile != index:
            continue
        found = read_patch(memory, copies, index, lanes, patch.vectors)
        here = found[offsets + copies.form.place(vector % tile)][:, lane : lane + images]
        for tap, (ky, kx) in enumerate(np.ndindex(*kernel)):
            row = y * strides[0] + ky * dilation - pads[0]
            column = x * strides[1] + kx * dilation - pads[1]
            inside = 0 <= row < size[0] and 0 <= column < size[1]
            expected = pixels[row, column] if inside else FILL
            assert np.array_equal(here[tap], np.broadcast_to(expected, images))


def test_tiles_are_rows_of_a_region_or_equal_parts_of_one():
    blocking = Blocking((4, 4), (3, 6))
    assert [tile for tile in range(1, 19) if fits_rows(tile, blocking)] == [1, 2, 3, 6, 12, 18]


def test_planes_of_patches_are_an_odd_number_of_vectors_apart():
    # A 3x3 window over two rows of 14: 4 rows of 16, which all planes would have in one set.
    taps = window_taps(Window((3, 3), pads=(1, 1, 1, 1)), (56, 56), (56, 56))
    patch = find_patch(taps, 28, Blocking((4, 4), (14, 14)))
    assert (patch.height, patch.width, patch.vectors) == (4, 16, 65)
