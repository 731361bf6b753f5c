"""Steer a learned rank to a given one, while training still says which columns go.

Plain STR has no knob for the rank: weight decay shrinks m and raises s until gradients hold, and
the ranks are where these come to rest. A target adds one force. From `start` to `end` of the
training the allowed rank falls geometrically from the full one to the wanted one; the columns of
the smallest |m| beyond it fade, until they are below the threshold exp(s), where STR makes them
zero for good. The others are left alone, so that a column's end disturbs little. The threshold is
kept from passing the last wanted column. From `end` on the rank is the wanted one.
"""

from __future__ import annotations

import math

import torch

from strzoo.errors import UsageError
from strzoo.rnn.cell import SIDES, FastGRNNCell
from strzoo.rnn.config import RankTarget

# A column that must go fades by this factor within this part of the training.
_FADED, _FADE = 1e-3, 0.05
_BELOW = 0.9  # the threshold stays this far below the smallest |m| that is wanted


class RankController:
    """Fades columns along a `RankTarget`; call `step` after each optimizer step.

    Raises:
        UsageError: a rank is wanted of a matrix whose rank is not learned, or above its size.
    """

    def __init__(self, cells: list[FastGRNNCell], target: RankTarget, total_steps: int) -> None:
        self.target = target
        self._total = total_steps
        self._factor = _FADED ** (1 / max(1.0, _FADE * total_steps))
        self._sides: list[tuple[FastGRNNCell, str, int]] = []
        for cell in cells:
            for side, wanted in zip(SIDES, (target.rank_w, target.rank_u), strict=True):
                if wanted is None:
                    continue
                m = cell.effective_m(side)
                if m is None:
                    raise UsageError(
                        f"a target for the rank of {side} needs rank_{side.lower()}='learned'"
                    )
                if wanted > len(m):
                    raise UsageError(f"rank {wanted} of {side} is above its {len(m)} columns")
                self._sides.append((cell, side, wanted))

    @property
    def holding(self) -> bool:
        """Whether all steered ranks are the wanted ones."""
        return all(cell.ranks[SIDES.index(side)] == rank for cell, side, rank in self._sides)

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Fade what is beyond the allowed rank, after `step` of the training's steps."""
        progress = step / self._total
        for cell, side, wanted in self._sides:
            m, s = getattr(cell, f"m_{side}"), getattr(cell, f"s_{side}")
            order = m.abs().argsort(descending=True)
            surplus = order[self.target.allowed(progress, len(m), wanted) :]
            m[surplus] *= self._factor if progress < self.target.end else 0.0
            least = float(m[order[wanted - 1]].abs())
            if 0 < least <= math.exp(float(s)):
                s.fill_(math.log(_BELOW * least))
