"""Whether a plan that comes from a file stays within its memory.

The checks are derived from the operands that each kernel declares (`codegen.operands`): every place
and table must lie within its area for as far as the kernel reads or writes, which follows from the
other operands and from the contents of the tables. No plan that passes can leave its memory,
whatever its numbers are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from strzoo.engine.codegen import operands as op
from strzoo.engine.hardware import Hardware
from strzoo.engine.lowering.plan import Plan

_LARGEST = 1 << 40  # of any number; sums and products of a few stay below 2^63


def check_plan(plan: Plan, hardware: Hardware) -> None:
    """Raise a ValueError unless every instruction stays within the plan's memory and tables."""
    if plan.rows.shape != (len(plan.kernels), op.ROW_FIELDS) or not len(plan.rows):
        raise ValueError(f"rows of shape {plan.rows.shape}")
    if plan.lanes != hardware.lanes or plan.images & (plan.images - 1):
        raise ValueError(f"{plan.lanes} lanes, {plan.images} images")
    if len(plan.layers) != len(plan.kernels):
        raise ValueError(f"{len(plan.layers)} layers of {len(plan.kernels)} instructions")
    named: dict[str, op.Kernel] = {}
    for kernel in plan.kernels:
        if named.setdefault(kernel.name, kernel) != kernel:
            raise ValueError(f"two kernels of the name {kernel.name}")
    areas = {
        op.ARENA: plan.arena,
        op.CONSTANTS: len(plan.constants),
        op.SCRATCH: plan.scratch,
        op.INPUT: 4 * math.prod(plan.input_shape),
        op.OUTPUT: 4 * math.prod(plan.output_shape),
    }
    if max(areas.values()) > _LARGEST:
        raise ValueError(f"memory of {max(areas.values())} bytes")
    results: list[tuple[int, int]] = []
    for index, kernel in enumerate(plan.kernels):
        try:
            if not kernel.fits(plan.lanes, plan.images):
                raise ValueError("a kernel for other vectors or images")
            instruction = _Instruction(kernel, plan.rows[index], plan.constants, areas)
            instruction.check()
            results += instruction.results
        except ValueError as error:
            raise ValueError(f"instruction {index}, {kernel.name}: {error}") from None
    # Threads wait until as much work is done as there is up to the end of an instruction.
    numbers, done, units = plan.rows[:, 1], plan.rows[:, 2], plan.rows[:, len(op.HEAD)]
    if len(plan.rows) > op.MOST_INSTRUCTIONS or not (
        np.array_equal(numbers, np.arange(1, len(plan.rows) + 1))
        and np.array_equal(done, np.cumsum(units))
    ):
        raise ValueError("instructions that are not numbered from 1 on")
    # The caller's results are not initialised, so the instructions must fill them.
    filled = 0
    for start, end in sorted(results):
        if start > filled:
            break
        filled = max(filled, end)
    if filled != areas[op.OUTPUT]:
        raise ValueError(f"only {filled} bytes of {areas[op.OUTPUT]} are results")


class _Instruction:
    """The operands of one instruction, as `codegen.operands.Values`, and their checks."""

    def __init__(
        self, kernel: op.Kernel, row: np.ndarray, constants: np.ndarray, areas: Mapping[str, int]
    ) -> None:
        self._operands = {operand.name: operand for operand in kernel.operands}
        names = [operand.name for operand in op.row_operands(kernel)]
        self._row = dict(zip(names, row.tolist(), strict=False))
        self._constants, self._areas = constants, areas
        self._tables: dict[str, np.ndarray] = {}
        self.results: list[tuple[int, int]] = []  # what it writes of the caller's results

    def __getitem__(self, name: str) -> int:
        return self._row[name]

    def table(self, name: str) -> np.ndarray:
        """The contents of a table, checked; made once."""
        if name not in self._tables:
            operand = self._operands[name]
            assert isinstance(operand, op.Table), name
            self._tables[name] = self._read(operand)
        return self._tables[name]

    def check(self) -> None:
        """Raise a ValueError unless every operand is valid."""
        # Numbers first, because extents are computed from them.
        for name, value in self._row.items():
            operand = self._operands[name]
            if isinstance(operand, op.Real) or operand in op.HEAD:
                continue
            least = 1 if isinstance(operand, op.Count) else 0
            unit = 4 if isinstance(operand, (op.Stride, op.Place)) else 1
            if not least <= value <= _LARGEST or value % unit:
                raise ValueError(f"{name} is {value}")
        for operand in self._operands.values():
            if isinstance(operand, op.Count):
                self._check_count(operand)
            elif isinstance(operand, op.ImageStride):
                self._check_image(operand)
            elif isinstance(operand, op.Table):
                self.table(operand.name)
            elif isinstance(operand, op.Place):
                self._check_place(operand)

    def _check_count(self, operand: op.Count) -> None:
        value = self[operand.name]
        if operand.exactly is not None and value != operand.exactly(self):
            raise ValueError(f"{operand.name} is {value} instead of {operand.exactly(self)}")
        if operand.most is not None and value > operand.most(self):
            raise ValueError(f"{operand.name} is {value}, at most {operand.most(self)} can be")

    def _check_image(self, operand: op.ImageStride) -> None:
        value, expected = self[operand.name], self._areas[operand.area]
        if operand.area != op.ARENA and value != expected:
            raise ValueError(f"{operand.name} is {value} instead of {expected}")

    def _check_place(self, operand: op.Place) -> None:
        extent, room = operand.extent(self), self._areas[operand.area]
        start = self._row.get(operand.name, 0)
        if operand.area == op.OUTPUT:
            self.results.append((start, start + extent))
        if start + extent > room:
            raise ValueError(f"{operand.name}: {extent} bytes at {start} of {room}")

    def _read(self, operand: op.Table) -> np.ndarray:
        size, start = operand.size(self), self[operand.name]
        kind = np.dtype(operand.dtype)
        end = start + size * kind.itemsize
        if end > len(self._constants) or start % kind.itemsize:
            raise ValueError(f"{operand.name}: {size} items at {start} of {len(self._constants)}")
        if not size:
            return np.zeros(0, kind)
        table = self._constants[start:end].view(kind)
        if isinstance(operand, op.Ends):
            most = table[-1] if operand.most is None else operand.most(self)
            valid = table[0] >= 0 and table[-1] <= most and not np.any(table[1:] < table[:-1])
        elif isinstance(operand, op.Indices):
            below = math.inf if operand.below is None else operand.below(self)
            valid = table.min() >= 0 and table.max() < below
        else:
            return table
        if not valid or (operand.unit > 1 and np.any(table % operand.unit)):
            raise ValueError(f"{operand.name} holds a number out of its range")
        return table
