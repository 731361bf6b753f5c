"""Measure the sparse engine against its bars: `python benchmarks/engine.py`, machine quiet.

The peer is dense onnxruntime on the same file with as many threads; it may not spin after a run,
into the timing of the other. Runs are interleaved, the order alternates, medians count. Beside
each timing stands the largest error of the engine, relative to the largest output, against torch
in float64 on the network before export.

Networks are pruned by magnitude to a published budget, with random weights and BatchNorm calibrated
on standard normal images, which are the input too. Compile time and memory are measured in
processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import strzoo
from strzoo.benchmarking.engines import open_engine
from tests.helpers.engine.networks import (
    budget_rates,
    export,
    make_network,
    relative_error,
)

ALLOWED_ERROR = 1e-4
SIZE = 224
WARM_UP = 3
SEED = 0
MEMORY_MODEL = "resnet50 90.23"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """One row: a model, how it is run, and the least ratio to onnxruntime."""

    model: str
    batch: int
    bar: float
    threads: int = 2


CASES = (
    Case("resnet50 81.27", 1, 2.9),
    Case("resnet50 81.27", 16, 2.9),
    Case("resnet50 90.23", 1, 4.3),
    Case("resnet50 90.23", 16, 4.7),
    Case("resnet50 95.15", 1, 6.2),
    Case("resnet50 95.15", 16, 7.5),
    Case("resnet50 98.05", 1, 10),
    Case("resnet50 98.05", 16, 11),
    Case("mobilenetv1 89.01", 1, 1.9),
    Case("mobilenetv1 89.01", 16, 2.5),
    Case("resnet50 90.23", 1, 4.3, threads=1),
    Case("resnet50 90.23", 16, 4.7, threads=1),
)


@dataclass(frozen=True)
class Measurement:
    case: Case
    peer: list[float]
    ours: list[float]
    error: float
    peer_error: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.peer) / statistics.median(self.ours)

    def row(self) -> str:
        case = self.case
        verdict = "ok" if self.error < ALLOWED_ERROR and self.ratio >= case.bar else "FAILS"
        return (
            f"| {case.model} | {case.threads} | {case.batch} | {_ms(self.peer)} | "
            f"{_ms(self.ours)} | {1e3 * min(self.peer):.1f} / {1e3 * min(self.ours):.1f} | "
            f"{self.ratio:.2f} | {case.bar:g} | {self.error:.1e} | {self.peer_error:.1e} | "
            f"{verdict} |"
        )


HEADER = (
    "| model | threads | batch | onnxruntime ms | strzoo ms | fastest | ratio | bar | error | "
    "onnxruntime's | |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=101, help="at batch 1; a quarter at 16")
    parser.add_argument("--only", default="", help="rows whose model contains this text")
    parser.add_argument("--batch", type=int, help="rows of this batch size only")
    parser.add_argument("--threads", type=int, help="rows of so many threads only")
    parser.add_argument("--store", type=Path, help="keep the ONNX files here, and use them again")
    parser.add_argument("--no-resources", action="store_true", help="no compile time and memory")
    options = parser.parse_args()
    cases = [
        case
        for case in CASES
        if options.only in case.model
        and options.batch in (None, case.batch)
        and options.threads in (None, case.threads)
    ]
    if not cases:
        parser.error("no row is left")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.store or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["STRZOO_HOME"] = str(Path(temporary) / "home")  # no plan of an earlier run
        rows = measure_all(cases, folder, options.rounds)
        if not options.no_resources:
            measure_resources(prepare(MEMORY_MODEL, folder)[0])
    print(f"\n{describe_machine()}")
    return int(any(row.error >= ALLOWED_ERROR or row.ratio < row.case.bar for row in rows))


def measure_all(cases: list[Case], folder: Path, rounds: int) -> list[Measurement]:
    rows = []
    print(HEADER, flush=True)
    for case in cases:
        path, expected = prepare(case.model, folder)
        measured = measure(case, path, expected, max(rounds // (1 if case.batch == 1 else 4), 1))
        print(measured.row(), flush=True)
        rows.append(measured)
    return rows


def prepare(model: str, folder: Path) -> tuple[Path, np.ndarray]:
    """The ONNX file of `model`, and what torch computes in float64 for the 16 images."""
    path = folder / f"{model.replace(' ', '_')}.onnx"
    reference = path.with_suffix(".npy")
    if not reference.exists():
        architecture, sparsity = model.split()
        rates = budget_rates(f"{architecture}_str_{sparsity}")
        network = make_network(architecture, rates, size=SIZE)
        onnx.save(export(network, SIZE), str(path))
        np.save(reference, run_double(network, images_of(16)))
    return path, np.load(reference)


def images_of(batch: int) -> np.ndarray:
    """What `open_engine` runs on."""
    shape = (batch, 3, SIZE, SIZE)
    return np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)


def run_double(network: nn.Module, images: np.ndarray) -> np.ndarray:
    network = network.double()
    with torch.inference_mode():
        parts = [network(part) for part in torch.from_numpy(images).double().split(4)]
    result: np.ndarray = torch.cat(parts).numpy()
    return result


def measure(case: Case, path: Path, expected: np.ndarray, rounds: int) -> Measurement:
    images = images_of(case.batch)
    # The first images of a larger batch are those of a smaller one, so that one reference does.
    np.testing.assert_array_equal(images, images_of(16)[: case.batch])
    expected = expected[: case.batch]
    compiled = strzoo.compile(path, threads=case.threads, batch=case.batch)
    shape = images.shape
    runs: dict[str, Callable[[], np.ndarray]] = {
        "peer": open_engine("onnxruntime", path, shape, case.threads, seed=SEED),
        "ours": lambda: compiled(images),
    }
    errors = {name: relative_error(run(), expected) for name, run in runs.items()}
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in sorted(runs, reverse=number % 2 == 1):
            started = time.perf_counter()
            output = runs[name]()
            seconds[name].append(time.perf_counter() - started)
            if name == "ours":
                errors[name] = max(errors[name], relative_error(output, expected))
    return Measurement(case, seconds["peer"], seconds["ours"], errors["ours"], errors["peer"])


def measure_resources(path: Path) -> None:
    """Seconds to compile, first and from the cache, and memory, each in a process of its own."""
    print("\n| | seconds to open | peak MB | peak MB of running alone |\n|---|---:|---:|---:|")
    found = {}
    with tempfile.TemporaryDirectory() as home:
        for name, engine in (
            ("onnxruntime", "onnxruntime"),
            ("strzoo, first", "sparse"),
            ("strzoo, from cache", "sparse"),
        ):
            command = [sys.executable, str(ROOT / "benchmarks" / "engine_process.py")]
            done = subprocess.run(
                [*command, engine, str(path), "2", "1"],
                check=True,
                stdout=subprocess.PIPE,
                env={**os.environ, "STRZOO_HOME": home, "PYTHONPATH": str(ROOT)},
            )
            found[name] = result = json.loads(done.stdout)
            print(
                f"| {name} | {result['seconds']:.2f} | {result['peak']:.0f} | "
                f"{result['running']:.0f} |",
                flush=True,
            )
    peer = found["onnxruntime"]["peak"]
    print(
        f"\n{path.stem}, batch 1, two threads. Bars: 10 s at first, 1 s from the cache, "
        f"{peer + 50:.0f} MB (onnxruntime's peak and 50)."
    )


def describe_machine() -> str:
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("strzoo", "onnxruntime", "torch", "llvmlite")
    )
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, {packages}; load {os.getloadavg()[0]:.1f}"
    )


def _ms(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.1f}"


if __name__ == "__main__":
    sys.exit(main())
