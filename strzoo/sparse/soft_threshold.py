"""The soft threshold operator of STR (arXiv:2002.03231, eq. 3) and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from strzoo.arguments import show
from strzoo.errors import UsageError


class _SoftThreshold(torch.autograd.Function):
    """Soft threshold that allocates its result alone, and saves that alone for backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, threshold: Tensor) -> Tensor:
        result = _shrink(weight, threshold)
        ctx.save_for_backward(result)
        ctx.threshold_shape = threshold.shape
        ctx.threshold_dtype = threshold.dtype
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (result,) = ctx.saved_tensors
        # Where a weight survives, d(result)/dw = 1 and d(result)/dt = -sign(w); elsewhere both
        # are 0. sign(result) is sign(w) on the survivors and 0 elsewhere: one buffer serves both.
        sign = result.sign()
        grad_threshold = None
        if ctx.needs_input_grad[1]:
            if ctx.threshold_shape.numel() == 1 and grad.dtype == ctx.threshold_dtype:
                grad_threshold = _dot(grad, sign).neg().reshape(ctx.threshold_shape)
            else:  # half-precision gradients are summed in the threshold's fp32
                product = (grad * sign).to(ctx.threshold_dtype)
                shape = ctx.threshold_shape if ctx.threshold_shape.numel() > 1 else (1,)
                grad_threshold = product.sum_to_size(shape).neg_().reshape(ctx.threshold_shape)
        return sign.abs_().mul_(grad) if ctx.needs_input_grad[0] else None, grad_threshold


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products without an intermediate, channels-last memory included."""
    if is_traced():
        return (a * b).sum()
    if a.dim() == 4 and not a.is_contiguous():
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


def _shrink(weight: Tensor, threshold: Tensor) -> Tensor:
    # A single-element threshold of any rank (published files have [1, 1]) serves any weight.
    bound = threshold.reshape(()) if threshold.numel() == 1 else threshold
    if bound.dtype != weight.dtype:  # half-precision weights: compute in the threshold's fp32
        wide = weight.to(bound.dtype)
        return (wide - wide.clamp(-bound, bound)).to(weight.dtype)
    # w - clamp(w, -t, t) equals sign(w) * relu(|w| - t) bit for bit.
    if is_traced():
        return weight - weight.clamp(-bound, bound)
    if bound.dim() == 0 and bound.device.type == "cpu":
        # A plain number clamps twice as fast; on a GPU it would have to be waited for. numpy reads
        # it without an operator, so that a profile of a step shows only what waits.
        value = float(bound.numpy())
        clipped = weight.clamp(-value, value)
    else:
        clipped = weight.clamp(-bound, bound)
    return torch.sub(weight, clipped, out=clipped)


def is_traced() -> bool:
    """Whether a compiler or a tracer is looking: to it a number is a constant, and it plans the
    memory itself."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def soft_threshold(weight: Tensor, threshold: Tensor) -> Tensor:
    """sign(w) * relu(|w| - t), the soft threshold operator of STR (paper, eq. 3).

    Args:
        weight: any shape and floating dtype.
        threshold: t >= 0, one element, or a shape that broadcasts to `weight`'s. Pass
            `torch.sigmoid(s)` for the paper's parameter s.

    Returns:
        A tensor of `weight`'s shape and dtype; weights with |w| <= t are exactly +0. Forward
        allocates this tensor and temporaries of the threshold's size, and saves this alone;
        backward allocates one tensor of its size.

    Raises:
        UsageError: they are not two floating tensors that broadcast to `weight`'s shape.
    """
    try:
        if torch.is_grad_enabled() and (weight.requires_grad or threshold.requires_grad):
            result: Tensor = _SoftThreshold.apply(weight, threshold)
            return result
        return _shrink(weight.detach(), threshold.detach())
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UsageError(
            f"the soft threshold of {_describe(weight)} by {_describe(threshold)} cannot be taken; "
            "expected two floating tensors, the second broadcasting to the first"
        ) from error


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return show(value)
