"""Decay the threshold parameters of all STR layers by as much as a total sparsity asks for.

Method: docs/target-sparsity.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from strzoo.errors import StrzooError, UsageError
from strzoo.sparse.layers import STRLayer
from strzoo.sparse.selection import prunable_layers, str_layers

_SAMPLE = 1 << 14  # weights looked at per layer where a decision need not be exact
_TOLERANCE = 1e-4  # of the sampled solution: a tenth of what the end is held to
_FIRST_SPARSITY = 1e-3  # where thresholds that do nothing yet are brought to
_KNEE = 0.1  # above this (negative) s, weight decay on it is continued as a line
_LOWEST = -1e4  # no s is brought below this; sigmoid is 0 long before
_FARTHEST = 1e7  # beyond any offset and any s


@dataclass(frozen=True)
class Projected:
    """Every s was multiplied by exp(-`offset`); `sparsity` is the fraction of zeros after it (an
    estimate from a sample unless the move was exact)."""

    offset: float
    sparsity: float


@dataclass
class _Part:
    """One layer: |w|, or of a weight in a block the block's norm, as [rows, columns], all or a
    sample, and s in a shape that broadcasts."""

    magnitudes: Tensor
    s: Tensor
    layer: STRLayer
    key: int  # of the threshold parameter, which several layers may share
    scale: float  # weights per magnitude

    def zeros(self, offset: float, cap: float = math.inf) -> Tensor:
        """How many of the magnitudes are at or below the threshold after such a decay."""
        return (self.magnitudes <= self.layer.g(_decayed(self.s, offset, cap))).sum()


def _decayed(s: Tensor, offset: float, cap: float) -> Tensor:
    """s * exp(-offset): s after weight decay, ds = -s dt, for a time `offset`; at most `cap`.

    Decay alone never passes 0, a threshold of 1/2. Above -_KNEE it goes on at the pace that it has
    there, so that every threshold can be reached.
    """
    wide = s.to(torch.float64 if s.device.type != "mps" else torch.float32)
    # In these units decay has a constant pace: u = -ln(-s / _KNEE), and a line above -_KNEE.
    u = torch.where(wide < -_KNEE, -(-wide / _KNEE).clamp(min=1).log(), wide / _KNEE + 1) + offset
    moved = torch.where(u < 0, -_KNEE * torch.exp(-u.clamp(max=0)), (u - 1) * _KNEE)
    return moved.clamp(max=cap).maximum(wide.clamp(max=_LOWEST)).to(s.dtype)


class ThresholdProjection:
    """Applies one amount of weight decay to every threshold parameter of a network.

    Decay is what raises thresholds in plain STR, by the same factor for all of them; gradients
    decide which layers stay dense. Negative amounts lower the thresholds.

    A layer that would be left with fewer than `keep` of its weights (one at least) gets less, or
    has its thresholds lowered, so that this many stay nonzero. A threshold that several layers
    share is exempt: it is one number for all of them.

    Args:
        model: with STR layers; sparsity is counted over all its convolutions and linears.
        keep: fraction of the weights.

    Raises:
        UsageError: the model has no STR layers.
    """

    def __init__(self, model: nn.Module, *, keep: float) -> None:
        self._layers = str_layers(model)
        if not self._layers:
            raise UsageError("target_sparsity is for STR: the model has no STR layers")
        self._dense = [
            layer for name, layer in prunable_layers(model).items() if name not in self._layers
        ]
        self._keep = keep
        users: dict[int, int] = {}
        for layer in self._layers.values():
            users[id(layer.sparseThreshold)] = users.get(id(layer.sparseThreshold), 0) + 1
        self._shared = {key for key, count in users.items() if count > 1}
        self._total = sum(_weight(m).numel() for m in (*self._layers.values(), *self._dense))

    def check_reachable(self, sparsity: float) -> None:
        """Raise a UsageError if the STR layers hold too few weights for that total sparsity."""
        prunable = 0
        for layer in self._layers.values():
            prunable += layer.weight.numel() - self._least_alive(layer)
        if sparsity * self._total > prunable:
            raise UsageError(
                f"target_sparsity {sparsity} cannot be met: at most "
                f"{math.floor(1e4 * prunable / self._total) / 1e4} of the {self._total:,} weights "
                "can become zero; make more layers sparse, or lower the target"
            )

    @torch.no_grad()
    def begin(self) -> float:
        """Bring thresholds that are below (almost) all weights to where they begin to matter.

        Returns:
            The fraction of zeros then.
        """
        parts = self._parts(sampled=False)
        sparsity = self._count(parts, 0.0, {}) / self._total
        if sparsity >= _FIRST_SPARSITY:
            return sparsity
        return self.move_to(_FIRST_SPARSITY, exact=True).sparsity

    @torch.no_grad()
    def move_to(self, sparsity: float, *, exact: bool) -> Projected:
        """Decay every s by the amount that makes the total sparsity this fraction.

        Args:
            sparsity: the fraction wanted. Weights that are exactly zero stay zero under every
                threshold; if they are more already, thresholds fall as far as that makes fewer.
            exact: count all weights, to one of them (ties aside); else a sample of each layer.

        Returns:
            What was done.

        Raises:
            StrzooError: even the largest thresholds leave too many weights.
        """
        wanted = sparsity * self._total
        parts = self._parts(sampled=True)
        tolerance = _TOLERANCE * self._total
        if not exact:
            offset, zeros, caps = self._solve(parts, wanted, 0.0, tolerance=tolerance)
        else:
            whole = self._parts(sampled=False)
            # The sample's error now is about its error after the decay.
            error = self._count(parts, 0.0, {}) - self._count(whole, 0.0, {})
            guess, _, _ = self._solve(parts, wanted + error, 0.0, tolerance=tolerance)
            # Blocks become zero whole.
            nearest = 0.5 * max(layer.block for layer in self._layers.values())
            offset, zeros, caps = self._solve(whole, wanted, guess, tolerance=nearest)
        offset, caps = self._agree(offset, caps)
        moved: set[int] = set()
        for layer in self._layers.values():
            s = layer.sparseThreshold
            if id(s) not in moved:
                moved.add(id(s))
                s.copy_(_decayed(s, offset, caps.get(id(s), math.inf)))
        return Projected(offset, zeros / self._total)

    def _solve(
        self, parts: Sequence[_Part], wanted: float, guess: float, *, tolerance: float
    ) -> tuple[float, float, dict[int, float]]:
        """The offset, the zeros it gives, and the largest s allowed in layers that would die."""
        caps: dict[int, float] = {}
        while True:
            offset, zeros = _find_root(
                lambda x: self._count(parts, x, caps), wanted, guess, tolerance
            )
            dying = [
                part
                for part in parts
                if part.key not in caps
                and part.key not in self._shared
                and self._alive(part, offset) < self._least_alive(part.layer)
            ]
            if not dying:
                return offset, zeros, caps
            for part in dying:
                caps[part.key] = self._largest_s(part.layer)
            guess = offset

    def _parts(self, *, sampled: bool) -> list[_Part]:
        parts = []
        for layer in self._layers.values():
            weight = layer.weight.detach() if layer.block == 1 else layer.magnitudes()
            weight = weight.flatten(1)
            s = layer.sparseThreshold.detach()
            s = s.reshape(()) if s.numel() == 1 else s.flatten(1)
            stride = _stride(layer.weight) if sampled else 1
            columns = weight[:, ::stride]
            parts.append(
                _Part(
                    columns.abs().to(torch.promote_types(weight.dtype, s.dtype)),
                    s[:, ::stride] if s.shape[1:] == weight.shape[1:] else s,
                    layer,
                    id(layer.sparseThreshold),
                    weight.numel() / columns.numel(),
                )
            )
        return parts

    def _count(self, parts: Sequence[_Part], offset: float, caps: dict[int, float]) -> float:
        """Zeros in the whole network after such a decay; one wait for the device."""
        counts = [part.zeros(offset, caps.get(part.key, math.inf)) for part in parts]
        counts += [(_weight(layer) == 0).sum() for layer in self._dense]
        found = torch.stack(counts).tolist()
        scales = [part.scale for part in parts] + [1.0] * len(self._dense)
        return sum(count * scale for count, scale in zip(found, scales, strict=True))

    def _least_alive(self, layer: STRLayer) -> int:
        return max(1, math.ceil(self._keep * layer.weight.numel())) if self._keep else 0

    def _alive(self, part: _Part, offset: float) -> float:
        return part.scale * (part.magnitudes.numel() - int(part.zeros(offset)))

    def _largest_s(self, layer: STRLayer) -> float:
        """The largest s that leaves the layer its least weights (inf if no s does)."""
        magnitudes = layer.magnitudes().flatten()
        count = self._least_alive(layer)
        # The smallest of the survivors; the threshold must stay below it.
        bound = torch.topk(magnitudes, count, sorted=True).values[-1]
        low, high = -1.0, 1.0
        like = layer.sparseThreshold.detach()

        def is_below(s: float) -> bool:
            return bool(layer.g(torch.full((), s, dtype=like.dtype, device=like.device)) < bound)

        while is_below(high) and high < _FARTHEST:
            high *= 2
        while not is_below(low):
            low *= 2
            if low < -_FARTHEST:
                return math.inf
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if is_below(middle) else (low, middle)
        return low

    def _agree(self, offset: float, caps: dict[int, float]) -> tuple[float, dict[int, float]]:
        """The decision of rank 0, on every rank: machines may differ in the last bit."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return offset, caps
        keys = list(dict.fromkeys(id(layer.sparseThreshold) for layer in self._layers.values()))
        first = next(iter(self._layers.values())).weight
        device = first.device if distributed.get_backend() == "nccl" else torch.device("cpu")
        values = [offset, *(caps.get(key, math.inf) for key in keys)]
        message = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.broadcast(message, src=0)
        offset, *limits = message.tolist()
        return offset, dict(zip(keys, limits, strict=True))


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _stride(weight: Tensor) -> int:
    """The distance between sampled weights of a layer; coprime to the size of the kernel, so that
    the sample holds every position of it."""
    stride = max(1, weight.numel() // _SAMPLE)
    while math.gcd(stride, weight[0, 0].numel()) > 1:
        stride += 1
    return stride


def _find_root(
    count: Callable[[float], float], wanted: float, guess: float, tolerance: float
) -> tuple[float, float]:
    """The x with count(x) nearest to `wanted`, and that count, for a count that rises with x.

    The count has a floor, what no x makes zero less (weights that are exactly zero). If `wanted`
    lies below it, x is the largest one found at the floor: no threshold moves further than it has
    an effect. A bracket grows from `guess`; it shrinks by interpolation and halving in turn.

    Raises:
        StrzooError: the count stays below `wanted` for every x.
    """
    low = high = guess
    below = above = count(guess)
    width = 0.01
    while above < wanted - tolerance and high < _FARTHEST:
        low, below = high, above
        high, width = high + width, 4 * width
        above = count(high)
    if above < wanted - tolerance:
        raise StrzooError(
            f"the thresholds cannot make {wanted:.0f} weights zero, only {above:.0f}: the other "
            "weights are larger than any threshold (the sigmoid ends at 1); lower the learning "
            "rate or raise weight_decay"
        )
    floor = count(-_FARTHEST) if below > wanted + tolerance else 0.0
    while below > max(wanted, floor) + tolerance:
        high, above = low, below
        low, width = low - width, 4 * width
        below = count(low)
    if floor > wanted:
        return _find_edge(count, floor + tolerance, low, high)
    for turn in range(100):
        if abs(above - wanted) <= tolerance:
            return high, above
        if abs(below - wanted) <= tolerance or high - low <= 1e-9 * max(1.0, abs(low)):
            break
        part = (wanted - below) / (above - below) if turn % 3 != 2 else 0.5
        middle = low + (high - low) * min(max(part, 0.02), 0.98)
        found = count(middle)
        if found < wanted:
            low, below = middle, found
        else:
            high, above = middle, found
    return (low, below) if wanted - below <= above - wanted else (high, above)


def _find_edge(
    count: Callable[[float], float], most: float, low: float, high: float
) -> tuple[float, float]:
    """The largest x up to `high` with count(x) <= `most`, and that count; `low` is such an x."""
    below = count(low)
    while high - low > 1e-3 * max(1.0, abs(low)):
        middle = (low + high) / 2
        found = count(middle)
        if found <= most:
            low, below = middle, found
        else:
            high = middle
    return low, below
