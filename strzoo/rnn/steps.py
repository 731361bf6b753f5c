"""The steps of a FastGRNN cell one after the other, and back: loops over numpy's arrays.

numpy's calls cost a third of torch's, which is what a step of a small network consists of. Between
the products by U a step is element-wise; in fp32 and with llvmlite at hand that part is one
compiled function (`strzoo.rnn.step_kernels`), otherwise some fifteen calls of numpy.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from strzoo.rnn.gates import Array, Gate, constant
from strzoo.rnn.step_kernels import BACKWARD, FORWARD, StepKernels, compile_steps

# Elements of the buffers of a chunk of steps: small enough to stay in a core's cache, large enough
# that one product drives several steps of a batch.
_CHUNK = 1 << 16
# Multiplications up to which OpenBLAS, which numpy brings, uses one thread.
_SMALL_PRODUCT = 1 << 18
# Elements of a whole sequence from which compiled functions are worth their compilation, 0.3 s.
_FEW = 1 << 12
_FEWEST_ROWS = 16  # of a part of a product that is still worth a call


def numpy_has_one_thread() -> bool:
    """Whether the environment gives OpenBLAS one thread, so that no product of numpy's has more."""
    for name in ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"):
        if (value := os.environ.get(name)) is not None:
            return value == "1"
    return False


class _Product:
    """rows @ matrices[0] @ matrices[1] ...; `out` is where the result stands after each call.

    numpy's product is the faster one, but its threads are not torch's. So a product that OpenBLAS
    would share between threads is taken in parts if torch has one thread, and is torch's otherwise.
    """

    def __init__(self, matrices: list[Tensor], batch: int) -> None:
        self._steps: list[tuple[Tensor, Array, Tensor, Array, list[tuple[slice, Array]]]] = []
        whole = numpy_has_one_thread()
        for matrix in matrices:
            matrix = matrix.contiguous()
            out = matrix.new_zeros(batch, matrix.shape[1])
            rows = batch
            if not whole and batch * matrix.numel() > _SMALL_PRODUCT:
                rows = _SMALL_PRODUCT // matrix.numel() if torch.get_num_threads() == 1 else 0
            result, parts = out.numpy(), []
            if rows == batch or rows >= _FEWEST_ROWS:
                slices = [slice(start, start + rows) for start in range(0, batch, rows)]
                parts = [(part, result[part]) for part in slices]
            self._steps.append((matrix, matrix.numpy(), out, result, parts))
        self.out = self._steps[-1][3]

    def __call__(self, rows: Array) -> Array:
        for matrix, array, out, result, parts in self._steps:
            if len(parts) == 1:
                np.dot(rows, array, result)
            elif parts:
                for part, some in parts:
                    np.dot(rows[part], array, some)
            else:
                torch.mm(torch.from_numpy(rows), matrix, out=out)
            rows = result
        return rows


def _chunks(steps: int, elements: int) -> list[tuple[int, int]]:
    """First and last step of parts whose buffers stay in the cache."""
    size = max(1, _CHUNK // max(1, elements))
    return [(start, min(start + size, steps)) for start in range(0, steps, size)]


def _find_kernels(gates: tuple[Gate, Gate], states: Array) -> StepKernels | None:
    suited = states.dtype == np.float32 and states.size >= _FEW
    return compile_steps(*gates) if suited else None


def _table(fields: tuple[str, ...], values: dict[str, Array | int | None]) -> Array:
    """What a compiled function reads: addresses of arrays, and counts."""
    entries = []
    for field in fields:
        value = values[field]
        entries.append(value.ctypes.data if isinstance(value, np.ndarray) else value or 0)
    return np.array(entries, np.int64)


def forward(
    inputs: Tensor,
    weight: Tensor,
    first: Tensor,
    second: Tensor | None,
    bias_gate: Tensor,
    bias_update: Tensor,
    zeta: Tensor,
    nu: Tensor,
    state: Tensor,
    gate: Gate,
    update: Gate,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """States [T + 1, B, H], the initial one first; with `keep` also z and c of each step."""
    steps, batch, _ = inputs.shape
    size = weight.shape[1]
    states = inputs.new_empty(steps + 1, batch, size)
    kept = [inputs.new_empty(steps, batch, size) for _ in range(2)] if keep else []
    with torch.no_grad():
        states[0] = state
        weight, bias_gate = weight.detach(), bias_gate.detach()
        inputs = inputs.detach()
        parts = _chunks(steps, batch * size)
        driven = inputs.new_empty(parts[0][1] if parts else 0, batch, size)
        gap = (bias_update - bias_gate).expand(batch, size).contiguous().numpy()
        product = _Product([m.detach() for m in (first, second) if m is not None], batch)
    h_all, x_all = states.numpy(), driven.numpy()
    z_all, c_all = (one.numpy() for one in kept) if kept else (None, None)
    scales = np.array([float(zeta), float(zeta) + float(nu)], gap.dtype)
    kernels = _find_kernels((gate, update), h_all)
    if kernels is not None:
        arrays = {"product": product.out, "driven": x_all, "gap": gap, "states": h_all,
                  "gate": z_all, "update": c_all, "scales": scales}  # fmt: skip
        table = _table(FORWARD, {**arrays, "elements": batch * size})
        address, apply = table.ctypes.data, kernels.keep if keep else kernels.forward
    else:
        step_on_numpy = _NumpyStep(gate, update, scales, gap)
    for start, stop in parts:
        rows = inputs[start:stop].reshape(-1, inputs.shape[2])
        torch.addmm(bias_gate, rows, weight, out=driven[: stop - start].view(len(rows), size))
        for step in range(start, stop):
            made = product(h_all[step])
            if kernels is not None:
                apply(address, step, step - start)
                continue
            kept_here = None if z_all is None or c_all is None else (z_all[step], c_all[step])
            step_on_numpy(made, x_all[step - start], h_all[step], h_all[step + 1], kept_here)
    return states, *(kept or (None, None))


class _NumpyStep:
    """One step by numpy: h' = z (h - zeta c) + (zeta + nu) c."""

    def __init__(self, gate: Gate, update: Gate, scales: Array, gap: Array) -> None:
        self._apply = [g.kernels(gap.dtype).apply for g in (gate, update)]
        self._zeta, self._both = (constant(float(one), gap.dtype) for one in scales)
        self._gap, self._scratch = gap, np.empty_like(gap)
        self._buffers = np.empty_like(gap), np.empty_like(gap)

    def __call__(
        self, made: Array, driven: Array, h: Array, after: Array, kept: tuple[Array, Array] | None
    ) -> None:
        z, c = kept or self._buffers
        scratch = self._scratch
        np.add(made, driven, z)
        np.add(z, self._gap, c)
        self._apply[0](z)
        self._apply[1](c)
        np.multiply(c, self._zeta, scratch)
        np.subtract(h, scratch, scratch)
        np.multiply(scratch, z, scratch)
        np.multiply(c, self._both, after)
        np.add(after, scratch, after)


def backward(
    grad: Tensor,
    first: Tensor,
    second: Tensor | None,
    zeta: float,
    nu: float,
    states: Tensor,
    z: Tensor,
    c: Tensor,
    gates: tuple[Gate, Gate],
) -> tuple[Tensor, Tensor, Tensor, float, float, Tensor]:
    """Gradients by a (the sum that both gates see, [T, B, H]), the biases, zeta, nu and h0.

    With e the gradient by h', that by a is e k with
    k = gate'(.) (h - zeta c) + update'(.) (zeta (1 - z) + nu), and that by h is e z plus what
    comes back through U.
    """
    product = _Product([m.t() for m in (second, first) if m is not None], z.shape[1])
    arrays = [grad.detach().contiguous().numpy(), z.numpy(), c.numpy(), states.numpy()]
    slopes = torch.empty_like(z)
    kernels = _find_kernels(gates, arrays[3])
    if kernels is not None:
        found = _backward_compiled(kernels, product, slopes.numpy(), zeta, nu, *arrays)
    else:
        found = _backward_on_numpy(gates, product, slopes.numpy(), zeta, nu, *arrays)
    error, by_update, by_zeta, by_nu = found
    everything = slopes.flatten(0, 1).sum(0, keepdim=True)
    bias_update = torch.from_numpy(by_update)[None]
    by_gate = everything - bias_update
    return slopes, by_gate, bias_update, by_zeta, by_nu, torch.from_numpy(error)


def _backward_compiled(
    kernels: StepKernels,
    product: _Product,
    slopes: Array,
    zeta: float,
    nu: float,
    grad: Array,
    z: Array,
    c: Array,
    states: Array,
) -> tuple[Array, Array, float, float]:
    """The gradients by h0, bias_update, zeta and nu; `slopes` is filled."""
    steps, batch, size = z.shape
    carried = np.zeros((batch, size), z.dtype)
    sums = np.zeros((3, size), z.dtype)
    arrays: dict[str, Array | int | None] = {
        "grad": grad, "carried": carried, "product": product.out, "gate": z, "update": c,
        "states": states, "slopes": slopes, "by_update": sums[0], "by_nu": sums[1],
        "by_zeta": sums[2], "scales": np.array([zeta, zeta + nu], z.dtype),
    }  # fmt: skip
    table = _table(BACKWARD, {**arrays, "batch": batch, "size": size})
    address = table.ctypes.data
    for step in range(steps - 1, -1, -1):
        kernels.backward(address, step, 0)
        product(slopes[step])
    by_nu, by_zeta = (float(one.sum(dtype=np.float64)) for one in sums[1:])
    return carried + product.out, sums[0].copy(), by_zeta, by_nu


def _backward_on_numpy(
    gates: tuple[Gate, Gate],
    product: _Product,
    slopes: Array,
    zeta: float,
    nu: float,
    grad: Array,
    z: Array,
    c: Array,
    states: Array,
) -> tuple[Array, Array, float, float]:
    """As `_backward_compiled`; k is computed for many steps at once, where they are few numbers."""
    steps, batch, size = z.shape
    parts = _chunks(steps, batch * size)
    shape = (parts[0][1] if parts else 0, batch, size)
    errors, k_buffer, c_buffer, scratch = (np.empty(shape, z.dtype) for _ in range(4))
    error = np.zeros((batch, size), z.dtype)
    by_update = np.zeros(size, z.dtype)
    by_zeta = by_nu = 0.0
    minus_zeta, both = constant(-zeta, z.dtype), constant(zeta + nu, z.dtype)
    gate_slope, update_slope = (g.kernels(z.dtype).slope for g in gates)
    for start, stop in reversed(parts):
        part, count = slice(start, stop), stop - start
        z_part, c_part = z[part], c[part]
        k, through_c, spare = k_buffer[:count], c_buffer[:count], scratch[:count]
        gate_slope(z_part, k)
        np.multiply(c_part, minus_zeta, spare)
        np.add(spare, states[part], spare)
        np.multiply(k, spare, k)
        update_slope(c_part, through_c)
        np.multiply(z_part, minus_zeta, spare)
        np.add(spare, both, spare)
        np.multiply(through_c, spare, through_c)
        np.add(k, through_c, k)
        for step in range(stop - 1, start - 1, -1):
            here, slope = errors[step - start], slopes[step]
            np.add(error, grad[step], here)
            np.multiply(here, k[step - start], slope)
            np.multiply(here, z[step], error)
            np.add(error, product(slope), error)
        done = errors[:count]
        np.multiply(through_c, done, through_c)
        by_update += through_c.reshape(-1, size).sum(axis=0)
        np.multiply(done, c_part, spare)
        total = float(spare.sum())
        by_nu += total
        by_zeta += total - float(np.vdot(spare, z_part))
    return error, by_update, by_zeta, by_nu
