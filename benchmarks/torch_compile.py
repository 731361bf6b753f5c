"""torch.compile(network, backend="strzoo") beside the engine called directly, on timm's networks.

    python benchmarks/torch_compile.py [--networks resnet18,...] [--runs 30] [--threads 1]

Networks have random weights, 90 % of them zero by magnitude. For each: the largest difference from
torch's logits relative to the largest logit, for the batch that was compiled and for another one;
the graphs that torch made and how many of them run on the engine; and the median time of one image
through torch.compile and of the same compiled model called directly, interleaved. The bars: 1e-4,
and at least 0.95 of the direct speed. 28 networks take half an hour.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from networks import TIMM

from strzoo.engine.torch_backend import CompiledGraph, compile_graph
from tests.helpers.engine.networks import prune

ALLOWED_ERROR, LEAST_SPEED = 1e-4, 0.95


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default=",".join(TIMM))
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(given.threads)
    print("| network | error | on the engine | compiled, ms | direct, ms | direct / compiled |")
    print("|---|---:|---:|---:|---:|---:|")
    missed = [name for name in given.networks.split(",") if not _measure(name, given)]
    print(f"missed: {', '.join(missed) or 'none'}")
    return int(bool(missed))


def _measure(name: str, given: argparse.Namespace) -> bool:
    """Print the row of a network; whether it meets the bars."""
    torch.manual_seed(0)
    network: Any = timm.create_model(name).eval()
    prune(network, {n: 0.9 for n, m in network.named_modules() if isinstance(m, _PRUNED)})
    graphs: list[CompiledGraph] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        made = compile_graph(graph, inputs, options={"threads": given.threads})
        assert isinstance(made, CompiledGraph)
        graphs.append(made)
        return made

    torch._dynamo.reset()
    run = torch.compile(network, backend=backend)
    side = network.default_cfg.get("test_input_size", network.default_cfg["input_size"])[1]
    one = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        error = max(_differ(run, network, torch.randn(n, 3, side, side)) for n in (1, 3))
        models = graphs[0].models
        row = f"| {name} | {error:.1e} | {sum(bool(g.models) for g in graphs)} of {len(graphs)} "
        if not models:
            print(f"{row}| - | - | - |", flush=True)
            return error <= ALLOWED_ERROR
        compiled, direct = _time(given.runs, lambda: run(one), lambda: models[0](one))
    ratio = direct / compiled
    print(f"{row}| {1e3 * compiled:.2f} | {1e3 * direct:.2f} | {ratio:.3f} |", flush=True)
    return error <= ALLOWED_ERROR and ratio >= LEAST_SPEED


_PRUNED = (nn.Conv2d, nn.Linear)


def _differ(run: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor) -> float:
    expected = network(x)
    run(x)  # compares by itself, and compiles
    return float((run(x) - expected).abs().max() / expected.abs().max())


def _time(
    runs: int, first: Callable[[], object], second: Callable[[], object]
) -> tuple[float, float]:
    """Median seconds of each, in turns."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(runs + 3):
        for times, call in zip(found, (first, second), strict=True):
            started = time.perf_counter()
            call()
            if number >= 3:
                times.append(time.perf_counter() - started)
    return statistics.median(found[0]), statistics.median(found[1])


if __name__ == "__main__":
    sys.exit(main())
