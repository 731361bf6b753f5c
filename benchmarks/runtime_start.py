"""The start of a process that runs one image from a .strz file: python benchmarks/runtime_start.py

Builds strzoo-runtime, installs the wheel into two new environments, with NumPy alone and with
llvmlite, and runs one image in processes of their own there, in this environment with strzoo, and
with onnxruntime on the dense file. Beside each stands the time of the whole process, from its start
to its end, and its largest resident memory. "Nothing" starts Python and imports NumPy.

Needs the network for NumPy and llvmlite, and Linux. Three minutes, most of them to install.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import take_turns

import strzoo
from tests.helpers.engine.networks import budget_rates, export, make_network
from tools.build_runtime import build
from tools.pythons import clean_environment

ABOUT = """Seconds of a whole process that runs one image from a .strz file of {model}, and its
largest resident memory; medians of interleaved rounds. strzoo-runtime stands in environments of its
own, with NumPy alone and with llvmlite. "Nothing" starts Python and imports NumPy. Bars, for a
later start: 0.5 s and 100 MB."""
SECONDS, MEGABYTES = 0.5, 100  # the bars
MODELS = {"resnet50": "resnet50_str_90.23", "resnet18": None}
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
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument("--runs", type=int, default=11)
    options = parser.parse_args()
    record = Record(
        parser, options, "runtime_start", f"The start of a process: {options.model}",
        ABOUT.format(model=options.model), packages=["numpy", "llvmlite", "onnxruntime", "strzoo"],
        kinds=["model"],
    )  # fmt: skip
    table = record.table([Column("process"), Column("seconds", "", ".3f"), Column("", "MB", ".0f")])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = _prepare(options.model, folder)
        peaks: dict[str, list[float]] = {row.name: [] for row in rows}

        def run(row: Row) -> float:
            seconds, peak = _measure(row, folder)
            peaks[row.name].append(peak)
            return seconds

        # The first round: files into the memory of the system, code into the cache.
        found = take_turns({row.name: partial(run, row) for row in rows}, options.runs)
    for row in rows:
        seconds, peak = (statistics.median(each[row.name]) for each in (found, peaks))
        table.add(row.name, seconds, peak)
        if row.barred:
            table.judge(f"{row.name}: seconds", seconds, most=SECONDS)
            table.judge(f"{row.name}: megabytes", peak, most=MEGABYTES)
    return record.finish()


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
    install = [str(python), "-m", "pip", "install", "-q", wheel]
    subprocess.run(install, env=clean_environment(), check=True)
    return python


def _measure(row: Row, folder: Path) -> tuple[float, float]:
    """Seconds and megabytes of one process."""
    with tempfile.TemporaryDirectory() as fresh:
        home = fresh if row.fresh else str(folder / f"home-{row.python.parent.parent.name}")
        own = dict(os.environ) if row.python == Path(sys.executable) else clean_environment()
        environment = {**own, "STRZOO_HOME": home, "PYTHONWARNINGS": "ignore"}
        started = time.perf_counter()
        done = subprocess.run(
            [row.python, "-c", _RUN + row.program + _PEAK, row.file],
            env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return time.perf_counter() - started, int(done.stdout.split()[-1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
