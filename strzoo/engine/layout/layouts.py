"""Layout: the buffers of a graph, their blocking and their tiles.

A first walk over the layers makes the buffers and collects what their readers need of them
(padding, phases, one blocking in common); then every class of buffers gets its layout.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.fixed import fixed_values
from strzoo.engine.ir.functions import POSITIVE
from strzoo.engine.ir.graph import (
    Add,
    Affine,
    AveragePool,
    Clamp,
    Combine,
    Concat,
    Convolution,
    GlobalAveragePool,
    Graph,
    Layer,
    MaxPool,
    Normalize,
    PRelu,
    Resample,
    Window,
)
from strzoo.engine.ir.quads import count_quads, quad_zeros, zero_word
from strzoo.engine.layout.buffers import (
    Blocking,
    Buffer,
    Layout,
    SharedLayouts,
    choose_blocking,
)
from strzoo.engine.layout.memory_plan import MemoryPlan
from strzoo.engine.layout.taps import Taps, direct_taps, window_taps
from strzoo.engine.layout.tiling import (
    Tiling,
    choose_tile,
    is_depthwise,
    pose_problem,
    widen,
)

WindowLayer = Convolution | MaxPool | AveragePool
MOST_PIECES = 8  # of the arena: a buffer of few tiles leaves most pieces empty


def lay_out(
    graph: Graph,
    images: int,
    hardware: Hardware,
    threads: int,
    tilings: Mapping[str, Tiling],
) -> MemoryPlan:
    """The buffers of `graph` for groups of `images` images, with their layouts but no places.

    Args:
        graph: simplified.
        images: that go together, a power of two up to the hardware's lanes.
        hardware: what the plan is made for.
        threads: that work on a group together.
        tilings: already chosen, by layer; the others go by the cost model.
    """
    memory = MemoryPlan(images, hardware.lanes, pieces=min(threads, MOST_PIECES))
    _make_buffers(graph, memory)
    _join_concatenations(graph, memory)
    shared = SharedLayouts()
    for layer in graph.layers:
        _require(layer, memory, shared)
    classes = shared.classes(memory.buffers)
    for number, members in enumerate(classes):
        memory.groups.update({id(buffer): number for buffer in members})
    fixed = [any(buffer.fixed for buffer in members) for members in classes]
    counts = [(2 if each else 1) * hardware.lanes // images for each in fixed]
    blockings = _choose_blockings(graph, memory, classes, counts, hardware)
    for number, members in enumerate(classes):
        tile = _choose_tile(graph, memory, number, blockings[number], hardware, threads, tilings)
        for buffer in members:
            lanes, item = (2 * hardware.lanes, 2) if fixed[number] else (hardware.lanes, 4)
            size = (buffer.height, buffer.width, blockings[number], images, lanes)
            buffer.own_layout = Layout(*size, tile, buffer.phases, memory.pieces, item)
    for buffer in memory.buffers:
        if buffer.inside is None and buffer.packed:
            single = Blocking((1, 1), (1, 1))
            buffer.own_layout = Layout(1, 1, single, images, hardware.lanes, 0)
    return memory


def _make_buffers(graph: Graph, memory: MemoryPlan) -> None:
    makers = {layer.output: layer for layer in graph.layers}
    for name, layer in makers.items():
        bounds = getattr(layer, "bounds", None)
        if bounds is not None and (
            bounds.low >= 0 if bounds.clamps else bounds.function in POSITIVE
        ):
            memory.positive.add(name)
    fixed, quads = fixed_values(graph), quad_zeros(graph)
    for name, shape in graph.shapes.items():
        if len(shape) == 1:
            memory.values[name] = Buffer(name, shape[0], 1, 1, packed=True)
            continue
        maker = makers.get(name)
        packed = isinstance(maker, GlobalAveragePool) or (
            (name in graph.inputs and shape[1:] == (1, 1))
            or (
                maker is not None
                and shape[1:] == (1, 1)
                and not isinstance(maker, MaxPool | AveragePool | Resample)
                and memory.values[maker.inputs[0]].packed
            )
        )
        channels, height, width = shape
        if name in quads:
            channels = count_quads(channels)
        memory.values[name] = Buffer(
            name,
            channels,
            height,
            width,
            packed=packed,
            fixed=name in fixed,
            quads=name in quads,
            zero=quads.get(name, 0),
        )


def _join_concatenations(graph: Graph, memory: MemoryPlan) -> None:
    """Let the inputs of a Concat be written in place, where their makers can do so."""
    makers = {layer.output: layer for layer in graph.layers}
    for layer in reversed(graph.layers):
        if not isinstance(layer, Concat):
            continue
        whole = memory.values[layer.output]
        channel = 0
        for name in layer.inputs:
            part = memory.values[name]
            free = part.inside is None and name in makers and part.packed == whole.packed
            if free and layer.inputs.count(name) == 1:
                part.inside, part.channel = whole, channel
            channel += part.channels


def _require(layer: Layer, memory: MemoryPlan, shared: SharedLayouts) -> None:
    """Collect what `layer` needs of its buffers: taps, copies, and which have tiles in common."""
    target = memory.values[layer.output]
    inputs = [memory.values[name] for name in layer.inputs]
    if isinstance(layer, Convolution | MaxPool | AveragePool):
        if target.packed:
            size = (target.height, target.width)
            memory.taps[layer.name] = window_taps(layer.window, size, size)
            return
        shared.join(_windowed_buffer(layer, layer.window, memory, target), target)
        if isinstance(layer, Convolution):
            shared.join(target, *inputs[1:])
    elif isinstance(layer, Combine) and inputs[1].height * inputs[1].width == 1:
        shared.join(*([target] if target.packed else [target, inputs[0]]))
    elif (
        isinstance(layer, Add | Affine | Clamp | Combine | Normalize | PRelu) and not target.packed
    ):
        shared.join(target, *inputs)


def _windowed_buffer(
    layer: WindowLayer, window: Window, memory: MemoryPlan, target: Buffer
) -> Buffer:
    """The buffer over which the layer's window moves by one pixel: its input, or a copy of it that
    is split by phase."""
    value = memory.values[layer.inputs[0]]
    taps = window_taps(window, (value.height, value.width), (target.height, target.width))
    fill = float("-inf") if isinstance(layer, MaxPool) and taps.outside else 0.0
    if layer.inputs[0] in memory.positive:
        fill = 0.0  # a zero never exceeds the largest value of the window
    elif fill and value.fixed:
        fill = float(np.iinfo(np.int16).min)
    elif value.quads:
        fill = 0.0  # the least number of 8 bits
    source = value
    if taps.strides != (1, 1) or fill or value.packed:
        key = (taps.strides, taps.phases, fill)
        source = memory.copies.setdefault(
            (value.name, key),
            Buffer(
                f"{value.name} in phases",
                value.channels,
                taps.rows,
                taps.columns,
                fill=zero_word(value.zero) if value.quads else fill,
                phases=len(taps.phases),
                fixed=value.fixed,
                quads=value.quads,
                zero=value.zero,
            ),
        )
    source.root.clean |= taps.outside
    memory.sources[layer.name] = source
    memory.taps[layer.name] = taps
    return source


def _choose_blockings(
    graph: Graph,
    memory: MemoryPlan,
    classes: list[list[Buffer]],
    counts: list[int],
    hardware: Hardware,
) -> list[Blocking]:
    """The blocking of each class of buffers, with `counts` blocks. A strided window whose input's
    blocking matches that of its output needs no copy; it reads the input itself from here on."""
    chosen: list[Blocking | None] = [None] * len(classes)
    strided = [layer for layer in _windows(graph, memory) if _may_stride(layer, memory)]
    values = {layer.name: memory.values[layer.inputs[0]].root for layer in strided}
    order = {buffer.name: position for position, buffer in enumerate(memory.values.values())}
    first = [min(order.get(buffer.name, len(order)) for buffer in members) for members in classes]
    for number in sorted(range(len(classes)), key=lambda number: first[number]):
        wanted = []
        for layer in strided:
            before = chosen[memory.groups[id(values[layer.name])]]
            if memory.groups[id(memory.sources[layer.name])] == number and before:
                wanted.append(before.shrunk(layer.window.strides))
        members = classes[number]
        found = choose_blocking(
            max(buffer.height for buffer in members),
            max(buffer.width for buffer in members),
            counts[number],
            strided=any(memory.groups[id(value)] == number for value in values.values()),
            wanted=[blocking for blocking in wanted if blocking],
        )
        writers = _writers(graph, memory, number)
        if any(needs_patch(layer, memory.taps[layer.name]) for layer in writers):
            convolutions = [layer for layer in writers if isinstance(layer, Convolution)]
            found = widen(found, convolutions, hardware)
        chosen[number] = found
    blockings = [found for found in chosen if found]
    for layer in strided:
        source, value = memory.sources[layer.name], values[layer.name]
        before, after = (blockings[memory.groups[id(buffer)]] for buffer in (value, source))
        if before.shrunk(layer.window.strides) == after:
            _read_directly(layer, memory)
    return blockings


def _windows(graph: Graph, memory: MemoryPlan) -> list[WindowLayer]:
    return [
        layer
        for layer in graph.layers
        if isinstance(layer, Convolution | MaxPool | AveragePool) and layer.name in memory.sources
    ]


def _may_stride(layer: WindowLayer, memory: MemoryPlan) -> bool:
    """Whether the layer may be able to read its input without a copy."""
    source = memory.sources[layer.name]
    value = memory.values[layer.inputs[0]]
    return layer.window.strides != (1, 1) and not (
        value.packed or (source.fill and not source.quads)
    )


def _read_directly(layer: WindowLayer, memory: MemoryPlan) -> None:
    value, target = memory.values[layer.inputs[0]], memory.values[layer.output]
    sizes = (value.height, value.width), (target.height, target.width)
    taps = memory.taps[layer.name] = direct_taps(layer.window, *sizes)
    value.root.clean |= taps.outside
    copy, memory.sources[layer.name] = memory.sources[layer.name], value
    if not any(source is copy for source in memory.sources.values()):
        memory.copies = {key: m for key, m in memory.copies.items() if m is not copy}


def _choose_tile(
    graph: Graph,
    memory: MemoryPlan,
    number: int,
    blocking: Blocking,
    hardware: Hardware,
    threads: int,
    tilings: Mapping[str, Tiling],
) -> int:
    """The tile of a class of buffers; `tilings` decides if it has a layer that writes them."""
    writers = _writers(graph, memory, number)
    chosen = [tilings[layer.name].tile for layer in writers if layer.name in tilings]
    if any(needs_patch(layer, memory.taps[layer.name]) for layer in writers):
        memory.whole_rows.add(number)
    if chosen:
        return chosen[-1]
    whole_rows = number in memory.whole_rows
    problems = [
        pose_problem(layer, memory.taps[layer.name], blocking, threads, whole_rows=whole_rows)
        for layer in writers
        if isinstance(layer, Convolution) and not is_depthwise(layer)
    ]
    return choose_tile(problems, blocking, hardware, threads, whole_rows=whole_rows)


def _writers(graph: Graph, memory: MemoryPlan, number: int) -> list[WindowLayer]:
    """The windows that write buffers of a class."""
    return [
        layer
        for layer in _windows(graph, memory)
        if memory.groups[id(memory.values[layer.output].root)] == number
    ]


def needs_patch(layer: WindowLayer, taps: Taps) -> bool:
    """Whether the layer's kernel copies what its windows read."""
    return taps.window or not isinstance(layer, Convolution) or is_depthwise(layer)
