"""The arrays that callers pass: checked against a network's inputs, and results in their kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from strzoo.engine.ir.graph import Shape
from strzoo.engine.ir.parts import Port
from strzoo.errors import StrzooError, UsageError

Finish = Callable[[np.ndarray], Any]


def accept(ports: Sequence[Port], given: Sequence[Any]) -> tuple[list[np.ndarray], Finish]:
    """The inputs as contiguous arrays of the network's types, in its order, and the function that
    turns a result into the kind of the first of them.

    Raises:
        UsageError: there are more or fewer than the network has, or one of another shape or type.
    """
    if len(given) == 1 and isinstance(given[0], Mapping):
        named = given[0]
        names = [port.name for port in ports]
        if {*named} != {*names}:
            raise UsageError(f"inputs {sorted(map(str, named))} are given; expected {names}")
        given = [named[name] for name in names]
    if len(given) != len(ports):
        names = [port.name for port in ports]
        raise UsageError(f"{len(given)} inputs are given; the network takes {len(ports)}: {names}")
    accepted = [
        _accept(port, array, len(ports) > 1) for port, array in zip(ports, given, strict=True)
    ]
    return [array for array, _ in accepted], accepted[0][1]


def one_image(port: Port) -> Shape:
    """The shape of one image, 0 where a size is open."""
    return tuple(size or 0 for size in port.shape[1:])


def _accept(port: Port, given: Any, named: bool) -> tuple[np.ndarray, Finish]:
    sizes = ("N" if not i and size is None else size for i, size in enumerate(port.shape))
    expected = ", ".join("any" if size is None else str(size) for size in sizes)
    what = f"input {port.name!r}" if named else "images"
    floats = port.dtype.startswith("float")
    numbers = "floats" if floats else port.dtype
    torch = sys.modules.get("torch")
    finish: Finish = _itself
    if torch is not None and isinstance(given, torch.Tensor):
        if given.device.type != "cpu":
            raise UsageError(f"the {what} are on {given.device}; pass images.cpu()")
        if floats and not given.dtype.is_floating_point:
            raise UsageError(f"{what} of {given.dtype}; expected {numbers} [{expected}]")
        if given.layout != torch.strided:
            raise UsageError(f"the {what} are a sparse tensor; pass images.to_dense()")
        given = given.float() if floats else given
        given, finish = given.numpy(force=True), torch.from_numpy
    if not isinstance(given, np.ndarray):
        raise UsageError(
            f"a {type(given).__name__} instead of {what}: expected a NumPy array or a torch tensor "
            f"of {numbers} [{expected}]"
        )
    if given.dtype.kind != "f" if floats else given.dtype != port.dtype:
        raise UsageError(f"{what} of {given.dtype}; expected {numbers} [{expected}]")
    # The number of images that an island takes at a time is checked where it runs.
    fits = given.ndim == len(port.shape) and all(
        size in (None, found) for size, found in list(zip(port.shape, given.shape, strict=True))[1:]
    )
    if not fits:
        shown = ", ".join(map(str, given.shape))
        raise UsageError(f"{what} of shape [{shown}]; expected [{expected}]")
    try:
        with np.errstate(over="ignore"):  # what fp32 cannot hold becomes infinite
            return np.ascontiguousarray(given, port.dtype), finish
    except MemoryError as error:
        raise StrzooError(
            f"{what} of shape {list(given.shape)} take {given.size * 4:,} bytes as {port.dtype}, "
            "which the system does not give; use smaller batches"
        ) from error


def _itself(result: np.ndarray) -> np.ndarray:
    return result
