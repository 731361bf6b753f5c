"""One-shot pruning of networks trained here: second order against magnitude.

    python benchmarks/one_shot.py --data digits --epochs 30 --seeds 5
    python benchmarks/one_shot.py --data fashion --images 12000 --epochs 15 --seeds 3 --batch 128

A dense ResNet20 is trained for each seed (as in fine_tuning.py) and pruned at once by
`strzoo.prune`, calibrated on 256 training images without their labels, BatchNorm statistics taken
again. Prints top-1 in percent on the held-out images: mean and range over the seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fine_tuning import Data, add_data_options, open_data, spread, train

import strzoo

SPARSITIES = (0.5, 0.7, 0.8, 0.9)
ASKED = (0.5, 0.7)
METHODS = ("magnitude", "obc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_options(parser)
    options = parser.parse_args()
    found: dict[tuple[str, float], list[float]] = {}
    dense: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        data = open_data(options, place / "images")
        for seed in range(options.seeds):
            folder = place / f"dense_{seed}"
            batch = {"batch_size": options.batch, "lr_batch_size": options.batch}
            if not (folder / "best_dense.pth").exists():
                train("digits_dense", data, folder, seed, epochs=options.epochs, **batch)
            before = prune(data, folder / "best_dense.pth", found)
            dense.append(before)
    print("| zeros % | " + " | ".join(METHODS) + " |")
    print("|---:|" + "---:|" * len(METHODS))
    print(f"| 0 | {spread(dense)} | {spread(dense)} |")
    for sparsity in SPARSITIES:
        cells = (spread(found[method, sparsity]) for method in METHODS)
        print(f"| {100 * sparsity:.0f} | " + " | ".join(cells) + " |")
    means = {key: statistics.mean(values) for key, values in found.items()}
    worse = [s for s in ASKED if means["obc", s] < means["magnitude", s]]
    print(f"\nsecond order at least as accurate at 50 and 70 %: {'NO' if worse else 'yes'}")


def prune(data: Data, file: Path, found: dict[tuple[str, float], list[float]]) -> float:
    """Prune a dense network to all sparsities by both methods; its own top-1."""
    folder = dict(data.keys).get("data")
    images: Any = strzoo.load_digits("train") if folder is None else str(folder)
    held_out: Any = strzoo.load_digits("test") if folder is None else Path(str(folder)) / "val"
    before = strzoo.evaluate(file, held_out, workers=0).top1
    for method in METHODS:
        for sparsity in SPARSITIES:
            started = time.perf_counter()
            made = strzoo.prune(file, images, sparsity, method=method)
            top1 = strzoo.evaluate(made.network, held_out, workers=0, **_steps(file)).top1
            found.setdefault((method, sparsity), []).append(top1)
            print(
                f"{file.parent.name}, {method} {sparsity}: {top1:.2f} of {before:.2f} "
                f"({time.perf_counter() - started:.1f} s)", file=sys.stderr, flush=True,
            )  # fmt: skip
    return before


def _steps(file: Path) -> dict[str, Any]:
    """How the file's images are prepared, which its network in memory does not say."""
    trained_on = strzoo.read_checkpoint(file).trained_on
    return {"preprocessing": trained_on.preprocessing if trained_on else None}


if __name__ == "__main__":
    main()
