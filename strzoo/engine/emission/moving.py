"""Kernels that only move values: into planes, between planes, out of planes.

A pixel is as many floats as there are images in a group, side by side. Rows are put together in
scratch memory as whole lines, and lines are cut into tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.emission.builder import F32, I32, I64, KERNEL, Emitter, number
from strzoo.engine.emission.lines import TiledPlanes, gather_line, scatter_line
from strzoo.engine.emission.tiles import over_my_planes

ENTER_FIELDS = (
    "kernel",
    "sync",
    "planes",
    "rows",
    "columns",
    "target",
    "target_plane",
    "target_tile",
    "tile",
    "vectors",
    "row",  # bytes from row to row of the line
    "line",  # scratch
)


@dataclass(frozen=True)
class EnterKernel:
    """The caller's images [n, C, H, W] into planes; a group short of images repeats its last."""

    lanes: int
    images: int

    fields = ENTER_FIELDS

    @property
    def name(self) -> str:
        return f"enter_{self.lanes}_{self.images}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, ENTER_FIELDS)
        rows, columns = e.field("rows"), e.field("columns")
        plane_bytes = e.mul(e.mul(rows, columns), 4)
        image = e.mul(plane_bytes, e.field("planes"))
        sources = []
        for i in range(self.images):
            last = e.build.sub(e.images, number(1))
            sources.append(e.at(e.input, e.mul(image, e.smallest_integer(number(i), last))))
        line, step = e.at(e.scratch, e.field("line")), 4 * self.lanes
        clear_line(e, line, e.mul(e.field("vectors"), step), e.constant(0.0))
        with over_my_planes(e) as plane:
            with e.loop(0, rows) as row:
                target = e.at(line, e.mul(row, e.field("row")))
                there = e.add(e.mul(plane, plane_bytes), e.mul(e.mul(row, columns), 4))
                with e.loop(0, columns) as column:
                    for i, source in enumerate(sources):
                        value = e.load(source, F32, e.add(there, e.mul(column, 4)))
                        e.store(value, target, e.add(e.mul(column, 4 * self.images), 4 * i))
            scatter_line(e, _planes(e, "target"), plane, line)
        e.finish()
        return function


COPY_FIELDS = (
    "kernel",
    "sync",
    "planes",
    "source",
    "source_plane",
    "source_tile",
    "from_tile",  # vectors of a tile of the source
    "from_vectors",
    "source_row",  # bytes between rows of the input that are taken
    "target",
    "target_plane",
    "target_tile",
    "tile",
    "vectors",
    "target_row",
    "phases",
    "table",  # constants, i64 per phase: bytes of its first pixel in the line, rows, columns
    "line",  # scratch: for the input's line
    "result",  # and for the output's
    "fill",
)
PHASE = 24  # bytes of an entry of the table


@dataclass(frozen=True)
class CopyKernel:
    """Every `stride`-th pixel of every stride-th row, phase by phase, to planes of their own.

    `packed_source` has planes of one pixel, `packed_target` rows without gaps or tiles.
    """

    lanes: int
    images: int
    stride: int = 1
    packed_source: bool = False
    packed_target: bool = False

    fields = COPY_FIELDS

    @property
    def name(self) -> str:
        packed = "s" * self.packed_source + "t" * self.packed_target
        return f"copy_{self.lanes}_{self.images}_{self.stride}_{packed}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, COPY_FIELDS)
        line, result = (e.at(e.scratch, e.field(name)) for name in ("line", "result"))
        fill, step = e.splat(e.real_field("fill")), 4 * self.lanes
        source = TiledPlanes(
            e.at(e.arena, e.field("source")),
            e.field("source_plane"),
            e.field("source_tile"),
            e.field("from_tile"),
            e.field("from_vectors"),
        )
        phases = e.field("phases")
        with over_my_planes(e) as plane:
            here = line
            if self.packed_source:
                here = e.at(source.base, e.mul(plane, source.plane))
            else:
                gather_line(e, source, plane, line, number(0), number(0), fill)
            with e.loop(0, phases) as phase:
                entry = e.at(e.constants, e.add(e.field("table"), e.mul(phase, PHASE)))
                start, rows, columns = (e.load(entry, I64, 8 * k) for k in range(3))
                there = result
                if self.packed_target:
                    place = e.add(e.field("target"), e.mul(plane, e.field("target_plane")))
                    there = e.at(e.arena, place)
                else:
                    clear_line(e, result, e.mul(e.field("vectors"), step), fill)
                with e.loop(0, rows) as row:
                    self._row(
                        e,
                        e.at(here, e.add(start, e.mul(row, e.field("source_row")))),
                        e.at(there, e.mul(row, e.field("target_row"))),
                        columns,
                    )
                if not self.packed_target:
                    index = e.add(e.mul(plane, phases), phase)
                    scatter_line(e, _planes(e, "target"), index, result)
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
                value = take_pixels(e, source, place, width * self.images, self.images, self.stride)
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
    "source_tile",
    "tile",
    "vectors",
    "row",
    "planes",
    "rows",
    "columns",
    "line",
)


@dataclass(frozen=True)
class LeaveKernel:
    """Planes (or a vector: planes of one pixel) to the caller's [n, C, H, W]."""

    lanes: int
    images: int
    packed: bool = False

    fields = LEAVE_FIELDS

    @property
    def name(self) -> str:
        return f"leave_{self.lanes}_{self.images}{'p' * self.packed}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, LEAVE_FIELDS)
        planes, rows, columns = e.field("planes"), e.field("rows"), e.field("columns")
        image_bytes = e.mul(e.mul(e.mul(planes, rows), columns), 4)
        source = _planes(e, "source")
        line = e.at(e.scratch, e.field("line"))
        with over_my_planes(e) as plane:
            here = line
            if self.packed:
                here = e.at(source.base, e.mul(plane, source.plane))
            else:
                gather_line(e, source, plane, line, number(0), number(0), e.constant(0.0))
            with e.loop(0, rows) as row:
                start = e.at(here, e.mul(row, e.field("row")))
                first = e.mul(e.add(e.mul(plane, rows), row), columns)
                with e.loop(0, columns) as column, e.loop(0, e.images) as image:
                    place = e.add(e.mul(column, 4 * self.images), e.mul(image, 4))
                    there = e.add(e.mul(image, image_bytes), e.mul(e.add(first, column), 4))
                    e.store(e.load(start, F32, place), e.output, there)
        e.finish()
        return function


def clear_line(e: Emitter, line: ir.Value, size: ir.Value, fill: ir.Value) -> None:
    with e.loop(0, size, 4 * e.lanes) as at:
        e.store(fill, line, at)


def _planes(e: Emitter, name: str) -> TiledPlanes:
    return TiledPlanes(
        e.at(e.arena, e.field(name)),
        e.field(f"{name}_plane"),
        e.field(f"{name}_tile"),
        e.field("tile"),
        e.field("vectors"),
    )
