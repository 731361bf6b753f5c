"""How fast is a FastGRNN layer beside a Python loop over its cell, and beside nn.GRU?

    OMP_NUM_THREADS=1 python benchmarks/fastgrnn.py --threads 1

Each line is one size and one kind of work, inference or a training step's forward and backward
pass; the three take turns in one run, and the medians are compared. The sizes are the FastGRNN
paper's networks for Google-12 (99 steps of 32 features, 100 states) and HAR-2 (128 steps of 9, 80
states), on one sequence and on batches; the low ranks are the STR paper's. With one thread the
processor's time is measured, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from strzoo.rnn import FastGRNN

SIZES = ((99, 32, 100), (128, 9, 80))  # steps, features, states
BATCHES = (1, 16, 100)
RANKS = {(32, 100): (12, 40), (9, 80): (9, 8)}


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
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    ways: dict[str, Callable[[], Tensor]] = {
        "layer": lambda: layer(inputs)[0],
        "loop": lambda: loop(layer, inputs),
        "gru": lambda: gru(inputs)[0],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 2):
        for name, way in ways.items():
            start = clock()
            if training:
                way().sum().backward()
            else:
                with torch.no_grad():
                    way()
            if repeat >= 2:  # the first rounds warm up
                seconds[name].append(clock() - start)
    return {name: 1000 * statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.threads} threads, medians of {options.repeats}\n")
    print("| steps x in, states | ranks | batch | work | layer ms | loop ms | GRU ms "
          "| times faster than the loop | of the GRU's time |")  # fmt: skip
    print("|---|---|---:|---|---:|---:|---:|---:|---:|")
    for steps, features, hidden in SIZES:
        gru = nn.GRU(features, hidden)
        for ranks in (None, RANKS[features, hidden]):
            rank_w, rank_u = ranks or (None, None)
            layer = FastGRNN(features, hidden, rank_w=rank_w, rank_u=rank_u)
            for batch in BATCHES:
                x = torch.randn(steps, batch, features)
                for training in (False, True):
                    ms = measure(layer, gru, x, training=training, repeats=options.repeats)
                    cells = [
                        f"{steps} x {features}, {hidden}",
                        "full" if ranks is None else f"{ranks[0]}, {ranks[1]}",
                        str(batch), "training" if training else "inference",
                        *(f"{ms[name]:.2f}" for name in ("layer", "loop", "gru")),
                        f"{ms['loop'] / ms['layer']:.2f}", f"{ms['layer'] / ms['gru']:.2f}",
                    ]  # fmt: skip
                    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
