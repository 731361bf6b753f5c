"""Where maps lie: room is shared only by maps that do not live at the same time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strzoo.engine.layout.buffers import (
    Frame,
    Map,
    Regions,
    SharedFrames,
    allocate,
    choose_regions,
)

# Four regions of 2x2 pixels over a map of 3x4: the lower ones have one row of it.
FRAME = Frame(3, 4, Regions((2, 2), (2, 2)), images=1, lanes=4, tile=2)


def make_map(channels, born, dies):
    return Map("map", channels, 3, 4, frame=FRAME, born=born, dies=dies)


def test_a_vector_holds_the_same_place_of_every_region():
    rows, columns = np.indices((3, 4))
    # Left above, right above, left below, right below are lanes 0 to 3; the places of a region
    # are vectors 0 to 3, row by row.
    assert FRAME.floats(rows, columns).tolist() == [
        [0, 4, 1, 5],
        [8, 12, 9, 13],
        [2, 6, 3, 7],
    ]
    assert (FRAME.vectors, FRAME.tiles, FRAME.plane) == (4, 2, 2 * 4 * 4)
    # The second tile of two vectors is 100 bytes from the first.
    assert FRAME.bytes(np.array([0, 5, 8, 13]), 100, 0).tolist() == [0, 20, 100, 120]


def test_tiles_are_dealt_out_to_the_pieces_of_the_arena():
    frame = Frame(1, 20, Regions((1, 4), (1, 5)), images=1, lanes=4, tile=1, pieces=2)
    assert (frame.tiles, frame.piece_tiles) == (5, 3)
    # Tiles 0 to 2 are in the first piece, 3 and 4 in the second, 1000 bytes further.
    places = frame.bytes(np.arange(0, 20, 4), 100, 1000)
    assert places.tolist() == [0, 100, 200, 1000, 1100]
    map_ = Map("map", 7, 1, 20, frame=frame)
    assert map_.span == 7 * 3 * 4


def test_images_that_go_together_are_lanes_side_by_side():
    frame = Frame(2, 2, Regions((1, 2), (2, 1)), images=2, lanes=4, tile=1)
    assert frame.floats(*np.indices((2, 2))).tolist() == [[0, 2], [4, 6]]


def test_tiles_follow_each_other_with_all_channels_in_each():
    whole = make_map(7, 0, 1)
    part = Map("part", 2, 3, 4, inside=whole, channel=4)
    whole.place = 16
    assert whole.span == 2 * 7 * 2 * 4
    assert whole.tile_bytes == part.tile_bytes == 7 * 32
    assert part.address == 4 * 16 + 4 * 32


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 2, 4, 8, 16]))
def test_regions_cover_the_map_with_few_vectors(height, width, count):
    regions = choose_regions(height, width, count)
    assert regions.covers(height, width)
    assert regions.grid[0] * regions.grid[1] == count
    for down in (1 << power for power in range(count.bit_length())):
        other = Regions((down, count // down), (-(-height // down), -(-width * down // count)))
        assert regions.vectors <= other.vectors
    frame = Frame(height, width, regions, 1, count, 1)
    places = frame.floats(*np.indices((height, width)))
    assert len(np.unique(places)) == height * width
    assert places.max() < regions.vectors * count


def test_regions_that_save_a_copy_are_preferred_where_they_cost_little():
    # 7x7 in 16 lanes take 4 vectors as 2x2 or as 1x4; the map before them has 4x4.
    half = Regions((4, 4), (2, 2))
    assert Regions((4, 4), (4, 4)).shrunk((2, 2)) == half
    assert choose_regions(7, 7, 16, wanted=[half]) == half
    # Blocks of 7x7 cannot be halved, and 4x4 blocks of 14x14 would take 16 vectors, not 14.
    assert Regions((4, 4), (7, 7)).shrunk((2, 2)) is None
    wanted = Regions((4, 4), (4, 4))
    assert choose_regions(14, 14, 16, wanted=[wanted]).vectors == 14


def test_maps_in_step_form_one_class_however_they_were_joined():
    maps = [Map(name, 1, 3, 3) for name in "abcd"]
    shared = SharedFrames()
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
    maps = [make_map(channels, born, born + length) for channels, born, length in sizes]
    end = allocate(maps, 16)
    for index, map_ in enumerate(maps):
        assert map_.place >= 16
        assert map_.place + map_.span <= end
        for other in maps[:index]:
            together = map_.born <= other.dies and other.born <= map_.dies
            apart = map_.place + map_.span <= other.place or other.place + other.span <= map_.place
            assert apart or not together
