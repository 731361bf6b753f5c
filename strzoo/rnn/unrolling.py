"""The recurrence of one FastGRNN cell over a whole sequence, with exact gradients.

What does not depend on the state is one matrix product for many steps. The rest is a loop whose
steps touch little memory; on the CPU it and its gradient are written out (`strzoo.rnn.steps`).
Elsewhere, in half precision, and where so much is done in one step that torch's threads win, the
loop is plain torch (`_unroll_plainly`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from strzoo.rnn.gates import Gate
from strzoo.rnn.steps import backward, forward

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
    return forward(*arguments, *gates, keep=False)[0][1:]


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


class _Unrolled(torch.autograd.Function):
    """`forward` and its gradient by backpropagation through time."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, gate, update = arguments
        inputs, weight, first, second, bias_gate, bias_update, zeta, nu, state = tensors
        states, z, c = forward(
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
        before = states[:-1]
        # Of a low rank each factor's product is cheap; otherwise one product of all steps does.
        low = second is not None and first.shape[0] >= 4 * first.shape[1]
        wanted = ([inputs] if ctx.needs_input_grad[1] else []) + ([] if low else [before])
        found = backward(
            grad, first, second, float(zeta), float(nu), states, z, c, ctx.gates, wanted
        )
        slopes, bias_gate, bias_update, by_zeta, by_nu, by_state, sums = found
        by_weight = sums[0] if ctx.needs_input_grad[1] else None
        by_first, by_second = sums[-1] if sums else None, None
        if low:
            rows, flat = before.flatten(0, 1), slopes.flatten(0, 1)
            by_second = (rows @ first).t() @ flat
            by_first = rows.t() @ (flat @ second.t())
        elif second is not None:
            by_first, by_second = sums[-1] @ second.t(), first.t() @ sums[-1]
        return (
            slopes @ weight.t() if ctx.needs_input_grad[0] else None,
            by_weight,
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
