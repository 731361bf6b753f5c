"""Where maps lie: room is shared only by maps that do not live at the same time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strzoo.engine.layout.allocation import allocate
from strzoo.engine.layout.buffers import (
    Blocking,
    Buffer,
    Layout,
    SharedLayouts,
    choose_blocking,
)

# Four blocking of 2x2 pixels over a map of 3x4: the lower ones have one row of it.
LAYOUT = Layout(3, 4, Blocking((2, 2), (2, 2)), images=1, lanes=4, tile=2)


def make_buffer(channels, born, dies):
    return Buffer("map", channels, 3, 4, own_layout=LAYOUT, born=born, dies=dies)


def test_a_vector_holds_the_same_place_of_every_region():
    rows, columns = np.indices((3, 4))
    # Left above, right above, left below, right below are lanes 0 to 3; the places of a region
    # are vectors 0 to 3, row by row.
    assert LAYOUT.places(rows, columns).tolist() == [
        [0, 4, 1, 5],
        [8, 12, 9, 13],
        [2, 6, 3, 7],
    ]
    assert (LAYOUT.vectors, LAYOUT.tiles, LAYOUT.plane) == (4, 2, 2 * 4 * 4)
    # The second tile of two vectors is 100 bytes from the first.
    assert LAYOUT.bytes(np.array([0, 5, 8, 13]), 100, 0).tolist() == [0, 20, 100, 120]


def test_tiles_are_dealt_out_to_the_pieces_of_the_arena():
    layout = Layout(1, 20, Blocking((1, 4), (1, 5)), images=1, lanes=4, tile=1, pieces=2)
    assert (layout.tiles, layout.piece_tiles) == (5, 3)
    # Tiles 0 to 2 are in the first piece, 3 and 4 in the second, 1000 bytes further.
    places = layout.bytes(np.arange(0, 20, 4), 100, 1000)
    assert places.tolist() == [0, 100, 200, 1000, 1100]
    buffer = Buffer("map", 7, 1, 20, own_layout=layout)
    assert buffer.span == 7 * 3 * 4


def test_images_that_go_together_are_lanes_side_by_side():
    layout = Layout(2, 2, Blocking((1, 2), (2, 1)), images=2, lanes=4, tile=1)
    assert layout.places(*np.indices((2, 2))).tolist() == [[0, 2], [4, 6]]


def test_tiles_follow_each_other_with_all_channels_in_each():
    whole = make_buffer(7, 0, 1)
    part = Buffer("part", 2, 3, 4, inside=whole, channel=4)
    whole.place = 16
    assert whole.span == 2 * 7 * 2 * 4
    assert whole.tile_bytes == part.tile_bytes == 7 * 32
    assert part.address == 4 * 16 + 4 * 32


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 2, 4, 8, 16]))
def test_regions_cover_the_map_with_few_vectors(height, width, count):
    blocking = choose_blocking(height, width, count)
    assert blocking.covers(height, width)
    assert blocking.grid[0] * blocking.grid[1] == count
    for down in (1 << power for power in range(count.bit_length())):
        other = Blocking((down, count // down), (-(-height // down), -(-width * down // count)))
        assert blocking.vectors <= other.vectors
    layout = Layout(height, width, blocking, 1, count, 1)
    places = layout.places(*np.indices((height, width)))
    assert len(np.unique(places)) == height * width
    assert places.max() < blocking.vectors * count


def test_regions_that_save_a_copy_are_preferred_where_they_cost_little():
    # 7x7 in 16 lanes take 4 vectors as 2x2 or as 1x4; the map before them has 4x4.
    half = Blocking((4, 4), (2, 2))
    assert Blocking((4, 4), (4, 4)).shrunk((2, 2)) == half
    assert choose_blocking(7, 7, 16, wanted=[half]) == half
    # Blocks of 7x7 cannot be halved, and 4x4 blocks of 14x14 would take 16 vectors, not 14.
    assert Blocking((4, 4), (7, 7)).shrunk((2, 2)) is None
    wanted = Blocking((4, 4), (4, 4))
    assert choose_blocking(14, 14, 16, wanted=[wanted]).vectors == 14


def test_maps_in_step_form_one_class_however_they_were_joined():
    maps = [Buffer(name, 1, 3, 3) for name in "abcd"]
    shared = SharedLayouts()
    shared.join(maps[0], maps[1])
    shared.join(maps[2], maps[1])
    assert [[m.name for m in members] for members in shared.classes(maps)] == [
        ["a", "b", "c"],
        ["d"],
    ]


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=12
    )
)
def test_maps_that_live_together_lie_apart(sizes):
    maps = [make_buffer(channels, born, born + length) for channels, born, length in sizes]
    end = allocate(maps, 16)
    for index, buffer in enumerate(maps):
        assert buffer.place >= 16
        assert buffer.place + buffer.span <= end
        for other in maps[:index]:
            together = buffer.born <= other.dies and other.born <= buffer.dies
            apart = (
                buffer.place + buffer.span <= other.place
                or other.place + other.span <= buffer.place
            )
            assert apart or not together
