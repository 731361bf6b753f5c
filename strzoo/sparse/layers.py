"""Sparse layers for anyone's network: STR, DNW and GMP versions of Conv2d and Linear.

Each keeps a dense `weight` to train and computes with `effective_weight()`, the sparse one:

- STR (arXiv:2002.03231, eq. 4): sign(w) * relu(|w| - g(s)), with a learned threshold parameter s;
- DNW (arXiv:1906.00586): the largest weights by magnitude; gradients reach all weights;
- GMP (arXiv:1710.01878): the largest weights by magnitude; gradients reach only those.

`strzoo.sparsify_` turns the layers of a whole model into these and `to_dense_` turns them back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.errors import UsageError
from strzoo.sparse.blocks import (
    block_norms,
    check_block,
    count_blocks,
    sparse_weight,
    spread,
)
from strzoo.sparse.magnitude_mask import check_prune_rate as check_prune_rate
from strzoo.sparse.magnitude_mask import count_dropped, keep_largest, magnitude_mask_of
from strzoo.sparse.magnitude_mask import magnitude_mask as magnitude_mask
from strzoo.sparse.soft_threshold import soft_threshold as soft_threshold

GRANULARITIES = ("layer", "filter", "weight")
# The paper's ResNet50 recipe; sigmoid of it is zero: training starts dense.
DEFAULT_S_INIT = -3200.0
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "exp": torch.exp}


@dataclass(frozen=True)
class ScaledFunction:
    """k f(s), f by name: what "exp" and a scale make of a threshold parameter s."""

    name: str
    scale: float = 1.0

    def __call__(self, s: Tensor) -> Tensor:
        value: Tensor = FUNCTIONS[self.name](s)
        return value if self.scale == 1 else self.scale * value


def resolve_g(
    g: Callable[[Tensor], Tensor] | str, scale: float = 1.0
) -> Callable[[Tensor], Tensor]:
    """The function g that maps a threshold parameter to the threshold (paper, appendix A.5).

    Args:
        g: "sigmoid", "exp", or a function.
        scale: k, the threshold is k g(s); for a name alone.

    Raises:
        UsageError: an unknown name, a scale that is not positive, or one beside a function.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"the scale of g is {scale}; it must be positive")
    if not isinstance(g, str):
        if scale != 1:
            raise UsageError("g_scale is for g by name; let the function scale by itself")
        return g
    if g not in FUNCTIONS:
        raise UsageError(f"g {g!r} is not one of {', '.join(FUNCTIONS)} or a function")
    return FUNCTIONS[g] if scale == 1 else ScaledFunction(g, scale)


class SparseLayer(nn.Module):
    """What the sparse layers share: a dense `weight` and the sparse one computed from it."""

    weight: Tensor
    method: str
    block: int = 1

    def effective_weight(self) -> Tensor:
        """The sparse weight the layer computes with, of `weight`'s shape."""
        raise NotImplementedError

    def init_sparsity(self, *args: Any, **options: Any) -> None:
        """Add this method's state to a layer that has a `weight` already."""
        raise NotImplementedError

    def drop_sparsity(self) -> None:
        """Remove what `init_sparsity` added."""
        raise NotImplementedError

    def magnitudes(self) -> Tensor:
        """What decides whether each weight is kept, of `weight`'s shape: |w|, or the norm of its
        block."""
        weight = self.weight.detach()
        if self.block == 1:
            return weight.abs()
        return spread(block_norms(weight, self.block), weight, self.block)


class STRLayer(SparseLayer):
    """What the STR layers share: the threshold parameter s (`sparseThreshold`) and g."""

    method = "str"
    sparseThreshold: nn.Parameter  # noqa: N815 - the published key

    def __init__(
        self,
        *args: Any,
        threshold: str | nn.Parameter = "layer",
        s_init: float = DEFAULT_S_INIT,
        g: Callable[[Tensor], Tensor] | str = torch.sigmoid,
        g_scale: float = 1.0,
        block: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.init_sparsity(threshold, s_init, resolve_g(g, g_scale), block)

    def init_sparsity(
        self,
        threshold: str | nn.Parameter = "layer",
        s_init: float = DEFAULT_S_INIT,
        g: Callable[[Tensor], Tensor] = torch.sigmoid,
        block: int = 1,
    ) -> None:
        self.g, self.block = g, check_block(block)
        if block > 1 and threshold == "weight":
            raise UsageError(
                "threshold 'weight' is one for each weight, a block has one for all of its; take "
                "layer, filter or global with block"
            )
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
        del self.sparseThreshold, self.g, self.block

    @property
    def granularity(self) -> str:
        """What one threshold covers: "layer" (a shared one too), "filter" or "weight"."""
        if self.sparseThreshold.numel() == 1:
            return "layer"
        return "weight" if self.sparseThreshold.shape == self.weight.shape else "filter"

    @property
    def threshold(self) -> Tensor:
        """g(s), in the units of the weights; shape [1, 1], per filter or per weight."""
        return self.g(self.sparseThreshold)

    def effective_weight(self) -> Tensor:
        return sparse_weight(self.weight, self.threshold, self.block)


def mean_threshold(layer: nn.Module) -> float | None:
    """The threshold of an STR layer (the mean of several, per filter or weight), else None."""
    return float(layer.threshold.mean()) if isinstance(layer, STRLayer) else None


class MagnitudeLayer(SparseLayer):
    """A layer that drops a fraction `prune_rate` of its weights, the smallest, in each forward:
    the nearest whole number of them, or with `truncate` the one below. With `block` it drops that
    fraction of its blocks, those of the smallest norms."""

    prune_rate: float
    truncate = False

    def __init__(self, *args: Any, prune_rate: float = 0.0, block: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.init_sparsity(prune_rate, block)

    def init_sparsity(self, prune_rate: float = 0.0, block: int = 1) -> None:
        self.block = check_block(block)
        self.prune_rate = check_prune_rate(prune_rate)

    def drop_sparsity(self) -> None:
        del self.prune_rate, self.block

    def set_prune_rate(self, prune_rate: float) -> None:
        """Drop this fraction of the weights, in [0, 1], from the next forward on.

        Raises:
            UsageError: it is outside [0, 1].
        """
        self.prune_rate = check_prune_rate(prune_rate)


class _DNW(MagnitudeLayer):
    method = "dnw"

    def effective_weight(self) -> Tensor:
        return keep_largest(
            self.weight,
            self.prune_rate,
            straight_through=True,
            truncate=self.truncate,
            block=self.block,
        )


class _GMP(MagnitudeLayer):
    """The rate changes in every step: to a compiler it is a tensor, because a Python number would
    be a constant of the graph, compiled anew for each."""

    method = "gmp"
    _dropped: Tensor

    def init_sparsity(self, prune_rate: float = 0.0, block: int = 1) -> None:
        self.block = check_block(block)
        count = torch.zeros((), dtype=torch.long, device=self.weight.device)
        self.register_buffer("_dropped", count, persistent=False)
        self.set_prune_rate(prune_rate)

    def drop_sparsity(self) -> None:
        super().drop_sparsity()
        del self._dropped

    def set_prune_rate(self, prune_rate: float) -> None:
        super().set_prune_rate(prune_rate)
        count = count_blocks(self.weight, self.block)
        self._dropped.fill_(count_dropped(self.prune_rate, count, truncate=self.truncate))

    def effective_weight(self) -> Tensor:
        if torch.compiler.is_compiling():
            return self.weight * magnitude_mask_of(self.weight, self._dropped, block=self.block)
        return keep_largest(
            self.weight,
            self.prune_rate,
            straight_through=False,
            truncate=self.truncate,
            block=self.block,
        )


class _SparseConv2d(SparseLayer, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.effective_weight(), self.bias)


class _SparseLinear(SparseLayer, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.effective_weight(), self.bias)


class STRConv2d(STRLayer, _SparseConv2d):
    """`nn.Conv2d` whose weight is soft-thresholded by a learned threshold.

    Args:
        args, kwargs: as `nn.Conv2d`.
        threshold: "layer" (one s, shape [1, 1]), "filter", "weight", or an `nn.Parameter` of
            one element that several layers share.
        s_init: initial s.
        g: maps s to the threshold; "sigmoid" (the paper's, by default), "exp" or a function.
        g_scale: the threshold is g_scale times that.
        block: consecutive input channels whose weights become zero together: the threshold acts
            on the norm of each block.

    Raises:
        UsageError: `threshold`, `g` or `block` is none of these.
    """


class STRLinear(STRLayer, _SparseLinear):
    """`nn.Linear` whose weight is soft-thresholded; extra arguments as `STRConv2d`."""


class DNWConv2d(_DNW, _SparseConv2d):
    """`nn.Conv2d` that drops its smallest weights; the gradient reaches all of them.

    Args:
        args, kwargs: as `nn.Conv2d`.
        prune_rate: the fraction of the weights to drop; `set_prune_rate` changes it.
        block: consecutive input channels whose weights are dropped together, those of the smallest
            norms.

    Raises:
        UsageError: `prune_rate` is outside [0, 1], or `block` is no such number.
    """


class DNWLinear(_DNW, _SparseLinear):
    """`nn.Linear` that drops its smallest weights; extra arguments as `DNWConv2d`."""


class GMPConv2d(_GMP, _SparseConv2d):
    """`nn.Conv2d` that drops its smallest weights; the gradient reaches the kept ones.

    Arguments and errors as `DNWConv2d`.
    """


class GMPLinear(_GMP, _SparseLinear):
    """`nn.Linear` that drops its smallest weights; arguments as `DNWConv2d`."""
