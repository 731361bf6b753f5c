"""The recurrence of one FastGRNN cell over a whole sequence, with exact gradients.

What does not depend on the state is one matrix product for many steps. The rest is a loop whose
steps touch little memory. On the CPU it runs on numpy: its calls cost a third of torch's, which is
what a step of a small network consists of, and its tanh is several times as fast. The backward
pass is written out (`_Unrolled`). Elsewhere, in half precision, and where so much is done in one
step that torch's threads win, the loop is plain torch (`_unroll_plainly`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from strzoo.rnn.gates import Array, Gate, constant

# Elements of the buffers of a chunk of steps: small enough to stay in a core's cache.
_CHUNK = 8192
# Multiplications up to which OpenBLAS, which numpy brings, uses one thread; above it the product is
# torch's, so that torch.set_num_threads holds.
_SMALL_PRODUCT = 1 << 18
# Elements of one step from which torch's loop wins if it has more than two threads: torch gives
# each thread 2^15 elements, and numpy uses one thread but does more in it.
_MANY = 1 << 17


def unroll(
    inputs: Tensor,
    weight: Tensor,
    recurrent: tuple[Tensor, ...],
    biases: tuple[Tensor, Tensor],
    scales: tuple[Tensor, Tensor],
    state: Tensor,
    gates: tuple[Gate, Gate],
) -> Tensor:
    """The states of a cell after each step.

    With a = x W + h U, z = gate(a + bias_gate) and c = update(a + bias_update), each step makes
    h' = z h + (zeta (1 - z) + nu) c (FastGRNN, NeurIPS 2018, section 3.2).

    Args:
        inputs: [T, B, in].
        weight: W, [in, H].
        recurrent: U [H, H], or its two factors [H, r] and [r, H].
        biases: bias_gate and bias_update, [1, H] each.
        scales: sigmoid(zeta) and sigmoid(nu), one element each.
        state: h before the first step, [B, H].
        gates: gate and update.

    Returns:
        [T, B, H].
    """
    if not _fits_numpy(inputs, state):
        return _unroll_plainly(inputs, weight, recurrent, biases, scales, state, gates)
    second = recurrent[1] if len(recurrent) > 1 else None
    arguments = (inputs, weight, recurrent[0], second, *biases, *scales, state)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments):
        result: Tensor = _Unrolled.apply(*arguments, *gates)
        return result
    return _forward(*arguments, *gates, keep=False)[0][1:]


def _fits_numpy(inputs: Tensor, state: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if inputs.device.type != "cpu" or inputs.dtype not in (torch.float32, torch.float64):
        return False
    if state.dtype != inputs.dtype or torch.is_autocast_enabled("cpu"):
        return False
    return not (state.numel() >= _MANY and torch.get_num_threads() > 2)


def _unroll_plainly(
    inputs: Tensor,
    weight: Tensor,
    recurrent: tuple[Tensor, ...],
    biases: tuple[Tensor, Tensor],
    scales: tuple[Tensor, Tensor],
    state: Tensor,
    gates: tuple[Gate, Gate],
) -> Tensor:
    bias_gate, bias_update = biases
    zeta, nu = scales
    states = []
    for driven in (inputs @ weight + bias_gate).unbind(0):
        product = state
        for factor in recurrent:
            product = product @ factor
        total = driven + product
        z = gates[0].torch(total)
        c = gates[1].torch(total + (bias_update - bias_gate))
        state = z * (state - zeta * c) + (zeta + nu) * c
        states.append(state)
    return torch.stack(states)


class _Product:
    """rows @ matrices[0] @ matrices[1] ..., by numpy or torch as the size suggests."""

    def __init__(self, matrices: list[Tensor], batch: int) -> None:
        self._steps: list[tuple[Tensor, Array, Tensor, Array, bool]] = []
        for matrix in matrices:
            matrix = matrix.contiguous()
            out = matrix.new_empty(batch, matrix.shape[1])
            small = batch * matrix.numel() <= _SMALL_PRODUCT
            self._steps.append((matrix, matrix.numpy(), out, out.numpy(), small))

    def __call__(self, rows: Array) -> Array:
        for matrix, array, out, result, small in self._steps:
            if small:
                np.dot(rows, array, result)
            else:
                torch.mm(torch.from_numpy(rows), matrix, out=out)
            rows = result
        return rows


def _chunks(steps: int, elements: int) -> list[tuple[int, int]]:
    """First and last step of parts whose buffers stay in the cache."""
    size = max(1, _CHUNK // max(1, elements))
    return [(start, min(start + size, steps)) for start in range(0, steps, size)]


def _forward(
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
    scratch = np.empty_like(gap)
    by_zeta = constant(float(zeta), gap.dtype)
    by_both = constant(float(zeta) + float(nu), gap.dtype)
    apply_gate, apply_update = (g.kernels(gap.dtype).apply for g in (gate, update))
    z_all, c_all = (one.numpy() for one in kept) if kept else (None, None)
    z, c = np.empty_like(gap), np.empty_like(gap)
    for start, stop in parts:
        rows = inputs[start:stop].reshape(-1, inputs.shape[2])
        torch.addmm(bias_gate, rows, weight, out=driven[: stop - start].view(len(rows), size))
        for step in range(start, stop):
            if z_all is not None and c_all is not None:
                z, c = z_all[step], c_all[step]
            h, after = h_all[step], h_all[step + 1]
            np.add(product(h), x_all[step - start], z)
            np.add(z, gap, c)
            apply_gate(z)
            apply_update(c)
            np.multiply(c, by_zeta, scratch)
            np.subtract(h, scratch, scratch)
            np.multiply(scratch, z, scratch)
            np.multiply(c, by_both, after)
            np.add(after, scratch, after)
    return states, *(kept or (None, None))


class _Unrolled(torch.autograd.Function):
    """`_forward` and its gradient by backpropagation through time."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, gate, update = arguments
        inputs, weight, first, second, bias_gate, bias_update, zeta, nu, state = tensors
        states, z, c = _forward(
            inputs, weight, first, second, bias_gate, bias_update, zeta, nu, state, gate, update,
            keep=True,
        )  # fmt: skip
        ctx.save_for_backward(inputs, weight, first, second, zeta, nu, states, z, c)
        ctx.gates = gate, update
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, first, second, zeta, nu, states, z, c = ctx.saved_tensors
        found = _backward(grad, first, second, float(zeta), float(nu), states, z, c, ctx.gates)
        slopes, bias_gate, bias_update, by_zeta, by_nu, by_state = found
        rows, flat = states[:-1].flatten(0, 1), slopes.flatten(0, 1)
        by_first: Tensor = torch.empty(0)
        by_second = None
        if second is None:
            by_first = rows.t() @ flat
        else:
            by_second = (rows @ first).t() @ flat
            by_first = rows.t() @ (flat @ second.t())
        return (
            slopes @ weight.t() if ctx.needs_input_grad[0] else None,
            inputs.reshape(-1, inputs.shape[2]).t() @ flat if ctx.needs_input_grad[1] else None,
            by_first,
            by_second,
            bias_gate,
            bias_update,
            zeta.new_full(zeta.shape, by_zeta),
            nu.new_full(nu.shape, by_nu),
            by_state,
            None,
            None,
        )


def _backward(
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
    comes back through U. k is computed for many steps at once, where they are few numbers.
    """
    steps, batch, size = z.shape
    slopes = torch.empty_like(z)
    product = _Product([m.t() for m in (second, first) if m is not None], batch)
    z_all, c_all, h_all = z.numpy(), c.numpy(), states.numpy()
    slope_all, grad_all = slopes.numpy(), grad.detach().contiguous().numpy()
    parts = _chunks(steps, batch * size)
    shape = (parts[0][1] if parts else 0, batch, size)
    errors, k_buffer, c_buffer, scratch = (np.empty(shape, z_all.dtype) for _ in range(4))
    error = np.zeros((batch, size), z_all.dtype)
    through_update = np.zeros(size, z_all.dtype)
    by_zeta = by_nu = 0.0
    minus_zeta, both = constant(-zeta, z_all.dtype), constant(zeta + nu, z_all.dtype)
    gate_slope, update_slope = (g.kernels(z_all.dtype).slope for g in gates)
    for start, stop in reversed(parts):
        part, count = slice(start, stop), stop - start
        z_part, c_part = z_all[part], c_all[part]
        k, through_c, spare = k_buffer[:count], c_buffer[:count], scratch[:count]
        gate_slope(z_part, k)
        np.multiply(c_part, minus_zeta, spare)
        np.add(spare, h_all[part], spare)
        np.multiply(k, spare, k)
        update_slope(c_part, through_c)
        np.multiply(z_part, minus_zeta, spare)
        np.add(spare, both, spare)
        np.multiply(through_c, spare, through_c)
        np.add(k, through_c, k)
        for step in range(stop - 1, start - 1, -1):
            here, slope = errors[step - start], slope_all[step]
            np.add(error, grad_all[step], here)
            np.multiply(here, k[step - start], slope)
            np.multiply(here, z_all[step], error)
            np.add(error, product(slope), error)
        done = errors[:count]
        np.multiply(through_c, done, through_c)
        through_update += through_c.reshape(-1, size).sum(axis=0)
        np.multiply(done, c_part, spare)
        total = float(spare.sum())
        by_nu += total
        by_zeta += total - float(np.vdot(spare, z_part))
    everything = slopes.flatten(0, 1).sum(0, keepdim=True)
    bias_update = torch.from_numpy(through_update)[None]
    return (
        slopes,
        everything - bias_update,
        bias_update,
        by_zeta,
        by_nu,
        torch.from_numpy(error),
    )
