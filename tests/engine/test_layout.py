"""Where maps lie: room is shared only by maps that do not live at the same time."""

from hypothesis import given
from hypothesis import strategies as st

from strzoo.engine.layout import Frame, Map, Pitches, allocate, choose_pitch, flat_vectors

FRAME = Frame(height=3, width=5, pitch=6, images=1, lanes=4, tile=2)


def make_map(channels, born, dies):
    return Map("map", channels, 3, 5, frame=FRAME, born=born, dies=dies)


def test_a_line_ends_with_its_last_pixel():
    # Rows of 5 pixels, 6 apart: pixels 0-4, 6-10, 12-16, which take 17 places, 5 vectors of 4.
    assert FRAME.vectors == flat_vectors(3, 5, 6, 1, 4) == 5
    assert FRAME.tiles == 3
    assert FRAME.plane == 2 * 4 * 4  # bytes of a tile of two vectors


def test_tiles_follow_each_other_with_all_channels_in_each():
    whole = make_map(7, 0, 1)
    part = Map("part", 2, 3, 5, inside=whole, channel=4)
    whole.place = 16
    assert whole.span == 3 * 7 * 2 * 4
    assert whole.tile_bytes == part.tile_bytes == 7 * 32
    assert part.address == 4 * 16 + 4 * 32


def test_the_gap_is_as_wide_as_the_windows_reach():
    map_ = Map("map", 1, 7, 7)
    map_.need(1, 2, 1, 3)
    assert map_.must_be_clean
    # 7 + 3; rows 12 apart would start on vectors, but 7 of them take 21 vectors instead of 18.
    assert choose_pitch([map_], images=1, lanes=4) == 10


def test_rows_start_on_vectors_where_that_costs_no_vector():
    map_ = Map("map", 1, 1, 7)
    assert choose_pitch([map_], images=1, lanes=8) == 8


def test_maps_in_step_form_one_class_however_they_were_joined():
    maps = [Map(name, 1, 3, 3) for name in "abcd"]
    pitches = Pitches()
    pitches.join(maps[0], maps[1])
    pitches.join(maps[2], maps[1])
    assert [[m.name for m in members] for members in pitches.classes(maps)] == [
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
