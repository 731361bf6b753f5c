"""Where values live: planes of padded pixels in one arena.

A map is stored plane by plane (channel by channel), a plane row by row, and a pixel is the value
of as many images as go together (`images`). Rows are `pitch` pixels apart, a little more than the
width, and zeros stand in the gap and around the plane: a window that reaches over an edge reads
zeros, and a kernel can run over row ends as if the plane were one long line.

A map that a strided window reads is kept once more, split by phase: the pixels whose row and
column leave the same remainders form planes of their own, in which the window moves by one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

ALIGNMENT = 16  # floats in a cache line


@dataclass(frozen=True)
class Frame:
    """The geometry of the planes of a map. `phases` are those kept of each channel."""

    height: int
    width: int
    pitch: int
    before: int  # floats between the start of a plane and its first pixel
    plane: int  # floats from plane to plane
    images: int
    clean: bool = False  # zeros (`fill`) where no pixel is
    fill: float = 0.0
    phases: int = 1

    @property
    def row(self) -> int:
        """Bytes from row to row."""
        return 4 * self.pitch * self.images

    def flat(self, height: int, width: int, lanes: int) -> int:
        """Vectors from the first pixel of a plane to the last of height x width ones."""
        return -(-((height - 1) * self.pitch + width) * self.images // lanes)


@dataclass
class Map:
    """A value in the arena, or a range of the channels of a larger one.

    While a plan is made, the needs of its readers gather here: how many pixels a window reaches
    over each edge. `frame` and `place` (floats from the start of the arena) come last.
    """

    name: str
    channels: int
    height: int
    width: int
    reach: list[int] = field(default_factory=lambda: [0, 0, 0, 0])  # top, left, bottom, right
    clean: bool = False
    fill: float = 0.0
    phases: int = 1
    packed: bool = False  # a vector: planes of one pixel, nothing between them
    inside: Map | None = None
    channel: int = 0  # of `inside`, the first
    frame: Frame | None = None
    place: int = -1
    born: int = -1
    dies: int = -1

    @property
    def root(self) -> Map:
        return self if self.inside is None else self.inside.root

    @property
    def first_channel(self) -> int:
        return 0 if self.inside is None else self.channel + self.inside.first_channel

    def need(self, top: int, left: int, bottom: int, right: int) -> None:
        """A window reads what is no pixel, so many pixels beyond the edges."""
        root = self.root
        root.clean = True
        wanted = (top, left, bottom, right)
        root.reach = [max(a, b) for a, b in zip(root.reach, wanted, strict=True)]

    @property
    def geometry(self) -> Frame:
        frame = self.root.frame
        assert frame is not None, f"{self.name} has no place yet"
        return frame

    @property
    def plane_bytes(self) -> int:
        return 4 * self.geometry.plane

    @property
    def address(self) -> int:
        """Arena byte offset of the first pixel of the first channel."""
        frame = self.geometry
        planes = self.first_channel * frame.phases
        return 4 * (self.root.place + planes * frame.plane + frame.before)

    @property
    def span(self) -> int:
        """Floats that the map takes; of a vector, whole vectors of features are written."""
        channels = -(-self.channels // ALIGNMENT) * ALIGNMENT if self.packed else self.channels
        return channels * self.phases * self.geometry.plane


class Pitches:
    """Maps that one kernel runs over in step must have rows of the same pitch."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}
        self._maps: dict[int, Map] = {}

    def _find(self, map_: Map) -> int:
        key = id(map_.root)
        self._maps[key] = map_.root
        self._parent.setdefault(key, key)
        while self._parent[key] != key:
            key = self._parent[key]
        return key

    def join(self, *maps: Map) -> None:
        keys = [self._find(map_) for map_ in maps]
        for key in keys[1:]:
            self._parent[key] = keys[0]

    def settle(self, maps: list[Map], images: int, lanes: int) -> None:
        """Give every map its frame."""
        classes: dict[int, list[Map]] = defaultdict(list)
        for map_ in maps:
            if map_.inside is None and not map_.packed:
                classes[self._find(map_)].append(map_)
        for members in classes.values():
            pitch = max(m.width + max(m.reach[1], m.reach[3]) for m in members)
            height = max(m.height for m in members)
            pitch = _aligned_pitch(pitch, height, images, lanes)
            for map_ in members:
                map_.frame = _frame(map_, pitch, images, lanes)
        for map_ in maps:
            if map_.inside is None and map_.packed:
                map_.frame = Frame(1, 1, 1, 0, images, images)


def _aligned_pitch(pitch: int, height: int, images: int, lanes: int) -> int:
    """A pitch whose rows start on vectors, if it costs no vector more."""
    vectors = -(-height * pitch * images // lanes)
    aligned = pitch
    while aligned * images % lanes:
        aligned += 1
    return aligned if -(-height * aligned * images // lanes) <= vectors else pitch


def _frame(map_: Map, pitch: int, images: int, lanes: int) -> Frame:
    top, left, bottom, right = map_.reach
    before = (top * pitch + left) * images
    before = -(-before // ALIGNMENT) * ALIGNMENT
    # A kernel writes whole vectors, past the last pixel.
    after = max((bottom * pitch + right) * images, 0) + lanes
    plane = before + map_.height * pitch * images + after
    plane = -(-plane // ALIGNMENT)
    plane += 1 - plane % 2  # an odd number of lines: planes do not compete for one cache set
    return Frame(
        map_.height,
        map_.width,
        pitch,
        before,
        plane * ALIGNMENT,
        images,
        map_.clean,
        map_.fill,
        map_.phases,
    )


def allocate(maps: list[Map], start: int) -> int:
    """Give every map a place, from `start` floats on; where the next float would go.

    Maps that do not live at the same time share room: what was just read is still in the cache
    when the next map is written there. The largest choose first.
    """
    placed: list[Map] = []
    end = start
    for map_ in sorted(maps, key=lambda m: (-m.span, m.born)):
        others = sorted(
            (m for m in placed if m.born <= map_.dies and map_.born <= m.dies),
            key=lambda m: m.place,
        )
        place = start
        for other in others:
            if place + map_.span <= other.place:
                break
            place = max(place, other.place + other.span)
        map_.place = place
        placed.append(map_)
        end = max(end, place + map_.span)
    return end
