"""The division of a network in a `.strz` file: its steps, and the islands as ONNX models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from strzoo.engine.ir.parts import Division, Feed, Island, Port, Problem, Section
from strzoo.engine.lowering.plan import Plan, array_shape

_MOST_STEPS, _MOST_NAMES = 4096, 65536
_LARGEST = 1 << 40
_DTYPES = {
    "bool", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "object",
}  # fmt: skip

Place = Callable[[np.ndarray], list[int]]


def describe_division(division: Division, place: Place) -> dict[str, Any]:
    """As JSON holds it; `place` adds an array to those of the file and says where it will be."""
    steps = []
    for step in division.steps:
        entry = asdict(step)
        if isinstance(step, Island):
            entry["model"] = place(np.frombuffer(step.model, np.uint8))
            entry["sizes"] = [[name, array.tolist()] for name, array in step.sizes]
            entry["operators"] = dict(step.operators)
        steps.append(entry)
    return {
        "inputs": [asdict(port) for port in division.inputs],
        "outputs": [asdict(port) for port in division.outputs],
        "steps": steps,
        "results": [asdict(feed) for feed in division.results],
        "batch": division.batch,
        "left": list(division.left),
        "problems": [asdict(problem) for problem in division.problems],
        "seconds": list(division.seconds),
        "alone": division.alone,
    }


def build_division(given: dict[str, Any], arrays: Callable[[list[int]], np.ndarray]) -> Division:
    """What `describe_division` described.

    Raises:
        ValueError, TypeError, LookupError: it is not that, or reads what no step before it makes.
    """
    if not 1 <= len(given["steps"]) <= _MOST_STEPS:
        raise ValueError(f"{len(given['steps'])} steps")
    steps = tuple(_build_step(entry, arrays) for entry in given["steps"])
    division = Division(
        tuple(map(_build_port, _bounded(given["inputs"]))),
        tuple(map(_build_port, _bounded(given["outputs"]))),
        steps,
        tuple(map(_build_feed, _bounded(given["results"]))),
        None if given["batch"] is None else _size(given["batch"]),
        tuple(map(str, given["left"])),
        tuple(Problem(str(p["operator"]), str(p["node"]), str(p["reason"])) for p in (
            _bounded(given["problems"])
        )),
        tuple(map(float, given["seconds"])),
        float(given["alone"]),
    )  # fmt: skip
    if len(division.results) != len(division.outputs) or not division.outputs:
        raise ValueError("outputs that nothing makes")
    made = {port.name for port in division.inputs}
    for step in steps:
        _check_known(step.inputs, made)
        made |= {f.value for f in step.outputs} if isinstance(step, Section) else {*step.outputs}
    _check_known(division.results, made)
    return division


def check_sections(division: Division, plans: Sequence[Plan]) -> None:
    """Raise a ValueError unless `plans` are those of the sections, in their order."""
    if len(plans) != len(division.sections):
        raise ValueError(f"{len(plans)} plans of {len(division.sections)} sections")
    for plan, section in zip(plans, division.sections, strict=True):
        for feeds, shape in (
            (section.inputs, plan.input_shape),
            (section.outputs, plan.output_shape),
        ):
            if array_shape([feed.shape or () for feed in feeds]) != shape:
                raise ValueError("a plan for other arrays than its section has")


def _build_step(given: dict[str, Any], arrays: Callable[[list[int]], np.ndarray]) -> Any:
    inputs = tuple(map(_build_feed, _bounded(given["inputs"])))
    macs = int(given["macs"])
    if "model" not in given:
        outputs = tuple(map(_build_feed, _bounded(given["outputs"])))
        if not inputs or not outputs or any(feed.shape is None for feed in (*inputs, *outputs)):
            raise ValueError("a section without arrays")
        return Section(inputs, outputs, int(given["nodes"]), macs)
    sizes = tuple((str(name), np.array(size, np.int64)) for name, size in given["sizes"])
    if sum(size.size for _, size in sizes) > _MOST_NAMES:
        raise ValueError("sizes beyond any rank")
    operators = {str(name): int(count) for name, count in given["operators"].items()}
    names = tuple(map(str, _bounded(given["outputs"])))
    return Island(arrays(given["model"]).tobytes(), inputs, names, sizes, operators, macs)


def _build_port(given: dict[str, Any]) -> Port:
    if given["dtype"] not in _DTYPES:
        raise ValueError(f"an array of {given['dtype']!r}")
    sizes = tuple(None if size is None else _size(size) for size in given["shape"])
    return Port(str(given["name"]), given["dtype"], sizes)


def _build_feed(given: dict[str, Any]) -> Feed:
    shape = None if given["shape"] is None else tuple(map(_size, given["shape"]))
    if shape is not None and math.prod(shape) > _LARGEST:
        raise ValueError(f"an array of shape {shape}")
    return Feed(str(given["name"]), str(given["value"]), shape)


def _check_known(feeds: Sequence[Feed], made: set[str]) -> None:
    for feed in feeds:
        if feed.value not in made:
            raise ValueError(f"{feed.value!r} is read before it is made")


def _bounded(entries: list[Any]) -> list[Any]:
    if len(entries) > _MOST_NAMES:
        raise ValueError(f"{len(entries)} names")
    return entries


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise ValueError(f"a size of {value!r}")
    return value
