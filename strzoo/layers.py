"""Sparse layers for anyone's network: STR, DNW and GMP versions of Conv2d and Linear.

Each keeps a dense `weight` to train and computes with `effective_weight()`, the sparse one:

- STR (arXiv:2002.03231, eq. 4): sign(w) * relu(|w| - g(s)), with a learned threshold parameter s;
- DNW (arXiv:1906.00586): the largest weights by magnitude; gradients reach all weights;
- GMP (arXiv:1710.01878): the largest weights by magnitude; gradients reach only those.

`strzoo.sparsify_` turns the layers of a whole model into these and `to_dense_` turns them back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from strzoo.errors import UsageError

GRANULARITIES = ("layer", "filter", "weight")
DEFAULT_S_INIT = (
    -3200.0
)  # the paper's ResNet50 recipe; sigmoid of it is zero: training starts dense


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
    if _is_traced():
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
    if _is_traced():
        return weight - weight.clamp(-bound, bound)
    if bound.dim() == 0 and bound.device.type == "cpu":
        value = float(bound)  # a plain number clamps twice as fast; on a GPU it would synchronise
        clipped = weight.clamp(-value, value)
    else:
        clipped = weight.clamp(-bound, bound)
    return torch.sub(weight, clipped, out=clipped)


def _is_traced() -> bool:
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
    """
    if torch.is_grad_enabled() and (weight.requires_grad or threshold.requires_grad):
        result: Tensor = _SoftThreshold.apply(weight, threshold)
        return result
    return _shrink(weight.detach(), threshold.detach())


def magnitude_mask(weight: Tensor, prune_rate: float) -> Tensor:
    """0/1 mask, in `weight`'s dtype, that drops the round(prune_rate * n) smallest |w|.

    Ties are broken so that the count is exact: a rate k/n drops k weights, whatever they are.
    Selection (linear time), not a sort.

    Raises:
        UsageError: `prune_rate` is outside [0, 1].
    """
    check_prune_rate(prune_rate)
    count = weight.numel()
    dropped = round(prune_rate * count)
    if dropped == 0:
        return torch.ones_like(weight)
    magnitude = weight.detach().abs().reshape(-1)
    drop_is_smaller = 2 * dropped <= count
    chosen = torch.topk(
        magnitude,
        dropped if drop_is_smaller else count - dropped,
        largest=not drop_is_smaller,
        sorted=False,
    ).indices
    mask = torch.full_like(magnitude, 1.0 if drop_is_smaller else 0.0)
    mask[chosen] = 0.0 if drop_is_smaller else 1.0
    return mask.view_as(weight)


def check_prune_rate(rate: float) -> float:
    """`rate` as a float in [0, 1], or a UsageError."""
    if not 0 <= rate <= 1:
        raise UsageError(f"prune rate {rate} is outside [0, 1]; 0.9 drops 90 % of the weights")
    return float(rate)


class _StraightThrough(torch.autograd.Function):
    """weight * mask whose gradient reaches every weight unchanged (DNW)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class SparseLayer(nn.Module):
    """What the sparse layers share: a dense `weight` and the sparse one computed from it."""

    weight: Tensor
    method: str

    def effective_weight(self) -> Tensor:
        """The sparse weight the layer computes with, of `weight`'s shape."""
        raise NotImplementedError

    def init_sparsity(self, *args: Any, **options: Any) -> None:
        """Add this method's state to a layer that has a `weight` already."""
        raise NotImplementedError

    def drop_sparsity(self) -> None:
        """Remove what `init_sparsity` added."""
        raise NotImplementedError


class _STR(SparseLayer):
    method = "str"
    sparseThreshold: nn.Parameter  # noqa: N815 - the published key

    def __init__(
        self,
        *args: Any,
        threshold: str | nn.Parameter = "layer",
        s_init: float = DEFAULT_S_INIT,
        g: Callable[[Tensor], Tensor] = torch.sigmoid,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.init_sparsity(threshold, s_init, g)

    def init_sparsity(
        self,
        threshold: str | nn.Parameter = "layer",
        s_init: float = DEFAULT_S_INIT,
        g: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> None:
        self.g = g
        if isinstance(threshold, nn.Parameter):
            if threshold.numel() != 1:
                raise UsageError(
                    f"a shared threshold has one element, this has shape {tuple(threshold.shape)}"
                )
            self.sparseThreshold = threshold
            return
        weight = self.weight
        if threshold == "layer":
            shape: tuple[int, ...] = (1, 1)  # as in the published files
        elif threshold == "filter":
            shape = (weight.shape[0],) + (1,) * (weight.dim() - 1)
        elif threshold == "weight":
            shape = tuple(weight.shape)
        else:
            raise UsageError(
                f"threshold {threshold!r} is not one of {', '.join(GRANULARITIES)} "
                "or a shared nn.Parameter"
            )
        # Thresholds stay in at least fp32: sigmoid of a large negative s vanishes in half.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.sparseThreshold = nn.Parameter(
            torch.full(shape, float(s_init), dtype=dtype, device=weight.device)
        )

    def drop_sparsity(self) -> None:
        del self.sparseThreshold, self.g

    @property
    def threshold(self) -> Tensor:
        """g(s), in the units of the weights; shape [1, 1], per filter or per weight."""
        return self.g(self.sparseThreshold)

    def effective_weight(self) -> Tensor:
        return soft_threshold(self.weight, self.threshold)


def mean_threshold(layer: nn.Module) -> float | None:
    """The threshold of an STR layer (the mean of several, per filter or weight), else None."""
    return float(layer.threshold.mean()) if isinstance(layer, _STR) else None


class _Magnitude(SparseLayer):
    """A layer that drops a fraction `prune_rate` of its weights, the smallest, in each forward."""

    prune_rate: float

    def __init__(self, *args: Any, prune_rate: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.init_sparsity(prune_rate)

    def init_sparsity(self, prune_rate: float = 0.0) -> None:
        self.prune_rate = check_prune_rate(prune_rate)

    def drop_sparsity(self) -> None:
        del self.prune_rate

    def set_prune_rate(self, prune_rate: float) -> None:
        """Drop this fraction of the weights from the next forward on."""
        self.prune_rate = check_prune_rate(prune_rate)


class _DNW(_Magnitude):
    method = "dnw"

    def effective_weight(self) -> Tensor:
        mask = magnitude_mask(self.weight, self.prune_rate)
        result: Tensor = _StraightThrough.apply(self.weight, mask)
        return result


class _GMP(_Magnitude):
    method = "gmp"

    def effective_weight(self) -> Tensor:
        return self.weight * magnitude_mask(self.weight, self.prune_rate)


class _SparseConv2d(SparseLayer, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.effective_weight(), self.bias)


class _SparseLinear(SparseLayer, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.effective_weight(), self.bias)


class STRConv2d(_STR, _SparseConv2d):
    """`nn.Conv2d` whose weight is soft-thresholded by a learned threshold.

    Args:
        args, kwargs: as `nn.Conv2d`.
        threshold: "layer" (one s, shape [1, 1]), "filter", "weight", or an `nn.Parameter` of
            one element that several layers share.
        s_init: initial s.
        g: maps s to the threshold; the paper's sigmoid by default.

    Raises:
        UsageError: `threshold` is none of these.
    """


class STRLinear(_STR, _SparseLinear):
    """`nn.Linear` whose weight is soft-thresholded; extra arguments as `STRConv2d`."""


class DNWConv2d(_DNW, _SparseConv2d):
    """`nn.Conv2d` that drops its smallest weights; the gradient reaches all of them.

    Args:
        args, kwargs: as `nn.Conv2d`.
        prune_rate: the fraction of the weights to drop; `set_prune_rate` changes it.

    Raises:
        UsageError: `prune_rate` is outside [0, 1].
    """


class DNWLinear(_DNW, _SparseLinear):
    """`nn.Linear` that drops its smallest weights; extra arguments as `DNWConv2d`."""


class GMPConv2d(_GMP, _SparseConv2d):
    """`nn.Conv2d` that drops its smallest weights; the gradient reaches the kept ones.

    Arguments and errors as `DNWConv2d`.
    """


class GMPLinear(_GMP, _SparseLinear):
    """`nn.Linear` that drops its smallest weights; arguments as `DNWConv2d`."""
