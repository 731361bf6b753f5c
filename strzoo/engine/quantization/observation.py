"""Observation: what the values of a graph hold on images, read from a run of the fp32 engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Bounds, Convolution, Graph, MaxPool
from strzoo.engine.layout.allocation import plan_memory
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.layout.layouts import lay_out
from strzoo.engine.lowering.lower import lower
from strzoo.engine.runtime.run import Memory, Program
from strzoo.engine.runtime.threads import Team
from strzoo.engine.storage.machine_code import compile_kernels, compile_quickly

PIXELS = 24  # of each convolution that are looked at, over all images
# Pixels of images in all, up to which making fast code would take longer than slow code runs.
FEW = 64 * 224 * 224


@dataclass(frozen=True, eq=False)
class Sample:
    """Some pixels of a convolution's output.

    Args:
        seen: what the window sees of the input, fp32 [in channels, taps, pixels].
        residual: what is added, fp32 [out channels, pixels], if anything.
    """

    seen: np.ndarray
    residual: np.ndarray | None


@dataclass(eq=False)
class Observation:
    """What a graph computes of calibration images.

    Args:
        largest: by value (maps only), the largest magnitude in each channel, fp32 [channels].
        samples: by convolution.
        outputs: of the held-out images, fp32 [N, ...].
    """

    largest: dict[str, np.ndarray] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    outputs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def tells(self, layer: Convolution) -> bool:
        """Whether numbers in fewer bits can be fitted to what `layer` reads and makes: all of it,
        and its weights, are finite, and no map is zero everywhere."""
        maps = [self.largest.get(name) for name in (*layer.inputs, layer.output)]
        known = layer.name in self.samples and np.isfinite(self.samples[layer.name].seen).all()
        finite = bool(known and np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all())
        return finite and all(
            each is not None and bool(np.isfinite(each).all() and each.any()) for each in maps
        )


def observe(
    graph: Graph,
    hardware: Hardware,
    images: np.ndarray,
    held_out: np.ndarray,
    folder: Path | None = None,
) -> Observation:
    """Run `graph` on `images` for the ranges of values, and on both for its samples and outputs.

    Args:
        graph: simplified, in fp32.
        images, held_out: fp32 [N, C, H, W].
        folder: keeps machine code; None keeps none.
    """
    layers = [layer for layer in graph.layers if isinstance(layer, Convolution | MaxPool)]
    wanted = dict.fromkeys(name for layer in layers for name in (*layer.inputs, layer.output))
    memory_plan = plan_memory(graph, lay_out(graph, 1, hardware, 1, {}), keep=True)
    values = memory_plan.values
    readers = {name: _Reader(values[name]) for name in wanted if not values[name].packed}
    plan = lower(graph, memory_plan, hardware, {})
    few = (len(images) + len(held_out)) * images[0, 0].size <= FEW
    code = compile_quickly(plan.kernels) if few else compile_kernels(plan.kernels, hardware, folder)
    program, team = Program(plan, code), Team(1, code)
    memory = Memory(program.plan, 1)
    found = Observation()
    outputs = np.empty((len(images) + len(held_out), *plan.output_shape), np.float32)
    random = np.random.default_rng(0)
    count = -(-PIXELS // max(len(outputs), 1))
    parts: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {}
    for number, image in enumerate([*images, *held_out]):
        given = np.ascontiguousarray(image[None])
        task = program.task(memory, given, outputs[number : number + 1])
        team.run([np.array([task], np.int64)])
        held = {name: reader.read(memory.arena) for name, reader in readers.items()}
        if number < len(images):
            for name, value in held.items():
                largest = np.maximum(value.max((1, 2)), -value.min((1, 2)))
                found.largest[name] = np.maximum(found.largest.get(name, largest), largest)
        for layer in layers:
            if not isinstance(layer, Convolution) or not (layer.bounds or Bounds()).clamps:
                continue
            if set(layer.inputs) <= held.keys():
                parts.setdefault(layer.name, []).append(_look(layer, held, random, count))
    for name, each in parts.items():
        residuals = [residual for _, residual in each if residual is not None]
        residual = np.concatenate(residuals, 1) if residuals else None
        found.samples[name] = Sample(np.concatenate([seen for seen, _ in each], 2), residual)
    found.outputs = outputs[len(images) :]
    return found


class _Reader:
    """Reads a map from an arena of one piece."""

    def __init__(self, buffer: Buffer) -> None:
        assert buffer.layout.pieces == 1
        self._buffer = buffer

    def read(self, arena: np.ndarray) -> np.ndarray:
        """fp32 [channels, height, width]."""
        buffer, layout = self._buffer, self._buffer.layout
        (down, across), (high, wide) = layout.blocking.grid, layout.blocking.block
        tiles = as_strided(
            arena.view(np.float32)[buffer.address // 4 :],
            (buffer.channels, layout.tiles, layout.tile * layout.lanes),
            (buffer.plane, buffer.tile_bytes, 4),
        )
        vectors = tiles.reshape(buffer.channels, -1, layout.lanes)[:, : high * wide]
        blocks = vectors[:, :, : down * across].reshape(-1, high, wide, down, across)
        planes = blocks.transpose(0, 3, 1, 4, 2).reshape(-1, down * high, across * wide)
        return planes[:, : buffer.height, : buffer.width]


def _look(
    layer: Convolution, held: dict[str, np.ndarray], random: np.random.Generator, count: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """What the layer's window sees at `count` random pixels, and the residual there."""
    source, target, window = held[layer.inputs[0]], held[layer.output], layer.window
    y = random.integers(target.shape[1], size=count)
    x = random.integers(target.shape[2], size=count)
    down, across = np.divmod(np.arange(window.kernel[0] * window.kernel[1]), window.kernel[1])
    rows = y * window.strides[0] + down[:, None] * window.dilations[0] - window.pads[0]
    columns = x * window.strides[1] + across[:, None] * window.dilations[1] - window.pads[1]
    height, width = source.shape[1:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    seen = source[:, rows.clip(0, height - 1), columns.clip(0, width - 1)] * inside
    residual = held[layer.inputs[1]][:, y, x] if len(layer.inputs) > 1 else None
    return seen.astype(np.float32), residual
