"""The kernel of layer normalization: over the channels of a pixel, or the features of a vector."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import F32, KERNEL, Emitter
from strzoo.engine.codegen.finishing import bounded, masked
from strzoo.engine.codegen.tiles import PIECES, TILES, plane_extent, tiled, tiled_field


@dataclass(frozen=True)
class NormalizeKernel:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift, over all planes at each place.

    Args:
        lanes: floats of a vector; for features, the images of a group.
        masked: whether places that are no pixels must be zero.
        bounds: of the results.
    """

    lanes: int = op.between(*op.LANES)
    masked: bool = False
    bounds: str = op.one_of(*op.BOUNDS, default="none")

    def fits(self, lanes: int, images: int) -> bool:
        return self.lanes in (lanes, images)

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        source = plane_extent(self.lanes, "source")
        target = plane_extent(self.lanes, "target", written=True)
        return (
            *op.HEAD,
            *op.work(lambda v: v["tiles"], lambda v: 1),
            *tiled("source", source),
            *tiled("target", target),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Count("target_vectors"),
            op.Count("planes"),
            op.Table("scales", "<f4", lambda v: v["planes"]),
            op.Table("shifts", "<f4", lambda v: v["planes"]),
            op.Table("mask", "<u4", lambda v: self.lanes * v["target_vectors"] * self.masked),
            op.Real("part"),  # 1 / planes
            op.Real("epsilon"),
            op.Real("low"),
            op.Real("high"),
        )

    @property
    def name(self) -> str:
        return f"normalize_{self.lanes}_{'m' * self.masked}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        planes, size = e.field("planes"), e.field("tile")
        part, epsilon = (e.splat(e.real_field(name)) for name in ("part", "epsilon"))
        low, high = e.real_field("low"), e.real_field("high")
        scales, shifts = (e.address(name) for name in ("scales", "shifts"))
        zero, step = e.constant(0.0), 4 * e.lanes
        with e.loop(e.first, e.last) as tile:
            source, target = (
                tiled_field(e, name, tile, e.integer(0)) for name in ("source", "target")
            )
            first = e.mul(tile, size)
            count = e.smallest_integer(size, e.build.sub(e.field("target_vectors"), first))
            with e.loop(0, count) as vector:
                skipped = e.mul(vector, step)
                here, there = e.at(source, skipped), e.at(target, skipped)

                def load(plane: ir.Value, here: ir.Value = here) -> ir.Value:
                    return e.load_vector(here, e.mul(plane, e.field("source_plane")))

                with e.carrying(0, planes, [zero]) as (plane, sums, following):
                    following.append(e.build.fadd(sums[0], load(plane)))
                mean = e.build.fmul(following[0], part)
                with e.carrying(0, planes, [zero]) as (plane, sums, following):
                    apart = e.build.fsub(load(plane), mean)
                    following.append(e.fma(apart, apart, sums[0]))
                variance = e.fma(following[0], part, epsilon)
                root = e.build.call(self._root(e, variance.type), [variance])
                over = e.build.fdiv(e.constant(1.0), root)
                with e.loop(0, planes) as plane:
                    scale, shift = (
                        e.splat(e.load(table, F32, e.mul(plane, 4))) for table in (scales, shifts)
                    )
                    value = e.build.fmul(e.build.fsub(load(plane), mean), over)
                    (value,) = bounded(e, [e.fma(value, scale, shift)], self.bounds, low, high)
                    if self.masked:
                        place = e.mul(e.add(first, vector), step)
                        value = masked(e, value, e.load_vector(e.address("mask"), place))
                    e.store(value, there, e.mul(plane, e.field("target_plane")))
        e.finish()
        return function

    def _root(self, e: Emitter, kind: ir.Type) -> ir.Function:
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
        return e.intrinsic(f"llvm.sqrt.{suffix}", ir.FunctionType(kind, [kind]))
