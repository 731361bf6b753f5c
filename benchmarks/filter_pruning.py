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
import time
from pathlib import Path

import onnxruntime
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import strzoo
from strzoo.data.imageset import ImageSet
from strzoo.sparse.filters import count_filters

EPOCHS, BATCH = 30, 256
# Of the pruned network: decay of weights and importances, and of thresholds; the twin's is 5e-4.
WEIGHT_DECAY, THRESHOLD_DECAY = 0.02, 0.08
S_INIT, G, G_SCALE = -4.0, "exp", 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=50, help="timed runs of each network")
    parser.add_argument("--threshold-decay", type=float, default=THRESHOLD_DECAY)
    options = parser.parse_args()
    rows = []
    print("| seed | dense top-1 % | pruned top-1 % | filters left | MACs | speed |")
    print("|---:|---:|---:|---:|---:|---:|")
    for seed in range(options.seeds):
        row = compare(seed, options.rounds, options.threshold_decay)
        rows.append(row)
        print(f"| {seed} | {row[0]:.2f} | {row[1]:.2f} | {row[2]} | {row[3]:.3f} | {row[4]:.2f} |")
        sys.stdout.flush()
    dense = statistics.mean(row[0] for row in rows)
    pruned = statistics.mean(row[1] for row in rows)
    macs, speed = max(row[3] for row in rows), min(row[4] for row in rows)
    print(f"\nmean top-1 {dense:.2f} and {pruned:.2f}; MACs at most {macs:.3f}; speed {speed:.2f}")
    return int(not (pruned >= dense - 1 and macs <= 0.3 and speed >= 2))


def compare(
    seed: int, rounds: int, threshold_decay: float
) -> tuple[float, float, str, float, float]:
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
            epochs=EPOCHS, weight_decay=WEIGHT_DECAY if pruned else 5e-4,
            threshold_decay=threshold_decay, seed=seed,
        )  # fmt: skip
        strzoo.fit(network, train, config)
        networks.append(network)
    dense, network = networks
    left, total = count_filters(network)
    small = strzoo.remove_filters(network, multiple=4)
    size = held_out.images.shape[-1]
    macs = [strzoo.report(n, input_size=size).dense_macs for n in (dense, small)]
    accuracies = [measure_top1(n, held_out) for n in (dense, small)]
    speed = measure_speed([dense, small], held_out, rounds)
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
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 3):
        for times, session in zip(seconds, sessions, strict=True):
            start = time.perf_counter()
            session.run(None, {"images": images})
            if turn >= 3:
                times.append(time.perf_counter() - start)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


if __name__ == "__main__":
    sys.exit(main())
