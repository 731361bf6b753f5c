"""The kernels of fully connected layers: nonzero weights times a vector per image.

Few images: as many rows as a vector has lanes go side by side, and each lane fetches the input
that its weight asks for. Many images: the images are the lanes, and rows go one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.emission.builder import BYTES, F32, I32, I64, KERNEL, Emitter, number
from strzoo.engine.emission.finishing import bounded

FIELDS = (
    "kernel",
    "sync",
    "source",
    "target",
    "parts",
    "part_rows",  # constants, i32 [parts + 1]: rows of equal work
    "ends",  # constants, i32 [rows + 1] (sparse)
    "entries",  # constants, {i32 byte offset, fp32} (sparse) or fp32 [rows, inputs] (dense)
    "inputs",
    "bias",
    "low",
    "high",
)
SUMS = 8  # independent ones, so that a multiplication need not wait for the one before
AHEAD = 1024  # bytes: the weights are read once per run, from a far cache


@dataclass(frozen=True)
class LinearKernel:
    """One of three forms.

    - "rows": `images` lanes, one row at a time;
    - "slices": `lanes` rows at a time, each part a slice; `ends` counts entries of all its lanes,
      an entry is the offsets of the lanes and then their weights;
    - "dense": every weight of a row, `lanes` inputs at once (one image).
    """

    images: int
    lanes: int = 1
    form: str = "rows"
    bounds: str = "none"

    fields = FIELDS

    @property
    def name(self) -> str:
        return f"linear_{self.images}_{self.lanes}_{self.form}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.images, FIELDS)
        parts = e.field("parts")
        first = e.share(parts, e.thread, e.threads)
        last = e.share(parts, e.add(e.thread, 1), e.threads)
        source, target = e.at(e.arena, e.field("source")), e.at(e.arena, e.field("target"))
        bias = e.at(e.constants, e.field("bias"))
        low, high = e.real_field("low"), e.real_field("high")
        if self.form == "slices":
            with e.loop(first, last) as part:
                self._slice(e, source, target, bias, part)
            e.finish()
            return function
        bounds = e.at(e.constants, e.field("part_rows"))
        first, last = (e.load_i32(bounds, e.mul(part, 4)) for part in (first, last))
        with e.loop(first, last) as row:
            dense = self.form == "dense"
            total = self._dense(e, source, row) if dense else self._sparse(e, source, row)
            total = e.build.fadd(total, e.splat(e.load(bias, F32, e.mul(row, 4))))
            (total,) = bounded(e, [total], self.bounds, low, high)
            e.store(total, target, e.mul(row, 4 * self.images))
        e.finish()
        return function

    def _slice(
        self, e: Emitter, source: ir.Value, target: ir.Value, bias: ir.Value, part: ir.Value
    ) -> None:
        ends = e.at(e.constants, e.field("ends"))
        entries = e.at(e.constants, e.field("entries"))
        start, stop = e.load_i32(ends, e.mul(part, 4)), e.load_i32(ends, e.add(e.mul(part, 4), 4))
        size = 4 * self.lanes
        first = e.load_vector(bias, e.mul(part, size), self.lanes)
        zero = e.constant(0.0, self.lanes)
        initial = [first] * self.images + [zero] * self.images
        with e.carrying(start, stop, initial, 2) as (position, sums, following):
            for k in range(2):
                entry = e.at(entries, e.mul(e.add(position, k), 2 * size))
                e.prefetch(e.at(entry, AHEAD), write=False)
                e.prefetch(e.at(entry, AHEAD + size), write=False)
                offsets = e.load(entry, ir.VectorType(I32, self.lanes))
                weights = e.load_vector(entry, size, self.lanes)
                for image in range(self.images):
                    values = self._gather(e, e.at(source, 4 * image), offsets)
                    following.append(e.fma(weights, values, sums[len(following)]))
        # The sums were carried turn by turn: even entries, then odd ones, image by image.
        low, high = e.real_field("low"), e.real_field("high")
        wide = Emitter.__new__(Emitter)
        wide.__dict__ = dict(e.__dict__) | {"lanes": self.lanes}
        for image in range(self.images):
            total = e.build.fadd(following[image], following[self.images + image])
            (total,) = bounded(wide, [total], self.bounds, low, high)
            if self.images == 1:
                e.store(total, target, e.mul(part, size))
                continue
            for lane in range(self.lanes):
                value = e.build.extract_element(total, ir.Constant(I32, lane))
                place = e.mul(e.add(e.mul(part, self.lanes), lane), 4 * self.images)
                e.store(value, target, e.add(place, 4 * image))

    def _gather(self, e: Emitter, base: ir.Value, offsets: ir.Value) -> ir.Value:
        lanes = self.lanes
        wide, narrow = ir.VectorType(I64, lanes), ir.VectorType(I32, lanes)
        one = e.build.insert_element(
            ir.Constant(wide, ir.Undefined), e.build.ptrtoint(base, I64), ir.Constant(I32, 0)
        )
        mask = ir.Constant(narrow, [0] * lanes)
        start = e.build.shuffle_vector(one, ir.Constant(wide, ir.Undefined), mask)
        places = e.build.add(start, e.build.sext(offsets, wide))
        pointers = ir.VectorType(BYTES, lanes)
        every = ir.VectorType(ir.IntType(1), lanes)
        kind = ir.FunctionType(
            e.constant(0.0, lanes).type, [pointers, I32, every, e.constant(0.0, lanes).type]
        )
        gather = e.intrinsic(f"llvm.masked.gather.v{lanes}f32.v{lanes}p0", kind)
        return e.build.call(
            gather,
            [
                e.build.inttoptr(places, pointers),
                ir.Constant(I32, 4),
                ir.Constant(every, [1] * lanes),
                e.constant(0.0, lanes),
            ],
        )

    def _sparse(self, e: Emitter, source: ir.Value, row: ir.Value) -> ir.Value:
        ends = e.at(e.constants, e.field("ends"))
        entries = e.at(e.constants, e.field("entries"))
        start, stop = e.load_i32(ends, e.mul(row, 4)), e.load_i32(ends, e.add(e.mul(row, 4), 4))

        def product(position: ir.Value, total: ir.Value) -> ir.Value:
            entry = e.at(entries, e.mul(position, 8))
            weight = e.splat(e.load(entry, F32, 4))
            return e.fma(weight, e.load_vector(source, e.load_i32(entry)), total)

        count = e.build.sub(stop, start)
        whole = e.add(start, e.mul(e.build.udiv(count, number(SUMS)), SUMS))
        zeros = [e.constant(0.0)] * SUMS
        with e.carrying(start, whole, zeros, SUMS) as (position, sums, following):
            following += [product(e.add(position, k), total) for k, total in enumerate(sums)]
        total = _sum(e, following)
        with e.carrying(whole, stop, [total]) as (position, sums, following):
            following.append(product(position, sums[0]))
        return following[0]

    def _dense(self, e: Emitter, source: ir.Value, row: ir.Value) -> ir.Value:
        inputs = e.field("inputs")
        weights = e.at(e.constants, e.add(e.field("entries"), e.mul(e.mul(row, inputs), 4)))
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
