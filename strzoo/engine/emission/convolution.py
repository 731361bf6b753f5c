"""The convolution kernel: one loop for every convolution, sparse or dense.

    acc[j] = fma(w, x[offset + j], acc[j])        j = 0 .. tile - 1

`x` is the input at the tile's first pixel and `offset` leads to another channel, row, column or
phase: the same loop serves 1x1, 3x3, strided and grouped convolutions. The tile's accumulators
stay in vector registers while the nonzero weights of one row (output channel) stream by. The
dense form does the same for several rows at once, so that one load serves them all.

Input channels go by in blocks, so that what the block reads stays in the L1 cache; partial sums
wait in scratch memory. What a window of several taps reads is first copied to scratch, tightly.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.emission.builder import BYTES, F32, I64, KERNEL, Emitter, number
from strzoo.engine.emission.lines import TiledPlanes, TilePacker

FIELDS = (
    "kernel",
    "sync",
    "source",  # arena: tile 0 of the input's plane 0
    "source_plane",  # bytes from plane to plane
    "source_tile",  # and from tile to tile
    "source_vectors",  # of the input's line
    "target",
    "target_plane",
    "target_tile",
    "residual",
    "residual_plane",
    "residual_tile",
    "tiles",
    "rows",
    "parts",
    "part_rows",  # constants, i32 [parts + 1]: rows of equal work
    "blocks",
    "ends",  # constants, i32 [blocks * rows + 1]: where the entries of a row start
    "entries",  # constants, {i32 offset, fp32 weight} per nonzero (sparse)
    "bias",
    "mask",  # constants, all ones where a pixel is one
    "block_planes",  # constants, i32 [blocks + 1]
    "first",  # vectors from a tile's start to that of what its window reads, at most 0
    "slab",  # scratch: where a packed block is
    "places",  # scratch: where the vectors are that are packed
    "low",
    "high",
)

AHEAD_TILE = 7  # vectors: wider tiles give the processor time enough
AHEAD = 2048  # bytes: entries are read once per tile, often from a far cache
ROWS = ir.FunctionType(ir.VoidType(), [BYTES] * 8 + [I64] * 4 + [F32] * 2)


@dataclass(frozen=True)
class ConvolutionKernel:
    """What distinguishes one compiled convolution kernel from another.

    Args:
        lanes: floats in a vector.
        tile: vectors in a tile; `last`: in the last one.
        rows: rows computed at once: 1 is the sparse form, more the dense one.
        packed: vectors that the window of a tile reads, copied before use; 0 reads in place.
        blocked: several blocks of input channels.
        residual, masked: what happens to a finished row.
        bounds: "none", "relu" or "clamp".
    """

    lanes: int
    tile: int
    last: int
    rows: int = 1
    packed: int = 0
    blocked: bool = False
    residual: bool = False
    masked: bool = False
    bounds: str = "none"

    fields = FIELDS

    @property
    def name(self) -> str:
        shape = f"{self.lanes}x{self.tile}_{self.last}x{self.rows}_{self.packed}"
        flags = "b" * self.blocked + "r" * self.residual + "m" * self.masked
        return f"convolution_{shape}_{flags}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        _Driver(self, Emitter(function, self.lanes, FIELDS)).write()
        return function


class _Driver:
    """Walks the tiles, parts and blocks that are this thread's."""

    def __init__(self, kernel: ConvolutionKernel, emitter: Emitter) -> None:
        self.kernel, self.emit = kernel, emitter

    def write(self) -> None:
        e, kernel = self.emit, self.kernel
        parts, tiles = e.field("parts"), e.field("tiles")
        units = e.mul(tiles, parts)
        first = e.share(units, e.thread, e.threads)
        last = e.share(units, e.add(e.thread, 1), e.threads)
        stop = e.build.udiv(e.add(last, e.build.sub(parts, number(1))), parts)
        part_rows = e.at(e.constants, e.field("part_rows"))
        final = e.build.sub(tiles, number(1))
        with e.loop(e.build.udiv(first, parts), stop) as tile:
            start = e.mul(tile, parts)
            # Of a tile that two threads share, each takes its parts of the rows.
            low = e.largest_integer(e.build.sub(first, start), number(0))
            high = e.smallest_integer(e.build.sub(last, start), parts)
            row, end = (e.load_i32(part_rows, e.mul(bound, 4)) for bound in (low, high))
            if kernel.last == kernel.tile:
                self._tile(kernel.tile, tile, row, end)
            else:
                e.either(
                    e.build.icmp_signed("<", tile, final),
                    lambda: self._tile(kernel.tile, tile, row, end),
                    lambda: self._tile(kernel.last, tile, row, end),
                )
        e.finish()

    def _tile(self, size: int, tile: ir.Value, row: ir.Value, end: ir.Value) -> None:
        e, kernel = self.emit, self.kernel
        with e.when(e.build.icmp_signed("<", row, end)):
            packer = None
            if kernel.packed:
                source = TiledPlanes(
                    e.at(e.arena, e.field("source")),
                    e.field("source_plane"),
                    e.field("source_tile"),
                    number(kernel.tile),
                    e.field("source_vectors"),
                )
                table = e.at(e.scratch, e.field("places"))
                packer = TilePacker(e, source, kernel.packed, e.field("first"), table)
                packer.aim(tile)
            self._blocks(size, tile, row, end, packer)

    def _blocks(
        self, size: int, tile: ir.Value, row: ir.Value, end: ir.Value, packer: TilePacker | None
    ) -> None:
        e = self.emit
        if not self.kernel.blocked:
            self._block(size, tile, row, end, packer, number(0), first=True, last=True)
            return
        self._block(size, tile, row, end, packer, number(0), first=True, last=False)
        final = e.build.sub(e.field("blocks"), number(1))
        with e.loop(1, final) as block:
            self._block(size, tile, row, end, packer, block, first=False, last=False)
        self._block(size, tile, row, end, packer, final, first=False, last=True)

    def _block(
        self,
        size: int,
        tile: ir.Value,
        row: ir.Value,
        end: ir.Value,
        packer: TilePacker | None,
        block: ir.Value,
        *,
        first: bool,
        last: bool,
    ) -> None:
        e, kernel = self.emit, self.kernel
        if packer is None:
            place = e.add(e.field("source"), e.mul(tile, e.field("source_tile")))
            source = e.at(e.arena, place)
        else:
            source = e.at(e.scratch, e.field("slab"))
            planes = e.at(e.constants, e.field("block_planes"))
            start = e.load_i32(planes, e.mul(block, 4))
            count = e.build.sub(e.load_i32(planes, e.add(e.mul(block, 4), 4)), start)
            packer.pack(count, start, source, e.constant(0.0))
        function = rows_function(kernel, e.module, size, first=first, last=last)
        ends = e.add(e.field("ends"), e.mul(e.mul(block, e.field("rows")), 4))
        if kernel.rows > 1:
            ends = e.add(e.field("ends"), e.mul(block, 4))
        target = e.add(e.field("target"), e.mul(tile, e.field("target_tile")))
        residual = e.add(e.field("residual"), e.mul(tile, e.field("residual_tile")))
        mask = e.add(e.field("mask"), e.mul(tile, 4 * kernel.lanes * kernel.tile))
        e.build.call(
            function,
            [
                e.at(e.constants, ends),
                e.at(e.constants, e.field("entries")),
                e.at(e.constants, e.field("bias")),
                source,
                e.at(e.arena, target),
                e.at(e.arena, residual if kernel.residual else number(0)),
                e.at(e.constants, mask if kernel.masked else number(0)),
                e.scratch,
                e.field("target_plane"),
                e.field("residual_plane"),
                row,
                end,
                e.real_field("low"),
                e.real_field("high"),
            ],
        )


def rows_function(
    kernel: ConvolutionKernel, module: ir.Module, tile: int, *, first: bool, last: bool
) -> ir.Function:
    """The function that computes the rows [row, end) of one tile, made once per module."""
    finish = f"{kernel.bounds}{'r' * kernel.residual}{'m' * kernel.masked}" if last else ""
    name = f"rows_{kernel.lanes}x{tile}x{kernel.rows}_{'f' * first}{'l' * last}_{finish}"
    found = module.globals.get(name)
    if found is not None:
        return found
    function = ir.Function(module, ROWS, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    emitter = Emitter(function, kernel.lanes)
    names = ("ends", "table", "bias", "x", "out", "residual", "mask", "partial")
    for name_, argument in zip(names, function.args, strict=False):
        argument.name = name_
        if name_ not in ("out", "residual"):  # the residual may be read in place
            argument.add_attribute("noalias")
    _Rows(kernel, emitter, tile, first=first, last=last).write()
    return function


class _Rows:
    def __init__(
        self, kernel: ConvolutionKernel, emitter: Emitter, tile: int, *, first: bool, last: bool
    ) -> None:
        self.kernel, self.emit, self.tile = kernel, emitter, tile
        self.first, self.last = first, last

    def write(self) -> None:
        e, count = self.emit, self.kernel.rows
        ends, table, bias, x, *_ = e.function.args
        row, end = e.function.args[10], e.function.args[11]
        with e.loop(row, end, count) as index:
            start_values = [
                value for r in range(count) for value in self._start(bias, e.add(index, r), row)
            ]
            if count == 1:
                results = self._sparse(ends, table, x, index, start_values)
            else:
                results = self._dense(ends, table, x, index, start_values)
            for r in range(count):
                part = results[r * self.tile : (r + 1) * self.tile]
                self._end(part, e.add(index, r), row)
        e.finish()

    def _partial(self, row: ir.Value, first_row: ir.Value) -> ir.Value:
        e = self.emit
        width = 4 * e.lanes * self.tile
        return e.at(e.function.args[7], e.mul(e.build.sub(row, first_row), width))

    def _start(self, bias: ir.Value, row: ir.Value, first_row: ir.Value) -> list[ir.Value]:
        e = self.emit
        if self.first:
            return [e.splat(e.load(bias, F32, e.mul(row, 4)))] * self.tile
        partial = self._partial(row, first_row)
        return [e.load_vector(partial, 4 * e.lanes * j) for j in range(self.tile)]

    def _sparse(
        self, ends: ir.Value, table: ir.Value, x: ir.Value, row: ir.Value, values: list[ir.Value]
    ) -> list[ir.Value]:
        e = self.emit
        start = e.load_i32(ends, e.mul(row, 4))
        stop = e.load_i32(ends, e.add(e.mul(row, 4), 4))
        with e.carrying(start, stop, values) as (position, sums, following):
            entry = e.at(table, e.mul(position, 8))
            if self.tile <= AHEAD_TILE:
                e.prefetch(e.at(entry, AHEAD), write=False)
            source = e.at(x, e.load_i32(entry))
            weight = e.splat(e.load(entry, F32, 4))
            following += [
                e.fma(weight, e.load_vector(source, 4 * e.lanes * j), total)
                for j, total in enumerate(sums)
            ]
        return following

    def _dense(
        self, ends: ir.Value, table: ir.Value, x: ir.Value, row: ir.Value, values: list[ir.Value]
    ) -> list[ir.Value]:
        """`ends` holds the block's range of inputs; a table entry is an offset and the weights of
        all rows of the group; a group's entries follow those of the group before."""
        e, count = self.emit, self.kernel.rows
        start, stop = e.load_i32(ends), e.load_i32(ends, 4)
        size = 4 * (count + 1)
        inputs = e.load_i32(table)  # entries of one group, before the first entry
        group = e.mul(e.mul(e.build.udiv(row, number(count)), inputs), size)
        base = e.at(table, e.add(group, 64))
        with e.carrying(start, stop, values) as (position, sums, following):
            entry = e.at(base, e.mul(position, size))
            source = e.at(x, e.load_i32(entry))
            loaded = [e.load_vector(source, 4 * e.lanes * j) for j in range(self.tile)]
            for r in range(count):
                weight = e.splat(e.load(entry, F32, 4 + 4 * r))
                following += [
                    e.fma(weight, vector, sums[r * self.tile + j])
                    for j, vector in enumerate(loaded)
                ]
        return following

    def _end(self, values: list[ir.Value], row: ir.Value, first_row: ir.Value) -> None:
        e, kernel = self.emit, self.kernel
        step = 4 * e.lanes
        if not self.last:
            partial = self._partial(row, first_row)
            for j, value in enumerate(values):
                e.store(value, partial, step * j)
            return
        out, residual, mask = e.function.args[4:7]
        plane = e.mul(row, e.function.args[8])
        low, high = e.function.args[12], e.function.args[13]
        if kernel.residual:
            there = e.at(residual, e.mul(row, e.function.args[9]))
            values = [
                e.build.fadd(value, e.load_vector(there, step * j))
                for j, value in enumerate(values)
            ]
        values = bounded(e, values, kernel.bounds, low, high)
        if kernel.masked:
            values = [
                masked(e, value, e.load_vector(mask, step * j)) for j, value in enumerate(values)
            ]
        target = e.at(out, plane)
        for j, value in enumerate(values):
            e.store(value, target, step * j)


def bounded(
    e: Emitter, values: list[ir.Value], bounds: str, low: ir.Value, high: ir.Value
) -> list[ir.Value]:
    """The values clamped: "none", "relu" (at least zero) or "clamp" (between low and high)."""
    if bounds == "relu":
        return [e.largest(value, e.constant(0.0)) for value in values]
    if bounds == "clamp":
        lowest, highest = e.splat(low), e.splat(high)
        return [e.smallest(e.largest(value, lowest), highest) for value in values]
    return values


def masked(e: Emitter, value: ir.Value, mask: ir.Value) -> ir.Value:
    """The value where the mask's bits are ones, zero where they are not."""
    bits = ir.VectorType(ir.IntType(32), e.lanes)
    both = e.build.and_(e.build.bitcast(value, bits), e.build.bitcast(mask, bits))
    return e.build.bitcast(both, value.type)
