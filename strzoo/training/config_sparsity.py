"""The keys of a training configuration about what becomes zero."""

from __future__ import annotations

from dataclasses import dataclass

from strzoo.training.config_network import REPRODUCE
from strzoo.training.keys import (
    BLOCK,
    CLOSED_FRACTION,
    FIXED,
    FRACTION,
    NOT_NEGATIVE,
    key,
)

METHODS = ("dense", "str", "dnw", "gmp")
THRESHOLDS = ("layer", "global", "filter", "weight")


@dataclass(frozen=True)
class SparsityKeys:
    """The keys of a training configuration about what becomes zero."""

    method: str = key("dense", "how weights become zero", choices=METHODS, resuming=FIXED)
    threshold: str = key(
        "layer", "what one STR threshold covers", choices=THRESHOLDS, resuming=FIXED
    )
    block: int = key(
        1, "input channels whose weights become zero together: 4 for int8 on the sparse engine",
        within=BLOCK, resuming=FIXED,
    )  # fmt: skip
    s_init: float = key(-3200.0, "initial STR threshold parameter s; the threshold is sigmoid(s)")
    target_sparsity: float | None = key(
        None, "STR: steer the total sparsity to this fraction",
        within=FRACTION, percent=True, resuming=FIXED,
    )  # fmt: skip
    target_start: float = key(
        0.1, "target_sparsity: the rise begins at this fraction of training",
        within=CLOSED_FRACTION, resuming=FIXED,
    )  # fmt: skip
    target_end: float = key(
        0.9, "target_sparsity: the target is reached, and held from then on",
        within=CLOSED_FRACTION, resuming=FIXED,
    )  # fmt: skip
    prune_rate: float | None = key(
        None, "DNW, GMP: the fraction of weights every layer drops", within=FRACTION, percent=True
    )
    budget: str | None = key(
        None, "DNW, GMP: rates per layer, from a budget, a model id, or an STR checkpoint file"
    )
    budget_fp32: bool | None = key(
        None, "budget from a checkpoint: the kept share of a layer in fp32", open_to=REPRODUCE
    )
    prune_truncate: bool | None = key(
        None, "DNW, GMP: drop int(rate x weights) weights, not the nearest number",
        open_to=REPRODUCE, resuming=FIXED,
    )  # fmt: skip
    prune_per_epoch: bool | None = key(
        None,
        "GMP: the rate changes with the epoch, of prune_end - prune_start + 1",
        open_to=REPRODUCE,
    )
    prune_start: float | None = key(
        None, "GMP: epoch at which pruning starts; none: 0.2 of the epochs", within=NOT_NEGATIVE
    )
    prune_end: float | None = key(
        None, "GMP: epoch at which the final rate is reached; none: 0.79 of the epochs"
    )
    keep_dense: tuple[str, ...] = key(
        (), "layers left dense: first, last, or glob patterns", resuming=FIXED
    )
