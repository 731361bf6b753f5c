"""The kernel that copies pixels between layouts, vector by vector.

A vector of the target takes numbers from several vectors of the source: each of these is loaded,
its numbers are permuted, and those that belong to the target are kept. Processors have an
instruction for it with which a number may come from anywhere in the vector: AVX2 of 32 bits,
AVX-512 of 16 bits too. Where there is none, pixels are copied one by one (`packing`,
`fixed_packing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import I16, I32, KERNEL, Emitter
from strzoo.engine.codegen.tiles import (
    PIECES,
    TILE_WORK,
    TILES,
    share_in_groups,
    tiled,
    tiled_extent,
    tiled_field,
)

# By numbers of a vector and bits of a number.
_INSTRUCTIONS = {
    (8, 32): "llvm.x86.avx2.permps",
    (16, 32): "llvm.x86.avx512.permvar.sf.512",
    (32, 16): "llvm.x86.avx512.permvar.hi.512",
}
PLANES = 4  # at once, so that what says where numbers come from is read once for them


@dataclass(frozen=True)
class PermuteKernel:
    """Copies pixels of one image into the planes of a buffer.

    Args:
        lanes: floats of a vector.
        fixed: whether pixels are 16-bit fixed point, twice as many in a vector; else of 32 bits,
            fp32 or words of 8 bits.
    """

    lanes: int = op.between(*op.LANES)
    fixed: bool = False

    def fits(self, lanes: int, images: int) -> bool:
        return (self.lanes, images) == (lanes, 1) and can_permute(lanes, fixed=self.fixed)

    @property
    def _numbers(self) -> int:
        """Of a vector."""
        return self.lanes * (2 if self.fixed else 1)

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        vector = 4 * self.lanes

        def source(v: op.Values) -> int:
            last = int(v.table("sources").max(initial=0))
            return (v["planes"] - 1) * v["source_plane"] + last + vector

        def target(v: op.Values) -> int:
            planes = v["planes"] * v["phases"]
            return tiled_extent(v, "target", planes, vector * v["tile"], written=True)

        def count(v: op.Values) -> int:
            return int(v.table("ends")[-1])

        return (
            *op.HEAD,
            *TILE_WORK,
            op.Count("planes"),
            op.Count("phases"),  # planes of the target for each of the source
            op.Place("source", op.ARENA, source),
            op.Stride("source_plane"),
            *tiled("target", target),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Count("target_vectors"),
            # Where the entries of each vector of each phase start.
            op.Ends("ends", "<i4", lambda v: v["phases"] * v["target_vectors"] + 1),
            # Of each entry: bytes from the start of the source's plane, and which pattern.
            op.Indices("sources", "<i4", count, unit=4),
            op.Indices("patterns", "<i4", count, below=lambda v: v["pattern_count"]),
            op.Count("pattern_count"),
            # Of each pattern: where each number of the target is, of which those below zero count.
            op.Table(
                "numbers",
                "<i2" if self.fixed else "<i4",
                lambda v: v["pattern_count"] * self._numbers,
            ),
            op.Real("fill"),
        )

    @property
    def name(self) -> str:
        return f"permute_{self.lanes}{'q' * self.fixed}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self, fixed=self.fixed)
        vectors = e.field("target_vectors")
        # Every vector of some planes, then of the next: a vector of the source is read for several
        # of the target, most of them while it is in the nearest cache.
        with share_in_groups(e, PLANES) as (tile, first, count, ranges):
            for start, stop, planes in ranges:
                with (
                    e.loop(start, stop, planes) as plane,
                    e.loop(0, e.field("phases")) as phase,
                    e.loop(0, count) as vector,
                ):
                    position = e.add(e.add(e.mul(phase, vectors), first), vector)
                    ends = e.at(e.address("ends"), e.mul(position, 4))
                    bounds = e.load_i32(ends), e.load_i32(ends, 4)
                    self._copy(e, bounds, tile, plane, phase, vector, planes)
        e.finish()
        return function

    def _copy(
        self,
        e: Emitter,
        bounds: tuple[ir.Value, ir.Value],
        tile: ir.Value,
        plane: ir.Value,
        phase: ir.Value,
        vector: ir.Value,
        planes: int,
    ) -> None:
        """A vector of some planes, by the entries within `bounds`."""
        step = e.field("source_plane")
        source = e.at(e.address("source"), e.mul(plane, step))
        fill = e.real_field("fill")
        fill = e.splat(e.build.fptosi(fill, I16) if self.fixed else fill)
        whole = ir.VectorType(I16 if self.fixed else I32, self._numbers)
        with e.carrying(*bounds, [fill] * planes) as (index, values, following):
            place = e.mul(index, 4)
            here = e.at(source, e.load_i32(e.address("sources"), place))
            pattern = e.load_i32(e.address("patterns"), place)
            numbers = e.load(e.address("numbers"), whole, e.mul(pattern, 4 * self.lanes))
            counted = e.build.icmp_signed("<", numbers, ir.Constant(whole, [0] * self._numbers))
            for k, value in enumerate(values):
                found = self._permuted(e, e.load_vector(e.at(here, e.mul(step, k))), numbers)
                following.append(e.build.select(counted, found, value))
        for k, value in enumerate(following):
            target = e.add(e.mul(e.add(plane, k), e.field("phases")), phase)
            there = tiled_field(e, "target", tile, target)
            e.store(value, there, e.mul(vector, 4 * e.lanes))

    def _permuted(self, e: Emitter, value: ir.Value, numbers: ir.Value) -> ir.Value:
        name = _INSTRUCTIONS[self._numbers, 32 * self.lanes // self._numbers]
        function = e.intrinsic(name, ir.FunctionType(value.type, [value.type, numbers.type]))
        return e.build.call(function, [value, numbers])


def can_permute(lanes: int, *, fixed: bool) -> bool:
    """Whether there is an instruction for vectors of `lanes` floats, or of twice as many numbers in
    fixed point."""
    return ((2 * lanes, 16) if fixed else (lanes, 32)) in _INSTRUCTIONS
