"""The innermost loops of a convolution: rows of one tile, sparse or dense, from bias to result."""

from __future__ import annotations

from typing import Protocol

from llvmlite import ir

from strzoo.engine.emission.builder import BYTES, F32, I64, Emitter, number
from strzoo.engine.emission.finishing import bounded, masked_all

AHEAD_TILE = 7  # vectors: wider tiles give the processor time enough
AHEAD = 2048  # bytes: entries are read once per tile, often from a far cache
# (ends, entries, bias, input, output, residual, mask, partial sums, output plane, residual plane,
# first row, end of the rows, low, high)
ROWS = ir.FunctionType(ir.VoidType(), [BYTES] * 8 + [I64] * 4 + [F32] * 2)


class RowsOf(Protocol):
    """What the loops need to know of a convolution kernel; see `ConvolutionKernel`."""

    @property
    def lanes(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def residual(self) -> bool: ...

    @property
    def masked(self) -> bool: ...

    @property
    def bounds(self) -> str: ...


def rows_function(
    kernel: RowsOf, module: ir.Module, tile: int, *, first: bool, last: bool
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
        self, kernel: RowsOf, emitter: Emitter, tile: int, *, first: bool, last: bool
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
            values = masked_all(e, values, mask)
        target = e.at(out, plane)
        for j, value in enumerate(values):
            e.store(value, target, step * j)
