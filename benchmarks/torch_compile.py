"""torch.compile(network, backend="strzoo") beside the engine called directly, on timm's networks.

    python benchmarks/torch_compile.py [--networks resnet18,...] [--runs 30] [--threads 1]

Networks have random weights, 90 % of them zero by magnitude. For each: the largest difference from
torch's logits relative to the largest logit, for the batch that was compiled and for another one;
the graphs that torch made and how many of them run on the engine; and the median time of one image
through torch.compile, of the same compiled model called directly, and through torch.compile with a
backend that computes nothing (what torch itself takes to check its guards and collect the weights),
all interleaved. The bars: 1e-4, and at least 0.95 of the direct speed, which is also given without
what torch itself takes. 28 networks take half an hour.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

import timm
import torch
from harness.record import Record, TableRecord, make_parser
from harness.results import Column
from harness.turns import medians, time_turns
from networks import TIMM
from torch import Tensor, nn

from strzoo.engine.torch_backend import CompiledGraph, compile_graph
from tests.helpers.engine.networks import prune

ALLOWED_ERROR, LEAST_SPEED = 1e-4, 0.95
ABOUT = """timm's networks with random weights, 90 % of them zero by magnitude, through
`torch.compile(network, backend="strzoo")` and by the same compiled model called directly, median
time of one image, interleaved. The error is the largest difference from torch's logits relative to
the largest, for the batch that was compiled and for another one. "torch alone" is `torch.compile`
with a backend that computes nothing: torch checks its guards and collects the weights. Bars: 1e-4,
and 0.95 of the direct speed; the last column is the speed without what torch alone takes."""


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--networks", default=",".join(TIMM))
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(options.threads)
    record = Record(
        parser, options, "torch_compile", "torch.compile on the sparse engine", ABOUT,
        packages=["torch", "timm", "llvmlite", "strzoo"],
    )  # fmt: skip
    table = record.table([
        Column("network"), Column("error", "", ".1e"), Column("graphs on the engine"),
        Column("compiled", "ms", ".2f"), Column("direct", "ms", ".2f"),
        Column("torch alone", "ms", ".2f"), Column("direct / compiled", "", ".3f"),
        Column("direct / (compiled - torch alone)", "", ".3f"),
    ])  # fmt: skip
    for name in options.networks.split(","):
        _measure(table, name, options)
    return record.finish()


def _measure(table: TableRecord, name: str, given: argparse.Namespace) -> None:
    """The row of a network."""
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
        table.judge(f"{name}: the error", error, most=ALLOWED_ERROR)
        on_engine = f"{sum(bool(g.models) for g in graphs)} of {len(graphs)}"
        if not models:
            table.add(name, error, on_engine, *[None] * 5)
            return
        idle = torch.compile(network, backend=_remember)
        ways = {
            "compiled": lambda: run(one), "direct": lambda: models[0](one),
            "alone": lambda: idle(one),
        }  # fmt: skip
        found = medians(time_turns(ways, given.runs, warm=3))
    compiled, direct, alone = found.values()
    shares = direct / compiled, direct / (compiled - alone)
    table.add(name, error, on_engine, *(1e3 * seconds for seconds in found.values()), *shares)
    table.judge(f"{name}: the share of the direct speed", shares[0], least=LEAST_SPEED)
    table.judge(f"{name}: that share without torch alone", shares[1], least=LEAST_SPEED)


_PRUNED = (nn.Conv2d, nn.Linear)


def _remember(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """A backend that computes the outputs once and gives them again."""
    made: list[Any] = []

    def run(*given: Any) -> Any:
        if not made:
            made.append(graph.forward(*given))
        return made[0]

    return run


def _differ(run: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor) -> float:
    expected = network(x)
    run(x)  # compares by itself, and compiles
    return float((run(x) - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    sys.exit(main())
