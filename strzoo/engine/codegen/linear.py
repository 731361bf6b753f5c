"""The kernels of fully connected layers: nonzero weights, row by row, times a vector per image.

The images of a group are the lanes; a single image goes weight by weight, with many sums at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.codegen.builder import F32, I16, I32, I64, KERNEL, Emitter, number
from strzoo.engine.codegen.finishing import bounded

FIELDS = (
    "kernel",
    "sync",
    "source",
    "target",
    "parts",
    "part_rows",  # constants, i32 [parts + 1]: rows of equal work
    "ends",  # constants, i32 [rows + 1] (sparse)
    "entries",  # constants, i16 or i32 input per nonzero weight (sparse)
    "weights",  # constants, fp32 per nonzero weight (sparse) or [rows, inputs] (dense)
    "inputs",
    "bias",
    "low",
    "high",
)
SUMS = 8  # independent ones, so that a multiplication need not wait for the one before
AHEAD = 1024  # bytes: the weights are read once per run, from a far cache


@dataclass(frozen=True)
class LinearKernel:
    """`dense`: of a single image, every weight of a row, `lanes` inputs at once; else the nonzero
    ones. `wide`: there are more inputs than 16 bits tell apart."""

    images: int
    lanes: int = 1
    dense: bool = False
    wide: bool = False
    bounds: str = "none"

    fields = FIELDS

    @property
    def name(self) -> str:
        form = "dense" * self.dense + "wide" * self.wide
        return f"linear_{self.images}_{self.lanes}_{form}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.images, FIELDS)
        parts = e.field("parts")
        first = e.share(parts, e.thread, e.threads)
        last = e.share(parts, e.add(e.thread, 1), e.threads)
        source, target = e.at(e.arena, e.field("source")), e.at(e.arena, e.field("target"))
        bias = e.at(e.constants, e.field("bias"))
        low, high = e.real_field("low"), e.real_field("high")
        bounds = e.at(e.constants, e.field("part_rows"))
        first, last = (e.load_i32(bounds, e.mul(part, 4)) for part in (first, last))
        with e.loop(first, last) as row:
            total = self._dense(e, source, row) if self.dense else self._sparse(e, source, row)
            total = e.build.fadd(total, e.splat(e.load(bias, F32, e.mul(row, 4))))
            (total,) = bounded(e, [total], self.bounds, low, high)
            e.store(total, target, e.mul(row, 4 * self.images))
        e.finish()
        return function

    def _sparse(self, e: Emitter, source: ir.Value, row: ir.Value) -> ir.Value:
        ends, entries, weights = (
            e.at(e.constants, e.field(name)) for name in ("ends", "entries", "weights")
        )
        start, stop = e.load_i32(ends, e.mul(row, 4)), e.load_i32(ends, e.add(e.mul(row, 4), 4))
        index = I32 if self.wide else I16
        size = index.width // 8

        def product(position: ir.Value, total: ir.Value) -> ir.Value:
            place = e.load(entries, index, e.mul(position, size), align=size)
            offset = e.mul(e.build.zext(place, I64), 4 * self.images)
            weight = e.splat(e.load(weights, F32, e.mul(position, 4)))
            return e.fma(weight, e.load_vector(source, offset), total)

        count = e.build.sub(stop, start)
        whole = e.add(start, e.mul(e.build.udiv(count, number(SUMS)), SUMS))
        zeros = [e.constant(0.0)] * SUMS
        with e.carrying(start, whole, zeros, SUMS) as (position, sums, following):
            e.prefetch(e.at(entries, e.add(e.mul(position, size), AHEAD)))
            e.prefetch(e.at(weights, e.add(e.mul(position, 4), AHEAD)))
            following += [product(e.add(position, k), total) for k, total in enumerate(sums)]
        total = _sum(e, following)
        with e.carrying(whole, stop, [total]) as (position, sums, following):
            following.append(product(position, sums[0]))
        return following[0]

    def _dense(self, e: Emitter, source: ir.Value, row: ir.Value) -> ir.Value:
        inputs = e.field("inputs")
        weights = e.at(e.constants, e.add(e.field("weights"), e.mul(e.mul(row, inputs), 4)))
        turn = SUMS * self.lanes
        whole = e.mul(e.build.udiv(inputs, number(turn)), turn)
        zeros = [e.constant(0.0, self.lanes)] * SUMS
        with e.carrying(0, whole, zeros, turn) as (position, sums, following):
            for k, total in enumerate(sums):
                place = e.add(e.mul(position, 4), 4 * k * self.lanes)
                a, b = (e.load_vector(base, place, self.lanes) for base in (weights, source))
                following.append(e.fma(a, b, total))
        total = _sum(e, following)
        if self.lanes > 1:
            parts = [
                e.build.extract_element(total, ir.Constant(I32, lane)) for lane in range(self.lanes)
            ]
            total = _sum(e, parts)
        with e.carrying(whole, inputs, [total]) as (position, sums, following):
            place = e.mul(position, 4)
            a, b = (e.load(base, F32, place) for base in (weights, source))
            following.append(e.fma(a, b, sums[0]))
        return following[0]


def _sum(e: Emitter, values: list[ir.Value]) -> ir.Value:
    while len(values) > 1:
        values = [e.build.fadd(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]
