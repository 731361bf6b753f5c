"""Patches: what the windows of one tile read, copied vector by vector to scratch memory.

Tables (`layout.patches`) list the copies, sorted by how their lanes move: not at all, or from a
neighbouring block. Each copy is made for all planes of a block of channels before the next copy.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import (
    BYTES,
    I32,
    I64,
    Emitter,
    inner_function,
    vector_type,
)


@dataclass(frozen=True)
class PatchForm:
    """The shape of a patch.

    Args:
        size: vectors of a plane's patch; 0 where the input is read in place.
        columns: outputs of a tile that are next to each other.
        down, across: vectors of the patch from one output to the one below and to the next.
        images: lanes of a pixel.
        grid_rows, grid_columns: blocks of a plane.
        up, below, before, after: how many blocks beyond its own one the patch reaches.
        outside: whether some vectors lie outside all blocks.
    """

    size: int = op.between(0, 1 << 20)
    columns: int = op.between(1, op.TILE[1])
    down: int = op.between(1, 1 << 20)
    across: int = op.between(1, 1 << 20)
    images: int = op.between(*op.LANES, default=1)
    grid_rows: int = op.between(*op.LANES, default=1)
    grid_columns: int = op.between(*op.LANES, default=1)
    up: int = op.between(0, op.LANES[1], default=0)
    below: int = op.between(0, op.LANES[1], default=0)
    before: int = op.between(0, op.LANES[1], default=0)
    after: int = op.between(0, op.LANES[1], default=0)
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
        """A name for the places of the outputs alone."""
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
        """For each lane, the lane that its value comes from; `lanes` where there is no block."""
        found = []
        for lane in range(lanes):
            block, image = divmod(lane, self.images)
            down, across = divmod(block, self.grid_columns)
            down, across = down + kind[0], across + kind[1]
            inside = 0 <= down < self.grid_rows and 0 <= across < self.grid_columns
            place = (down * self.grid_columns + across) * self.images + image
            found.append(place if inside else lanes)
        return found

    def fits(self, lanes: int, images: int) -> bool:
        """Whether the patch is one of vectors of `lanes` numbers, `images` of which are a pixel."""
        if not self.size:
            return self == IN_PLACE
        return (
            self.images == images
            and self.images * self.grid_rows * self.grid_columns == lanes
            and max(self.up, self.below) <= self.grid_rows
            and max(self.before, self.after) <= self.grid_columns
        )

    def operands(self) -> tuple[op.Operand, ...]:
        """The tables of copies; without patches they are not read."""

        def count_ends(v: op.Values) -> int:
            return v["tiles"] * len(self.kinds) + 1 if self.size else 0

        def count_numbers(v: op.Values) -> int:
            return 2 * int(v.table("copy_ends")[-1]) if self.size else 0

        ends = op.Ends("copy_ends", "<i4", count_ends)
        return ends, op.Indices("copies", "<i4", count_numbers, unit=4)

    def read_extent(self, v: op.Values, lanes: int, planes: int) -> int:
        """Bytes of the source that the copies of `planes` planes read."""
        sources = v.table("copies")[::2]
        if not (len(sources) and planes):
            return 0
        return (planes - 1) * v["source_plane"] + int(sources.max()) + 4 * lanes

    def written_extent(self, v: op.Values, lanes: int, planes: int) -> int:
        """Bytes of scratch memory that the copies of `planes` planes write."""
        targets = v.table("copies")[1::2]
        if not (len(targets) and planes):
            return 0
        return 4 * lanes * (self.size * (planes - 1) + 1) + int(targets.max())


IN_PLACE = PatchForm(0, 1, 1, 1)


class PatchPacker:
    """Fills patches, for kernels with the operands source, source_plane, copy_ends and copies."""

    def __init__(self, e: Emitter, form: PatchForm) -> None:
        self.e, self.form = e, form
        self.source, self.plane = e.address("source"), e.field("source_plane")
        self.ends, self.copies = e.address("copy_ends"), e.address("copies")

    def aim(self, tile: ir.Value) -> None:
        """Let the next patches be those of `tile`."""
        self.own_ends = self.e.at(self.ends, self.e.mul(tile, 4 * len(self.form.kinds)))

    def pack(self, planes: ir.Value, first_plane: ir.Value, slab: ir.Value, fill: ir.Value) -> None:
        """Copy planes [first_plane, first_plane + planes) to `slab`, one after the other."""
        e = self.e
        base = e.at(self.source, e.mul(first_plane, self.plane))
        arguments = [base, slab, self.own_ends, self.copies, self.plane, planes, fill]
        e.build.call(_pack_function(e, self.form), arguments)


def _pack_function(e: Emitter, form: PatchForm) -> ir.Function:
    """The function that fills the patches of some planes, made once per module: of several blocks
    and kernels, it is most of the code.

    void pack(source, slab, ends, copies, source plane, planes, fill)
    """
    name = f"pack_{e.lanes}{'q' * e.fixed}_{form.name}"
    vector = vector_type(e.width, e.element)
    kind = ir.FunctionType(ir.VoidType(), [BYTES] * 4 + [I64, I64, vector])
    function, new = inner_function(e.module, name, kind)
    if not new:
        return function
    for argument in function.args[:4]:
        argument.add_attribute("noalias")
    inner = Emitter(function, e.lanes, fixed=e.fixed)
    source, slab, ends, copies, plane, planes, fill = function.args
    size = 4 * e.lanes * form.size
    bounds = [inner.load_i32(ends, 4 * number) for number in range(len(form.kinds) + 1)]
    for number, way in enumerate(form.kinds):
        with inner.loop(bounds[number], bounds[number + 1]) as index:
            entry = inner.at(copies, inner.mul(index, 8))
            read, written = (inner.load_i32(entry, place) for place in (0, 4))
            start = [inner.at(source, read), inner.at(slab, written)]
            with inner.carrying(0, planes, start) as (_, (here, there), following):
                inner.store(_moved(inner, form, way, here, fill), there)
                following += [inner.at(here, plane), inner.at(there, size)]
    inner.finish()
    return function


def _moved(
    e: Emitter, form: PatchForm, way: tuple[int, int], here: ir.Value, fill: ir.Value
) -> ir.Value:
    """The vector at the address `here`, its lanes moved by `way` blocks."""
    if way == (form.grid_rows, form.grid_columns):
        return fill
    value, lanes = e.load_vector(here), form.lanes_of(way, e.width)
    if lanes == list(range(e.width)):
        return value
    mask = ir.Constant(ir.VectorType(I32, e.width), lanes)
    return e.build.shuffle_vector(value, fill, mask)
