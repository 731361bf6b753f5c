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
    plane_extent,
    share_in_groups,
    tiled,
    tiled_field,
)

PLANES = 4  # at once, so that what says where pixels are is read once for them


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
            whole, single = (int(v.table(name).max(initial=-1)) for name in ("wholes", "places"))
            ends = whole + 4 * self.lanes if whole >= 0 else 0, single + 4 * self.images
            return (v["planes"] - 1) * v["source_plane"] + max(ends)

        def count_wholes(v: op.Values) -> int:
            return int(v.table("whole_ends")[-1])

        def count_floats(v: op.Values) -> int:
            return int(v.table("ends")[-1]) * self.lanes

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
            # Where the entries of each vector start: those that are a vector of the source as it
            # is, and those whose pixels are anywhere.
            op.Ends("whole_ends", "<i4", lambda v: v["target_vectors"] + 1),
            op.Ends("ends", "<i4", lambda v: v["target_vectors"] + 1),
            # Bytes from the start of the source's plane: of each entry, and of each of its floats.
            op.Indices("wholes", "<i4", count_wholes, unit=4),
            op.Indices("places", "<i4", count_floats, unit=4),
            op.Table("whole_weights", "<f4", lambda v: count_wholes(v) * self.lanes),
            op.Table("weights", "<f4", count_floats),
            op.Table("mask", "<u4", lambda v: self.lanes * v["target_vectors"] * self.masked),
        )

    @property
    def name(self) -> str:
        return f"resample_{self.lanes}_{self.images}{'m' * self.masked}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        with (
            share_in_groups(e, PLANES) as (tile, first, count, ranges),
            e.loop(0, count) as vector,
        ):
            for start, stop, planes in ranges:
                with e.loop(start, stop, planes) as plane:
                    self._sum(e, tile, plane, vector, e.add(first, vector), planes)
        e.finish()
        return function

    def _sum(
        self,
        e: Emitter,
        tile: ir.Value,
        plane: ir.Value,
        vector: ir.Value,
        position: ir.Value,
        planes: int,
    ) -> None:
        """A vector of some planes, whose weights and places are the same."""
        step, between = 4 * self.lanes, e.field("source_plane")
        place = e.add(e.field("source"), e.mul(plane, between))
        sources = [e.at(e.base("source"), e.add(place, e.mul(between, k))) for k in range(planes)]
        sums = [e.constant(0.0)] * planes
        for ends, weights in (("whole_ends", "whole_weights"), ("ends", "weights")):
            here = e.at(e.address(ends), e.mul(position, 4))
            bounds = e.load_i32(here), e.load_i32(here, 4)
            with e.carrying(*bounds, sums) as (entry, before, following):
                weight = e.load_vector(e.address(weights), e.mul(entry, step))
                if ends == "whole_ends":
                    offset = e.load_i32(e.address("wholes"), e.mul(entry, 4))
                    pixels = [e.load_vector(e.at(source, offset)) for source in sources]
                else:
                    places = e.at(e.address("places"), e.mul(entry, step))
                    pixels = self._gather(e, sources, places)
                for value, total in zip(pixels, before, strict=True):
                    following.append(e.fma(weight, value, total))
            sums = following
        for k, value in enumerate(sums):
            if self.masked:
                bits = e.load_vector(e.address("mask"), e.mul(position, step))
                value = masked(e, value, bits)
            there = tiled_field(e, "target", tile, e.add(plane, k))
            e.store(value, there, e.mul(vector, step))

    def _gather(self, e: Emitter, sources: list[ir.Value], places: ir.Value) -> list[ir.Value]:
        """A pixel of each source for each lane; the lanes of a group's images are neighbours."""
        values = [ir.Constant(ir.VectorType(F32, self.lanes), ir.Undefined)] * len(sources)
        for lane in range(self.lanes):
            offset = e.load_i32(places, 4 * lane)
            for k, source in enumerate(sources):
                found = e.load(e.at(source, offset), F32, 4 * (lane % self.images))
                values[k] = e.build.insert_element(values[k], found, ir.Constant(I32, lane))
        return values
