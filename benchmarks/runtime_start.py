"""The start of a process that runs one image from a .strz file: python benchmarks/runtime_start.py

Builds strzoo-runtime, installs the wheel into two new environments, with NumPy alone and with
llvmlite, and runs one image in processes of their own there, in this environment with strzoo, and
with onnxruntime on the dense file. Beside each stands the time of the whole process, from its start
to its end, and its largest resident memory. "Nothing" starts Python and imports NumPy.

Needs the network for NumPy and llvmlite, and Linux. Three minutes, most of them to install.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import strzoo
from tests.helpers.engine.networks import budget_rates, export, make_network
from tools.build_runtime import build

SECONDS, MEGABYTES = 0.5, 100  # the bars
MODELS = {"resnet50": "resnet50_90.23", "resnet18": None}
_PEAK = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
_RUN = """
import numpy, sys
x = numpy.zeros((1, 3, 224, 224), numpy.float32)
"""
_NATIVE = "import strzoo_runtime\nstrzoo_runtime.load(sys.argv[1], native=True)(x)"
_CHECKED = "import strzoo_runtime\nstrzoo_runtime.load(sys.argv[1])(x)"
_WHOLE = "import strzoo\nstrzoo.compile(sys.argv[1])(x)"
_DENSE = """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: x})
"""


@dataclass(frozen=True)
class Row:
    """What a process does, with which Python, on which file, and whether the bars are for it."""

    name: str
    python: Path
    program: str
    file: Path
    barred: bool = False
    fresh: bool = False  # with an empty cache folder each time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument("--runs", type=int, default=11)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = _prepare(given.model, folder)
        for row in rows:
            _measure(row, folder)  # files into the memory of the system, code into the cache
        print("| process | seconds | MB |\n|---|---:|---:|")
        missed = 0
        found: dict[str, list[tuple[float, float]]] = {row.name: [] for row in rows}
        for _ in range(given.runs):
            for row in rows:
                found[row.name].append(_measure(row, folder))
        for row in rows:
            times, peaks = zip(*found[row.name], strict=True)
            seconds, peak = statistics.median(times), statistics.median(peaks)
            missed += row.barred and (seconds >= SECONDS or peak >= MEGABYTES)
            print(f"| {row.name} | {seconds:.3f} | {peak:.0f} |")
    print(f"bar: {SECONDS} s and {MEGABYTES} MB for a later start: {'missed' if missed else 'met'}")
    return int(missed > 0)


def _prepare(model: str, folder: Path) -> list[Row]:
    budget = MODELS[model]
    network = make_network(model, budget_rates(budget) if budget else 0.9)
    dense, plan = folder / "dense.onnx", folder / "sparse.strz"
    onnx.save(export(network, 224), str(dense))
    strzoo.compile(dense, cpu="level", cache=False).save(plan, native=True)
    build(folder, "--wheel", "--no-isolation")
    (wheel,) = folder.glob("*.whl")
    alone, jit = (_install(folder / name, f"{wheel}{extra}") for name, extra in _ENVIRONMENTS)
    here = Path(sys.executable)
    return [
        Row("nothing", alone, "", plan),
        Row("strzoo-runtime, machine code in the file", alone, _NATIVE, plan, barred=True),
        Row("strzoo-runtime with llvmlite, first start", jit, _CHECKED, plan, fresh=True),
        Row("strzoo-runtime with llvmlite, later", jit, _CHECKED, plan, barred=True),
        Row("strzoo, later", here, _WHOLE, plan),
        Row("onnxruntime, dense", here, _DENSE, dense),
    ]


_ENVIRONMENTS = (("alone", ""), ("jit", "[engine]"))


def _install(folder: Path, wheel: str) -> Path:
    """A new environment with the wheel; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True)
    return python


def _measure(row: Row, folder: Path) -> tuple[float, float]:
    """Seconds and megabytes of one process."""
    with tempfile.TemporaryDirectory() as fresh:
        home = fresh if row.fresh else str(folder / f"home-{row.python.parent.parent.name}")
        environment = {**os.environ, "STRZOO_HOME": home, "PYTHONWARNINGS": "ignore"}
        started = time.perf_counter()
        done = subprocess.run(
            [row.python, "-c", _RUN + row.program + _PEAK, row.file],
            env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return time.perf_counter() - started, int(done.stdout.split()[-1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
