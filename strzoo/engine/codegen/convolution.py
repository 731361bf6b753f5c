"""The convolution kernel: one loop for every convolution, sparse or dense.

    acc[j] = fma(w, x[offset + j], acc[j])        j = 0 .. tile - 1

`x` is the input at the tile's first pixel, and `offset` leads to another channel, row, column or
phase, so the same loop serves 1x1, 3x3, strided and grouped convolutions. (Over a patch, `j` stands
for the place of the tile's output j.) The tile's accumulators stay in vector registers while the
nonzero weights of one row (output channel) are read. The dense form does the same for several rows
at once, so that they share each load.

Input channels are processed in blocks, so that what a block reads stays in the L1 cache; partial
sums are kept in scratch memory. What a window of several taps reads is first copied to scratch
memory (`patches`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import KERNEL, Emitter, number, vector_type
from strzoo.engine.codegen.patches import IN_PLACE, PatchForm, PatchPacker
from strzoo.engine.codegen.quads import QUAD, QUAD_LANES, set_starts, set_words, splat_zero
from strzoo.engine.codegen.rows import rows_function
from strzoo.engine.codegen.tiles import PIECES, tile_start, tiled, tiled_extent

MOST_BLOCKS = 1024
Span = tuple[ir.Value, ir.Value]  # of parts in 8 bits, else of rows


@dataclass(frozen=True)
class ConvolutionKernel:
    """What distinguishes one compiled convolution kernel from another.

    Args:
        lanes: floats in a vector.
        fixed: whether inputs, weights and results are 16-bit fixed point, twice as many in a
            vector; in the sparse form only. Clamps have bounds of each row then.
        tile, last: vectors in a tile, and in the last one.
        rows: computed at once; 1 is the sparse form, more the dense one.
        patch: what the window of a tile reads, copied before use.
        twice: whether there are two sets of sums, for every second weight, so that few sums do not
            wait for each other.
        blocked: whether there are several blocks of input channels.
        residual: whether a residual is added to a finished row.
        masked: whether places that are no pixels must be zero.
        bounds: of the results, "none", "relu" or "clamp".
        quads: whether inputs, weights and results are 8 bits, four channels in a word (`quads`);
            in the sparse form only. A row of an instruction is an output channel, four to a plane.
        source_zero, zero: the numbers that stand for 0 in an input and a result of 8 bits.
    """

    lanes: int = op.between(*op.LANES)
    tile: int = op.between(*op.TILE)
    last: int = op.between(*op.TILE)
    rows: int = op.between(1, 8, default=1)
    patch: PatchForm = IN_PLACE
    twice: bool = False
    blocked: bool = False
    residual: bool = False
    masked: bool = False
    bounds: str = op.one_of(*op.BOUNDS, default="none")
    fixed: bool = False
    quads: bool = False
    source_zero: int = op.between(0, 255, default=0)
    zero: int = op.between(0, 255, default=0)

    def fits(self, lanes: int, images: int) -> bool:
        patch = self.patch.fits(lanes * (2 if self.fixed else 1), images)
        sparse = self.rows == 1 or not (self.fixed or self.quads)
        if self.quads and (self.fixed or images != 1 or lanes not in QUAD_LANES):
            return False
        return self.lanes == lanes and self.last <= self.tile and patch and sparse

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        sparse, patch, vector = self.rows == 1, self.patch, 4 * self.lanes
        item = "<i2" if self.fixed else "<i4" if self.quads else "<f4"
        depth = QUAD if self.quads else 1

        def planes(v: op.Values) -> int:
            return -(-v["rows"] // depth)

        limited = self.fixed and self.bounds == "clamp"
        tile = vector * self.tile
        return (
            *op.HEAD,
            *op.work(lambda v: v["tiles"] * v["parts"], lambda v: v["parts"]),
            *tiled("source", self._source_extent),
            *tiled("target", lambda v: tiled_extent(v, "target", planes(v), tile, written=True)),
            *tiled(
                "residual",
                lambda v: tiled_extent(v, "residual", planes(v), tile) if self.residual else 0,
            ),
            op.Count("tiles"),
            *PIECES,
            op.Count("rows", (lambda v: depth * planes(v)) if self.quads else None),
            op.Count("parts", most=planes),
            # Rows of equal work, which threads share.
            op.Ends("part_rows", "<i4", lambda v: v["parts"] + 1, planes, self.rows),
            op.Count("blocks", most=lambda v: MOST_BLOCKS),
            # The rows of each block in the order in which they are computed.
            op.Indices(
                "order",
                "<i4",
                lambda v: v["blocks"] * planes(v) if sparse else 0,
                planes,
            ),
            # Where the entries of each row (sparse) or of each block (dense) start.
            op.Ends("ends", "<i4", lambda v: v["blocks"] * (v["rows"] if sparse else 1) + 1),
            # Of 8 bits: which row of its set of words each list of entries is for.
            op.Table("slots", "u1", lambda v: self.quads * v["blocks"] * v["rows"]),
            # How many times four of them are taken at once, at most.
            op.Table("fours", "<u2", lambda v: v["blocks"] * v["rows"] if self.fixed else 0),
            # Sparse: for each weight, vectors from the block's first plane. Dense: see `_offsets`.
            op.Table("entries", "<u2" if sparse else "u1", self._count_entries),
            op.Table("weights", item, lambda v: self._count_entries(v) if sparse else 0),
            op.Table("bias", item, self._count_rows),
            # What the sums of each row are multiplied by.
            op.Table("scales", "<f4", lambda v: v["rows"] * self.quads),
            # The least and the largest result of each row.
            op.Table("row_bounds", "<i2", lambda v: 2 * v["rows"] * limited),
            op.Table("mask", "<u4", lambda v: self.masked * self._count_floats(v)),
            op.Ends("block_planes", "<i4", lambda v: v["blocks"] + 1),
            op.Place("slab", op.SCRATCH, self._slab_extent),  # the patches of a block
            *patch.operands(),
            op.Real("low"),
            op.Real("high"),
            op.Fixed("partial", op.SCRATCH, lambda v: v["rows"] * tile if self.blocked else 0),
        )

    def _count_rows(self, v: op.Values) -> int:
        """Rows, after a check that the lists of each set are for each of its rows."""
        if self.quads:
            starts = set_starts(v.table("part_rows"), set_words(self.lanes, self.tile))
            slots = v.table("slots").reshape(v["blocks"], v["rows"])
            starts = QUAD * np.repeat(starts, QUAD)
            whole = starts.size == v["rows"]
            if not whole or (np.sort(slots + starts, axis=1) != np.arange(v["rows"])).any():
                raise ValueError("rows of a set that have no list of entries, or two")
        return v["rows"]

    def _count_floats(self, v: op.Values) -> int:
        """Floats of an output plane."""
        return self.lanes * ((v["tiles"] - 1) * self.tile + self.last)

    def _count_entries(self, v: op.Values) -> int:
        """Items of the table of entries."""
        count = int(v.table("ends")[-1])
        if self.rows == 1:
            return count
        return 64 + v["rows"] // self.rows * count * self._entry.itemsize

    @property
    def _entry(self) -> np.dtype:
        """An entry of the dense form."""
        return np.dtype([("offset", "<i4"), ("weights", "<f4", (self.rows,))])

    def _offsets(self, v: op.Values) -> list[int]:
        """For each block, the largest number of bytes from its first plane to what an entry reads;
        -1 if it has no entries."""
        ends, entries, blocks = v.table("ends"), v.table("entries"), v["blocks"]
        if self.rows == 1:
            bounds = ends[:: v["rows"]]
            parts = [entries[bounds[b] : bounds[b + 1]] for b in range(blocks)]
            return [4 * self.lanes * int(part.max()) if len(part) else -1 for part in parts]
        # 64 bytes that start with the number of inputs, then an entry for each group and input.
        inputs = int(entries[:4].view("<i4")[0])
        if inputs != ends[-1]:
            raise ValueError(f"entries of {inputs} inputs instead of {ends[-1]}")
        offsets = entries[64:].view(self._entry).reshape(-1, max(inputs, 1))["offset"]
        if offsets.min(initial=0) < 0:
            raise ValueError("an entry before the first plane")
        parts = [offsets[:, ends[b] : ends[b + 1]] for b in range(blocks)]
        return [int(part.max()) if part.size else -1 for part in parts]

    def _reach(self, offset: int) -> int:
        """Bytes that an entry with that offset reads, from the first plane of its block on."""
        last = max(self.patch.place(output) for output in range(self.tile))
        return offset + 4 * self.lanes * (last + 1) if offset >= 0 else 0

    def _source_extent(self, v: op.Values) -> int:
        planes = v.table("block_planes")
        if self.patch.size:
            return self.patch.read_extent(v, self.lanes, int(planes[-1]))
        starts = [int(plane) * v["source_plane"] for plane in planes[:-1]]
        offsets = zip(starts, self._offsets(v), strict=True)
        read = max(start + self._reach(offset) for start, offset in offsets)
        return tiled_extent(v, "source", 1, read)

    def _slab_extent(self, v: op.Values) -> int:
        if not self.patch.size:
            return 0
        planes = int(np.diff(v.table("block_planes")).max())
        written = self.patch.written_extent(v, self.lanes, planes)
        return max(written, *map(self._reach, self._offsets(v)))

    @property
    def name(self) -> str:
        shape = f"{self.lanes}x{self.tile}_{self.last}x{self.rows}_{self.patch.name}"
        if self.quads:
            shape += f"_{self.source_zero}_{self.zero}"
        flags = "t" * self.twice + "b" * self.blocked + "r" * self.residual + "m" * self.masked
        flags += "u" * self.quads
        return f"convolution_{shape}_{flags}{'q' * self.fixed}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        _Driver(self, Emitter(function, self.lanes, self, fixed=self.fixed)).write()
        return function


class _Driver:
    """Walks over the given units (parts of the rows of each tile) and blocks."""

    def __init__(self, kernel: ConvolutionKernel, emitter: Emitter) -> None:
        self.kernel, self.emit = kernel, emitter

    def write(self) -> None:
        e, kernel = self.emit, self.kernel
        parts, tiles = e.field("parts"), e.field("tiles")
        first, last = e.first, e.last
        stop = e.build.udiv(e.add(last, e.build.sub(parts, number(1))), parts)
        part_rows = e.address("part_rows")
        final = e.build.sub(tiles, number(1))
        with e.loop(e.build.udiv(first, parts), stop) as tile:
            start = e.mul(tile, parts)
            # Threads that share a tile compute different parts of its rows.
            low = e.largest_integer(e.build.sub(first, start), number(0))
            high = e.smallest_integer(e.build.sub(last, start), parts)
            span = (low, high)
            if not kernel.quads:
                row, end = (e.load_i32(part_rows, e.mul(bound, 4)) for bound in span)
                span = (row, end)
            if kernel.last == kernel.tile:
                self._tile(kernel.tile, tile, span)
            else:
                e.either(
                    e.build.icmp_signed("<", tile, final),
                    lambda: self._tile(kernel.tile, tile, span),
                    lambda: self._tile(kernel.last, tile, span),
                )
        e.finish()

    def _tile(self, size: int, tile: ir.Value, span: Span) -> None:
        e, kernel = self.emit, self.kernel
        with e.when(e.build.icmp_signed("<", *span)):
            packer = None
            if kernel.patch.size:
                packer = PatchPacker(e, kernel.patch)
                packer.aim(tile)
            self._blocks(size, tile, span, packer)

    def _fill(self) -> ir.Value:
        """What a patch holds outside the map."""
        e = self.emit
        if not self.kernel.quads:
            return e.constant(0.0)
        words = splat_zero(e, self.kernel.source_zero)
        return e.build.bitcast(words, vector_type(e.lanes))

    def _blocks(self, size: int, tile: ir.Value, span: Span, packer: PatchPacker | None) -> None:
        e = self.emit
        if not self.kernel.blocked:
            self._block(size, tile, span, packer, number(0), first=True, last=True)
            return
        self._block(size, tile, span, packer, number(0), first=True, last=False)
        final = e.build.sub(e.field("blocks"), number(1))
        with e.loop(1, final) as block:
            self._block(size, tile, span, packer, block, first=False, last=False)
        self._block(size, tile, span, packer, final, first=False, last=True)

    def _block(
        self,
        size: int,
        tile: ir.Value,
        span: Span,
        packer: PatchPacker | None,
        block: ir.Value,
        *,
        first: bool,
        last: bool,
    ) -> None:
        e, kernel = self.emit, self.kernel
        planes = e.address("block_planes")
        start = e.load_i32(planes, e.mul(block, 4))
        if packer is None:
            place = e.add(e.field("source"), tile_start(e, "source", tile))
            source = e.at(e.base("source"), e.add(place, e.mul(start, e.field("source_plane"))))
        else:
            source = e.address("slab")
            count = e.build.sub(e.load_i32(planes, e.add(e.mul(block, 4), 4)), start)
            packer.pack(count, start, source, self._fill())
        function = rows_function(kernel, e.module, size, first=first, last=last)
        skipped = e.mul(block, e.field("rows") if kernel.rows == 1 else 1)
        ends = e.add(e.field("ends"), e.mul(skipped, 4))
        fours = e.at(e.base("fours"), e.add(e.field("fours"), e.mul(skipped, 2)))
        if not kernel.fixed:
            fours = e.address("scales")
        order = e.add(e.field("order"), e.mul(skipped, 1 if kernel.quads else 4))
        slots = e.at(e.address("slots"), skipped)
        target = e.add(e.field("target"), tile_start(e, "target", tile))
        residual = e.add(e.field("residual"), tile_start(e, "residual", tile))
        mask = e.add(e.field("mask"), e.mul(tile, 4 * kernel.lanes * kernel.tile))
        arguments = [
            e.at(e.base("ends"), ends),
            e.address("entries"),
            e.address("bias"),
            source,
            e.at(e.base("target"), target),
            e.at(e.base("residual"), residual if kernel.residual else number(0)),
            e.at(e.base("mask"), mask if kernel.masked else number(0)),
            e.base("partial"),
            e.address("weights"),
            fours,
            slots if kernel.quads else e.address("row_bounds"),
            e.at(e.base("order"), order),
            e.field("target_plane"),
            e.field("residual_plane"),
            e.real_field("low"),
            e.real_field("high"),
        ]
        if not kernel.quads:
            e.build.call(function, [*arguments, *span])
            return
        bounds = e.address("part_rows")
        with e.loop(*span) as part:  # where sets of words start and end
            row, end = (e.load_i32(bounds, e.add(e.mul(part, 4), 4 * k)) for k in (0, 1))
            e.build.call(function, [*arguments, row, end])
