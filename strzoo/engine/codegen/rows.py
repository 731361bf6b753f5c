"""The innermost loops of a convolution: rows of one tile, sparse or dense, from bias to result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from strzoo.engine.codegen.builder import (
    BYTES,
    F32,
    I16,
    I64,
    Emitter,
    inner_function,
    number,
)
from strzoo.engine.codegen.finishing import store_bounded
from strzoo.engine.codegen.quads import QuadRows
from strzoo.engine.ir.fours import FOUR

if TYPE_CHECKING:
    from strzoo.engine.codegen.convolution import ConvolutionKernel

REACH = 1 << 16  # vectors of a block of input channels that an entry of 16 bits can name
# (ends, offsets or entries, bias, input, output, residual, mask, partial sums, weights, fours,
# bounds of the rows, order of the rows, output plane, residual plane, low, high, first row, end of
# the rows)
ROWS = ir.FunctionType(ir.VoidType(), [BYTES] * 12 + [I64] * 2 + [F32] * 2 + [I64] * 2)
_NAMES = (
    *("ends", "table", "bias", "x", "out", "residual", "mask", "partial", "weights", "fours"),
    *("limits", "order", "plane", "residual_plane", "low", "high", "row", "end"),
)


def rows_function(
    kernel: ConvolutionKernel, module: ir.Module, tile: int, *, first: bool, last: bool
) -> ir.Function:
    """The function that computes the rows [row, end) of one tile, made once per module."""
    finish = f"{kernel.bounds}{'r' * kernel.residual}{'m' * kernel.masked}" if last else ""
    flags = "f" * first + "l" * last + "t" * kernel.twice + "q" * kernel.fixed
    name = f"rows_{kernel.lanes}x{tile}x{kernel.rows}_{flags}_{finish}"
    if kernel.quads:
        name = f"quad_{name}_{kernel.zero}"
    if kernel.patch.size:
        name += f"_{kernel.patch.pattern}"
    function, new = inner_function(module, name, ROWS)
    if not new:
        return function
    emitter = Emitter(function, kernel.lanes, fixed=kernel.fixed)
    for name_, argument in zip(_NAMES, function.args, strict=True):
        argument.name = name_
        # The residual may be read in place.
        if argument.type == BYTES and name_ not in ("out", "residual"):
            argument.add_attribute("noalias")
    if kernel.quads:
        args = dict(zip(_NAMES, function.args, strict=True))
        QuadRows(kernel, emitter, args, tile, first=first, last=last).write()
    else:
        _Rows(kernel, emitter, tile, first=first, last=last).write()
    return function


class _Rows:
    def __init__(
        self, kernel: ConvolutionKernel, emitter: Emitter, tile: int, *, first: bool, last: bool
    ) -> None:
        self.kernel, self.emit, self.tile = kernel, emitter, tile
        self.first, self.last = first, last
        self.places = [4 * emitter.lanes * kernel.patch.place(j) for j in range(tile)]
        self.args = dict(zip(_NAMES, emitter.function.args, strict=True))
        self.item = 2 if kernel.fixed else 4  # bytes of a number
        # Four products are added before they are added to the sum: where registers are enough for
        # the sums, the weights and the products.
        fits = tile + 2 * FOUR <= emitter.registers
        self.together = kernel.fixed and fits and not emitter.multiplies_and_adds

    def write(self) -> None:
        e, count = self.emit, self.kernel.rows
        with e.loop(self.args["row"], self.args["end"], count) as index:
            if count == 1:
                rows = [e.load_i32(self.args["order"], e.mul(index, 4))]
            else:
                rows = [e.add(index, r) for r in range(count)]
            start_values = [value for each in rows for value in self._start(each)]
            compute = self._sparse if count == 1 else self._dense
            results = compute(index, start_values)
            for r, each in enumerate(rows):
                self._end(results[r * self.tile : (r + 1) * self.tile], each)
        e.finish()

    def _partial(self, row: ir.Value) -> ir.Value:
        e = self.emit
        return e.at(self.args["partial"], e.mul(row, 4 * e.lanes * self.tile))

    def _number(self, name: str, index: ir.Value) -> ir.Value:
        """The number at `index` of a table."""
        e = self.emit
        return e.load(self.args[name], e.element, e.mul(index, self.item), align=self.item)

    def _start(self, row: ir.Value) -> list[ir.Value]:
        e = self.emit
        if self.first:
            return [e.splat(self._number("bias", row))] * self.tile
        partial = self._partial(row)
        return [e.load_vector(partial, 4 * e.lanes * j) for j in range(self.tile)]

    def _sparse(self, row: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        """Four weights at a time, then one by one. In fixed point, `fours` says how many
        times four."""
        e = self.emit
        ends, table, x = (self.args[name] for name in ("ends", "table", "x"))
        start, stop = (e.load_i32(ends, e.add(e.mul(row, 4), 4 * k)) for k in (0, 1))
        count = e.build.and_(e.build.sub(stop, start), number(-FOUR))
        if self.kernel.fixed:
            fours = e.build.zext(e.load(self.args["fours"], I16, e.mul(row, 2), align=2), I64)
            count = e.smallest_integer(count, e.mul(fours, FOUR))
        whole = e.add(start, count)
        sets = 2 if self.kernel.twice else 1
        initial = values + [e.constant(0.0)] * (self.tile * (sets - 1))
        with e.carrying(start, whole, initial, FOUR) as (position, sums, following):
            place = e.mul(position, 2)
            packed = e.load(table, I64, place, align=2)
            weights = e.spread(self.args["weights"], e.mul(position, self.item), FOUR)
            sources: list[ir.Value] = []
            for index in range(FOUR):
                vector = e.build.lshr(packed, number(16 * index))
                vector = e.build.and_(vector, number(0xFFFF))
                sources.append(e.at(x, e.mul(vector, 4 * e.lanes)))
                if self.together:
                    continue
                first = self.tile * (index % sets)
                part = slice(first, first + self.tile)
                sums[part] = self._multiplied(weights[index], sources[-1], sums[part])
            if self.together:
                for j, place in enumerate(self.places):
                    vectors = [e.load_vector(source, place) for source in sources]
                    sums[j] = e.multiply_add_four(weights, vectors, sums[j])
            following += sums
        sums = following[: self.tile]
        if sets > 1:
            both = zip(sums, following[self.tile :], strict=True)
            sums = [e.sum(a, b) for a, b in both]
        with e.carrying(whole, stop, sums) as (position, sums, following):
            vector = e.build.zext(e.load(table, I16, e.mul(position, 2), align=2), I64)
            source = e.at(x, e.mul(vector, 4 * e.lanes))
            weight = e.splat(self._number("weights", position))
            following += self._multiplied(weight, source, sums)
        return following

    def _multiplied(
        self, weight: ir.Value, source: ir.Value, sums: list[ir.Value]
    ) -> list[ir.Value]:
        e = self.emit
        return [
            e.multiply_add(weight, e.load_vector(source, place), total)
            for place, total in zip(self.places, sums, strict=True)
        ]

    def _dense(self, row: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        """`ends` holds the block's range of inputs; a table entry is an offset and the weights of
        all rows of the group; a group's entries follow those of the group before."""
        e, count = self.emit, self.kernel.rows
        ends, table, x = (self.args[name] for name in ("ends", "table", "x"))
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
        if kernel.residual:
            there = e.at(self.args["residual"], e.mul(row, self.args["residual_plane"]))
            values = [
                e.sum(value, e.load_vector(there, step * j)) for j, value in enumerate(values)
            ]
        low, high = self.args["low"], self.args["high"]
        if kernel.fixed and kernel.bounds == "clamp":
            first = e.mul(row, 2)
            low, high = (self._number("limits", e.add(first, k)) for k in (0, 1))
        target = e.at(self.args["out"], e.mul(row, self.args["plane"]))
        mask = self.args["mask"] if kernel.masked else None
        store_bounded(e, values, target, kernel.bounds, low, high, mask)
