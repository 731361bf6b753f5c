"""The kernels of fully connected layers: nonzero weights, row by row, times a vector per image.

The images of a group are the lanes. For a single image, several sums are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import F32, I16, I32, I64, KERNEL, Emitter, number
from strzoo.engine.codegen.finishing import bounded

SUMS = 8  # independent ones, so that no multiplication waits for the one before
PARTS_AT_ONCE = 4  # that a thread takes
AHEAD = 1024  # bytes to prefetch: the weights are read once per run, from a far cache


@dataclass(frozen=True)
class LinearKernel:
    """What distinguishes one compiled kernel from another.

    Args:
        images: of a group.
        lanes: inputs multiplied at once in the dense form; else 1.
        dense: whether all weights are read, of a single image; else only the nonzero ones.
        wide: whether there are more inputs than 16 bits can name.
        bounds: of the results.
    """

    images: int = op.between(*op.LANES)
    lanes: int = op.between(*op.LANES, default=1)
    dense: bool = False
    wide: bool = False
    bounds: str = op.one_of(*op.BOUNDS, default="none")

    def fits(self, lanes: int, images: int) -> bool:
        expected = (lanes, 1) if self.dense else (1, images)
        return (self.lanes, self.images) == expected and self.images == images

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        dense, vector = self.dense, 4 * self.images

        def count_rows(v: op.Values) -> int:
            return int(v.table("part_rows")[-1])

        def count_weights(v: op.Values) -> int:
            return count_rows(v) * v["inputs"] if dense else int(v.table("ends")[-1])

        def read(v: op.Values) -> int:
            return vector * (v["inputs"] if dense else int(v.table("entries").max(initial=0)) + 1)

        return (
            *op.HEAD,
            *op.work(lambda v: v["parts"], lambda v: PARTS_AT_ONCE),
            op.Place("source", op.ARENA, read),
            op.Place("target", op.ARENA, lambda v: count_rows(v) * vector),
            op.Count("parts"),
            op.Ends("part_rows", "<i4", lambda v: v["parts"] + 1),  # rows of equal work
            op.Ends("ends", "<i4", lambda v: 0 if dense else count_rows(v) + 1),
            # The input of each nonzero weight.
            op.Table(
                "entries",
                "<u4" if self.wide else "<u2",
                lambda v: 0 if dense else count_weights(v),
            ),
            op.Table("weights", "<f4", count_weights),
            op.Count("inputs"),
            op.Table("bias", "<f4", count_rows),
            op.Real("low"),
            op.Real("high"),
        )

    @property
    def name(self) -> str:
        form = "dense" * self.dense + "wide" * self.wide
        return f"linear_{self.images}_{self.lanes}_{form}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.images, self)
        source, target = e.address("source"), e.address("target")
        bias = e.address("bias")
        low, high = e.real_field("low"), e.real_field("high")
        bounds = e.address("part_rows")
        first, last = (e.load_i32(bounds, e.mul(part, 4)) for part in (e.first, e.last))
        compute = self._dense if self.dense else self._sparse
        with e.loop(first, last) as row:
            total = compute(e, source, row)
            total = e.build.fadd(total, e.splat(e.load(bias, F32, e.mul(row, 4))))
            (total,) = bounded(e, [total], self.bounds, low, high)
            e.store(total, target, e.mul(row, 4 * self.images))
        e.finish()
        return function

    def _sparse(self, e: Emitter, source: ir.Value, row: ir.Value) -> ir.Value:
        ends, entries, weights = (e.address(name) for name in ("ends", "entries", "weights"))
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
        skipped = e.add(e.field("weights"), e.mul(e.mul(row, inputs), 4))
        weights = e.at(e.base("weights"), skipped)
        turn = SUMS * self.lanes
        whole = e.mul(e.build.udiv(inputs, number(turn)), turn)
        zeros = [e.constant(0.0, self.lanes)] * SUMS
        with e.carrying(0, whole, zeros, turn) as (position, sums, following):
            for k, total in enumerate(sums):
                place = e.add(e.mul(position, 4), 4 * k * self.lanes)
                a, b = (e.load_vector(base, place, self.lanes) for base in (weights, source))
                following.append(e.fma(a, b, total))
        total = self._sum_of_lanes(e, following)
        with e.carrying(whole, inputs, [total]) as (position, sums, following):
            place = e.mul(position, 4)
            a, b = (e.load(base, F32, place) for base in (weights, source))
            following.append(e.fma(a, b, sums[0]))
        return following[0]

    def _sum_of_lanes(self, e: Emitter, sums: list[ir.Value]) -> ir.Value:
        total = _sum(e, sums)
        if self.lanes == 1:
            return total
        lanes = range(self.lanes)
        return _sum(e, [e.build.extract_element(total, ir.Constant(I32, lane)) for lane in lanes])


def _sum(e: Emitter, values: list[ir.Value]) -> ir.Value:
    while len(values) > 1:
        values = [e.build.fadd(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]
