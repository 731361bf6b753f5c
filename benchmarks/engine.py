"""Measure the sparse engine against its bars: `python benchmarks/engine.py`, machine quiet.

Peers are dense onnxruntime in fp32 and int8 and OpenVINO in fp32, bf16 and int8 on the same
network, and with `--deepsparse PYTHON` (an interpreter that has it) DeepSparse in fp32. Every
engine runs in a process of its own with its default settings and as many threads. They take turns,
the order alternates, medians count; the first run of each turn warms up. int8 files are static QDQ,
calibrated like int16 on the bundled images.

Beside the times stands how far the results are from torch in float64 on standard normal images: the
largest error of fp32, relative to the largest output, and signal to noise of int16 and int8. The
networks were never trained and amplify errors (`benchmarks/engine_accuracy.py` measures trained
ones).

`--busy` measures instead what one busy process on one of two cores does to two threads.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine_stages.busy import measure_busy
from engine_stages.models import decibels, prepare, prepare_int8
from engine_stages.server import Server
from harness.machine import list_versions, name_processor

from strzoo.benchmarking.engines import INT8_ENGINES

ALLOWED_ERROR = 1e-4
ENGINES = (
    "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8", "deepsparse",
    "sparse", "sparse-int16", "sparse-int8",
)  # fmt: skip
PAUSE = 0.05  # seconds between turns: threads of some engines spin on for a while
MEMORY_MODEL = "resnet50 90.23"


@dataclass(frozen=True)
class Case:
    """A model and how it is run; the least ratios of onnxruntime's time in fp32 to ours in fp32,
    and of OpenVINO's in int8 to ours in int16 and in int8."""

    model: str
    batch: int
    bar: float | None
    int16_bar: float | None = None
    int8_bar: float | None = None
    threads: int = 2


CASES = (
    Case("resnet50 81.27", 1, 2.9, 1.5),
    Case("resnet50 81.27", 16, 2.9, 1.4),
    Case("resnet50 90.23", 1, 4.3, 2.5),
    Case("resnet50 90.23", 16, 4.7, 2.3),
    Case("resnet50 95.15", 1, 6.2, 4),
    Case("resnet50 95.15", 16, 7.5, 4),
    Case("resnet50 98.05", 1, 10),
    Case("resnet50 98.05", 16, 11),
    Case("resnet50:blocks 90", 1, None, None, 3.8),
    Case("resnet50:blocks 90", 16, None, None, 3.5),
    Case("mobilenetv1 89.01", 1, 1.9, 1.3),
    Case("mobilenetv1 89.01", 16, 2.5, 1.3),
    Case("resnet50 90.23", 1, 4.3, threads=1),
    Case("resnet50 90.23", 16, 4.7, threads=1),
)


@dataclass
class Row:
    """What was measured of a case: seconds of each engine, and its outputs."""

    case: Case
    seconds: dict[str, list[float]] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)

    def median(self, engine: str) -> float:
        return statistics.median(self.seconds[engine]) if engine in self.seconds else float("nan")

    def ratio(self, peer: str, engine: str) -> float:
        return self.median(peer) / self.median(engine)

    def show(self, expected: np.ndarray, engines: list[str]) -> tuple[str, bool]:
        """The line of the table, and whether it misses a bar."""
        case, verdicts = self.case, []
        for bar, peer, own in (
            (case.bar, "onnxruntime", "sparse"),
            (case.int16_bar, "openvino-int8", "sparse-int16"),
            (case.int8_bar, "openvino-int8", "sparse-int8"),
        ):
            met = bar is None or not self.ratio(peer, own) < bar
            verdicts.append(f"{self.ratio(peer, own):.2f} ({bar or '-'}){'' if met else ' FAILS'}")
        cells = [case.model, str(case.threads), str(case.batch)]
        cells += [f"{1e3 * self.median(engine):.1f}" for engine in engines]
        error = float("nan")
        if "sparse" in self.outputs:
            error = np.abs(self.outputs["sparse"] - expected).max() / np.abs(expected).max()
        cells += [*verdicts, f"{error:.0e}{'' if not error > ALLOWED_ERROR else ' FAILS'}"]
        for engine in ("sparse-int16", "sparse-int8", "openvino-int8"):
            found = self.outputs.get(engine)
            cells.append("-" if found is None else f"{decibels(found, expected):.1f}")
        line = f"| {' | '.join(cells)} |"
        return line, "FAILS" in line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="at batch 1; a third at 16")
    parser.add_argument("--only", default="", help="rows whose model contains this text")
    parser.add_argument("--batch", type=int, help="rows of this batch size only")
    parser.add_argument("--threads", type=int, help="rows of so many threads only")
    parser.add_argument("--engines", default=",".join(ENGINES), help="some of these")
    parser.add_argument("--deepsparse", help="the Python interpreter that has DeepSparse")
    parser.add_argument("--store", type=Path, help="keep the ONNX files here, and use them again")
    parser.add_argument("--no-resources", action="store_true", help="no compile time and memory")
    parser.add_argument("--busy", action="store_true", help="beside a busy process, nothing else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.store or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["STRZOO_HOME"] = str(Path(temporary) / "home")  # no plan of an earlier run
        os.environ.pop("OMP_NUM_THREADS", None)
        engines = [name for name in options.engines.split(",") if available(name, options)]
        if options.busy:
            failed = measure_busy(folder, options.rounds)
        else:
            failed = measure_all(engines, folder, options)
            if not options.no_resources:
                measure_resources(engines, folder)
    print(f"\n{describe_machine()}")
    return int(failed)


def available(engine: str, options: argparse.Namespace) -> bool:
    """Whether the engine is installed."""
    if engine == "deepsparse":
        return options.deepsparse is not None
    if engine not in ENGINES:
        raise SystemExit(f"{engine!r} is not one of {', '.join(ENGINES)}")
    try:
        return engine.startswith("sparse") or bool(version(engine.partition("-")[0]))
    except PackageNotFoundError:
        return False


def measure_all(engines: list[str], folder: Path, options: argparse.Namespace) -> bool:
    """Print the table; returns whether a bar was missed."""
    heads = ["model", "threads", "batch", *(f"{engine} ms" for engine in engines)]
    heads += ["fp32 / onnxruntime (bar)", "int16 / OpenVINO int8 (bar)"]
    heads += ["int8 / OpenVINO int8 (bar)", "fp32 error", "int16 dB", "int8 dB", "OpenVINO int8 dB"]
    print(f"| {' | '.join(heads)} |\n|---{'|---:' * (len(heads) - 1)}|", flush=True)
    failed, found = False, False
    for case in CASES:
        if (
            options.only not in case.model
            or options.batch not in (None, case.batch)
            or options.threads not in (None, case.threads)
        ):
            continue
        found = True
        path, expected = prepare(case.model, folder)
        rounds = max(options.rounds // (1 if case.batch == 1 else 3), 1)
        row = measure(case, engines, path, rounds, options.deepsparse)
        line, misses = row.show(expected[: case.batch], engines)
        print(line, flush=True)
        failed |= misses
    if not found:
        raise SystemExit("no row is left")
    return failed


def measure(case: Case, engines: list[str], path: Path, rounds: int, deepsparse: str | None) -> Row:
    row, calls = Row(case), 5 if case.batch == 1 else 1
    servers: dict[str, Server] = {}
    try:
        for engine in engines:
            file = prepare_int8(path) if engine in INT8_ENGINES else path
            python = deepsparse if engine == "deepsparse" else None
            servers[engine] = Server(engine, file, case.threads, case.batch, python)
            row.outputs[engine], row.seconds[engine] = servers[engine].output, []
        for number in range(rounds):
            for engine in engines if number % 2 else engines[::-1]:
                row.seconds[engine] += servers[engine].run(calls)
                time.sleep(PAUSE)
    finally:
        for server in servers.values():
            server.close()
    return row


def measure_resources(engines: list[str], folder: Path) -> None:
    """Seconds to compile, first and from the cache, and memory, each in a process of its own."""
    print("\n| | seconds to open | peak MB | peak MB of running alone |\n|---|---:|---:|---:|")
    path, _ = prepare(MEMORY_MODEL, folder)
    with tempfile.TemporaryDirectory() as home:
        for engine in engines:
            own = engine.startswith("sparse")
            for name in (f"{engine}, first", f"{engine}, from cache") if own else (engine,):
                file = prepare_int8(path) if engine in INT8_ENGINES else path
                server = Server(engine, file, 2, 1, None, {"STRZOO_HOME": home})
                server.close()
                used = server.resources
                print(
                    f"| {name} | {used['seconds']:.2f} | {used['peak']:.0f} | "
                    f"{used['running']:.0f} |",
                    flush=True,
                )
    print(
        f"\n{MEMORY_MODEL}, batch 1, two threads. Bars: fp32 5 s and int16 15 s at first, 1 s from "
        "the cache."
    )
    print(describe_plans(path))


def describe_plans(path: Path) -> str:
    """The memory of the plans, in fp32 and int16."""
    import strzoo

    sizes = {}
    for precision in ("fp32", "int16"):
        report = strzoo.compile(path, 2, precision=precision).report
        sizes[precision] = (report.constants + report.arena) / 1e6
    return (
        f"Weights, tables and work space: fp32 {sizes['fp32']:.1f} MB, int16 {sizes['int16']:.1f} "
        f"MB, {sizes['int16'] / sizes['fp32']:.2f} of it (bar 0.5)."
    )


def describe_machine() -> str:
    names = ("strzoo", "onnxruntime", "openvino", "torch", "llvmlite")
    return (
        f"{name_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {list_versions(names)}; load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
