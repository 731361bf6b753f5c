"""Memory planning: how long each buffer lives, then where in the arena it lies."""

from __future__ import annotations

from strzoo.engine.ir.graph import Graph
from strzoo.engine.layout.buffers import ALIGNMENT, Buffer
from strzoo.engine.layout.liveness import set_liveness
from strzoo.engine.layout.memory_plan import MemoryPlan

SLACK = 1024  # floats at either end of the arena


def plan_memory(graph: Graph, memory: MemoryPlan, *, keep: bool = False) -> MemoryPlan:
    """`memory`, as `lay_out` made it, with a place in the arena for every buffer.

    With `keep`, all values are still there after a run. Buffers that are never used, which passes
    can leave behind, get no place.
    """
    set_liveness(graph, memory, keep=keep)
    own = [buffer for buffer in memory.buffers if buffer.inside is None and buffer.born >= 0]
    pitch = -(-(allocate(own, SLACK) - SLACK) // ALIGNMENT) * ALIGNMENT
    for buffer in own:
        buffer.pitch = 4 * pitch
    memory.size = SLACK + memory.pieces * pitch + SLACK
    return memory


def allocate(buffers: list[Buffer], start: int) -> int:
    """Set `place` of every buffer, in the first piece, from `start` floats on.

    Buffers that do not live at the same time share memory, because what was just read is still in
    the cache when the next buffer is written there. The largest are placed first.

    Returns:
        Where the next float would go.
    """
    placed: list[Buffer] = []
    end = start
    for buffer in sorted(buffers, key=lambda b: (-b.span, b.born)):
        others = sorted(
            (b for b in placed if b.born <= buffer.dies and buffer.born <= b.dies),
            key=lambda b: b.place,
        )
        place = start
        for other in others:
            if place + buffer.span <= other.place:
                break
            place = max(place, -(-(other.place + other.span) // ALIGNMENT) * ALIGNMENT)
        buffer.place = place
        placed.append(buffer)
        end = max(end, place + buffer.span)
    return end
