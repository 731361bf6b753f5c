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
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from engine_stages.busy import measure_busy
from engine_stages.models import decibels, prepare, prepare_int8
from engine_stages.server import Server
from harness.cores import find_distance
from harness.record import Record, TableRecord, make_parser
from harness.results import Cell, Column
from harness.turns import SPINNING, take_turns

from strzoo.benchmarking.engines import INT8_ENGINES
from strzoo.engine.hardware import host_hardware

ALLOWED_ERROR = 1e-4
ENGINES = (
    "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8", "deepsparse",
    "sparse", "sparse-int16", "sparse-int8",
)  # fmt: skip
NAMES = {"sparse": "strzoo", "sparse-int16": "strzoo int16", "sparse-int8": "strzoo int8"}
BARS = (  # what is compared with what: a bar of the case, the peer, the engine
    ("bar", "onnxruntime", "sparse"),
    ("int16_bar", "openvino-int8", "sparse-int16"),
    ("int8_bar", "openvino-int8", "sparse-int8"),
)
NOISE = ("sparse-int16", "sparse-int8", "openvino-int8")
ABOUT = """Every engine in a process of its own with its default settings and as many threads, in
turn, medians; against two bars: fp32 against dense onnxruntime in fp32, and int16 and int8 against
OpenVINO in dense int8, the fastest dense peer. Random weights pruned by magnitude to the published
budget, BatchNorm calibrated; fixed rules, no tuning. `resnet50:blocks 90` has 90 % of its blocks of
four input channels zero. `cores` is how long a byte takes from one core to the other and back, as
Python sees it, before or after, whichever is longer: where a virtual machine has them in different
caches, it is three times as long, and so is a layer's way from thread to thread (`--near`). The
error of fp32 is the largest, relative to the largest output, and the signal to noise is in dB, both
against torch in float64."""
MEMORY_MODEL = "resnet50 90.23"
PATIENCE = 60.0  # seconds that a row waits for its cores
REPEATS = 3  # of a row whose cores went apart


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
    """What was measured of a case: seconds of each engine, its outputs, and nanoseconds from core
    to core."""

    case: Case
    distance: float = float("nan")
    seconds: dict[str, list[float]] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)

    def median(self, engine: str) -> float:
        return statistics.median(self.seconds[engine]) if engine in self.seconds else float("nan")

    def enter(self, table: TableRecord, expected: np.ndarray) -> None:
        """Enter what the times and outputs mean, and which bars they miss."""
        case = self.case
        cells: list[Cell] = [case.model, case.threads, case.batch]
        label = f"{case.model}, {case.threads} threads, batch {case.batch}:"
        for name, peer, own in BARS:
            ratio, bar = self.median(peer) / self.median(own), getattr(case, name)
            cells += [ratio, bar]
            table.judge(f"{label} {peer} / {NAMES[own]}", ratio, least=bar)
        error = float("nan")
        if "sparse" in self.outputs:
            error = float(np.abs(self.outputs["sparse"] - expected).max() / np.abs(expected).max())
        found = (self.outputs.get(engine) for engine in NOISE)
        cells += [error, *(None if one is None else decibels(one, expected) for one in found)]
        table.add(*cells)
        table.judge(f"{label} the error", error, most=ALLOWED_ERROR)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="at batch 1; a third at 16")
    parser.add_argument("--only", default="", help="rows whose model contains this text")
    parser.add_argument("--batch", type=int, help="rows of this batch size only")
    parser.add_argument("--threads", type=int, help="rows of so many threads only")
    parser.add_argument("--engines", default=",".join(ENGINES), help="some of these")
    parser.add_argument("--deepsparse", help="the Python interpreter that has DeepSparse")
    parser.add_argument(
        "--near", type=float, metavar="NS",
        help="measure rows while the cores are not farther apart than so many nanoseconds",
    )  # fmt: skip
    parser.add_argument("--store", type=Path, help="keep the ONNX files here, and use them again")
    parser.add_argument("--no-resources", action="store_true", help="no compile time and memory")
    parser.add_argument("--busy", action="store_true", help="beside a busy process, nothing else")
    parser.add_argument("--models", nargs="+", help="of --busy; [default: three]")
    options = parser.parse_args()
    name, title, about = "engine", "Sparse CPU engine", ABOUT
    if options.busy:
        name, title, about = "engine_busy", f"{title}: beside a busy process", ""
    record = Record(
        parser, options, name, title, about, free=["store", "busy", "deepsparse"],
        packages=["onnxruntime", "openvino", "torch", "llvmlite", "strzoo"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.store or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["STRZOO_HOME"] = str(Path(temporary) / "home")  # no plan of an earlier run
        os.environ.pop("OMP_NUM_THREADS", None)
        wanted = options.engines.split(",")
        engines = [name for name in wanted if available(name, options)]
        if lacking := [NAMES[name] for name in wanted if name in NAMES and name not in engines]:
            record.say(f"This processor lacks the instructions of {', '.join(lacking)}.")
        if options.busy:
            measure_busy(record, folder, options.rounds, options.models)
        else:
            measure_all(record, engines, folder, options)
            if not options.no_resources:
                measure_resources(record, engines, folder)
    return record.finish()


def available(engine: str, options: argparse.Namespace) -> bool:
    """Whether the engine is installed, and this processor has what it needs."""
    if engine == "deepsparse":
        return options.deepsparse is not None
    if engine not in ENGINES:
        raise SystemExit(f"{engine!r} is not one of {', '.join(ENGINES)}")
    if engine.startswith("sparse"):
        hardware = host_hardware()
        needs = {"sparse-int16": hardware.fixed, "sparse-int8": hardware.quads}
        return needs.get(engine, True)
    try:
        return bool(version(engine.partition("-")[0]))
    except PackageNotFoundError:
        return False


def measure_all(
    record: Record, engines: list[str], folder: Path, options: argparse.Namespace
) -> None:
    """The tables of times and of what they mean."""
    cases = [
        case for case in CASES
        if options.only in case.model
        and options.batch in (None, case.batch)
        and options.threads in (None, case.threads)
    ]  # fmt: skip
    if not cases:
        raise SystemExit("no row is left")
    columns = [Column("model"), Column("threads", "", ".0f"), Column("batch", "", ".0f")]
    cores = Column("cores", "ns", ".0f")
    names = (NAMES.get(engine, engine) for engine in engines)
    table = record.table([*columns, cores, *(Column(name, "ms", ".1f") for name in names)])
    rows = []
    for case in cases:
        path, expected = prepare(case.model, folder)
        rounds = max(options.rounds // (1 if case.batch == 1 else 3), 1)
        row = measure_near(case, engines, path, rounds, options)
        times = (1e3 * row.median(engine) for engine in engines)
        table.add(case.model, case.threads, case.batch, row.distance, *times)
        rows.append((row, expected[: case.batch]))
    heads = ("onnxruntime / fp32", "OpenVINO int8 / int16", "OpenVINO int8 / int8")
    table = record.table([
        *columns,
        *(c for head in heads for c in (Column(head, "", ".2f"), Column("bar", "", "g"))),
        Column("fp32 error", "", ".0e"),
        *(Column(head, "dB", ".1f") for head in ("int16", "int8", "OpenVINO int8")),
    ])  # fmt: skip
    for row, expected in rows:
        row.enter(table, expected)


def measure_near(
    case: Case, engines: list[str], path: Path, rounds: int, options: argparse.Namespace
) -> Row:
    """A row, with `--near` again if its cores went apart."""
    most = options.near or float("inf")
    for _ in range(REPEATS):
        waiting = time.monotonic() + PATIENCE
        while (before := find_distance()) > most and time.monotonic() < waiting:
            time.sleep(1)
        row = measure(case, engines, path, rounds, options.deepsparse)
        row.distance = max(before, find_distance())
        if not row.distance > most:
            break
    return row


def measure(case: Case, engines: list[str], path: Path, rounds: int, deepsparse: str | None) -> Row:
    row, calls = Row(case), 5 if case.batch == 1 else 1
    servers: dict[str, Server] = {}
    try:
        for engine in engines:
            file = prepare_int8(path) if engine in INT8_ENGINES else path
            python = deepsparse if engine == "deepsparse" else None
            servers[engine] = Server(engine, file, case.threads, case.batch, python)
            row.outputs[engine] = servers[engine].output
        ways = {name: lambda one=server: one.run(calls) for name, server in servers.items()}
        turns = take_turns(ways, rounds, warm=0, pause=SPINNING)  # each turn warms itself up
        row.seconds = {name: [s for turn in found for s in turn] for name, found in turns.items()}
    finally:
        for server in servers.values():
            server.close()
    return row


def measure_resources(record: Record, engines: list[str], folder: Path) -> None:
    """Seconds to compile, first and from the cache, and memory, each in a process of its own."""
    table = record.table([
        Column(""), Column("seconds to open", "", ".2f"), Column("peak", "MB", ".0f"),
        Column("peak of running alone", "MB", ".0f"), Column("bar of opening", "s", "g"),
    ])  # fmt: skip
    path, _ = prepare(MEMORY_MODEL, folder)
    with tempfile.TemporaryDirectory() as home:
        for engine in engines:
            own = engine.startswith("sparse")
            for when in ("first", "from cache") if own else ("",):
                file = prepare_int8(path) if engine in INT8_ENGINES else path
                server = Server(engine, file, 2, 1, None, {"STRZOO_HOME": home})
                server.close()
                used = server.resources
                name = ", ".join(filter(None, (NAMES.get(engine, engine), when)))
                most = {"strzoo, first": 5.0, "strzoo int16, first": 15.0}.get(name)
                most = 1.0 if when == "from cache" else most
                table.add(name, used["seconds"], used["peak"], used["running"], most)
                table.judge(f"{name}: seconds to open", used["seconds"], most=most)
    said = describe_plans(path) if "sparse-int16" in engines else ""
    table.say(f"{MEMORY_MODEL}, batch 1, two threads. {said}")


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


if __name__ == "__main__":
    sys.exit(main())
