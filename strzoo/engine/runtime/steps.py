"""Steps: a network that is divided into sections and islands, run on arrays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from strzoo.engine.ir.apart import keeps_apart
from strzoo.engine.ir.parts import Division, Feed, Section
from strzoo.engine.runtime.islands import Islands, watched
from strzoo.engine.runtime.run import Program, Runner
from strzoo.errors import StrzooError, UsageError

MOST_AT_ONCE = 64  # images that pass through all steps together, so that memory is bounded
Arrays = Mapping[str, np.ndarray]
# Runs the program of a section, by its number, on [N, ...] fp32 and writes [N, ...] fp32.
RunSection = Callable[[int, np.ndarray, np.ndarray], object]
RUNS = 5  # that are measured, after one that is not
PATIENCE = 10.0  # seconds that a run may take when it is measured: a loop may have no end


class MisjudgedShapeError(StrzooError):
    """An array between two parts has another shape or type than ONNX's rules say."""


class Steps:
    """The steps of a divided network.

    Args:
        division: of the network.
        threads: that one call uses.
        measured: whether something else runs in turn with them.
    """

    def __init__(self, division: Division, threads: int, *, measured: bool = False) -> None:
        self.division = division
        # The engine's threads need their cores at once; one island is followed by nothing.
        spin = "never" if division.sections else "within" if measured else "after"
        self._islands = Islands(division.islands, threads, spin)
        apart = all(port.shape[:1] == (None,) for port in division.inputs)
        apart = apart and all(feed.shape for feed in division.results)
        self._apart = apart and all(keeps_apart(island.operators) for island in division.islands)

    def run(
        self, given: Arrays, programs: Sequence[Program], run_section: RunSection
    ) -> list[np.ndarray]:
        """The network's outputs, in their order.

        Args:
            given: the network's inputs by name, [N, ...] where they hold images.
            programs: of the sections, for the shapes of their arrays.
            run_section: runs one of them.

        Raises:
            UsageError: the network takes another number of images at a time, or its inputs hold
                different numbers of them.
            StrzooError: onnxruntime is not installed, or refuses the inputs.
        """
        count = self.count_images(given)
        if count is None and self.division.sections:
            held = ", ".join(f"{name!r} {list(array.shape)}" for name, array in given.items())
            raise UsageError(f"the inputs must hold equally many images; they are {held}")
        size = self._group(count)
        if count is None or size is None or count <= size:
            return self._run(given, count, programs, run_section, None)
        groups = [
            self._run(
                {name: array[start : start + size] for name, array in given.items()},
                min(size, count - start),
                programs,
                run_section,
                None,
            )
            for start in range(0, count, size)
        ]
        return [np.concatenate(parts) for parts in zip(*groups, strict=True)]

    def time_once(
        self, given: Arrays, programs: Sequence[Program], run_section: RunSection
    ) -> tuple[list[float], list[np.ndarray]]:
        """The seconds that each step takes, and the outputs."""
        seconds: list[float] = []
        count = self.count_images(given)
        with watched(PATIENCE) as options:
            results = self._run(given, count, programs, run_section, seconds, options)
        return seconds, results

    def count_images(self, given: Arrays) -> int | None:
        """How many images the inputs hold; None if they do not all begin with the same number."""
        counts = {array.shape[0] if array.ndim else -1 for array in given.values()}
        return counts.pop() if len(counts) == 1 and min(counts) >= 0 else None

    def _group(self, count: int | None) -> int | None:
        """How many images go through the steps together; None if all must."""
        division = self.division
        if division.batch is not None:
            if count is not None and count % division.batch:
                raise UsageError(
                    f"{count} images; the network takes {division.batch} at a time, or a multiple"
                )
            return division.batch
        return MOST_AT_ONCE if self._apart else None

    def _run(
        self,
        given: Arrays,
        count: int | None,
        programs: Sequence[Program],
        run_section: RunSection,
        seconds: list[float] | None,
        options: Any = None,
    ) -> list[np.ndarray]:
        arrays = dict(given)
        sections = islands = 0
        for step in self.division.steps:
            started = time.perf_counter()
            if isinstance(step, Section):
                plan = programs[sections].plan
                images = _join(step.inputs, arrays)
                # The engine trusts the shape, and an island may make another than it declares.
                if (
                    count is None
                    or images.shape != (count, *plan.input_shape)
                    or images.dtype != np.float32
                ):
                    raise MisjudgedShapeError(
                        f"a part of the network takes float32 {[count, *plan.input_shape]} and "
                        f"gets {images.dtype} {list(images.shape)}"
                    )
                result = np.empty((count, *plan.output_shape), np.float32)
                run_section(sections, images, result)
                arrays.update(_split(step.outputs, result))
                sections += 1
            else:
                arrays.update(self._islands.run(islands, arrays, count, options))
                islands += 1
            if seconds is not None:
                seconds.append(time.perf_counter() - started)
        return [
            arrays[feed.value]
            if feed.shape is None
            else arrays[feed.value].reshape(-1, *feed.shape)
            for feed in self.division.results
        ]


def measure_divisions(
    divisions: Sequence[tuple[Division, Sequence[Program]]], threads: int
) -> list[Division]:
    """The divisions, of one network and with their programs, with the seconds that their steps take
    for one image, or as many as they take at a time, of random numbers: the fastest of a few runs,
    in turn. Sizes of outputs that are left open are filled in."""
    runner, random, given = Runner(threads), np.random.default_rng(0), {}
    for port in divisions[0][0].inputs:
        shape = [1 if size is None else size for size in port.shape]
        numbers = np.asarray(random.standard_normal(shape, np.float32))
        if not port.dtype.startswith("float"):
            numbers[...] = 0
        given[port.name] = numbers.astype(port.dtype)
    steps = [Steps(division, threads, measured=True) for division, _ in divisions]
    times: list[list[list[float]]] = [[] for _ in divisions]
    outputs: list[list[np.ndarray]] = [[] for _ in divisions]
    for turn in range(RUNS + 1):
        for index, (_, programs) in enumerate(divisions):

            def run(
                section: int,
                images: np.ndarray,
                result: np.ndarray,
                programs: Sequence[Program] = programs,
            ) -> None:
                runner.run(programs[section], images, result)

            seconds, outputs[index] = steps[index].time_once(given, programs, run)
            if turn:
                times[index].append(seconds)
    return [
        replace(
            division,
            seconds=tuple(min(each) for each in zip(*times[index], strict=True)),
            outputs=tuple(
                replace(port, shape=(*port.shape[:1], *array.shape[1:]))
                if array.ndim == len(port.shape)
                else port
                for port, array in zip(division.outputs, outputs[index], strict=True)
            ),
        )
        for index, (division, _) in enumerate(divisions)
    ]


def _join(feeds: Sequence[Feed], arrays: Arrays) -> np.ndarray:
    """The inputs of a section as it takes them: as it is if it is one, else one after the other."""
    if len(feeds) == 1:
        array, shape = arrays[feeds[0].value], feeds[0].shape or ()
        if array.shape[1:] != shape and array.size == len(array) * math.prod(shape):
            array = array.reshape(len(array), *shape)
        return np.ascontiguousarray(array)
    return np.concatenate(
        [arrays[f.value].reshape(len(arrays[f.value]), -1) for f in feeds], axis=1
    )


def _split(feeds: Sequence[Feed], result: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of a section; for one image, or one output, without a copy."""
    if len(feeds) == 1:
        return {feeds[0].value: result}
    found, start = {}, 0
    for feed in feeds:
        shape = feed.shape or ()
        end = start + math.prod(shape)
        found[feed.value] = np.ascontiguousarray(result[:, start:end]).reshape(-1, *shape)
        start = end
    return found
