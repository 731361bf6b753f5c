"""What the lowering of all layers shares: instructions, constants and scratch memory so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from strzoo.engine.codegen.operands import Kernel
from strzoo.engine.codegen.windows import PLANES, Walk
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import AveragePool, Bounds, Convolution, MaxPool
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.layout.masks import pixel_mask
from strzoo.engine.layout.memory_plan import MemoryPlan
from strzoo.engine.layout.patches import PatchCopies, find_patch, list_copies
from strzoo.engine.layout.tiling import Tiling
from strzoo.engine.lowering.instructions import ConstantPool, Instruction


@dataclass
class LoweringContext:
    """The parts of a plan while its layers are lowered.

    Args:
        memory: where the buffers lie.
        hardware: what the plan is made for.
        tilings: already chosen, by layer.
        threads: that work on a group together.
        constants: weights and tables so far.
        instructions: so far.
        chosen: how each layer runs, in words.
        scratch: bytes that a thread needs.
        done: names of layers that an instruction of another has done already.
        copied: ids of the buffers for windows that have been copied.
    """

    memory: MemoryPlan
    hardware: Hardware
    tilings: Mapping[str, Tiling]
    threads: int = 1
    constants: ConstantPool = field(default_factory=ConstantPool)
    instructions: list[Instruction] = field(default_factory=list)
    chosen: dict[str, str] = field(default_factory=dict)
    scratch: int = 0
    done: set[str] = field(default_factory=set)
    copied: set[int] = field(default_factory=set)

    @property
    def images(self) -> int:
        return self.memory.images

    @property
    def lanes(self) -> int:
        return self.hardware.lanes

    def mask(self, buffer: Buffer) -> int:
        """Offset of the buffer's pixel mask if places that are no pixels must stay zero; else 0."""
        if not buffer.must_be_clean:
            return 0
        layout = replace(buffer.layout, height=buffer.height, width=buffer.width, tile=1, phases=1)
        return self.constants.add(pixel_mask(layout), ("mask", layout), spare=4 * self.lanes)

    def reserve(self, *sizes: int) -> list[int]:
        """Scratch offsets for areas of `sizes` bytes."""
        offsets, end = [], 0
        for size in sizes:
            offsets.append(end)
            end += -(-size // 64) * 64 + 64
        self.scratch = max(self.scratch, end)
        return offsets

    def copy_fields(self, copies: PatchCopies | None) -> dict[str, int | float]:
        """The operands that say how patches are filled."""
        if copies is None:
            return {"copy_ends": 0, "copies": 0}
        return {
            "copy_ends": self.constants.add(copies.ends),
            "copies": self.constants.add(copies.copies),
        }

    def add(self, layer: str, kernel: Kernel, operands: Mapping[str, int | float]) -> None:
        """Add an instruction."""
        self.instructions.append(Instruction(layer, kernel, dict(operands)))


def planes_of(name: str, buffer: Buffer) -> dict[str, int]:
    """The operands that say where a buffer's planes are."""
    return {name: buffer.address, f"{name}_plane": buffer.plane, f"{name}_tile": buffer.tile_bytes}


def pieces_of(buffer: Buffer) -> dict[str, int]:
    """The operands that say how a buffer's tiles are divided among the pieces of the arena."""
    tiles = 1 if buffer.packed else buffer.layout.piece_tiles
    return {"piece_tiles": tiles, "pitch": buffer.root.pitch}


def window_fields(
    context: LoweringContext,
    layer: Convolution | MaxPool | AveragePool,
    source: Buffer,
    target: Buffer,
) -> tuple[Walk, dict[str, int | float]]:
    """The walk of a kernel that slides windows over single planes, and its operands."""
    taps, layout = context.memory.taps[layer.name], target.layout
    patch = find_patch(taps, layout.tile, layout.blocking)
    copies = list_copies(taps, patch, source, layout)
    size = 4 * context.lanes * patch.vectors
    offsets = np.asarray(taps.phase) * size + patch.byte_offsets(taps, context.lanes)
    (slab,) = context.reserve(PLANES * size * len(taps.phases))
    last = layout.vectors - (layout.tiles - 1) * layout.tile
    phases, masked = len(taps.phases), target.must_be_clean
    shape = (context.lanes, layout.tile, last, copies.form, phases, masked)
    walk = Walk(*shape, fixed=target.fixed, quads=target.quads)
    values = planes_of("source", source) | planes_of("target", target)
    del values["source_tile"]
    return walk, {
        **values,
        **pieces_of(target),
        **context.copy_fields(copies),
        "target_vectors": layout.vectors,
        "tile": layout.tile,
        "tiles": layout.tiles,
        "planes": target.channels,
        "offsets": context.constants.add(offsets.astype(np.int32)),
        "mask": context.mask(target),
        "slab": slab,
        "fill": source.root.fill,
    }


def bounds_of(bounds: Bounds | None) -> tuple[str, float, float]:
    """The kernel's name for the bounds, and the operands low and high."""
    if bounds is not None and not bounds.clamps:
        return bounds.function, float(bounds.low), float(bounds.high)
    if bounds is None or (bounds.low, bounds.high) == (float("-inf"), float("inf")):
        return "none", 0.0, 0.0
    if (bounds.low, bounds.high) == (0.0, float("inf")):
        return "relu", 0.0, 0.0
    return "clamp", float(bounds.low), float(bounds.high)
