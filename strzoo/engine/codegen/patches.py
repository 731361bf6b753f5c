"""Patches: what the windows of one tile read, copied vector by vector to scratch memory.

Which vectors go where is in tables (`engine.patches`), sorted by how their lanes move: not at all,
or from the neighbouring region. One move is made for all planes of a block before the next.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.codegen.builder import I32, Emitter


@dataclass(frozen=True)
class PatchForm:
    """Args:
    size: vectors of a plane's patch; 0 where the input is read in place.
    columns: outputs of a tile that are side by side; `down` and `across` are vectors of the patch
        from one output to the one below and to the next.
    images: lanes of a pixel.
    grid_rows, grid_columns: regions.
    up, below, before, after: regions that are reached beyond the own one.
    outside: whether some vectors lie beyond all regions.
    """

    size: int
    columns: int
    down: int
    across: int
    images: int = 1
    grid_rows: int = 1
    grid_columns: int = 1
    up: int = 0
    below: int = 0
    before: int = 0
    after: int = 0
    outside: bool = False

    @property
    def name(self) -> str:
        if not self.size:
            return "0"
        grid = f"{self.images}i{self.grid_rows}x{self.grid_columns}"
        reach = f"{self.up}_{self.below}_{self.before}_{self.after}{'o' * self.outside}"
        return f"{self.size}_{self.pattern}_{grid}_{reach}"

    @property
    def pattern(self) -> str:
        """Names the places of outputs alone."""
        return f"{self.columns}c{self.down}d{self.across}a"

    @property
    def kinds(self) -> list[tuple[int, int]]:
        """Blocking down and across from the own one, in the order of the tables."""
        found = [
            (down, across)
            for down in range(-self.up, self.below + 1)
            for across in range(-self.before, self.after + 1)
        ]
        return found + [(self.grid_rows, self.grid_columns)] * self.outside

    def place(self, output: int) -> int:
        """The vector of the patch that output `output` of a tile has at the first tap."""
        if not self.size:
            return output
        row, column = divmod(output, self.columns)
        return row * self.down + column * self.across

    def lanes_of(self, kind: tuple[int, int], lanes: int) -> list[int]:
        """For each lane, the one that its value comes from; `lanes` where there is no region."""
        found = []
        for lane in range(lanes):
            region, image = divmod(lane, self.images)
            down, across = divmod(region, self.grid_columns)
            down, across = down + kind[0], across + kind[1]
            inside = 0 <= down < self.grid_rows and 0 <= across < self.grid_columns
            place = (down * self.grid_columns + across) * self.images + image
            found.append(place if inside else lanes)
        return found


IN_PLACE = PatchForm(0, 1, 1, 1)


class PatchPacker:
    """Fills patches. `ends` and `copies` are addresses of tables, `source` that of tile 0 of plane
    0 in the arena."""

    def __init__(
        self,
        e: Emitter,
        form: PatchForm,
        source: ir.Value,
        plane: ir.Value,
        ends: ir.Value,
        copies: ir.Value,
    ) -> None:
        self.e, self.form, self.source, self.plane = e, form, source, plane
        self.ends, self.copies = ends, copies

    def aim(self, tile: ir.Value) -> None:
        """The next patches are those of `tile`."""
        e = self.e
        kinds = len(self.form.kinds)
        ends = e.at(self.ends, e.mul(tile, 4 * kinds))
        self.bounds = [e.load_i32(ends, 4 * kind) for kind in range(kinds + 1)]

    def pack(self, planes: ir.Value, first_plane: ir.Value, slab: ir.Value, fill: ir.Value) -> None:
        """Planes [first_plane, first_plane + planes) to `slab`, one after the other."""
        e, form = self.e, self.form
        size = 4 * e.lanes * form.size
        base = e.at(self.source, e.mul(first_plane, self.plane))
        for number, kind in enumerate(form.kinds):
            with e.loop(self.bounds[number], self.bounds[number + 1]) as index:
                entry = e.at(self.copies, e.mul(index, 8))
                here, there = e.at(base, e.load_i32(entry)), e.at(slab, e.load_i32(entry, 4))
                with e.loop(0, planes) as plane:
                    value = fill
                    if kind != (form.grid_rows, form.grid_columns):
                        value = e.load_vector(e.at(here, e.mul(plane, self.plane)))
                        value = self._moved(value, kind, fill)
                    e.store(value, e.at(there, e.mul(plane, size)))

    def _moved(self, value: ir.Value, kind: tuple[int, int], fill: ir.Value) -> ir.Value:
        lanes = self.form.lanes_of(kind, self.e.lanes)
        if lanes == list(range(self.e.lanes)):
            return value
        mask = ir.Constant(ir.VectorType(I32, self.e.lanes), lanes)
        return self.e.build.shuffle_vector(value, fill, mask)
