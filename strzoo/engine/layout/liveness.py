"""Liveness: from which to which layer each buffer is used, and which are written in place."""

from __future__ import annotations

from strzoo.engine.ir.graph import (
    Add,
    Affine,
    Clamp,
    Combine,
    Convolution,
    Graph,
    Layer,
    Normalize,
    PRelu,
)
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.layout.memory_plan import MemoryPlan


def set_liveness(graph: Graph, memory: MemoryPlan, *, keep: bool = False) -> None:
    """Set `born` and `dies` of every buffer, as positions of layers; copies start at first use.
    With `keep`, values live to the end and are not written over."""
    for time, layer in enumerate(graph.layers, start=1):
        used = [memory.values[layer.output], *(memory.values[n] for n in layer.inputs)]
        if layer.name in memory.sources:
            used.append(memory.sources[layer.name])
        for buffer in used:
            root = buffer.root
            root.born = time if root.born < 0 else root.born
            root.dies = max(root.dies, time)
    for name in graph.inputs:
        memory.values[name].root.born = 0
        memory.values[name].root.dies = max(memory.values[name].root.dies, 0)
    for name in graph.outputs:
        memory.values[name].root.dies = len(graph.layers) + 1
    if keep:
        for buffer in memory.values.values():
            buffer.root.dies = len(graph.layers) + 1
        return
    _reuse_residuals(graph, memory)


def _reuse_residuals(graph: Graph, memory: MemoryPlan) -> None:
    """Let a sum be written over an operand that nothing reads afterwards."""
    for layer in graph.layers:
        packed = memory.values[layer.output].packed  # a product first, then a sum of its own
        if isinstance(layer, Convolution) and len(layer.inputs) > 1 and not packed:
            candidates = [layer.inputs[1]]
        elif isinstance(layer, Add | Affine | Clamp | Normalize | PRelu):
            candidates = list(dict.fromkeys(layer.inputs))
        elif isinstance(layer, Combine):
            candidates = [layer.inputs[0]]
        else:
            continue
        target = memory.values[layer.output]
        for name in candidates:
            value = memory.values[name]
            if name not in graph.inputs and _fits(value, target, layer, memory):
                root = value.root
                target.inside, target.channel = root, 0
                root.dies = max(root.dies, target.dies)
                break


def _fits(value: Buffer, target: Buffer, layer: Layer, memory: MemoryPlan) -> bool:
    """Whether `target` can be written over `value` while `layer` runs."""
    root = value.root
    read_apart = memory.sources.get(layer.name)
    return (
        target.inside is None
        and not any(buffer.inside is target for buffer in memory.buffers)
        and root.channels == target.channels
        and root.layout == target.layout
        and root.dies == target.born  # this layer is the last to read it
        and (read_apart is None or read_apart.root is not root)
    )
