"""`.strz` files: compiled plans on disk, without the network they came from.

A sealed file (`sealed_files`) whose content is a length, a JSON header and raw arrays;
docs/plan-files.md describes it. The hash finds damage. `plan_checks` refuses every plan whose
numbers would lead out of its memory. Machine code in a file is read only with `read_trusted`, which
believes the plans too and needs no llvmlite.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.engine.codegen.operands import Kernel, row_operands
from strzoo.engine.hardware import MOST_THREADS, Hardware, supports
from strzoo.engine.ir.parts import Division
from strzoo.engine.lowering.plan import Plan
from strzoo.engine.results import LayerChoice, PrecisionReport
from strzoo.engine.storage.divisions import build_division, check_sections, describe_division
from strzoo.engine.storage.native_code import Block, StoredCode
from strzoo.engine.storage.plan_checks import check_plan
from strzoo.errors import IntegrityError
from strzoo.files import PLAN_MAGIC
from strzoo.sealed_files import SealedFile, read_header, shown, write_sealed
from strzoo.version import VERSION

log = logging.getLogger(__name__)

# Format 2 has a division; whatever has none is written as format 1.
MAGIC, FORMAT, DIVIDED = PLAN_MAGIC, 1, 2
SUFFIX = ".strz"
USUAL_NAMES = ("images", "output")
_ALIGNMENT = 64
_KIND = "compiled strzoo model"
_EMPTY = partial(np.empty, dtype=np.uint8)

# What parsing a file that is not what it claims to be can raise.
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, eq=False)
class ThreadedPlan:
    """A plan, the number of threads that it was made for, and the report on its layers."""

    plan: Plan
    threads: int
    layers: tuple[LayerChoice, ...]


@dataclass(frozen=True, eq=False)
class PlanFile:
    """Plans of one network.

    Args:
        model: its name.
        source: SHA-256 of the file that it was compiled from.
        threads: that a call uses by default.
        images: that go side by side in a vector where a batch has enough.
        tuned: seconds that measuring could take; 0 for fixed rules.
        hardware: what the plans were made for.
        plans: at least one for each section of a network.
        metadata: what an ONNX export says about itself (docs/onnx.md).
        fixed: how it was brought into 16-bit fixed point; None for fp32.
        code: machine code for all plans.
        names: of the network's input and output.
        division: of a network that is not one graph of one input and one output. The plans are
            those of its sections, in their order, then those for other threads or images.
    """

    model: str
    source: str
    threads: int
    images: int
    tuned: float
    hardware: Hardware
    plans: tuple[ThreadedPlan, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    fixed: PrecisionReport | None = None
    code: StoredCode | None = None
    names: tuple[str, str] = USUAL_NAMES
    division: Division | None = None


@dataclass(frozen=True)
class StoredKernel:
    """A kernel whose machine code the file holds. `operands`, `fits` and `emit` are not known."""

    name: str


def write_plans(path: Path, content: PlanFile, *, force: bool = False) -> None:
    """Write a `.strz` file.

    Raises:
        StrzooError: it cannot be written, or exists and `force` is False.
    """
    arrays: list[np.ndarray] = []
    described = [_describe_plan(entry, arrays) for entry in content.plans]
    header = {
        "strzoo": VERSION,
        "model": content.model,
        "source": content.source,
        "threads": content.threads,
        "images": content.images,
        "tuned": content.tuned,
        "metadata": dict(content.metadata),
        "names": content.names,
        "fixed": None if content.fixed is None else _describe_precision(content.fixed),
        "hardware": asdict(content.hardware),
        "fields": {
            type(kernel).__name__: _list_fields(kernel)
            for entry in content.plans
            for kernel in entry.plan.kernels
        },
        "plans": described,
        "code": None if content.code is None else _describe_code(content.code, arrays),
    }
    if content.division is not None:
        header["division"] = describe_division(
            content.division, lambda array: _place(array, arrays)
        )
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    parts: list[Any] = [struct.pack("<Q", len(text)), text]
    for array in arrays:
        parts += [array.reshape(-1).view(np.uint8), bytes(-array.nbytes % _ALIGNMENT)]
    write_sealed(path, MAGIC, DIVIDED if content.division else FORMAT, parts, force=force)


def read_plans(
    path: Path | bytes, hardware: Hardware, allocate: Callable[[int], np.ndarray] = _EMPTY
) -> PlanFile:
    """Read a `.strz` file for `hardware`, without the machine code that it may hold.

    Args:
        path: of the file, or its bytes.
        hardware: the processor.
        allocate: gives the memory that arrays are read into, so many bytes as uint8.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is damaged, of another format or version of strzoo, or made for another
            processor.
    """
    with SealedFile(path, MAGIC, (FORMAT, DIVIDED), _KIND) as file, _named(path):
        header, arrays = _read_header(file, allocate)
        made_for = Hardware(**header["hardware"])
        wanted = (hardware.lanes, hardware.registers, hardware.identity)
        found = (made_for.lanes, made_for.registers, made_for.identity)
        if found != wanted and not supports(made_for):
            raise IntegrityError(
                f"was compiled for another processor ({describe_processor(made_for)}); this is "
                f"{describe_processor(hardware)}"
            )
        plans = tuple(_build_plan(entry, arrays, made_for) for entry in header["plans"])
        for kernel in {kernel for entry in plans for kernel in entry.plan.kernels}:
            if header["fields"][type(kernel).__name__] != _list_fields(kernel):
                name = type(kernel).__name__
                raise IntegrityError(f"needs another form of {name} than this strzoo has")
        return _build_file(header, made_for, plans, arrays)


def read_trusted(
    path: Path | bytes, allocate: Callable[[int], np.ndarray] = _EMPTY
) -> PlanFile | None:
    """Read a `.strz` file with its machine code; None if it has none that runs on this processor.

    The code and the numbers of the plans are believed: whoever made the file can do here what you
    can do. Arguments and errors as `read_plans`.
    """
    with SealedFile(path, MAGIC, (FORMAT, DIVIDED), _KIND) as file, _named(path):
        header, arrays = _read_header(file, allocate)
        given = header.get("code")
        if given is None:
            log.warning("%s holds no machine code", shown(path))
            return None
        block = Block(dict(given["functions"]), dict(given["imports"]), arrays(given["place"]))
        code = StoredCode(given["cpu"], given["engine"], block)
        if (reason := code.find_misfit()) is not None:
            log.warning("the machine code in %s is not used: %s", shown(path), reason)
            return None
        plans = tuple(_build_plan(entry, arrays, None) for entry in header["plans"])
        return _build_file(header, Hardware(**header["hardware"]), plans, arrays, code)


def holds_code(path: Path | bytes) -> bool:
    """Whether a `.strz` file says that it holds machine code; nothing else of it is checked."""
    return read_header(path, MAGIC, _KIND).get("code") is not None


Arrays = Callable[[list[int]], np.ndarray]


def _read_header(
    file: SealedFile, allocate: Callable[[int], np.ndarray]
) -> tuple[dict[str, Any], Arrays]:
    """The header, and a function that reads an array at its place."""
    (length,) = struct.unpack("<Q", file.read(0, 8, _EMPTY).tobytes())
    if length > file.size - 8:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(file.read(8, length, _EMPTY).tobytes())
    if header["strzoo"] != VERSION:
        raise IntegrityError(f"was made by strzoo {header['strzoo']}, this is {VERSION}")

    def take(place: list[int]) -> np.ndarray:
        start, size = place
        if type(start) is not int or type(size) is not int or start < 0 or start % _ALIGNMENT:
            raise ValueError(f"an array at {place}")
        return file.read(8 + length + start, size, allocate)

    return header, take


def _build_file(
    header: dict[str, Any],
    hardware: Hardware,
    plans: tuple[ThreadedPlan, ...],
    arrays: Arrays,
    code: StoredCode | None = None,
) -> PlanFile:
    metadata = header["metadata"]
    names = tuple(map(str, header.get("names", USUAL_NAMES)))
    if len(names) != 2:
        raise ValueError(f"{len(names)} names of an input and an output")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is not text")
    division = None
    if "division" in header:
        division = build_division(header["division"], arrays)
    elif not plans or len({(e.plan.input_shape, e.plan.output_shape) for e in plans}) > 1:
        raise ValueError("no plans, or plans of different networks")
    if division is not None:
        for group in group_plans(plans):
            check_sections(division, [entry.plan for entry in group])
    return PlanFile(
        str(header["model"]),
        str(header["source"]),
        _positive(header["threads"], MOST_THREADS),
        _positive(header["images"]),
        float(header["tuned"]),
        hardware,
        plans,
        metadata,
        _build_precision(header["fixed"]),
        code,
        names,
        division,
    )


def group_plans(plans: Sequence[ThreadedPlan]) -> list[tuple[ThreadedPlan, ...]]:
    """The plans that run together: those for as many images and threads."""
    groups: dict[tuple[int, int], list[ThreadedPlan]] = {}
    for entry in plans:
        groups.setdefault((entry.plan.images, entry.threads), []).append(entry)
    return [tuple(group) for group in groups.values()]


@contextlib.contextmanager
def _named(path: Path | bytes) -> Iterator[None]:
    """What the file is not says which file it is."""
    try:
        yield
    except IntegrityError as error:
        raise IntegrityError(f"{shown(path)} {error}; compile the model again") from error
    except _MALFORMED as error:
        reason = " ".join(str(error).split())[:160]
        raise IntegrityError(
            f"{shown(path)} is not a valid {_KIND} ({type(error).__name__}: {reason}); "
            "compile the model again"
        ) from error


def _describe_precision(report: PrecisionReport) -> dict[str, Any]:
    """JSON has no infinity, which the ratio of equal outputs is."""
    return {**asdict(report), "snr": report.snr if math.isfinite(report.snr) else None}


def _build_precision(given: dict[str, Any] | None) -> PrecisionReport | None:
    if given is None:
        return None
    numbers = {name: float(given[name]) for name in ("tolerance", "error", "top1")}
    snr = math.inf if given["snr"] is None else float(given["snr"])
    lossy = tuple(map(str, given["lossy"]))
    return PrecisionReport(**{**given, **numbers, "snr": snr, "lossy": lossy})


def _list_fields(kernel: Kernel) -> list[str]:
    """The names of the numbers in a row of the kernel's instructions."""
    return [operand.name for operand in row_operands(kernel)]


def describe_processor(hardware: Hardware) -> str:
    """Machine, processor and vector width, without the long list of features."""
    known = " ".join(hardware.identity.split()[:2])
    return f"{known or 'unknown'}, {hardware.lanes} lanes"


def _describe_plan(entry: ThreadedPlan, arrays: list[np.ndarray]) -> dict[str, Any]:
    plan = entry.plan
    unique = list(dict.fromkeys(plan.kernels))
    places = [_place(array, arrays) for array in (plan.rows, plan.constants)]
    return {
        "images": plan.images,
        "threads": entry.threads,
        "lanes": plan.lanes,
        "arena": plan.arena,
        "scratch": plan.scratch,
        "input_shape": plan.input_shape,
        "output_shape": plan.output_shape,
        "kernels": [[type(kernel).__name__, asdict(kernel)] for kernel in unique],  # type: ignore[call-overload]
        "names": [kernel.name for kernel in unique],
        "steps": [unique.index(kernel) for kernel in plan.kernels],
        "step_layers": plan.layers,
        "chosen": plan.chosen,
        "row_fields": plan.rows.shape[1],
        "rows": places[0],
        "constants": places[1],
        "layers": [asdict(layer) for layer in entry.layers],
    }


def _describe_code(code: StoredCode, arrays: list[np.ndarray]) -> dict[str, Any]:
    place = _place(code.block.image, arrays)
    return {
        "cpu": code.cpu,
        "engine": code.engine,
        "functions": dict(code.block.functions),
        "imports": dict(code.block.imports),
        "place": place,
    }


def _place(array: np.ndarray, arrays: list[np.ndarray]) -> list[int]:
    """Where an array that is added to the others will be: its first byte, and how many."""
    start = sum(-(-a.nbytes // _ALIGNMENT) * _ALIGNMENT for a in arrays)
    arrays.append(array)
    return [start, array.nbytes]


def _build_plan(entry: dict[str, Any], arrays: Arrays, hardware: Hardware | None) -> ThreadedPlan:
    """Args: `hardware` is None for a plan that is trusted."""
    kernels: list[Any]
    if hardware is None:
        kernels = [StoredKernel(str(name)) for name in entry["names"]]
    else:
        from strzoo.engine.storage.kernels import build_kernel

        kernels = [build_kernel(name, given) for name, given in entry["kernels"]]
    steps = entry["steps"]
    if any(type(index) is not int or not 0 <= index < len(kernels) for index in steps):
        raise ValueError("an instruction without a kernel")
    rows = arrays(entry["rows"]).view(np.int64).reshape(len(steps), entry["row_fields"])
    plan = Plan(
        images=_positive(entry["images"]),
        lanes=_positive(entry["lanes"]),
        rows=rows,
        kernels=tuple(kernels[index] for index in steps),
        layers=tuple(map(str, entry["step_layers"])),
        constants=arrays(entry["constants"]),
        arena=_positive(entry["arena"]),
        scratch=_positive(entry["scratch"]),
        input_shape=tuple(map(_positive, entry["input_shape"])),
        output_shape=tuple(map(_positive, entry["output_shape"])),
        chosen={str(name): str(form) for name, form in entry["chosen"].items()},
    )
    if hardware is not None:
        check_plan(plan, hardware)
    layers = tuple(LayerChoice(**layer) for layer in entry["layers"])
    return ThreadedPlan(plan, _positive(entry["threads"], MOST_THREADS), layers)


def _positive(value: Any, most: int = 1 << 40) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{value!r} instead of a number from 1 to {most}")
    return value
