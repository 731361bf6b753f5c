"""Learned rank against the same rank fixed beforehand, on the digits read row by row.

    python benchmarks/fastgrnn_rank.py --seeds 3

For each pair of ranks and each optimizer: the network whose factors have these ranks from the
start, and the one that starts at full rank and is steered to them (`target_rank_w`,
`target_rank_u`), with the same seeds, epochs and learning rates. Prints mean and range of the test
top-1 over the seeds, after the last epoch and of the best epoch at these ranks; and of int8
weights, last epoch. The last line is plain STR: one run, without a target, and all the ranks it
passed through.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from typing import Any

import torch
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import spread

from strzoo.rnn import RNNConfig, evaluate_rnn, load_digit_rows, quantise, train_rnn
from strzoo.rnn.results import RNNTrainResult

PAIRS = ((5, 9), (4, 6), (3, 4))
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 1e-2},
    "adam": {"optimizer": "adam", "learning_rate": 1e-2, "weight_decay": 1e-3},
}


ABOUT = """{seeds} seeds, {epochs} epochs, 32 states, the digits read row by row; mean and range of
the top-1 on the 360 test digits, one of which is 0.28 points. Bar: the learned rank's mean after
the last epoch is at least the fixed one's."""


def best_at(result: RNNTrainResult, ranks: str) -> float:
    """Top-1 of the best epoch at these ranks."""
    return next(one.epoch.top1 for one in result.by_rank if one.epoch.ranks == ranks)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    options = parser.parse_args()
    record = Record(
        parser, options, "fastgrnn_rank", "FastGRNN: learned rank against fixed rank",
        ABOUT.format(seeds=options.seeds, epochs=options.epochs), packages=["torch", "strzoo"],
    )  # fmt: skip
    table = record.table([
        Column("optimizer"), Column("ranks"), Column(""), Column("last epoch", "%"),
        Column("best epoch", "%"), Column("int8, last", "%"), Column("int8", "KB", ".2f"),
    ])  # fmt: skip
    torch.set_num_threads(1)
    base = RNNConfig(epochs=options.epochs, milestones=(options.epochs * 2 / 3,), device="cpu")
    test = load_digit_rows("test")
    for name in options.optimizers:
        common = replace(base, **OPTIMIZERS[name])
        for rank_w, rank_u in PAIRS:
            kinds = {
                "fixed": replace(common, rank_w=rank_w, rank_u=rank_u),
                "learned": replace(common, target_rank_w=rank_w, target_rank_u=rank_u),
            }
            means = {}
            for kind, config in kinds.items():
                runs = [
                    train_rnn(replace(config, seed=seed), save=False)
                    for seed in range(options.seeds)
                ]
                small = [quantise(run.model) for run in runs]
                means[kind] = statistics.mean(run.last.top1 for run in runs)
                table.add(
                    name, f"{rank_w}, {rank_u}", kind,
                    spread([run.last.top1 for run in runs]),
                    spread([best_at(run, f"{rank_w}_{rank_u}") for run in runs]),
                    spread([evaluate_rnn(one.network, test) for one in small]),
                    small[0].kilobytes,
                )  # fmt: skip
            what = f"the learned rank's mean with {name} at {rank_w}, {rank_u}"
            table.judge(what, means["learned"], least=means["fixed"])
    plain = train_rnn(replace(base, **OPTIMIZERS["sgd"]), save=False)
    passed = ", ".join(
        f"({one.epoch.ranks.replace('_', ', ')}) {one.epoch.top1:.2f}" for one in plain.by_rank
    )
    record.say(f"Plain STR, one run: {passed}.")
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
