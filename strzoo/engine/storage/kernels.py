"""Kernels by their descriptions in a `.strz` file. Needs llvmlite, which their classes use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from strzoo.engine.codegen.convolution import ConvolutionKernel
from strzoo.engine.codegen.elementwise import ElementwiseKernel, SoftmaxKernel
from strzoo.engine.codegen.fixed_packing import FixedPackKernel
from strzoo.engine.codegen.global_pool import GlobalPoolKernel
from strzoo.engine.codegen.linear import LinearKernel
from strzoo.engine.codegen.masked_linear import MaskedLinearKernel
from strzoo.engine.codegen.normalizing import NormalizeKernel
from strzoo.engine.codegen.operands import Kernel
from strzoo.engine.codegen.packing import PackKernel, UnpackKernel
from strzoo.engine.codegen.patches import PatchForm
from strzoo.engine.codegen.permuting import PermuteKernel
from strzoo.engine.codegen.quad_packing import QuadPackKernel, QuadPoolKernel
from strzoo.engine.codegen.resampling import ResampleKernel
from strzoo.engine.codegen.windows import DepthwiseKernel, PoolKernel, Walk

KERNELS: dict[str, type[Any]] = {
    kernel.__name__: kernel
    for kernel in (
        ConvolutionKernel,
        DepthwiseKernel,
        FixedPackKernel,
        PackKernel,
        GlobalPoolKernel,
        LinearKernel,
        MaskedLinearKernel,
        ElementwiseKernel,
        NormalizeKernel,
        PermuteKernel,
        PoolKernel,
        QuadPackKernel,
        QuadPoolKernel,
        ResampleKernel,
        SoftmaxKernel,
        UnpackKernel,
    )
}
_RECORDS = {record.__name__: record for record in (PatchForm, Walk)}  # that kernels hold


def build_kernel(name: str, given: Mapping[str, Any]) -> Kernel:
    """The kernel of a class and its fields.

    Raises:
        ValueError, LookupError, TypeError: there is no such kernel.
    """
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
