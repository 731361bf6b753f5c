"""Reading maps from the arena of a run."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strzoo.engine.layout.buffers import Blocking, Buffer, Layout
from strzoo.engine.quantization.observation import _Reader


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    grid=st.sampled_from([(1, 1), (1, 8), (2, 2), (4, 2)]),
    tile=st.integers(1, 12),
    place=st.sampled_from([0, 16, 48]),
)
def test_a_map_is_read_where_its_layout_says(
    height: int, width: int, grid: tuple[int, int], tile: int, place: int
) -> None:
    block = (-(-height // grid[0]), -(-width // grid[1]))
    layout = Layout(height, width, Blocking(grid, block), images=1, lanes=8, tile=tile)
    whole = Buffer("whole", 5, height, width, own_layout=layout, place=place)
    part = Buffer("part", 2, height, width, inside=whole, channel=2)
    arena = np.arange(place + whole.span, dtype=np.float32)
    rows, columns = np.indices((height, width))
    for buffer in (whole, part):
        found = _Reader(buffer).read(arena.view(np.uint8))
        assert found.shape == (buffer.channels, height, width)
        for channel in range(buffer.channels):
            start = buffer.address + channel * buffer.plane
            places = start + buffer.bytes(layout.places(rows, columns))
            assert np.array_equal(found[channel], arena[places // 4])
