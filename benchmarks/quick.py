"""The benchmarks in small sizes, in at most ten minutes on two idle cores: `make bench`.

    python benchmarks/quick.py [--only engine ...] [--minutes 10]

Each runs in a process of its own, one after the other, prints its tables and leaves
bench-results/quick/NAME.json, of the schema of benchmarks/results/. What the sizes are too small
for, a bar that is missed says nothing; the exit code is 1 if a benchmark fails or the time is up.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from harness import ROOT

FOLDER = ROOT / "bench-results" / "quick"
QUICK = {
    "read_path": "--rounds 3",
    "download": "--megabytes 50 --rounds 5",
    "engine": "--only mobilenetv1 --batch 1 --rounds 7 --no-resources",
    "engine_accuracy": "--data digits --epochs 5",
    "networks": "--networks resnet18,mobilenetv2_100 --size 128 --runs 7",
    "torch_compile": "--networks resnet18 --runs 15",
    "evaluate": "--architecture mobilenetv1 --images 64 --batch-size 32 --rounds 2",
    "training_step": "--architecture resnet20 --size 32 --batch-size 64 --rounds 5",
    "fastgrnn": "--repeats 7 --batches 1 16",
    "onnx_export": "--networks digits --epochs 3",
    "serving": "--architecture resnet20 --requests 500 --rounds 1",
    "one_shot": "--seeds 1 --epochs 4",
    "filter_pruning": "--seeds 1 --epochs 5 --rounds 20",
    "target_sparsity": "--seeds 1 --epochs 2 --tries 1 --targets 90",
    "own_networks": "--networks timm:regnety_002",
}
ONE_THREAD = (
    "training_step", "fastgrnn", "one_shot", "filter_pruning", "target_sparsity",
    "engine_accuracy", "own_networks",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=list(QUICK), default=list(QUICK))
    parser.add_argument("--minutes", type=float, default=10.0, help="for all together")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    said = {name: run(name, end - time.monotonic()) for name in options.only}
    print("\n| benchmark | seconds | |\n|---|---:|---|")
    for name, (seconds, verdict) in said.items():
        print(f"| {name} | {seconds:.0f} | {verdict} |")
    return int(any(verdict in FAILED for _, verdict in said.values()))


FAILED = ("failed", "the time was up")


def run(name: str, left: float) -> tuple[float, str]:
    """Seconds, and how it went."""
    file = FOLDER / f"{name}.json"
    file.unlink(missing_ok=True)
    print(f"\n## {name} {QUICK[name]}", flush=True)
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / f"{name}.py")]
    command += [*QUICK[name].split(), "--json", str(file)]
    threads = {"OMP_NUM_THREADS": "1"} if name in ONE_THREAD else {}
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, env={**os.environ, **threads}, stderr=subprocess.PIPE, text=True,
            timeout=max(left, 0.01),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return time.monotonic() - started, "the time was up"
    if not file.exists():
        print(done.stderr, file=sys.stderr)
        return time.monotonic() - started, "failed"
    return time.monotonic() - started, str(file.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
