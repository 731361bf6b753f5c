"""Graph -> maps and steps: what each layer needs of its neighbours, then which kernel runs it.

Two walks over the layers. The first makes the maps and collects what is asked of them (padding,
phases, regions); then all get their places; the second writes the steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import (
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
from strzoo.engine.layout.buffers import (
    ALIGNMENT,
    Frame,
    Map,
    Regions,
    SharedFrames,
    allocate,
    choose_regions,
)
from strzoo.engine.layout.liveness import set_lifetimes
from strzoo.engine.layout.memory_plan import Placement
from strzoo.engine.layout.taps import Taps, direct_taps, window_taps
from strzoo.engine.layout.tiling import choose_tile, is_depthwise, pose_problem

WindowLayer = Convolution | MaxPool | AveragePool
SLACK = 1024  # floats at either end of the arena, for vectors that reach over
MOST_PIECES = 8  # of the arena: a map of few tiles leaves room in all but a few


def place_values(
    graph: Graph, images: int, hardware: Hardware, threads: int, tiles: Mapping[str, int]
) -> Placement:
    """Give every value of `graph` room in an arena for groups of `images` images.

    `tiles` holds tile sizes already chosen, by the name of any layer that writes such tiles."""
    placement = Placement(images, hardware.lanes)
    pieces = min(threads, MOST_PIECES)
    _make_maps(graph, placement)
    _join_concatenations(graph, placement)
    shared = SharedFrames()
    for layer in graph.layers:
        _require(layer, placement, shared)
    classes = shared.classes(placement.maps)
    for number, members in enumerate(classes):
        placement.groups.update({id(map_): number for map_ in members})
    regions = _choose_regions(graph, placement, classes, hardware.lanes // images)
    for number, members in enumerate(classes):
        tile = _choose_tile(graph, placement, number, regions[number], hardware, threads, tiles)
        for map_ in members:
            size = (map_.height, map_.width, regions[number], images, hardware.lanes)
            map_.frame = Frame(*size, tile, map_.phases, pieces)
    for map_ in placement.maps:
        if map_.inside is None and map_.packed:
            single = Regions((1, 1), (1, 1))
            map_.frame = Frame(1, 1, single, images, hardware.lanes, 0)
    set_lifetimes(graph, placement)
    # Passes leave names that nothing uses.
    own = [m for m in placement.maps if m.inside is None and m.born >= 0]
    pitch = -(-(allocate(own, SLACK) - SLACK) // ALIGNMENT) * ALIGNMENT
    for map_ in own:
        map_.pitch = 4 * pitch
    placement.size = SLACK + pieces * pitch + SLACK
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


def _require(layer: Layer, placement: Placement, shared: SharedFrames) -> None:
    """What `layer` asks of the maps around it."""
    target = placement.values[layer.output]
    inputs = [placement.values[name] for name in layer.inputs]
    if isinstance(layer, Convolution | MaxPool | AveragePool):
        if target.packed:
            size = (target.height, target.width)
            placement.taps[layer.name] = window_taps(layer.window, size, size)
            return
        shared.join(_windowed_source(layer, layer.window, placement, target), target)
        if isinstance(layer, Convolution):
            shared.join(target, *inputs[1:])
    elif isinstance(layer, Add | Affine | Clamp) and not target.packed:
        shared.join(target, *inputs)


def _windowed_source(layer: WindowLayer, window: Window, placement: Placement, target: Map) -> Map:
    """The map that the layer's window moves over by one: its input, or a copy split by phase."""
    value = placement.values[layer.inputs[0]]
    taps = window_taps(window, (value.height, value.width), (target.height, target.width))
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
    source.root.clean |= taps.outside
    placement.sources[layer.name] = source
    placement.taps[layer.name] = taps
    return source


def _choose_regions(
    graph: Graph, placement: Placement, classes: list[list[Map]], count: int
) -> list[Regions]:
    """The regions of each class of maps; where a strided window's match those of its output, the
    window needs no copy, and reads the map itself from here on."""
    chosen: list[Regions | None] = [None] * len(classes)
    strided = [layer for layer in _windows(graph, placement) if _may_stride(layer, placement)]
    values = {layer.name: placement.values[layer.inputs[0]].root for layer in strided}
    order = {map_.name: position for position, map_ in enumerate(placement.values.values())}
    first = [min(order.get(map_.name, len(order)) for map_ in members) for members in classes]
    for number in sorted(range(len(classes)), key=lambda number: first[number]):
        wanted = []
        for layer in strided:
            before = chosen[placement.groups[id(values[layer.name])]]
            if placement.groups[id(placement.sources[layer.name])] == number and before:
                wanted.append(before.shrunk(layer.window.strides))
        members = classes[number]
        chosen[number] = choose_regions(
            max(map_.height for map_ in members),
            max(map_.width for map_ in members),
            count,
            strided=any(placement.groups[id(value)] == number for value in values.values()),
            wanted=[regions for regions in wanted if regions],
        )
    regions = [found for found in chosen if found]
    for layer in strided:
        source, value = placement.sources[layer.name], values[layer.name]
        before, after = (regions[placement.groups[id(map_)]] for map_ in (value, source))
        if before.shrunk(layer.window.strides) == after:
            _read_directly(layer, placement)
    return regions


def _windows(graph: Graph, placement: Placement) -> list[WindowLayer]:
    return [
        layer
        for layer in graph.layers
        if isinstance(layer, Convolution | MaxPool | AveragePool)
        and layer.name in placement.sources
    ]


def _may_stride(layer: WindowLayer, placement: Placement) -> bool:
    """Whether the layer could do without the copy of its input."""
    source = placement.sources[layer.name]
    value = placement.values[layer.inputs[0]]
    return layer.window.strides != (1, 1) and not (value.packed or source.fill)


def _read_directly(layer: WindowLayer, placement: Placement) -> None:
    value, target = placement.values[layer.inputs[0]], placement.values[layer.output]
    sizes = (value.height, value.width), (target.height, target.width)
    taps = placement.taps[layer.name] = direct_taps(layer.window, *sizes)
    value.root.clean |= taps.outside
    copy, placement.sources[layer.name] = placement.sources[layer.name], value
    if not any(source is copy for source in placement.sources.values()):
        placement.copies = {key: m for key, m in placement.copies.items() if m is not copy}


def _choose_tile(
    graph: Graph,
    placement: Placement,
    number: int,
    regions: Regions,
    hardware: Hardware,
    threads: int,
    tiles: Mapping[str, int],
) -> int:
    """The tile of a class of maps, unless `tiles` has one of a layer that writes them."""
    writers = [
        layer
        for layer in _windows(graph, placement)
        if placement.groups[id(placement.values[layer.output].root)] == number
    ]
    chosen = [tiles[layer.name] for layer in writers if layer.name in tiles]
    if any(needs_patch(layer, placement.taps[layer.name]) for layer in writers):
        placement.whole_rows.add(number)
    if chosen:
        return chosen[-1]
    whole_rows = number in placement.whole_rows
    problems = [
        pose_problem(layer, placement.taps[layer.name], regions, threads, whole_rows=whole_rows)
        for layer in writers
        if isinstance(layer, Convolution) and not is_depthwise(layer)
    ]
    return choose_tile(problems, regions, hardware, threads, whole_rows=whole_rows)


def needs_patch(layer: WindowLayer, taps: Taps) -> bool:
    """Whether the layer's kernel copies what its windows read."""
    return taps.window or not isinstance(layer, Convolution) or is_depthwise(layer)
