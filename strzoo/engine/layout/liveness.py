"""From when until when each map holds something, and which may be written over another."""

from __future__ import annotations

from strzoo.engine.ir.graph import Add, Affine, Clamp, Convolution, Graph, Layer
from strzoo.engine.layout.buffers import Map
from strzoo.engine.layout.memory_plan import Placement


def set_lifetimes(graph: Graph, placement: Placement) -> None:
    """Steps from which and until which each map holds something; copies are made at first use."""
    for time, layer in enumerate(graph.layers, start=1):
        used = [placement.values[layer.output], *(placement.values[n] for n in layer.inputs)]
        if layer.name in placement.sources:
            used.append(placement.sources[layer.name])
        for map_ in used:
            root = map_.root
            root.born = time if root.born < 0 else root.born
            root.dies = max(root.dies, time)
    placement.values[graph.input].root.born = 0
    placement.values[graph.output].root.dies = len(graph.layers) + 1
    _reuse_residuals(graph, placement)


def _reuse_residuals(graph: Graph, placement: Placement) -> None:
    """A sum may take the place of an operand that nothing reads afterwards."""
    for layer in graph.layers:
        packed = placement.values[layer.output].packed  # a product first, then a sum of its own
        if isinstance(layer, Convolution) and len(layer.inputs) > 1 and not packed:
            candidates = [layer.inputs[1]]
        elif isinstance(layer, Add | Affine | Clamp):
            candidates = list(dict.fromkeys(layer.inputs))
        else:
            continue
        target = placement.values[layer.output]
        for name in candidates:
            value = placement.values[name]
            if name != graph.input and _fits(value, target, layer, placement):
                root = value.root
                target.inside, target.channel = root, 0
                root.dies = max(root.dies, target.dies)
                break


def _fits(value: Map, target: Map, layer: Layer, placement: Placement) -> bool:
    """Whether `target` can be written over `value` while `layer` runs."""
    root = value.root
    read_apart = placement.sources.get(layer.name)
    return (
        target.inside is None
        and not any(map_.inside is target for map_ in placement.maps)
        and root.channels == target.channels
        and root.frame == target.frame
        and root.dies == target.born  # this layer is the last to read it
        and (read_apart is None or read_apart.root is not root)
    )
