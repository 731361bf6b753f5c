"""Which weights go, and what becomes of those that stay: optimal brain surgery, layer by layer.

Removing weight j of a row w costs 1/2 G w_j^2 / [A^-1]_jj if the other weights of the row take over
what they can (Hassibi and Stork, 1993; for one layer's outputs: Frantar and Alistarh, "Optimal
Brain Compression", arXiv:2208.11580), and 1/2 G w_j^2 A_jj if none can (LeCun, 1990). As a row
thins out, the first becomes the second: between them the cost is interpolated by the row's density.
The weights that stay are the least-squares solution for the layer's own outputs.

One price holds for all weights of the network, which makes the budget of the layers. Weights go in
several rounds, each followed by the solution for those that stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from strzoo.pruning.statistics import LayerStatistics
from strzoo.sparse.magnitude_mask import magnitude_mask_of

_ROUNDS = 8
_STEPS = 15  # of conjugate gradients in each round
_DAMPING = 1e-2  # of A and G, relative to their means: what the images did not show may occur
_KEPT = 0.005  # of each layer's weights stay: a layer without any gives no answer
_TINY = 1e-30


@dataclass
class Rows:
    """The weights of one layer while they are pruned.

    Args:
        original: [groups, rows, inputs].
        weight: the present ones, of the same shape.
        kept: bool, which are left.
    """

    original: Tensor
    weight: Tensor
    kept: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Rows:
        """Of weights [groups, rows, inputs]; zeros are pruned already."""
        return cls(weight.clone(), weight.clone(), weight != 0)


Rate = Callable[[str, Rows], Tensor]


def prune_second_order(
    rows: Mapping[str, Rows],
    statistics: Mapping[str, LayerStatistics],
    zeros: int,
    *,
    on_round: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Leave `zeros` weights at zero and change the others, in place.

    Args:
        rows: of each layer, by name.
        statistics: of the same layers.
        zeros: how many of all weights are to be zero; at least those that are.
        on_round: told the rounds done and their number.
    """
    costs = {name: _Cost(one) for name, one in statistics.items()}
    begun = count_zeros(rows)
    for done in range(1, _ROUNDS + 1):
        left = (1 - done / _ROUNDS) ** 3  # fast at first, as in arXiv:1710.01878
        drop_cheapest(rows, lambda n, r: costs[n].of(r), zeros - round(left * (zeros - begun)))
        for name, row in rows.items():
            compensate(row, costs[name].gram)
        on_round(done, _ROUNDS)


def prune_by_magnitude(
    rows: Mapping[str, Rows], statistics: Mapping[str, LayerStatistics], zeros: int
) -> None:
    """Zero the smallest weights of each layer, `zeros` in all; the others stay as they are.

    How many of a layer is decided by its sensitivity, the mean of G_i A_jj: what a change of one
    of its weights costs.

    Args:
        rows, statistics, zeros: as in `prune_second_order`.
    """

    def cost(name: str, row: Rows) -> Tensor:
        one = statistics[name]
        weights = one.curvature.mean() * one.diagonal.mean()
        return row.weight.square() * weights

    drop_cheapest(rows, cost, zeros)
    for row in rows.values():
        row.weight.masked_fill_(~row.kept, 0.0)


def count_zeros(rows: Mapping[str, Rows]) -> int:
    """How many weights are pruned."""
    return sum(int((~row.kept).sum()) for row in rows.values())


def most_zeros(rows: Mapping[str, Rows]) -> int:
    """How many weights can be pruned: each layer keeps a few."""
    return sum(row.kept.numel() - _least(row) for row in rows.values())


def _least(row: Rows) -> int:
    return min(max(1, math.ceil(_KEPT * row.kept.numel())), int(row.kept.sum()))


def drop_cheapest(rows: Mapping[str, Rows], rate: Rate, zeros: int) -> None:
    """Prune until exactly `zeros` weights are, the cheapest of all layers first.

    Args:
        rows: `kept` is changed.
        rate: the cost of each weight of a layer, not negative.
        zeros: at most `most_zeros`.
    """
    found = []
    for name, row in rows.items():
        cost = torch.where(row.kept, rate(name, row), 0.0).reshape(-1)
        best = torch.topk(torch.where(row.kept.reshape(-1), cost, -1.0), _least(row)).indices
        cost = cost.clamp(min=_TINY).masked_fill(~row.kept.reshape(-1), 0.0)
        cost[best] = math.inf
        found.append(cost)
    mask = magnitude_mask_of(torch.cat(found), torch.tensor(zeros)).bool()
    for row, part in zip(rows.values(), mask.split([len(cost) for cost in found]), strict=True):
        row.kept = part.reshape(row.kept.shape)


class _Cost:
    """What pruning each weight of a layer costs; the second-order matrices, damped."""

    def __init__(self, one: LayerStatistics) -> None:
        diagonal = one.diagonal
        damping = _DAMPING * diagonal.mean(dim=1, keepdim=True) + _TINY
        self.gram = one.gram + (
            damping if one.gram.dim() == 2 else torch.diag_embed(damping.expand_as(diagonal))
        )
        self._alone = (diagonal + damping)[:, None]
        self._together = self._alone
        if one.gram.dim() == 3:
            factor, failed = torch.linalg.cholesky_ex(self.gram)
            if not failed.any():
                inverse = torch.cholesky_inverse(factor)
                self._together = inverse.diagonal(dim1=1, dim2=2).reciprocal()[:, None]
        self._curvature = (one.curvature + _DAMPING * one.curvature.mean())[..., None]

    def of(self, row: Rows) -> Tensor:
        density = row.kept.float().mean(dim=2, keepdim=True)
        price = self._alone ** (1 - density) * self._together**density
        return 0.5 * self._curvature * row.weight.square() * price


def compensate(row: Rows, gram: Tensor, steps: int = _STEPS) -> None:
    """Give the weights that are kept the values with which the layer's outputs are nearest to the
    original ones: minimise (w - w0) A (w - w0)^T over the kept weights of each row.

    By conjugate gradients for all rows at once, preconditioned with the diagonal.

    Args:
        row: `weight` is changed.
        gram: A, [groups, inputs, inputs]; a diagonal [groups, inputs] moves nothing.
        steps: of conjugate gradients, at most the inputs of a row.
    """
    kept = row.kept.to(row.weight.dtype)
    weight = row.weight * kept
    if gram.dim() == 3:
        scale = gram.diagonal(dim1=1, dim2=2)[:, None].reciprocal()
        residual = ((row.original - weight) @ gram) * kept
        scaled = residual * scale
        direction, size = scaled, (residual * scaled).sum(dim=2, keepdim=True)
        for _ in range(min(steps, gram.shape[1])):
            image = (direction @ gram) * kept
            length = size / ((direction * image).sum(dim=2, keepdim=True) + _TINY)
            weight = weight + length * direction
            residual = residual - length * image
            scaled = residual * scale
            before, size = size, (residual * scaled).sum(dim=2, keepdim=True)
            direction = scaled + size / (before + _TINY) * direction
    row.weight = weight


def relative_error(row: Rows, one: LayerStatistics) -> float:
    """Mean square of the change of a layer's outputs, relative to that of the outputs."""
    change = row.weight - row.original

    def measure(weight: Tensor) -> float:
        if one.gram.dim() == 2:
            return float((weight.square() * one.gram[:, None]).sum())
        return float(((weight @ one.gram) * weight).sum())

    return measure(change) / max(measure(row.original), _TINY)
