"""One-shot pruning of networks trained here: second order against magnitude.

    python benchmarks/one_shot.py
    python benchmarks/one_shot.py --data fashion

A dense ResNet20 is trained for each seed (as in fine_tuning.py) and pruned at once by
`strzoo.prune`, calibrated on 256 training images without their labels, BatchNorm statistics taken
again. Top-1 in percent on the held-out images: mean and range over the seeds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fine_tuning import Data, add_data_options, fill_data_options, open_data, train
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import spread

import strzoo

SPARSITIES = (0.5, 0.7, 0.8, 0.9)
ASKED = (0.5, 0.7)
METHODS = ("magnitude", "obc")
ABOUT = """A dense ResNet20 trained here, pruned at once. "obc" is second order (the default of
`strzoo prune`), "magnitude" the smallest weights of each layer with the layers' sensitivities as
the budget; both take BatchNorm statistics again. Top-1 in percent, mean and range over the seeds,
on the 360 held-out digits, or 4,000 test images of Fashion-MNIST at half its resolution. Bar:
second order at least as accurate as magnitude at 50 and 70 %."""


def main() -> int:
    parser = make_parser(__doc__)
    add_data_options(parser)
    options = parser.parse_args()
    record = Record(
        parser, options, "one_shot", "One-shot pruning", ABOUT, packages=["torch", "strzoo"],
        kinds=["data"], free=["folder"],
    )  # fmt: skip
    record.results.title += f": {fill_data_options(options)}"
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
            dense.append(prune(data, folder / "best_dense.pth", found))
    table = record.table([Column("zeros", "%", ".0f"), *(Column(name) for name in METHODS)])
    table.add(0, spread(dense), spread(dense))
    for sparsity in SPARSITIES:
        table.add(round(100 * sparsity), *(spread(found[name, sparsity]) for name in METHODS))
    means = {key: statistics.mean(values) for key, values in found.items()}
    for sparsity in ASKED:
        what = f"second order's mean at {100 * sparsity:.0f} %"
        table.judge(what, means["obc", sparsity], least=means["magnitude", sparsity])
    return record.finish()


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
    sys.exit(main())
