"""The convolution kernel: one loop for every convolution, sparse or dense.

    acc[j] = fma(w, x[offset + j], acc[j])        j = 0 .. tile - 1

`x` is the input at the tile's first pixel and `offset` leads to another channel, row, column or
phase: the same loop serves 1x1, 3x3, strided and grouped convolutions (over a patch, `j` stands
for the place of the tile's output j). The tile's accumulators stay in vector registers while the
nonzero weights of one row (output channel) stream by. The dense form does the same for several rows
at once, so that one load serves them all.

Input channels go by in blocks, so that what the block reads stays in the L1 cache; partial sums
wait in scratch memory. What a window of several taps reads is first copied to scratch (`patches`).
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.codegen.builder import KERNEL, Emitter, number
from strzoo.engine.codegen.patches import IN_PLACE, PatchForm, PatchPacker
from strzoo.engine.codegen.rows import rows_function
from strzoo.engine.codegen.tiles import tile_start

FIELDS = (
    "kernel",
    "sync",
    "source",  # arena: tile 0 of the input's plane 0
    "source_plane",  # bytes from plane to plane
    "source_tile",  # and from tile to tile
    "target",
    "target_plane",
    "target_tile",
    "residual",
    "residual_plane",
    "residual_tile",
    "tiles",
    "piece_tiles",
    "pitch",
    "rows",
    "parts",
    "part_rows",  # constants, i32 [parts + 1]: rows of equal work
    "blocks",
    "order",  # constants, i32 [blocks * rows]: the rows as they are computed (sparse)
    "ends",  # constants, i32 [blocks * rows + 1]: where the entries of each start
    "entries",  # constants, i16 per nonzero: vectors from the block's start (sparse)
    "weights",  # constants, fp32 per nonzero (sparse)
    "bias",
    "mask",  # constants, all ones where a pixel is one
    "block_planes",  # constants, i32 [blocks + 1]
    "slab",  # scratch: where the patches of a block are
    "copy_ends",  # constants: how patches are filled
    "copies",
    "low",
    "high",
)


@dataclass(frozen=True)
class ConvolutionKernel:
    """What distinguishes one compiled convolution kernel from another.

    Args:
        lanes: floats in a vector.
        tile: vectors in a tile; `last`: in the last one.
        rows: rows computed at once: 1 is the sparse form, more the dense one.
        patch: what the window of a tile reads, copied before use.
        twice: two sets of sums, for every second weight, so that few sums do not wait for each
            other.
        blocked: several blocks of input channels.
        residual, masked: what happens to a finished row.
        bounds: "none", "relu" or "clamp".
    """

    lanes: int
    tile: int
    last: int
    rows: int = 1
    patch: PatchForm = IN_PLACE
    twice: bool = False
    blocked: bool = False
    residual: bool = False
    masked: bool = False
    bounds: str = "none"

    fields = FIELDS

    @property
    def name(self) -> str:
        shape = f"{self.lanes}x{self.tile}_{self.last}x{self.rows}_{self.patch.name}"
        flags = "t" * self.twice + "b" * self.blocked + "r" * self.residual + "m" * self.masked
        return f"convolution_{shape}_{flags}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        _Driver(self, Emitter(function, self.lanes, FIELDS)).write()
        return function


class _Driver:
    """Walks the tiles, parts and blocks that are this thread's."""

    def __init__(self, kernel: ConvolutionKernel, emitter: Emitter) -> None:
        self.kernel, self.emit = kernel, emitter

    def write(self) -> None:
        e, kernel = self.emit, self.kernel
        parts, tiles = e.field("parts"), e.field("tiles")
        units = e.mul(tiles, parts)
        first = e.share(units, e.thread, e.threads)
        last = e.share(units, e.add(e.thread, 1), e.threads)
        stop = e.build.udiv(e.add(last, e.build.sub(parts, number(1))), parts)
        part_rows = e.at(e.constants, e.field("part_rows"))
        final = e.build.sub(tiles, number(1))
        with e.loop(e.build.udiv(first, parts), stop) as tile:
            start = e.mul(tile, parts)
            # Of a tile that two threads share, each takes its parts of the rows.
            low = e.largest_integer(e.build.sub(first, start), number(0))
            high = e.smallest_integer(e.build.sub(last, start), parts)
            row, end = (e.load_i32(part_rows, e.mul(bound, 4)) for bound in (low, high))
            if kernel.last == kernel.tile:
                self._tile(kernel.tile, tile, row, end)
            else:
                e.either(
                    e.build.icmp_signed("<", tile, final),
                    lambda: self._tile(kernel.tile, tile, row, end),
                    lambda: self._tile(kernel.last, tile, row, end),
                )
        e.finish()

    def _tile(self, size: int, tile: ir.Value, row: ir.Value, end: ir.Value) -> None:
        e, kernel = self.emit, self.kernel
        with e.when(e.build.icmp_signed("<", row, end)):
            packer = None
            if kernel.patch.size:
                source = e.at(e.arena, e.field("source"))
                tables = (e.at(e.constants, e.field(name)) for name in ("copy_ends", "copies"))
                packer = PatchPacker(e, kernel.patch, source, e.field("source_plane"), *tables)
                packer.aim(tile)
            self._blocks(size, tile, row, end, packer)

    def _blocks(
        self, size: int, tile: ir.Value, row: ir.Value, end: ir.Value, packer: PatchPacker | None
    ) -> None:
        e = self.emit
        if not self.kernel.blocked:
            self._block(size, tile, row, end, packer, number(0), first=True, last=True)
            return
        self._block(size, tile, row, end, packer, number(0), first=True, last=False)
        final = e.build.sub(e.field("blocks"), number(1))
        with e.loop(1, final) as block:
            self._block(size, tile, row, end, packer, block, first=False, last=False)
        self._block(size, tile, row, end, packer, final, first=False, last=True)

    def _block(
        self,
        size: int,
        tile: ir.Value,
        row: ir.Value,
        end: ir.Value,
        packer: PatchPacker | None,
        block: ir.Value,
        *,
        first: bool,
        last: bool,
    ) -> None:
        e, kernel = self.emit, self.kernel
        planes = e.at(e.constants, e.field("block_planes"))
        start = e.load_i32(planes, e.mul(block, 4))
        if packer is None:
            place = e.add(e.field("source"), tile_start(e, "source", tile))
            source = e.at(e.arena, e.add(place, e.mul(start, e.field("source_plane"))))
        else:
            source = e.at(e.scratch, e.field("slab"))
            count = e.build.sub(e.load_i32(planes, e.add(e.mul(block, 4), 4)), start)
            packer.pack(count, start, source, e.constant(0.0))
        function = rows_function(kernel, e.module, size, first=first, last=last)
        skipped = e.mul(block, e.field("rows") if kernel.rows == 1 else 1)
        ends = e.add(e.field("ends"), e.mul(skipped, 4))
        order = e.add(e.field("order"), e.mul(skipped, 4))
        target = e.add(e.field("target"), tile_start(e, "target", tile))
        residual = e.add(e.field("residual"), tile_start(e, "residual", tile))
        mask = e.add(e.field("mask"), e.mul(tile, 4 * kernel.lanes * kernel.tile))
        e.build.call(
            function,
            [
                e.at(e.constants, ends),
                e.at(e.constants, e.field("entries")),
                e.at(e.constants, e.field("bias")),
                source,
                e.at(e.arena, target),
                e.at(e.arena, residual if kernel.residual else number(0)),
                e.at(e.constants, mask if kernel.masked else number(0)),
                e.scratch,
                e.at(e.constants, e.field("weights")),
                e.at(e.constants, order),
                e.field("target_plane"),
                e.field("residual_plane"),
                row,
                end,
                e.real_field("low"),
                e.real_field("high"),
            ],
        )
