"""Dot products of 8 bits on processors without them: spelled out, so that the rest is tested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from llvmlite import ir

from strzoo.engine.codegen import quads
from strzoo.engine.codegen.builder import Emitter
from strzoo.engine.hardware import host_hardware

NATIVE = host_hardware().quads
LANES = [lanes for lanes in quads.QUAD_LANES if lanes <= host_hardware().lanes]
needs_lanes = pytest.mark.skipif(
    not LANES or not host_hardware().fixed, reason="no vectors of 8 bits here"
)


@contextmanager
def dot_products() -> Iterator[pytest.MonkeyPatch]:
    """Inside, kernels in 8 bits run here. Machine code must not be kept."""
    with pytest.MonkeyPatch.context() as patch:
        if not NATIVE:
            patch.setattr(quads, "dot", _dot)
        yield patch


def _dot(e: Emitter, total: ir.Value, x: ir.Value, w: ir.Value) -> ir.Value:
    build, kind = e.build, total.type

    def number(value: int) -> ir.Constant:
        return ir.Constant(kind, [value] * e.lanes)

    for byte in range(4):
        unsigned = build.and_(build.lshr(x, number(8 * byte)), number(255))
        signed = build.ashr(build.shl(w, number(24 - 8 * byte)), number(24))
        total = build.add(total, build.mul(unsigned, signed))
    return total
