"""The timing of a trade-off: every network on every engine, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from strzoo.benchmarking.engines import open_engine
from strzoo.benchmarking.timing import check_agreement, time_in_turn, warm_up
from strzoo.benchmarking.tradeoff_results import ENGINES, TradeoffPoint
from strzoo.errors import StrzooError


@dataclass
class MeasuredNetwork:
    """The network at one sparsity: percent of zeros, top-1 by engine, files by engine."""

    sparsity: float
    top1: dict[str, float] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    def add(self, engine: str, file: Path, top1: float) -> None:
        """A file that an engine runs, and its top-1."""
        self.files[engine], self.top1[engine] = file, top1


def time_networks(
    networks: Sequence[MeasuredNetwork],
    shape: tuple[int, ...],
    threads: int,
    runs: int,
    notes: list[str],
    on_step: Callable[[str], object],
) -> dict[tuple[int, str], list[float]]:
    """Milliseconds of each network (by number) and engine, all run in turn.

    Args:
        networks: with their files.
        shape: batch, channels, height, width.
        threads: of each engine.
        runs: timed ones.
        notes: what cannot run is said here.
        on_step: told the runs done.

    Raises:
        VerificationError: the sparse engine differs from onnxruntime.
        StrzooError: an engine fails.
    """
    runners: dict[tuple[int, str], Callable[[], np.ndarray]] = {}
    for index, network in enumerate(networks):
        for engine, file in network.files.items():
            kind = "sparse" if engine == "sparse" else "onnxruntime"
            try:
                runners[index, engine] = open_engine(kind, file, shape, threads)
            except StrzooError as error:
                reason = str(error).replace(str(file), f"the network of {network.sparsity:.0f} %")
                notes.append(f"{engine} is left out: {reason}")
    for (index, engine), run in runners.items():
        zeros = f"{networks[index].sparsity:.0f} %"
        output = warm_up(run, f"{engine} cannot run the network of {zeros}")
        if engine == "sparse" and (index, "onnxruntime") in runners:
            expected = runners[index, "onnxruntime"]()
            what = f"at {zeros} the sparse engine differs from onnxruntime"
            check_agreement(output, expected, what)
    return time_in_turn(runners, runs, lambda done: on_step(f"timing: run {done} of {runs}"))


def list_points(
    networks: Sequence[MeasuredNetwork], times: dict[tuple[int, str], list[float]]
) -> tuple[TradeoffPoint, ...]:
    """A point for each network and engine; the first is the reference of all ratios."""
    reference = float(np.median(times[0, "onnxruntime"]))
    points = []
    for index, network in enumerate(networks):
        for engine in ENGINES:
            if (index, engine) not in times:
                continue
            measured = times[index, engine]
            median = float(np.median(measured))
            points.append(
                TradeoffPoint(
                    network.sparsity, engine, network.top1[engine], median, min(measured),
                    reference / median, tuple(measured),
                )
            )  # fmt: skip
    return tuple(points)
