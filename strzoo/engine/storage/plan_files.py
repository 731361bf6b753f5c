"""`.strz` files: compiled plans on disk, without the network they came from.

A sealed file (`sealed_files`) whose content is a length, a JSON header and raw arrays;
docs/engine.md describes it. The hash finds damage. `plan_checks` refuses every plan whose numbers
would lead out of its memory.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.engine.codegen.convolution import ConvolutionKernel
from strzoo.engine.codegen.elementwise import ElementwiseKernel, SoftmaxKernel
from strzoo.engine.codegen.fixed_packing import FixedPackKernel
from strzoo.engine.codegen.global_pool import GlobalPoolKernel
from strzoo.engine.codegen.linear import LinearKernel
from strzoo.engine.codegen.operands import Kernel, row_operands
from strzoo.engine.codegen.packing import PackKernel, UnpackKernel
from strzoo.engine.codegen.patches import PatchForm
from strzoo.engine.codegen.windows import DepthwiseKernel, PoolKernel, Walk
from strzoo.engine.hardware import Hardware
from strzoo.engine.lowering.plan import Plan
from strzoo.engine.results import LayerChoice, PrecisionReport
from strzoo.engine.storage.plan_checks import check_plan
from strzoo.errors import IntegrityError
from strzoo.files import PLAN_MAGIC
from strzoo.sealed_files import read_sealed, write_sealed
from strzoo.version import VERSION

MAGIC, FORMAT = PLAN_MAGIC, 1
SUFFIX = ".strz"
_ALIGNMENT = 64
_MOST_THREADS = 4096
_KIND = "compiled strzoo model"

KERNELS: dict[str, type[Any]] = {
    kernel.__name__: kernel
    for kernel in (
        ConvolutionKernel,
        DepthwiseKernel,
        FixedPackKernel,
        PackKernel,
        GlobalPoolKernel,
        LinearKernel,
        ElementwiseKernel,
        PoolKernel,
        SoftmaxKernel,
        UnpackKernel,
    )
}


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
_RECORDS = {record.__name__: record for record in (PatchForm, Walk)}  # that kernels hold


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
        plans: at least one.
        metadata: what an ONNX export says about itself (docs/onnx.md).
        fixed: how it was brought into 16-bit fixed point; None for fp32.
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
        "fixed": None if content.fixed is None else _describe_precision(content.fixed),
        "hardware": asdict(content.hardware),
        "fields": {
            type(kernel).__name__: _list_fields(kernel)
            for entry in content.plans
            for kernel in entry.plan.kernels
        },
        "plans": described,
    }
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    parts: list[Any] = [struct.pack("<Q", len(text)), text]
    for array in arrays:
        parts += [array.reshape(-1).view(np.uint8), bytes(-array.nbytes % _ALIGNMENT)]
    write_sealed(path, MAGIC, FORMAT, parts, force=force)


def read_plans(path: Path, hardware: Hardware) -> PlanFile:
    """Read a `.strz` file for `hardware`.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is damaged, of another format or version of strzoo, or made for another
            processor.
    """
    content = read_sealed(path, MAGIC, FORMAT, _KIND)
    try:
        return _parse(content, hardware)
    except IntegrityError as error:
        raise IntegrityError(f"{path} {error}; compile the model again") from error
    except _MALFORMED as error:
        reason = " ".join(str(error).split())[:160]
        raise IntegrityError(
            f"{path} is not a valid {_KIND} ({type(error).__name__}: {reason}); "
            "compile the model again"
        ) from error


def _parse(content: np.ndarray, hardware: Hardware) -> PlanFile:
    (length,) = struct.unpack("<Q", content[:8].tobytes())
    if length > len(content) - 8:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(content[8 : 8 + length].tobytes())
    if header["strzoo"] != VERSION:
        raise IntegrityError(f"was made by strzoo {header['strzoo']}, this is {VERSION}")
    made_for = Hardware(**header["hardware"])
    wanted = (hardware.lanes, hardware.registers, hardware.identity)
    if (made_for.lanes, made_for.registers, made_for.identity) != wanted:
        raise IntegrityError(
            f"was compiled for another processor ({describe_processor(made_for)}); this is "
            f"{describe_processor(hardware)}"
        )
    arrays = content[8 + length :]
    plans = tuple(_build_plan(entry, arrays, hardware) for entry in header["plans"])
    metadata = header["metadata"]
    if not plans or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("no plans, or metadata that is not text")
    if len({(entry.plan.input_shape, entry.plan.output_shape) for entry in plans}) > 1:
        raise ValueError("plans of different networks")
    for kernel in {kernel for entry in plans for kernel in entry.plan.kernels}:
        if header["fields"][type(kernel).__name__] != _list_fields(kernel):
            name = type(kernel).__name__
            raise IntegrityError(f"needs another form of {name} than this strzoo has")
    return PlanFile(
        str(header["model"]),
        str(header["source"]),
        _positive(header["threads"], _MOST_THREADS),
        _positive(header["images"]),
        float(header["tuned"]),
        made_for,
        plans,
        metadata,
        _build_precision(header["fixed"]),
    )


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
    places = []
    for array in (plan.rows, plan.constants):
        start = sum(-(-a.nbytes // _ALIGNMENT) * _ALIGNMENT for a in arrays)
        places.append([start, array.nbytes])
        arrays.append(array)
    return {
        "images": plan.images,
        "threads": entry.threads,
        "lanes": plan.lanes,
        "arena": plan.arena,
        "scratch": plan.scratch,
        "input_shape": plan.input_shape,
        "output_shape": plan.output_shape,
        "kernels": [[type(kernel).__name__, asdict(kernel)] for kernel in unique],  # type: ignore[call-overload]
        "steps": [unique.index(kernel) for kernel in plan.kernels],
        "step_layers": plan.layers,
        "chosen": plan.chosen,
        "row_fields": plan.rows.shape[1],
        "rows": places[0],
        "constants": places[1],
        "layers": [asdict(layer) for layer in entry.layers],
    }


def _build_plan(entry: dict[str, Any], arrays: np.ndarray, hardware: Hardware) -> ThreadedPlan:
    kernels = [_build_kernel(name, given) for name, given in entry["kernels"]]
    steps = entry["steps"]
    if any(type(index) is not int or not 0 <= index < len(kernels) for index in steps):
        raise ValueError("an instruction without a kernel")
    rows = _take(arrays, entry["rows"]).view(np.int64).reshape(len(steps), entry["row_fields"])
    plan = Plan(
        images=_positive(entry["images"]),
        lanes=_positive(entry["lanes"]),
        rows=rows,
        kernels=tuple(kernels[index] for index in steps),
        layers=tuple(map(str, entry["step_layers"])),
        constants=_take(arrays, entry["constants"]),
        arena=_positive(entry["arena"]),
        scratch=_positive(entry["scratch"]),
        input_shape=tuple(map(_positive, entry["input_shape"])),
        output_shape=tuple(map(_positive, entry["output_shape"])),
        chosen={str(name): str(form) for name, form in entry["chosen"].items()},
    )
    check_plan(plan, hardware)
    layers = tuple(LayerChoice(**layer) for layer in entry["layers"])
    return ThreadedPlan(plan, _positive(entry["threads"]), layers)


def _build_kernel(name: str, given: Mapping[str, Any]) -> Kernel:
    kernel: Kernel = _build_record(KERNELS[name], given)
    return kernel


def _build_record(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """A kernel, or a record within one, whose fields have the values that they can have."""
    wanted = {f.name: f for f in fields(kind)}
    if set(given) != set(wanted):
        raise ValueError(f"{kind.__name__} has fields {', '.join(given)}")
    types = {"int": int, "bool": bool, "str": str} | dict.fromkeys(_RECORDS, dict)
    made = {}
    for key, value in given.items():
        name, limits = str(wanted[key].type), wanted[key].metadata
        valid = type(value) is types[name]
        if valid and type(value) is int:
            valid = limits["least"] <= value <= limits["most"]
        elif valid and type(value) is str:
            valid = value in limits["choices"]
        if not valid:
            raise ValueError(f"{kind.__name__}.{key} is {value!r}")
        made[key] = _build_record(_RECORDS[name], value) if type(value) is dict else value
    return kind(**made)


def _take(arrays: np.ndarray, place: list[int]) -> np.ndarray:
    start, size = place
    if type(start) is not int or type(size) is not int:
        raise ValueError(f"an array at {place}")
    if start < 0 or size < 0 or start % _ALIGNMENT or start + size > len(arrays):
        raise ValueError(f"{size} bytes at {start} of {len(arrays)}")
    return arrays[start : start + size]


def _positive(value: Any, most: int = 1 << 40) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{value!r} instead of a number from 1 to {most}")
    return value
