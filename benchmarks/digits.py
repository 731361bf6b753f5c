"""The recipes of the digits side by side, DNW and GMP with the budget that STR has learned.

    python benchmarks/digits.py --seeds 3

Four runs for each seed: dense, STR at 90 %, and DNW and GMP with the sparsities of STR's layers
(the budget transfer of the paper). Mean and range over the seeds, of the last epoch and of the best
one; and the seconds of the longest run.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import torch
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import spread

import strzoo
from strzoo.training.parsing import apply_overrides

ABOUT = """Dense, STR at 90 %, and DNW and GMP with the sparsities of STR's layers; mean and range
over the seeds on the 360 test digits, and the seconds of the longest run."""


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--epochs", type=int, help="[default: the recipes']")
    options = parser.parse_args()
    record = Record(
        parser, options, "digits", "The recipes of the digits", ABOUT,
        packages=["torch", "numpy", "strzoo"], free=["threads"],
    )  # fmt: skip
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
                if options.epochs:
                    shorter = [f"epochs={options.epochs}", "warmup_epochs=0"]
                    if method == "gmp":
                        shorter += ["prune_start=0", "prune_end=1"]
                    config = apply_overrides(config, shorter)
                if method in ("dnw", "gmp"):
                    source = Path(folder) / f"str_{seed}" / "best_str.pth"
                    config = apply_overrides(config, [f"budget={source}"])
                start = time.perf_counter()
                results.setdefault(method, []).append(strzoo.train(config))
                seconds.setdefault(method, []).append(time.perf_counter() - start)
                print(f"{method}, seed {seed}: {seconds[method][-1]:.1f} s", file=sys.stderr)
    table = record.table([
        Column("method"), Column("sparsity", "%", ".2f"), Column("top-1 of the last epoch", "%"),
        Column("top-1 of the best epoch", "%"), Column("longest run", "s", ".0f"),
    ])  # fmt: skip
    for method, runs in results.items():
        last = [run.history[-1] for run in runs]
        best = [run.best.top1 for run in runs if run.best is not None]
        tops = spread([row.top1 for row in last]), spread(best)
        table.add(method, last[0].sparsity, *tops, max(seconds[method]))
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
