"""Filters pruned by STR against the dense network, on the digits: accuracy, MACs, speed.

    python benchmarks/filter_pruning.py --seeds 3

For each seed a dense ResNet20 and one with an importance for each channel, trained for as long; the
channels whose importance ends at zero are removed. Bars: 70 % fewer MACs, accuracy within one point
of the dense twin (means), and the smaller network at least twice as fast in onnxruntime (medians of
runs in turn, one thread). Ends with exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import medians, time_turns
from torch import nn

import strzoo
from strzoo.data.imageset import ImageSet
from strzoo.sparse.filters import count_filters

EPOCHS, BATCH = 30, 256
# Of the pruned network: decay of weights and importances, and of thresholds; the twin's is 5e-4.
WEIGHT_DECAY, THRESHOLD_DECAY = 0.02, 0.08
S_INIT, G, G_SCALE = -4.0, "exp", 2.0
ABOUT = f"""ResNet20 on the digits, 30 epochs, dense and with an importance for each channel (weight
decay {WEIGHT_DECAY}, threshold decay {THRESHOLD_DECAY}, threshold 2 exp(s)); channel counts rounded
up to multiples of 4; onnxruntime, batch {BATCH}, one thread, medians of runs in turn. Bars: MACs at
most 0.30 of the dense network's, mean top-1 within one point, at least twice as fast."""


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rounds", type=int, default=50, help="timed runs of each network")
    parser.add_argument("--threshold-decay", type=float, default=THRESHOLD_DECAY)
    options = parser.parse_args()
    record = Record(
        parser, options, "filter_pruning", "Filters pruned by STR", ABOUT,
        packages=["torch", "onnxruntime", "strzoo"],
    )  # fmt: skip
    table = record.table([
        Column("seed", "", ".0f"), Column("dense top-1", "%", ".2f"),
        Column("pruned top-1", "%", ".2f"), Column("filters left"), Column("MACs", "", ".3f"),
        Column("speed", "", ".2f"),
    ])  # fmt: skip
    rows = []
    for seed in range(options.seeds):
        rows.append(compare(seed, options))
        table.add(seed, *rows[-1])
    dense = statistics.mean(row[0] for row in rows)
    pruned = statistics.mean(row[1] for row in rows)
    macs, speed = max(row[3] for row in rows), min(row[4] for row in rows)
    record.say(
        f"Mean top-1 {dense:.2f} and {pruned:.2f}; MACs at most {macs:.3f}; speed {speed:.2f}."
    )
    table.judge("the pruned networks' mean top-1", pruned, least=dense - 1)
    table.judge("the share of MACs", macs, most=0.3)
    table.judge("the speed", speed, least=2)
    return record.finish()


def compare(seed: int, options: argparse.Namespace) -> tuple[float, float, str, float, float]:
    """Accuracies in percent, filters left of all, and the pruned network's share of the dense
    one's MACs and how many times as fast it is."""
    train, held_out = strzoo.load_digits("train"), strzoo.load_digits("test")
    networks = []
    for pruned in (False, True):
        torch.manual_seed(seed)
        network = strzoo.create_model("resnet20", num_classes=10)
        if pruned:
            strzoo.sparsify_filters_(network, s_init=S_INIT, g=G, g_scale=G_SCALE)
        config = strzoo.FitConfig(
            epochs=options.epochs, weight_decay=WEIGHT_DECAY if pruned else 5e-4,
            threshold_decay=options.threshold_decay, seed=seed,
        )  # fmt: skip
        strzoo.fit(network, train, config)
        networks.append(network)
    dense, network = networks
    left, total = count_filters(network)
    small = strzoo.remove_filters(network, multiple=4)
    size = held_out.images.shape[-1]
    macs = [strzoo.report(n, input_size=size).dense_macs or 0 for n in (dense, small)]
    accuracies = [measure_top1(n, held_out) for n in (dense, small)]
    speed = measure_speed([dense, small], held_out, options.rounds)
    return accuracies[0], accuracies[1], f"{left} of {total}", macs[1] / macs[0], speed


@torch.no_grad()
def measure_top1(network: nn.Module, data: ImageSet) -> float:
    right = network(data.images).argmax(1) == data.labels
    return 100 * float(right.float().mean())


def measure_speed(networks: list[nn.Module], data: ImageSet, rounds: int) -> float:
    """The median time of the first by that of the second, in onnxruntime on one thread."""
    images = data.images[:BATCH].numpy()
    sessions = []
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        for number, network in enumerate(networks):
            path = Path(folder) / f"{number}.onnx"
            size = tuple(data.images.shape[1:])
            strzoo.export_onnx(network, path, input_size=size, images=data.images[:8])
            sessions.append(onnxruntime.InferenceSession(str(path), options))
    calls = {
        name: partial(session.run, None, {"images": images})
        for name, session in zip(("dense", "pruned"), sessions, strict=True)
    }
    seconds = medians(time_turns(calls, rounds, warm=3))
    return seconds["dense"] / seconds["pruned"]


if __name__ == "__main__":
    sys.exit(main())
