"""The kernel of linear and cubic Resize: weighted sums of a few pixels of a plane."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import F32, I32, KERNEL, Emitter
from strzoo.engine.codegen.finishing import masked
from strzoo.engine.codegen.tiles import (
    PIECES,
    TILE_WORK,
    TILES,
    over_my_tiles,
    plane_extent,
    tiled,
    tiled_field,
)


@dataclass(frozen=True)
class ResampleKernel:
    """Each pixel of a plane as a weighted sum of pixels of the source's plane.

    Args:
        lanes: floats of a vector.
        images: of a group.
        masked: whether places that are no pixels must be zero.
    """

    lanes: int = op.between(*op.LANES)
    images: int = op.between(*op.LANES)
    masked: bool = False

    def fits(self, lanes: int, images: int) -> bool:
        return (self.lanes, self.images) == (lanes, images)

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        def source(v: op.Values) -> int:
            last = (v["planes"] - 1) * v["source_plane"] + int(v.table("places").max())
            return last + 4 * self.images

        def count(v: op.Values) -> int:
            return v["target_vectors"] * v["taps"] * self.lanes

        return (
            *op.HEAD,
            *TILE_WORK,
            op.Place("source", op.ARENA, source),
            op.Stride("source_plane"),
            *tiled("target", plane_extent(self.lanes, "target", written=True)),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Count("target_vectors"),
            op.Count("planes"),
            op.Count("taps"),
            # For each float of each tap of each vector, bytes from the start of the source's plane
            # to the pixel, and its weight.
            op.Indices("places", "<i4", count, unit=4),
            op.Table("weights", "<f4", count),
            op.Table("mask", "<u4", lambda v: self.lanes * v["target_vectors"] * self.masked),
        )

    @property
    def name(self) -> str:
        return f"resample_{self.lanes}_{self.images}{'m' * self.masked}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        step, taps = 4 * self.lanes, e.field("taps")
        tables = [e.address(name) for name in ("places", "weights")]
        with over_my_tiles(e) as (tile, plane, count):
            place = e.add(e.field("source"), e.mul(plane, e.field("source_plane")))
            source = e.at(e.base("source"), place)
            target = tiled_field(e, "target", tile, plane)
            first = e.mul(tile, e.field("tile"))
            with e.loop(0, count) as vector:
                position = e.add(first, vector)
                skipped = e.mul(e.mul(position, taps), step)
                places, weights = (e.at(table, skipped) for table in tables)
                with e.carrying(0, taps, [e.constant(0.0)]) as (tap, sums, following):
                    at = e.mul(tap, step)
                    pixels = self._gather(e, source, e.at(places, at))
                    following.append(e.fma(e.load_vector(weights, at), pixels, sums[0]))
                (value,) = following
                if self.masked:
                    bits = e.load_vector(e.address("mask"), e.mul(position, step))
                    value = masked(e, value, bits)
                e.store(value, target, e.mul(vector, step))
        e.finish()
        return function

    def _gather(self, e: Emitter, source: ir.Value, places: ir.Value) -> ir.Value:
        """A pixel for each lane; the lanes of the images of a group are next to each other."""
        value = ir.Constant(ir.VectorType(F32, self.lanes), ir.Undefined)
        for lane in range(self.lanes):
            pixel = e.at(source, e.load_i32(places, 4 * lane))
            found = e.load(pixel, F32, 4 * (lane % self.images))
            value = e.build.insert_element(value, found, ir.Constant(I32, lane))
        return value
