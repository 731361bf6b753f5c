"""Write benchmarks/RESULTS.md from benchmarks/results/*.json: `make results`.

    python benchmarks/write_results.py [--check]

With --check nothing is written; the exit code is 1 if the file is not what the results give.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness import ROOT
from harness.results import read_results

FOLDER = ROOT / "benchmarks"
# The order of the sections; what is not named here comes last.
ORDER = (
    "engine", "engine_accuracy", "engine_busy", "networks", "torch_compile",
    "runtime_start", "serving", "dense_engines", "read_path", "download", "onnx_export",
    "onnx_runtime",
    "evaluate", "training_step", "device", "target_sparsity", "digits", "own_networks", "one_shot",
    "fine_tuning", "filter_pruning", "fastgrnn", "fastgrnn_rank",
)  # fmt: skip
HEAD = """# Benchmark results

Each section is made of the file of its benchmark in `benchmarks/results/` by `make results`; it
says what was measured, with which command, on which machine and versions. `make bench` runs small
sizes of all of it in ten minutes. Figures of earlier forms and machines are in
[HISTORY.md](HISTORY.md)."""


def render(folder: Path) -> str:
    """The document that the files in `folder` give."""
    lines = [HEAD, ""]
    for path in sorted(folder.glob("*.json"), key=_place):
        lines += read_results(path).lines()
    return "\n".join(lines).rstrip() + "\n"


def _place(path: Path) -> tuple[int, str]:
    """Where a section stands: "evaluate_resnet50" is of "evaluate"."""
    for name in (path.stem, path.stem.rpartition("_")[0]):
        if name in ORDER:
            return ORDER.index(name), path.stem
    return len(ORDER), path.stem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if stale")
    target, text = FOLDER / "RESULTS.md", render(FOLDER / "results")
    if parser.parse_args().check:
        if target.read_text(encoding="utf-8") == text:
            return 0
        print(f"{target} is not what benchmarks/results/ gives: make results", file=sys.stderr)
        return 1
    target.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
