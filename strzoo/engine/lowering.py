"""Graph -> maps and steps: what each layer needs of its neighbours, then which kernel runs it.

Two walks over the layers. The first makes the maps and collects what is asked of them (padding,
phases, pitch); then all get their places; the second writes the steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from strzoo.engine.graph import (
    Add,
    Affine,
    AveragePool,
    Clamp,
    Concat,
    Convolution,
    GlobalAveragePool,
    Graph,
    Layer,
    MaxPool,
    Window,
)
from strzoo.engine.hardware import Hardware
from strzoo.engine.layout import Frame, Map, Pitches, allocate, choose_pitch, flat_vectors
from strzoo.engine.taps import Taps, direct_taps, window_taps
from strzoo.engine.tiling import choose_tile, pose_problem
from strzoo.engine.weights import is_depthwise

SLACK = 1024  # floats at either end of the arena, for vectors that reach over


@dataclass
class Placement:
    """The maps of a graph: by value, and the copies that strided or padded windows read.

    `copies` maps (value, kind of copy) to the copy; `sources` a windowed layer to the map it
    reads; `direct` those that are strided over as they are. `groups` numbers the sets of
    maps (by identity) that have their tiles in common. `size` is that of the arena, in floats.
    """

    images: int
    lanes: int
    values: dict[str, Map] = field(default_factory=dict)
    copies: dict[tuple[str, tuple[object, ...]], Map] = field(default_factory=dict)
    sources: dict[str, Map] = field(default_factory=dict)
    taps: dict[str, Taps] = field(default_factory=dict)
    positive: set[str] = field(default_factory=set)
    direct: dict[str, Map] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    size: int = 0

    @property
    def maps(self) -> list[Map]:
        return [*self.values.values(), *self.copies.values()]


def place_values(
    graph: Graph, images: int, hardware: Hardware, threads: int, tiles: Mapping[str, int]
) -> Placement:
    """Give every value of `graph` room in an arena for groups of `images` images.

    `tiles` holds tile sizes already chosen, by the name of any layer that writes such tiles."""
    placement = Placement(images, hardware.lanes)
    _make_maps(graph, placement)
    _join_concatenations(graph, placement)
    pitches = Pitches()
    for layer in graph.layers:
        _require(layer, placement, pitches)
    for number, members in enumerate(pitches.classes(placement.maps)):
        placement.groups.update({id(map_): number for map_ in members})
        pitch = choose_pitch(members, images, hardware.lanes)
        problems, chosen = [], 0
        for layer in graph.layers:
            target = placement.values[layer.output]
            if layer.name in placement.sources and any(target.root is m for m in members):
                chosen = tiles.get(layer.name, chosen)
                if isinstance(layer, Convolution) and not is_depthwise(layer):
                    taps = placement.taps[layer.name]
                    problems.append(
                        pose_problem(layer, taps, target, pitch, images, hardware, threads)
                    )
        if not chosen:
            most = max(
                flat_vectors(m.height, m.width, pitch, images, hardware.lanes) for m in members
            )
            chosen = choose_tile(problems, most, hardware, threads)
        for map_ in members:
            size = (map_.height, map_.width, pitch, images, hardware.lanes)
            map_.frame = Frame(*size, chosen, map_.phases)
    for map_ in placement.maps:
        if map_.inside is None and map_.packed:
            map_.frame = Frame(1, 1, 1, images, hardware.lanes, 0)
    _set_lifetimes(graph, placement)
    # Passes leave names that nothing uses.
    own = [m for m in placement.maps if m.inside is None and m.born >= 0]
    placement.size = allocate(own, SLACK) + SLACK
    return placement


def _make_maps(graph: Graph, placement: Placement) -> None:
    makers = {layer.output: layer for layer in graph.layers}
    for name, layer in makers.items():
        bounds = getattr(layer, "bounds", None)
        if bounds is not None and bounds.low >= 0:
            placement.positive.add(name)
    for name, shape in graph.shapes.items():
        if len(shape) == 1:
            placement.values[name] = Map(name, shape[0], 1, 1, packed=True)
            continue
        maker = makers.get(name)
        packed = isinstance(maker, GlobalAveragePool) or (
            maker is not None
            and shape[1:] == (1, 1)
            and not isinstance(maker, MaxPool | AveragePool)
            and placement.values[maker.inputs[0]].packed
        )
        channels, height, width = shape
        placement.values[name] = Map(name, channels, height, width, packed=packed)


def _join_concatenations(graph: Graph, placement: Placement) -> None:
    """What is concatenated is made in place, where its maker can write there."""
    makers = {layer.output: layer for layer in graph.layers}
    for layer in reversed(graph.layers):
        if not isinstance(layer, Concat):
            continue
        whole = placement.values[layer.output]
        channel = 0
        for name in layer.inputs:
            part = placement.values[name]
            free = part.inside is None and name in makers and part.packed == whole.packed
            if free and layer.inputs.count(name) == 1:
                part.inside, part.channel = whole, channel
            channel += part.channels


def _require(layer: Layer, placement: Placement, pitches: Pitches) -> None:
    """What `layer` asks of the maps around it."""
    target = placement.values[layer.output]
    inputs = [placement.values[name] for name in layer.inputs]
    if isinstance(layer, Convolution | MaxPool | AveragePool):
        if target.packed:
            size = (target.height, target.width)
            placement.taps[layer.name] = window_taps(layer.window, size, size)
            return
        source = _windowed_source(layer, layer.window, placement, target)
        if layer.name not in placement.direct:
            pitches.join(source, target)
        if isinstance(layer, Convolution):
            pitches.join(target, *inputs[1:])
    elif isinstance(layer, Add | Affine | Clamp) and not target.packed:
        pitches.join(target, *inputs)


def _windowed_source(
    layer: Convolution | MaxPool | AveragePool, window: Window, placement: Placement, target: Map
) -> Map:
    """The map that the layer's window moves over by one: its input, or a copy split by phase."""
    value = placement.values[layer.inputs[0]]
    sizes = (value.height, value.width), (target.height, target.width)
    if _strides_directly(layer, placement):
        taps = placement.taps[layer.name] = direct_taps(window, *sizes)
        placement.sources[layer.name] = placement.direct[layer.name] = value
        if taps.outside:
            value.need(*taps.reach)
        return value
    taps = window_taps(window, *sizes)
    fill = float("-inf") if isinstance(layer, MaxPool) and taps.outside else 0.0
    if layer.inputs[0] in placement.positive:
        fill = 0.0  # zeros win over no pixel
    source = value
    if taps.strides != (1, 1) or fill or value.packed:
        key = (taps.strides, taps.phases, fill)
        source = placement.copies.setdefault(
            (value.name, key),
            Map(
                f"{value.name} in phases",
                value.channels,
                taps.rows,
                taps.columns,
                fill=fill,
                phases=len(taps.phases),
            ),
        )
    if taps.outside:
        source.need(*taps.reach)
    placement.sources[layer.name] = source
    placement.taps[layer.name] = taps
    return source


def _strides_directly(layer: Convolution | MaxPool | AveragePool, placement: Placement) -> bool:
    """Whether the layer's kernel takes every second pixel itself. The zeros around a map must not
    win over negative pixels."""
    packed = placement.values[layer.inputs[0]].packed
    if layer.window.strides[1] != 2 or packed:
        return False
    if isinstance(layer, MaxPool):
        return layer.inputs[0] in placement.positive
    return isinstance(layer, AveragePool) or is_depthwise(layer)


def _set_lifetimes(graph: Graph, placement: Placement) -> None:
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
    readers = Counter(name for layer in graph.layers for name in layer.inputs)
    for layer in graph.layers:
        if isinstance(layer, Convolution) and len(layer.inputs) > 1:
            candidates = [layer.inputs[1]]
        elif isinstance(layer, Add | Affine | Clamp):
            candidates = list(dict.fromkeys(layer.inputs))
        else:
            continue
        target = placement.values[layer.output]
        for name in candidates:
            value = placement.values[name]
            last = readers[name] == layer.inputs.count(name) and name != graph.output
            if last and name != graph.input and _fits(value, target, layer, placement):
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
        and root.dies == target.born
        and (read_apart is None or read_apart.root is not root)
    )
