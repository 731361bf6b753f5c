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
    floats = port.dtype.startswith("float")
    torch = sys.modules.get("torch")
    finish: Finish = _itself
    if torch is not None and isinstance(given, torch.Tensor):
        if given.device.type != "cpu":
            what = _describe(port, named)[0]
            raise UsageError(f"the {what} are on {given.device}; pass images.cpu()")
        if floats and not given.dtype.is_floating_point:
            raise _wrong_type(port, given.dtype, named)
        if given.is_nested:
            what = _describe(port, named)[0]
            raise UsageError(f"the {what} are a nested tensor; pass images of one size")
        if given.layout != torch.strided:
            what = _describe(port, named)[0]
            raise UsageError(f"the {what} are a sparse tensor; pass images.to_dense()")
        given = given.float() if floats else given
        given, finish = given.numpy(force=True), torch.from_numpy
    if not isinstance(given, np.ndarray):
        what, numbers, expected = _describe(port, named)
        raise UsageError(
            f"a {type(given).__name__} instead of {what}: expected a NumPy array or a torch tensor "
            f"of {numbers} [{expected}]"
        )
    if given.dtype.kind != "f" if floats else given.dtype != port.dtype:
        raise _wrong_type(port, given.dtype, named)
    # The number of images that an island takes at a time is checked where it runs.
    fits = given.ndim == len(port.shape) and all(
        size is None or size == found
        for size, found in zip(port.shape[1:], given.shape[1:], strict=True)
    )
    if not fits:
        what, _, expected = _describe(port, named)
        shown = ", ".join(map(str, given.shape))
        raise UsageError(f"{what} of shape [{shown}]; expected [{expected}]")
    if given.dtype == port.dtype and given.flags.c_contiguous and given.ndim:
        return given, finish
    try:
        with np.errstate(over="ignore"):  # what fp32 cannot hold becomes infinite
            return np.ascontiguousarray(given, port.dtype), finish
    except MemoryError as error:
        what = _describe(port, named)[0]
        raise StrzooError(
            f"{what} of shape {list(given.shape)} take {given.size * 4:,} bytes as {port.dtype}, "
            "which the system does not give; use smaller batches"
        ) from error


def _describe(port: Port, named: bool) -> tuple[str, str, str]:
    """What the input is called, which numbers it takes, and of which shape."""
    sizes = ("N" if not i and size is None else size for i, size in enumerate(port.shape))
    return (
        f"input {port.name!r}" if named else "images",
        "floats" if port.dtype.startswith("float") else port.dtype,
        ", ".join("any" if size is None else str(size) for size in sizes),
    )


def _wrong_type(port: Port, dtype: Any, named: bool) -> UsageError:
    what, numbers, expected = _describe(port, named)
    return UsageError(f"{what} of {dtype}; expected {numbers} [{expected}]")


def _itself(result: np.ndarray) -> np.ndarray:
    return result
