"""The innermost loops of a convolution: rows of one tile, sparse or dense, from bias to result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from strzoo.engine.codegen.builder import BYTES, F32, I16, I32, I64, Emitter, number
from strzoo.engine.codegen.finishing import bounded, masked_all

if TYPE_CHECKING:
    from strzoo.engine.codegen.convolution import ConvolutionKernel

AHEAD_TILE = 7  # vectors; wider tiles need no prefetching
AHEAD = 512  # bytes to prefetch: tables are read once per tile, often from a far cache
FOUR = 4  # weights at a time
REACH = 1 << 16  # vectors of a block of input channels that an entry of 16 bits can name
# (ends, offsets or entries, bias, input, output, residual, mask, partial sums, weights, order of
# the rows, output plane, residual plane, first row, end of the rows, low, high)
ROWS = ir.FunctionType(ir.VoidType(), [BYTES] * 10 + [I64] * 4 + [F32] * 2)


def rows_function(
    kernel: ConvolutionKernel, module: ir.Module, tile: int, *, first: bool, last: bool
) -> ir.Function:
    """The function that computes the rows [row, end) of one tile, made once per module."""
    finish = f"{kernel.bounds}{'r' * kernel.residual}{'m' * kernel.masked}" if last else ""
    flags = "f" * first + "l" * last + "t" * kernel.twice
    name = f"rows_{kernel.lanes}x{tile}x{kernel.rows}_{flags}_{finish}"
    if kernel.patch.size:
        name += f"_{kernel.patch.pattern}"
    found = module.globals.get(name)
    if found is not None:
        return found
    function = ir.Function(module, ROWS, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    emitter = Emitter(function, kernel.lanes)
    names = ("ends", "table", "bias", "x", "out", "residual", "mask", "partial", "weights", "order")
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
        self.places = [4 * emitter.lanes * kernel.patch.place(j) for j in range(tile)]

    def write(self) -> None:
        e, count = self.emit, self.kernel.rows
        ends, table, bias, x, *_ = e.function.args
        row, end = e.function.args[12:14]
        with e.loop(row, end, count) as index:
            if count == 1:
                rows = [e.load_i32(e.function.args[9], e.mul(index, 4))]
            else:
                rows = [e.add(index, r) for r in range(count)]
            start_values = [value for each in rows for value in self._start(bias, each)]
            compute = self._sparse if count == 1 else self._dense
            results = compute(ends, table, x, index, start_values)
            for r, each in enumerate(rows):
                self._end(results[r * self.tile : (r + 1) * self.tile], each)
        e.finish()

    def _partial(self, row: ir.Value) -> ir.Value:
        e = self.emit
        return e.at(e.function.args[7], e.mul(row, 4 * e.lanes * self.tile))

    def _start(self, bias: ir.Value, row: ir.Value) -> list[ir.Value]:
        e = self.emit
        if self.first:
            return [e.splat(e.load(bias, F32, e.mul(row, 4)))] * self.tile
        partial = self._partial(row)
        return [e.load_vector(partial, 4 * e.lanes * j) for j in range(self.tile)]

    def _sparse(
        self, ends: ir.Value, table: ir.Value, x: ir.Value, row: ir.Value, values: list[ir.Value]
    ) -> list[ir.Value]:
        """Four weights at a time, then one by one."""
        e = self.emit
        start = e.load_i32(ends, e.mul(row, 4))
        stop = e.load_i32(ends, e.add(e.mul(row, 4), 4))
        count = e.build.sub(stop, start)
        whole = e.add(start, e.build.and_(count, number(-FOUR)))
        weights = e.function.args[8]
        sets = 2 if self.kernel.twice else 1
        initial = values + [e.constant(0.0)] * (self.tile * (sets - 1))
        with e.carrying(start, whole, initial, FOUR) as (position, sums, following):
            place = e.mul(position, 2)
            if self.tile <= AHEAD_TILE:
                e.prefetch(e.at(table, e.add(place, AHEAD)))
                e.prefetch(e.at(weights, e.add(e.mul(position, 4), 2 * AHEAD)))
            packed = e.load(table, I64, place, align=2)
            factors = e.load(weights, ir.VectorType(F32, FOUR), e.mul(position, 4))
            for index in range(FOUR):
                vector = e.build.lshr(packed, number(16 * index))
                vector = e.build.and_(vector, number(0xFFFF))
                source = e.at(x, e.mul(vector, 4 * e.lanes))
                mask = ir.Constant(ir.VectorType(I32, e.lanes), [index] * e.lanes)
                weight = e.build.shuffle_vector(factors, factors, mask)
                first = self.tile * (index % sets)
                part = sums[first : first + self.tile]
                sums[first : first + self.tile] = self._multiplied(weight, source, part)
            following += sums
        sums = following[: self.tile]
        if sets > 1:
            both = zip(sums, following[self.tile :], strict=True)
            sums = [e.build.fadd(a, b) for a, b in both]
        with e.carrying(whole, stop, sums) as (position, sums, following):
            vector = e.build.zext(e.load(table, I16, e.mul(position, 2), align=2), I64)
            source = e.at(x, e.mul(vector, 4 * e.lanes))
            weight = e.splat(e.load(weights, F32, e.mul(position, 4)))
            following += self._multiplied(weight, source, sums)
        return following

    def _multiplied(
        self, weight: ir.Value, source: ir.Value, sums: list[ir.Value]
    ) -> list[ir.Value]:
        e = self.emit
        return [
            e.fma(weight, e.load_vector(source, place), total)
            for place, total in zip(self.places, sums, strict=True)
        ]

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
            loaded = [e.load_vector(source, place) for place in self.places]
            for r in range(count):
                weight = e.splat(e.load(entry, F32, 4 + 4 * r))
                following += [
                    e.fma(weight, vector, sums[r * self.tile + j])
                    for j, vector in enumerate(loaded)
                ]
        return following

    def _end(self, values: list[ir.Value], row: ir.Value) -> None:
        e, kernel = self.emit, self.kernel
        step = 4 * e.lanes
        if not self.last:
            partial = self._partial(row)
            for j, value in enumerate(values):
                e.store(value, partial, step * j)
            return
        out, residual, mask = e.function.args[4:7]
        plane = e.mul(row, e.function.args[10])
        low, high = e.function.args[14:16]
        if kernel.residual:
            there = e.at(residual, e.mul(row, e.function.args[11]))
            values = [
                e.build.fadd(value, e.load_vector(there, step * j))
                for j, value in enumerate(values)
            ]
        values = bounded(e, values, kernel.bounds, low, high)
        if kernel.masked:
            values = masked_all(e, values, mask)
        target = e.at(out, plane)
        for j, value in enumerate(values):
            e.store(value, target, step * j)
