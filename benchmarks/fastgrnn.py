"""How fast is a FastGRNN layer beside a Python loop over its cell, and beside nn.GRU?

    OMP_NUM_THREADS=1 python benchmarks/fastgrnn.py --threads 1

Each line is one size and one kind of work, inference or a training step's forward and backward
pass; the three take turns in one run, and the medians are compared. The sizes are the FastGRNN
paper's networks for Google-12 (99 steps of 32 features, 100 states) and HAR-2 (128 steps of 9, 80
states), on one sequence and on batches; the low ranks are the STR paper's. With one thread the
processor's time is measured, so that other work on the machine does not count.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import medians, time_turns
from torch import Tensor, nn

from strzoo.rnn import FastGRNN

SIZES = ((99, 32, 100), (128, 9, 80))  # steps, features, states
BATCHES = (1, 16, 100)
RANKS = {(32, 100): (12, 40), (9, 80): (9, 8)}
LEAST, MOST = 3.0, 2.0  # times as fast as the loop; of the GRU's time
ABOUT = """Processor time on one thread (of the clock on more), medians of rounds in which the three
take turns. "Loop" is a Python loop over `FastGRNNCell`, GRU is `nn.GRU` of the same sizes. Bars: at
least 3 times as fast as the loop, and at most twice `nn.GRU`'s time."""


def loop(layer: FastGRNN, inputs: Tensor) -> Tensor:
    """What one writes without a sequence layer."""
    cell = layer.cells[0]
    state, states = inputs.new_zeros(inputs.shape[1], layer.output_size), []
    for step in inputs:
        state = cell(step, state)
        states.append(state)
    return torch.stack(states)


def measure(
    layer: FastGRNN, gru: nn.GRU, inputs: Tensor, *, training: bool, repeats: int
) -> dict[str, float]:
    """Median milliseconds of each way, taking turns."""
    ways: dict[str, Callable[[], Tensor]] = {
        "layer": lambda: layer(inputs)[0],
        "loop": lambda: loop(layer, inputs),
        "gru": lambda: gru(inputs)[0],
    }

    def run(way: Callable[[], Tensor]) -> None:
        if training:
            way().sum().backward()
        else:
            with torch.no_grad():
                way()

    calls = {name: lambda way=way: run(way) for name, way in ways.items()}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    found = medians(time_turns(calls, repeats, warm=2, clock=clock))
    return {name: 1000 * seconds for name, seconds in found.items()}


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    options = parser.parse_args()
    packages = ["torch", "numpy", "llvmlite", "strzoo"]
    record = Record(parser, options, "fastgrnn", "FastGRNN", ABOUT, packages=packages)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    table = record.table([
        Column("steps x in, states"), Column("ranks"), Column("batch", "", ".0f"), Column("work"),
        *(Column(name, "ms", ".2f") for name in ("layer", "loop", "GRU")),
        Column("times faster than the loop", "", ".2f"), Column("of the GRU's time", "", ".2f"),
    ])  # fmt: skip
    met = [0, 0, 0]
    for steps, features, hidden in SIZES:
        gru = nn.GRU(features, hidden)
        for ranks in (None, RANKS[features, hidden]):
            rank_w, rank_u = ranks or (None, None)
            layer = FastGRNN(features, hidden, rank_w=rank_w, rank_u=rank_u)
            spelled = "full" if ranks is None else f"{ranks[0]}, {ranks[1]}"
            for batch in options.batches:
                x = torch.randn(steps, batch, features)
                for training in (False, True):
                    ms = measure(layer, gru, x, training=training, repeats=options.repeats)
                    faster, share = ms["loop"] / ms["layer"], ms["layer"] / ms["gru"]
                    table.add(
                        f"{steps} x {features}, {hidden}", spelled, batch,
                        "training" if training else "inference", *ms.values(), faster, share,
                    )  # fmt: skip
                    met = [met[0] + 1, met[1] + (faster >= LEAST), met[2] + (share <= MOST)]
    record.say(
        f"Of {met[0]} lines, {met[1]} meet the bar against the loop and {met[2]} that against GRU."
    )
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
