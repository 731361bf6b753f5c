"""Kernels that only move values: into planes, between planes, out of planes.

A pixel is as many floats as there are images in a group, side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.emission.builder import F32, I32, I64, KERNEL, Emitter, number

ENTER_FIELDS = (
    "kernel",
    "sync",
    "channels",
    "rows",
    "columns",
    "target",
    "target_plane",
    "target_row",
)


@dataclass(frozen=True)
class EnterKernel:
    """The caller's images [n, C, H, W] into planes; a group short of images repeats its last."""

    images: int

    fields = ENTER_FIELDS

    @property
    def name(self) -> str:
        return f"enter_{self.images}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, 1, ENTER_FIELDS)
        rows, columns = e.field("rows"), e.field("columns")
        lines = e.mul(e.field("channels"), rows)
        image = e.mul(e.mul(lines, columns), 4)
        sources = []
        for i in range(self.images):
            last = e.build.sub(e.images, number(1))
            sources.append(e.at(e.input, e.mul(image, e.smallest_integer(number(i), last))))
        target_plane, target_row = e.field("target_plane"), e.field("target_row")
        start = e.share(lines, e.thread, e.threads)
        with e.loop(start, e.share(lines, e.add(e.thread, 1), e.threads)) as line:
            channel, row = e.build.udiv(line, rows), e.build.urem(line, rows)
            place = e.add(e.mul(channel, target_plane), e.mul(row, target_row))
            target = e.at(e.arena, e.add(e.field("target"), place))
            there = e.mul(e.mul(line, columns), 4)
            with e.loop(0, columns) as column:
                for i, source in enumerate(sources):
                    value = e.load(source, F32, e.add(there, e.mul(column, 4)))
                    e.store(value, target, e.add(e.mul(column, 4 * self.images), 4 * i))
        e.finish()
        return function


CLEAR_FIELDS = (
    "kernel",
    "sync",
    "planes",
    "target",  # arena: the first float to clear of plane 0
    "target_plane",
    "head",  # bytes to clear there
    "tail",  # bytes from there to the rest that is cleared
    "tail_bytes",
    "value",
)


@dataclass(frozen=True)
class ClearKernel:
    """Set what surrounds the pixels of planes, or the planes as a whole."""

    lanes: int

    fields = CLEAR_FIELDS

    @property
    def name(self) -> str:
        return f"clear_{self.lanes}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, CLEAR_FIELDS)
        planes, value = e.field("planes"), e.splat(e.real_field("value"))
        step, head, tail = 4 * self.lanes, e.field("head"), e.field("tail")
        start = e.share(planes, e.thread, e.threads)
        with e.loop(start, e.share(planes, e.add(e.thread, 1), e.threads)) as plane:
            place = e.add(e.field("target"), e.mul(plane, e.field("target_plane")))
            target = e.at(e.arena, place)
            with e.loop(0, head, step) as offset:
                e.store(value, target, offset)
            with e.loop(tail, e.add(tail, e.field("tail_bytes")), step) as offset:
                e.store(value, target, offset)
        e.finish()
        return function


COPY_FIELDS = (
    "kernel",
    "sync",
    "planes",
    "source",
    "source_plane",
    "source_row",  # bytes between rows of the input that are taken
    "target",
    "target_plane",
    "target_row",
    "phases",
    "table",  # constants, i64 per phase: source, target (bytes from the plane), rows, columns
    "clear",  # bytes of a channel's planes to clear first, 0 for none
    "clear_from",  # bytes from where they start to the target's first pixel
    "value",  # to clear them to
)


@dataclass(frozen=True)
class CopyKernel:
    """Every `stride`-th pixel of every stride-th row, phase by phase, to planes of their own."""

    lanes: int
    images: int
    stride: int = 1

    fields = COPY_FIELDS

    @property
    def name(self) -> str:
        return f"copy_{self.lanes}_{self.images}_{self.stride}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, COPY_FIELDS)
        planes, phases = e.field("planes"), e.field("phases")
        source_plane, target_plane = e.field("source_plane"), e.field("target_plane")
        source_row, target_row = e.field("source_row"), e.field("target_row")
        value = e.splat(e.real_field("value"))
        start = e.share(planes, e.thread, e.threads)
        with e.loop(start, e.share(planes, e.add(e.thread, 1), e.threads)) as plane:
            source = e.at(e.arena, e.add(e.field("source"), e.mul(plane, source_plane)))
            target = e.at(e.arena, e.add(e.field("target"), e.mul(plane, target_plane)))
            planes_start = e.at(target, e.build.neg(e.field("clear_from")))
            with e.loop(0, e.field("clear"), 4 * self.lanes) as offset:
                e.store(value, planes_start, offset)
            with e.loop(0, phases) as phase:
                entry = e.at(e.constants, e.add(e.field("table"), e.mul(phase, 32)))
                here, there, rows, columns = (e.load(entry, I64, 8 * k) for k in range(4))
                with e.loop(0, rows) as row:
                    self._row(
                        e,
                        e.at(source, e.add(here, e.mul(row, source_row))),
                        e.at(target, e.add(there, e.mul(row, target_row))),
                        columns,
                    )
        e.finish()
        return function

    def _row(self, e: Emitter, source: ir.Value, target: ir.Value, columns: ir.Value) -> None:
        """Vectors, then half vectors, and so on down to single pixels."""
        width = self.lanes // self.images if self.stride <= 2 else 1
        done: ir.Value = number(0)
        while width:
            whole = e.mul(e.build.udiv(columns, number(width)), width)
            with e.loop(done, whole, width) as column:
                place = e.mul(column, 4 * self.images * self.stride)
                value = take_pixels(
                    e, source, place, width * self.images, self.images, self.stride
                )
                e.store(value, target, e.mul(column, 4 * self.images))
            done, width = whole, width // 2


def take_pixels(
    e: Emitter, base: ir.Value, place: int | ir.Value, floats: int, images: int, stride: int
) -> ir.Value:
    """A vector of `floats`: every pixel from `place` on, or every second one."""
    first = e.load_vector(base, place, floats)
    if stride != 2 or floats == images:
        return first
    second = e.load_vector(base, e.add(e.integer(place), 4 * floats), floats)
    chosen = [
        2 * pixel * images + image for pixel in range(floats // images) for image in range(images)
    ]
    mask = ir.Constant(ir.VectorType(I32, floats), chosen)
    return e.build.shuffle_vector(first, second, mask)


LEAVE_FIELDS = (
    "kernel",
    "sync",
    "source",
    "source_plane",
    "source_row",
    "planes",
    "rows",
    "columns",
)


@dataclass(frozen=True)
class LeaveKernel:
    """Planes (or a vector: planes of one pixel) to the caller's [n, C, H, W]."""

    images: int

    fields = LEAVE_FIELDS

    @property
    def name(self) -> str:
        return f"leave_{self.images}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, 1, LEAVE_FIELDS)
        planes, rows, columns = e.field("planes"), e.field("rows"), e.field("columns")
        image_bytes = e.mul(e.mul(e.mul(planes, rows), columns), 4)
        start = e.share(planes, e.thread, e.threads)
        with e.loop(start, e.share(planes, e.add(e.thread, 1), e.threads)) as plane:
            source = e.at(e.arena, e.add(e.field("source"), e.mul(plane, e.field("source_plane"))))
            with e.loop(0, rows) as row:
                line = e.at(source, e.mul(row, e.field("source_row")))
                first = e.mul(e.add(e.mul(plane, rows), row), columns)
                with e.loop(0, columns) as column, e.loop(0, e.images) as image:
                    place = e.add(e.mul(column, 4 * self.images), e.mul(image, 4))
                    there = e.add(e.mul(image, image_bytes), e.mul(e.add(first, column), 4))
                    e.store(e.load(line, F32, place), e.output, there)
        e.finish()
        return function
