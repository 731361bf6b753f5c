"""FastGRNN: layers of cells over whole sequences, with the interface of `nn.GRU`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.errors import UsageError
from strzoo.rnn.cell import FastGRNNCell
from strzoo.rnn.gates import find_gate
from strzoo.rnn.unrolling import unroll

# What the call of one more product costs in a step, in multiplications of that product.
_CALL = 30_000


class FastGRNN(nn.Module):
    """One or more layers of FastGRNN, forward or bidirectional.

    Cells are `cells.{layer}`, those of the backward direction `reverse_cells.{layer}`. As in
    `nn.GRU`, the output of a step holds both directions at that step, the forward one first, and
    is the next layer's input.

    Args:
        input_size, hidden_size: features of a step, and of a state.
        num_layers: layers, each fed by the one before.
        batch_first: sequences are [B, T, features] instead of [T, B, features].
        bidirectional: a second cell per layer reads the sequence from its end.
        cell: further arguments of `FastGRNNCell`: gates, ranks, initial values, device, dtype.

    Raises:
        UsageError: as `FastGRNNCell`, or no layer.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        bidirectional: bool = False,
        **cell: Any,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise UsageError(f"num_layers is {num_layers}; it must be at least 1")
        width = 2 * hidden_size if bidirectional else hidden_size
        sizes = [input_size] + [width] * (num_layers - 1)
        cells = [FastGRNNCell(size, hidden_size, **cell) for size in sizes]
        backward = sizes if bidirectional else []
        reverse = [FastGRNNCell(size, hidden_size, **cell) for size in backward]
        self._set(cells, reverse, batch_first)

    @classmethod
    def from_cells(
        cls,
        cells: Sequence[FastGRNNCell],
        reverse_cells: Sequence[FastGRNNCell] = (),
        *,
        batch_first: bool = False,
    ) -> FastGRNN:
        """A network of given cells, one per layer and direction; their sizes may differ.

        Raises:
            UsageError: there is none, or their sizes do not fit together.
        """
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._set(list(cells), list(reverse_cells), batch_first)
        return made

    def _set(
        self, cells: list[FastGRNNCell], reverse: list[FastGRNNCell], batch_first: bool
    ) -> None:
        if not cells or (reverse and len(reverse) != len(cells)):
            raise UsageError(
                f"{len(cells)} forward and {len(reverse)} backward cells make no network; give "
                "one or more layers, each with both directions or all without"
            )
        for layer, cell in enumerate(cells):
            wanted = cells[0].input_size
            if layer:
                wanted = cells[layer - 1].hidden_size
                wanted += reverse[layer - 1].hidden_size if reverse else 0
            for one in (cell, *reverse[layer : layer + 1]):
                if one.input_size != wanted:
                    raise UsageError(
                        f"layer {layer} takes {one.input_size} features, but gets {wanted}"
                    )
        self.cells, self.reverse_cells = nn.ModuleList(cells), nn.ModuleList(reverse)
        self.batch_first = batch_first

    @property
    def input_size(self) -> int:
        return self.layers[0][0].input_size

    @property
    def output_size(self) -> int:
        """Features of a step of the output: of both directions together."""
        return sum(cell.hidden_size for cell in self.layers[-1])

    @property
    def bidirectional(self) -> bool:
        return len(self.reverse_cells) > 0

    @property
    def layers(self) -> list[tuple[FastGRNNCell, ...]]:
        """The cells of each layer: the forward one, and the backward one if there is one."""
        groups = [self.cells, self.reverse_cells] if self.bidirectional else [self.cells]
        return [tuple(cells) for cells in zip(*groups, strict=True)]

    def forward(
        self, inputs: Tensor, state: Sequence[Tensor] | Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The states of the last layer, and the final state of each layer and direction.

        Args:
            inputs: [T, B, in], [B, T, in] if `batch_first`, or [T, in] without a batch.
            state: initial states [B, H] (or [H]) in the order of the final ones: layer by layer,
                the forward direction first; zeros by default.

        Returns:
            The output, shaped as the input with `output_size` features, and the final states: of
            a backward cell the one after the first step.

        Raises:
            UsageError: a wrong shape, or a sequence without steps.
        """
        single = inputs.dim() == 2
        steps = (
            inputs[:, None] if single else inputs.transpose(0, 1) if self.batch_first else inputs
        )
        layers = self.layers
        if steps.dim() != 3 or steps.shape[2] != self.input_size or not len(steps):
            form = "[B, T, in]" if self.batch_first else "[T, B, in]"
            raise UsageError(
                f"sequences of shape {list(inputs.shape)} are not {form} with in = "
                f"{self.input_size} and at least one step"
            )
        initial = self._initial(state, steps, sum(map(len, layers)))
        final: list[Tensor] = []
        for cells in layers:
            outputs = []
            for direction, cell in enumerate(cells):
                read = steps.flip(0) if direction else steps
                found = _run(cell, read, initial[len(final)])
                final.append(found[-1])
                outputs.append(found.flip(0) if direction else found)
            steps = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        if single:
            return steps[:, 0], tuple(one[0] for one in final)
        return steps.transpose(0, 1) if self.batch_first else steps, tuple(final)

    def _initial(
        self, state: Sequence[Tensor] | Tensor | None, steps: Tensor, count: int
    ) -> list[Tensor]:
        sizes = [cell.hidden_size for cells in self.layers for cell in cells]
        if state is None:
            return [steps.new_zeros(steps.shape[1], size) for size in sizes]
        given = [one[None] if one.dim() == 1 else one for one in state]
        wanted = [(steps.shape[1], size) for size in sizes]
        if [tuple(one.shape) for one in given] != wanted:
            raise UsageError(
                f"initial states of shapes {[list(one.shape) for one in given]} are given; "
                f"{count} are needed, of {[list(shape) for shape in wanted]}"
            )
        return given

    def fold(self) -> FastGRNN:
        """The plain network with the same outputs: every cell folded (`FastGRNNCell.fold`)."""
        folded = [[cell.fold() for cell in cells] for cells in (self.cells, self.reverse_cells)]  # type: ignore[operator]
        return FastGRNN.from_cells(*folded, batch_first=self.batch_first)

    def extra_repr(self) -> str:
        return f"batch_first={self.batch_first}"


def _run(cell: FastGRNNCell, steps: Tensor, state: Tensor) -> Tensor:
    """States [T, B, H] of one cell over [T, B, in]."""
    *outer, weight = cell.factors("W")
    for factor in outer:
        steps = steps @ factor
    recurrent = cell.factors("U")
    if len(recurrent) > 1 and _is_cheaper_merged(recurrent[0], steps):
        recurrent = (recurrent[0] @ recurrent[1],)
    return unroll(
        steps,
        weight,
        recurrent,
        (cell.bias_gate, cell.bias_update),
        (torch.sigmoid(cell.zeta), torch.sigmoid(cell.nu)),
        state,
        (find_gate(cell.gate), find_gate(cell.update)),
    )


def _is_cheaper_merged(first: Tensor, steps: Tensor) -> bool:
    """Whether a step costs less with U1 U2 multiplied beforehand than with one after the other."""
    (hidden, rank), (count, batch, _) = first.shape, steps.shape
    merged = count * batch * hidden**2 + hidden**2 * rank
    return merged < count * (2 * batch * hidden * rank + _CALL)
