"""The steps of a FastGRNN cell one after the other, and back: loops over numpy's arrays.

numpy's calls cost a third of torch's, which is what a step of a small network consists of. Between
the products by U a step is element-wise; in fp32 and with llvmlite at hand that part is one
compiled function (`strzoo.rnn.step_kernels`), otherwise some fifteen calls of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from strzoo.rnn.gates import Array, Gate, constant
from strzoo.rnn.products import Gathered, Matrix, Product
from strzoo.rnn.step_kernels import BACKWARD, FORWARD, StepKernels, compile_steps

# Elements of the buffers of a chunk of steps: small enough to stay in a core's cache, large enough
# that one product drives several steps of a batch.
_CHUNK = 1 << 16
# Elements of a whole sequence from which compiled functions are worth their compilation, 0.3 s.
_FEW = 1 << 12


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
        rows = inputs.detach().contiguous().view(-1, inputs.shape[2]).numpy()
        parts = _chunks(steps, batch * size)
        driven = inputs.new_empty((parts[0][1] if parts else 0) * batch, size).numpy()
        gate_bias, update_bias = (
            bias.expand(batch, size).contiguous().numpy() for bias in (bias_gate, bias_update)
        )
        matrix = Matrix(weight)
        product = Product([m for m in (first, second) if m is not None], batch)
    h_all, x_all = states.numpy(), driven.reshape(-1, batch, size)
    z_all, c_all = (one.numpy() for one in kept) if kept else (None, None)
    scales = np.array([float(zeta), float(zeta) + float(nu)], h_all.dtype)
    kernels = _find_kernels((gate, update), h_all)
    if kernels is not None:
        arrays = {"product": product.out, "driven": x_all, "gate_bias": gate_bias,
                  "update_bias": update_bias, "states": h_all, "gate": z_all, "update": c_all,
                  "scales": scales}  # fmt: skip
        table = _table(FORWARD, {**arrays, "elements": batch * size})
        address, apply = table.ctypes.data, kernels.keep if keep else kernels.forward
    else:
        step_on_numpy = _NumpyStep(gate, update, scales, gate_bias, update_bias)
    for start, stop in parts:
        matrix.multiply(rows[start * batch : stop * batch], driven[: (stop - start) * batch])
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

    def __init__(
        self, gate: Gate, update: Gate, scales: Array, gate_bias: Array, update_bias: Array
    ) -> None:
        self._apply = [g.kernels(scales.dtype).apply for g in (gate, update)]
        self._zeta, self._both = (constant(float(one), scales.dtype) for one in scales)
        self._biases, self._scratch = (gate_bias, update_bias), np.empty_like(gate_bias)
        self._buffers = np.empty_like(gate_bias), np.empty_like(gate_bias)

    def __call__(
        self, made: Array, driven: Array, h: Array, after: Array, kept: tuple[Array, Array] | None
    ) -> None:
        z, c = kept or self._buffers
        scratch = self._scratch
        np.add(made, driven, scratch)
        np.add(scratch, self._biases[0], z)
        np.add(scratch, self._biases[1], c)
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
    rows: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, float, float, Tensor, list[Tensor]]:
    """Gradients by a (the sum that both gates see, [T, B, H]), the biases, zeta, nu and h0; and
    the sums over all steps of r^T times that by a, for each r [T, B, n] of `rows`.

    With e the gradient by h', that by a is e k with
    k = gate'(.) (h - zeta c) + update'(.) (zeta (1 - z) + nu), and that by h is e z plus what
    comes back through U.
    """
    product = Product([m.t() for m in (second, first) if m is not None], z.shape[1])
    arrays = [grad.detach().numpy(), z.numpy(), c.numpy(), states.numpy()]
    slopes = torch.empty_like(z)
    gathered = Gathered(rows, slopes)
    kernels = _find_kernels(gates, arrays[3])
    if kernels is not None:
        found = _backward_compiled(kernels, product, gathered, slopes.numpy(), zeta, nu, *arrays)
    else:
        found = _backward_on_numpy(gates, product, gathered, slopes.numpy(), zeta, nu, *arrays)
    error, by_all, by_update, by_zeta, by_nu = found
    bias_gate, bias_update = (
        torch.from_numpy(one)[None] for one in (by_all - by_update, by_update)
    )
    return slopes, bias_gate, bias_update, by_zeta, by_nu, torch.from_numpy(error), gathered.sums()


def _backward_compiled(
    kernels: StepKernels,
    product: Product,
    gathered: Gathered,
    slopes: Array,
    zeta: float,
    nu: float,
    grad: Array,
    z: Array,
    c: Array,
    states: Array,
) -> tuple[Array, Array, Array, float, float]:
    """The gradients by h0, by a and bias_update (both [H], summed), zeta and nu; `slopes` is
    filled."""
    steps, batch, size = z.shape
    carried = np.zeros((batch, size), z.dtype)
    sums = np.zeros((4, size), z.dtype)
    # A gradient of another layout is copied step by step, so that the copy stays in the cache; once
    # if it is the same in each step, as that of a sum or mean over time is.
    given = grad if grad.flags.c_contiguous else np.empty((1, batch, size), z.dtype)
    alike = given is not grad and steps > 0 and grad.strides[0] == 0
    if alike:
        np.copyto(given[0], grad[0])
    arrays: dict[str, Array | int | None] = {
        "grad": given, "carried": carried, "product": product.out, "gate": z, "update": c,
        "states": states, "slopes": slopes, "by_all": sums[0], "by_update": sums[1],
        "by_nu": sums[2], "by_zeta": sums[3], "scales": np.array([zeta, zeta + nu], z.dtype),
    }  # fmt: skip
    table = _table(BACKWARD, {**arrays, "batch": batch, "size": size})
    address = table.ctypes.data
    for start, stop in reversed(_chunks(steps, batch * size)):
        for step in range(stop - 1, start - 1, -1):
            if given is grad:
                kernels.backward(address, step, step)
            else:
                if not alike:
                    np.copyto(given[0], grad[step])
                kernels.backward(address, step, 0)
            product(slopes[step])
        gathered.add(start, stop)
    by_nu, by_zeta = (float(one.sum(dtype=np.float64)) for one in sums[2:])
    return carried + product.out, sums[0], sums[1], by_zeta, by_nu


def _backward_on_numpy(
    gates: tuple[Gate, Gate],
    product: Product,
    gathered: Gathered,
    slopes: Array,
    zeta: float,
    nu: float,
    grad: Array,
    z: Array,
    c: Array,
    states: Array,
) -> tuple[Array, Array, Array, float, float]:
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
        gathered.add(start, stop)
    return error, slopes.reshape(-1, size).sum(axis=0), by_update, by_zeta, by_nu
