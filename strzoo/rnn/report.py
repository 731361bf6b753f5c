"""What a FastGRNN network costs: parameters, ranks, multiply-accumulates per step and in all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.errors import UsageError
from strzoo.rnn.cell import SIDES, FastGRNNCell
from strzoo.rnn.classifier import SequenceClassifier
from strzoo.rnn.layer import FastGRNN

CONVENTION = (
    "one MAC = one multiply-accumulate of a matrix product; gates and sums are not counted; "
    "sparse = zero weights and dead ranks skipped; kilobytes of 1,024 bytes"
)


@dataclass(frozen=True)
class MatrixReport:
    """One matrix of a cell, or the linear layer ("fc").

    `shape` is that of the product; `inner` the columns of its first factor, None for a plain
    matrix; `rank` the columns that are alive (of a plain matrix: its smaller side). `params` and
    `nonzeros` count the factors as they are, `m` and s of a learned rank left out, since folding
    removes them; dead columns count as zeros. `macs` and `sparse_macs` are for one step, of the
    linear layer for one sequence.
    """

    name: str
    shape: tuple[int, int]
    inner: int | None
    rank: int
    params: int
    nonzeros: int
    macs: int
    sparse_macs: int

    @property
    def sparsity(self) -> float:
        """Percent of zeros."""
        return 100.0 * (self.params - self.nonzeros) / self.params


@dataclass(frozen=True)
class RNNReport:
    """A network matrix by matrix, and its totals. `steps` is the length of the sequence that
    `macs` and `sparse_macs` are for; `params` also counts biases, zeta, nu and the classifier."""

    model: str
    steps: int
    matrices: tuple[MatrixReport, ...]
    params: int
    nonzeros: int
    linear_macs: int

    @property
    def sparsity(self) -> float:
        """Percent of zeros among the weights of all matrices."""
        total = sum(one.params for one in self.matrices)
        return 100.0 * (total - sum(one.nonzeros for one in self.matrices)) / total

    @property
    def macs_per_step(self) -> int:
        return sum(one.macs for one in self.matrices if one.name != "fc")

    @property
    def sparse_macs_per_step(self) -> int:
        return sum(one.sparse_macs for one in self.matrices if one.name != "fc")

    @property
    def macs(self) -> int:
        """Of one sequence."""
        return self.steps * self.macs_per_step + self.linear_macs

    @property
    def sparse_macs(self) -> int:
        fc = sum(one.sparse_macs for one in self.matrices if one.name == "fc")
        return self.steps * self.sparse_macs_per_step + fc

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema": 1,
            "model": self.model,
            "convention": CONVENTION,
            "steps": self.steps,
            "totals": {
                "params": self.params,
                "nonzeros": self.nonzeros,
                "sparsity": self.sparsity,
                "macs_per_step": self.macs_per_step,
                "sparse_macs_per_step": self.sparse_macs_per_step,
                "macs": self.macs,
                "sparse_macs": self.sparse_macs,
                "kilobytes": 4 * self.nonzeros / 1024,
            },
            "matrices": [{**asdict(one), "sparsity": one.sparsity} for one in self.matrices],
        }


@torch.no_grad()
def report_rnn(model: nn.Module, *, steps: int | None = None, name: str | None = None) -> RNNReport:
    """Parameters, ranks and MACs of a FastGRNN network.

    Args:
        model: a `SequenceClassifier`, `FastGRNN` or `FastGRNNCell`.
        steps: length of a sequence; by default what the network was made for, else 1.
        name: how the report calls it.

    Returns:
        The figures of each matrix, and their totals.

    Raises:
        UsageError: it is none of these, or `steps` is below 1.
    """
    if not isinstance(model, SequenceClassifier | FastGRNN | FastGRNNCell):
        raise UsageError(
            f"a {type(model).__name__} is no FastGRNN network; give a SequenceClassifier, "
            "FastGRNN or FastGRNNCell"
        )
    if steps is None:
        steps = (model.steps if isinstance(model, SequenceClassifier) else None) or 1
    if steps < 1:
        raise UsageError(f"steps is {steps}; it must be at least 1")
    cells = {n: m for n, m in model.named_modules() if isinstance(m, FastGRNNCell)}
    matrices = []
    params = nonzeros = linear = 0
    for prefix, cell in cells.items():
        for side in SIDES:
            made = _report_matrix(f"{prefix}.{side}".lstrip("."), cell, side)
            matrices.append(made)
            params, nonzeros = params + made.params, nonzeros + made.nonzeros
        rest = 2 * cell.hidden_size + 2  # biases, zeta and nu are needed whatever their values
        params, nonzeros = params + rest, nonzeros + rest
    if isinstance(model, SequenceClassifier):
        weight, count = model.fc.weight, int(torch.count_nonzero(model.fc.weight))
        linear = weight.numel()
        shape = (weight.shape[1], weight.shape[0])
        matrices.append(MatrixReport("fc", shape, None, min(shape), linear, count, linear, count))
        params += linear + model.num_classes
        nonzeros += count + model.num_classes
    return RNNReport(name or type(model).__name__, steps, tuple(matrices), params, nonzeros, linear)


def _report_matrix(name: str, cell: FastGRNNCell, side: str) -> MatrixReport:
    factors = cell.factors(side)
    shape = (factors[0].shape[0], cell.hidden_size)
    rank = cell.ranks[SIDES.index(side)]
    inner = factors[0].shape[1] if len(factors) > 1 else None
    if cell.effective_m(side) is not None:  # what folding cuts is zero in both factors
        alive = (factors[0] != 0).any(0)
        factors = (factors[0], factors[1] * alive[:, None])
    count = sum(_nonzeros(one) for one in factors)
    size = sum(one.numel() for one in factors)
    return MatrixReport(name, shape, inner, rank, size, count, size, count)


def _nonzeros(matrix: Tensor) -> int:
    return int(torch.count_nonzero(matrix))
