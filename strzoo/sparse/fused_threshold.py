"""The soft thresholds of all layers of a network at once: one Triton kernel forward, two back.

For training on a GPU, where layer by layer they are some hundred small kernels in every step. The
result is that of `soft_threshold`; the gradient of a threshold is summed in another order.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from strzoo.sparse.layers import STRLayer
from strzoo.sparse.selection import str_layers

BLOCK = 4096  # values that one program of a kernel computes


def has_triton() -> bool:
    """Whether Triton is installed; imports nothing."""
    try:
        return importlib.util.find_spec("triton") is not None
    except (ModuleNotFoundError, ValueError):
        return False


class FusedThresholds:
    """The effective weights of STR layers, computed together.

    They lie one after the other in one buffer, each in the memory order of its layer's weight and
    each beginning at a multiple of `BLOCK`.

    Args:
        layers: with one threshold each (or one in common), the same g, and weights in fp32.
    """

    def __init__(self, layers: Sequence[STRLayer]) -> None:
        self._layers = list(layers)
        self._addresses: list[int] = []
        self._pointers = torch.empty(0)
        device = self._layers[0].weight.device
        sizes = [layer.weight.numel() for layer in self._layers]
        blocks = [-(-size // BLOCK) for size in sizes]
        firsts = [sum(blocks[:number]) for number in range(len(blocks) + 1)]
        self._offsets = [BLOCK * first for first in firsts]
        self.sizes = torch.tensor(sizes, device=device)
        self.firsts = torch.tensor(firsts, device=device)
        numbers = torch.arange(len(blocks)).repeat_interleave(torch.tensor(blocks))
        self.layer_of_block = numbers.to(device)

    @classmethod
    def build(cls, model: nn.Module) -> FusedThresholds | None:
        """For the STR layers of `model`; None if they do not all fit together, or without Triton.

        Args:
            model: on one device; its weights may change, their shapes may not.
        """
        layers = list(str_layers(model).values())
        if not layers or not has_triton():
            return None
        first = layers[0]
        fits = all(
            layer.granularity == "layer"
            and layer.block == 1
            and layer.g is first.g
            and layer.weight.dtype == layer.sparseThreshold.dtype == torch.float32
            and layer.weight.device == first.weight.device
            and _is_dense(layer.weight)
            for layer in layers
        )
        return cls(layers) if fits else None

    def effective_weights(self) -> tuple[Tensor, ...]:
        """What `layer.effective_weight()` gives of each layer, from one kernel."""
        thresholds = torch.cat([layer.sparseThreshold.reshape(1) for layer in self._layers])
        weights = [layer.weight for layer in self._layers]
        result: tuple[Tensor, ...] = _Fused.apply(self, self._layers[0].g(thresholds), *weights)
        return result

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The layers compute with these effective weights while the context lasts."""
        ready = self.effective_weights()
        try:
            for layer, weight in zip(self._layers, ready, strict=True):
                layer.effective_weight = _Ready(weight)  # type: ignore[method-assign]
            yield
        finally:
            for layer in self._layers:
                vars(layer).pop("effective_weight", None)

    def views(self, flat: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """The part of each layer in a buffer of `length` values, shaped as its weight."""
        return [
            flat[start : start + weight.numel()].as_strided(
                weight.shape, weight.stride(), storage_offset=start
            )
            for start, weight in zip(self._offsets, weights, strict=False)
        ]

    @property
    def length(self) -> int:
        """Values of the buffer."""
        return self._offsets[-1]

    def pointers(self, weights: Sequence[Tensor]) -> Tensor:
        """Where the weights lie. Optimizers change them in place, so this is copied once."""
        addresses = [weight.data_ptr() for weight in weights]
        if addresses != self._addresses:
            self._addresses = addresses
            self._pointers = torch.tensor(addresses).to(weights[0].device)
        return self._pointers


class _Ready:
    """An effective weight in place of the method that computes it."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self) -> Tensor:
        return self._weight


class _Fused(torch.autograd.Function):
    """Thresholds [L] and L weights in, L effective weights out."""

    @staticmethod
    def forward(
        ctx: Any, plan: FusedThresholds, thresholds: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        from strzoo.sparse import threshold_kernels

        flat = torch.empty(plan.length, device=thresholds.device)
        threshold_kernels.shrink[(len(plan.layer_of_block),)](
            plan.pointers(weights), plan.sizes, plan.firsts, plan.layer_of_block,
            thresholds.contiguous(), flat, BLOCK=BLOCK,
        )  # fmt: skip
        ctx.plan, ctx.flat = plan, flat
        ctx.shapes = [weight.detach() for weight in weights]
        return tuple(plan.views(flat, weights))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from strzoo.sparse import threshold_kernels

        plan: FusedThresholds = ctx.plan
        blocks, layers = len(plan.layer_of_block), len(plan.sizes)
        flat = torch.empty_like(ctx.flat)
        views = plan.views(flat, ctx.shapes)
        torch._foreach_copy_(views, list(grads))
        partial = torch.empty(blocks, device=flat.device)
        thresholds = torch.empty(layers, device=flat.device)
        threshold_kernels.shrink_backward[(blocks,)](ctx.flat, flat, partial, BLOCK=BLOCK)
        threshold_kernels.add_up[(layers,)](partial, plan.firsts, thresholds, BLOCK=BLOCK)
        return (None, thresholds, *views)


def _is_dense(weight: Tensor) -> bool:
    """Whether the values fill their memory, in any order of the dimensions."""
    return weight.is_contiguous() or (
        weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    )
