"""The records of a benchmark, and what they say in words. No torch here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

CONVENTION = (
    "latency of one batch in ms; ratio = median of dense onnxruntime / median of this row, above 1 "
    "is faster; gain = median of this engine with the zeros filled / median of this row"
)
VERDICTS = NOTHING, FASTER, UNCLEAR = "nothing", "faster", "unclear"
# Sparsity is said to help only if the median and the fastest run gain this much and chance would
# let so many of the interleaved runs be faster less often than _CHANCE.
_WORTH = 1.05
_CHANCE = 0.01
LEAST_RUNS = 7  # 2**-7 < _CHANCE: fewer runs cannot tell, even if each of them is faster


@dataclass(frozen=True)
class Timing:
    """One model on one engine at one batch size, over `runs` interleaved runs.

    Latencies in milliseconds per batch; memory and file size in bytes (None where they are not
    known); `dense_onnxruntime` is the median latency of the dense twin on onnxruntime; `ratio`
    and `gain` as in `CONVENTION`, `verdict` one of `VERDICTS`. `gain` is None for a model without
    zeros; what refers to a dense twin is None for a compiled model, which has none.
    """

    model: str
    engine: str
    batch: int
    runs: int
    sparsity: float
    p50: float
    p90: float
    p99: float
    fastest: float
    images_per_second: float
    dense_onnxruntime: float | None
    ratio: float | None
    gain: float | None
    verdict: str | None
    peak_memory: int | None
    file_bytes: int | None
    latencies: tuple[float, ...]


@dataclass(frozen=True)
class BenchmarkResult:
    """All timings, what they were measured on, and what sparsity bought, in words."""

    timings: tuple[Timing, ...]
    threads: int
    machine: str
    versions: dict[str, str]
    verdicts: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"schema": 1, "convention": CONVENTION, **asdict(self)}


def judge(latencies: Sequence[float], dense: Sequence[float]) -> str:
    """Whether zeros helped: the latencies of a model and of its dense twin, run in turn."""
    gain = statistics.median(dense) / statistics.median(latencies)
    wins = sum(d > own for own, d in zip(latencies, dense, strict=True))
    chance = sum(math.comb(len(dense), k) for k in range(wins, len(dense) + 1)) / 2 ** len(dense)
    if gain < _WORTH:
        return NOTHING
    return FASTER if min(dense) / min(latencies) >= _WORTH and chance < _CHANCE else UNCLEAR


def spell_verdicts(timings: Iterable[Timing]) -> Iterator[str]:
    """For each timing of a sparse model: what its zeros buy on that engine."""
    for row in timings:
        if row.gain is None:
            continue
        few = (
            f"{row.runs} runs are too few to tell; run at least {LEAST_RUNS} (--runs)"
            if row.runs < LEAST_RUNS
            else "the runs vary too much to tell; run more (--runs) on a quiet machine"
        )
        where = f"{row.model} on {row.engine}, batch {row.batch}: {row.sparsity:.2f} % zeros"
        yield {
            NOTHING: f"{where} buy nothing ({row.gain:.2f} times its dense twin's speed)",
            FASTER: f"{where} make it {row.gain:.2f} times as fast as its dense twin",
            UNCLEAR: f"{where}: {row.gain:.2f} times its dense twin's speed, but {few}",
        }[row.verdict or NOTHING]
