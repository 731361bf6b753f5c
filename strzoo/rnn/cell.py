"""FastGRNNCell: one FastGRNN cell, full rank, of fixed rank, or with a rank learned by STR.

FastGRNN: NeurIPS 2018, section 3.2; learned rank: STR paper (arXiv:2002.03231), section 4.3 and
appendix A. Parameters have EdgeML's names, shapes and initial values.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from strzoo.errors import UsageError
from strzoo.rnn.gates import find_gate
from strzoo.sparse.soft_threshold import soft_threshold

LEARNED: Literal["learned"] = "learned"
Rank = int | Literal["learned"] | None
SIDES = ("W", "U")
S_INIT = -10.0


class FastGRNNCell(nn.Module):
    """One step of FastGRNN on a batch.

    With a = x W + h U, z = gate(a + bias_gate) and c = update(a + bias_update),
    h' = z h + (sigmoid(zeta) (1 - z) + sigmoid(nu)) c.

    Parameters: `W` [in, H], or `W1` [in, r] and `W2` [r, H]; `U` [H, H], or `U1` and `U2`;
    `bias_gate`, `bias_update` [1, H] (ones); `zeta`, `nu` [1, 1]; matrices 0.1 times normal. With
    a learned rank W = (W1 * 1 S(m_W)^T) W2, where S is the soft threshold at exp(s_W); the inner
    size is the whole input (`m_W` [in], ones at first), so that training starts at full rank; U
    likewise.

    Args:
        input_size, hidden_size: in and H.
        gate, update: sigmoid, tanh, relu, quantTanh, quantSigm or quantSigm4.
        rank_w, rank_u: None for a full matrix, a number for a product of two, "learned" for one
            whose inner size is learned.
        zeta, nu: initial values.
        s_init: initial `s_W` and `s_U`; the paper uses -10 and below.

    Raises:
        UsageError: a size or rank below 1, an unknown gate or rank.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        gate: str = "sigmoid",
        update: str = "tanh",
        rank_w: Rank = None,
        rank_u: Rank = None,
        zeta: float = 1.0,
        nu: float = -4.0,
        s_init: float = S_INIT,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size)):
            if value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.gate, self.update = gate, update
        for function in (gate, update):
            find_gate(
                function
            )  # refuses what is none; kept by name, so that the cell can be pickled
        self.rank_w, self.rank_u = rank_w, rank_u
        kind = {"device": device, "dtype": dtype}
        for side, rows, rank in (("W", input_size, rank_w), ("U", hidden_size, rank_u)):
            for name, shape in _shapes(side, rows, hidden_size, rank).items():
                setattr(self, name, nn.Parameter(0.1 * torch.randn(*shape, **kind)))
            if rank == LEARNED:
                setattr(self, f"m_{side}", nn.Parameter(torch.ones(rows, **kind)))
                setattr(self, f"s_{side}", nn.Parameter(torch.full((1, 1), s_init, **kind)))
        self.bias_gate = nn.Parameter(torch.ones(1, hidden_size, **kind))
        self.bias_update = nn.Parameter(torch.ones(1, hidden_size, **kind))
        self.zeta = nn.Parameter(torch.full((1, 1), zeta, **kind))
        self.nu = nn.Parameter(torch.full((1, 1), nu, **kind))

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> Tensor:
        """h' [B, H] from x [B, in] and h [B, H] (zeros by default)."""
        if state is None:
            state = inputs.new_zeros(len(inputs), self.hidden_size)
        total = _multiply(inputs, self.factors("W")) + _multiply(state, self.factors("U"))
        z = find_gate(self.gate).torch(total + self.bias_gate)
        c = find_gate(self.update).torch(total + self.bias_update)
        return z * state + (torch.sigmoid(self.zeta) * (1 - z) + torch.sigmoid(self.nu)) * c

    def factors(self, side: str) -> tuple[Tensor, ...]:
        """The effective matrices of "W" or "U": one, or two whose product is it."""
        if f"{side}1" not in self._parameters:
            return (getattr(self, side),)
        first, second = getattr(self, f"{side}1"), getattr(self, f"{side}2")
        m = self.effective_m(side)
        return (first if m is None else first * m, second)

    def effective_m(self, side: str) -> Tensor | None:
        """S(m) of a learned rank, else None. Its nonzeros are the rank."""
        if f"m_{side}" not in self._parameters:
            return None
        return soft_threshold(getattr(self, f"m_{side}"), torch.exp(getattr(self, f"s_{side}")))

    @property
    def ranks(self) -> tuple[int, int]:
        """Inner sizes of W and U as they are now: nonzeros of S(m) where they are learned, the
        smaller side of a full matrix."""
        found = []
        for side in SIDES:
            m = self.effective_m(side)
            factors = self.factors(side)
            inner = factors[0].shape[1] if len(factors) > 1 else min(factors[0].shape)
            found.append(inner if m is None else int(torch.count_nonzero(m)))
        return found[0], found[1]

    @torch.no_grad()
    def fold(self) -> FastGRNNCell:
        """The plain low-rank cell with the same outputs: S(m) goes into the first factor, and dead
        columns are cut. A matrix that is wholly zero keeps one column of zeros.

        Returns:
            A new cell; its factors have the learned ranks. A cell without learned ranks is copied.
        """
        ranks: list[Rank] = []
        state = {k: v.detach().clone() for k, v in self.state_dict().items() if k[:2] not in "m_s_"}
        for side, rank in zip(SIDES, (self.rank_w, self.rank_u), strict=True):
            m = self.effective_m(side)
            if m is None:
                ranks.append(rank)
                continue
            first, second = self.factors(side)
            alive = m.nonzero().flatten()
            if not len(alive):
                alive = alive.new_zeros(1)
            state[f"{side}1"] = first[:, alive].clone()
            state[f"{side}2"] = second[alive].clone()
            ranks.append(len(alive))
        cell = FastGRNNCell(
            self.input_size, self.hidden_size, gate=self.gate, update=self.update,
            rank_w=ranks[0], rank_u=ranks[1], device="meta", dtype=self.zeta.dtype,
        )  # fmt: skip
        cell.load_state_dict(state, assign=True)  # nothing is drawn at random
        return cell

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}, gate={self.gate}, update={self.update}"
        ranks = (("rank_w", self.rank_w), ("rank_u", self.rank_u))
        return ", ".join([text, *(f"{name}={rank}" for name, rank in ranks if rank is not None)])


def _multiply(rows: Tensor, factors: tuple[Tensor, ...]) -> Tensor:
    for factor in factors:
        rows = rows @ factor
    return rows


def _shapes(side: str, rows: int, hidden: int, rank: Rank) -> dict[str, tuple[int, int]]:
    if rank is None:
        return {side: (rows, hidden)}
    if rank == LEARNED:
        rank = rows
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UsageError(
            f"rank_{side.lower()} is {rank!r}; it is a number from 1, 'learned', or None for a "
            "full matrix"
        )
    return {f"{side}1": (rows, rank), f"{side}2": (rank, hidden)}
