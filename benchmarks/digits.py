"""The recipes of the digits side by side, DNW and GMP with the budget that STR has learned.

    python benchmarks/digits.py --seeds 3

Four runs for each seed: dense, STR at 90 %, and DNW and GMP with the sparsities of STR's layers
(the budget transfer of the paper). Prints a Markdown table: mean and range over the seeds, of the
last epoch and of the best one; and the seconds of the longest run.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

import strzoo
from strzoo.training.parsing import apply_overrides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, list[strzoo.TrainResult]] = {}
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for method in ("dense", "str", "dnw", "gmp"):
                config = dataclasses.replace(
                    strzoo.load_recipe(f"digits_{method}"), seed=seed, tensorboard=False,
                    output=str(Path(folder) / f"{method}_{seed}"),
                )  # fmt: skip
                if method in ("dnw", "gmp"):
                    source = Path(folder) / f"str_{seed}" / "best_str.pth"
                    config = apply_overrides(config, [f"budget={source}"])
                start = time.perf_counter()
                results.setdefault(method, []).append(strzoo.train(config))
                seconds.setdefault(method, []).append(time.perf_counter() - start)
                print(f"{method}, seed {seed}: {seconds[method][-1]:.1f} s", file=sys.stderr)
    print("| method | sparsity % | top-1 % (last epoch) | top-1 % (best epoch) | seconds |")
    print("|---|---:|---:|---:|---:|")
    for method, runs in results.items():
        last = [run.history[-1] for run in runs]
        best = [run.best.top1 for run in runs if run.best is not None]
        print(
            f"| {method} | {last[0].sparsity:.2f} | {_spread([r.top1 for r in last])} "
            f"| {_spread(best)} | {max(seconds[method]):.0f} |"
        )


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
