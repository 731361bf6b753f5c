"""Stage 4: the sparse engine on many cores, against dense onnxruntime with as many threads."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import strzoo
from device_stages.rows import FAILS, OK, Stage
from strzoo.benchmarking.engines import open_engine
from tests.helpers.engine.networks import (
    budget_rates,
    export,
    make_network,
    relative_error,
)

THREADS = (1, 2, 4, 8, 16)
ERROR = 1e-3  # of the output's largest value, against onnxruntime


@dataclass(frozen=True)
class Case:
    """A pruned network: what it is called, its ONNX file, and the pixels of a side."""

    name: str
    path: Path
    side: int


def run(stage: Stage) -> None:
    os.environ["STRZOO_HOME"] = str(stage.folder / "home")
    cores = len(os.sched_getaffinity(0))
    threads = [count for count in THREADS if count <= cores]
    batches = (1,) if stage.tiny else (1, 16)
    started = time.monotonic()
    cases = make_cases(stage)
    compile_all(cases, batches, threads, cores)
    stage.say(
        "networks",
        f"random weights pruned to {', '.join(case.name for case in cases)}; {cores} cores; "
        f"made and compiled in {time.monotonic() - started:.0f} s",
    )
    for case in cases:
        if stage.left < 3:
            stage.skip(f"{case.name}, one process per core", "the time was up")
            continue
        measure_processes(stage, case, cores)
    for batch in batches:
        for case in cases:
            measure_threads(stage, case, batch, threads)


def make_cases(stage: Stage) -> list[Case]:
    chosen: tuple[tuple[str, str, Mapping[str, float] | float, int], ...] = (
        ("ResNet50 90.23 %", "resnet50", budget_rates("resnet50_str_90.23"), 224),
        ("MobileNetV1 89.01 %", "mobilenetv1", budget_rates("mobilenetv1_str_89.01"), 224),
    )
    if stage.tiny:
        chosen = (("ResNet20 90 %", "resnet20", 0.9, 32),)
    cases = []
    for name, architecture, rates, side in chosen:
        path = stage.folder / f"{architecture}.onnx"
        network = make_network(architecture, rates, size=side)
        onnx.save(export(network, side, older=True), str(path))
        cases.append(Case(name, path, side))
    return cases


def compile_all(
    cases: list[Case], batches: tuple[int, ...], threads: list[int], cores: int
) -> None:
    """Fill the engine's cache, as many plans at once as there are cores."""
    work = [(str(case.path), case.side, b, t) for case in cases for b in batches for t in threads]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(cores, len(work)), mp_context=context) as pool:
        list(pool.map(_compile, *zip(*work, strict=True)))


def _compile(path: str, side: int, batch: int, threads: int) -> None:
    strzoo.compile(path, threads=threads, batch=batch, size=side)


def images_of(batch: int, side: int) -> np.ndarray:
    """What `open_engine` runs on with seed 0."""
    return np.random.default_rng(0).standard_normal((batch, 3, side, side), dtype=np.float32)


def measure_threads(stage: Stage, case: Case, batch: int, threads: list[int]) -> None:
    """Both engines in turns with each number of threads."""
    images = images_of(batch, case.side)
    first: dict[str, float] = {}
    for count in threads:
        label = f"{case.name}, batch {batch}, {count} threads"
        if stage.left < 2:
            stage.skip(label, "the time was up")
            continue
        ours = strzoo.compile(case.path, threads=count, batch=batch, size=case.side)
        runs: dict[str, Callable[[], np.ndarray]] = {
            "onnxruntime": open_engine("onnxruntime", case.path, images.shape, count),
            "strzoo": lambda ours=ours: ours(images),  # type: ignore[misc]
        }
        error = relative_error(runs["strzoo"](), runs["onnxruntime"]())
        seconds = time_in_turns(runs, 0.05 if stage.tiny else 1.0)
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        first = first or middle
        scaling = {name: first[name] / (middle[name] * count) for name in middle}
        stage.say(
            label,
            f"strzoo {1e3 * middle['strzoo']:.2f} ms ({batch / middle['strzoo']:.0f} images/s, "
            f"scaling {scaling['strzoo']:.2f}), onnxruntime {1e3 * middle['onnxruntime']:.2f} ms "
            f"(scaling {scaling['onnxruntime']:.2f}), ratio "
            f"{middle['onnxruntime'] / middle['strzoo']:.2f}, error {error:.1e}",
            f"error at most {ERROR:g}",
            OK if error <= ERROR else FAILS,
        )


def time_in_turns(
    runs: Mapping[str, Callable[[], object]], seconds: float
) -> dict[str, list[float]]:
    """Seconds of each run, three at least, for about that long altogether."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(found["strzoo"]) < 3:
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - started)
    return found


def measure_processes(stage: Stage, case: Case, cores: int) -> None:
    """One process with one thread on each core, against one process alone."""
    seconds = 0.2 if stage.tiny else 2.0
    rates = {count: run_processes(case, count, seconds) for count in (1, cores)}
    stage.say(
        f"{case.name}, batch 1, one process per core",
        f"{rates[cores]:.0f} images/s with {cores}, {rates[1]:.0f} with one: scaling "
        f"{rates[cores] / (cores * rates[1]):.2f}",
    )


def run_processes(case: Case, count: int, seconds: float) -> float:
    """Images per second of `count` processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    processes = [
        context.Process(
            target=_count_images, args=(case, number, seconds, barrier, results), daemon=True
        )
        for number in range(count)
    ]
    for process in processes:
        process.start()
    total = float(sum(results.get(timeout=60) for _ in processes))
    for process in processes:
        process.join()
    return total


def _count_images(case: Case, number: int, seconds: float, barrier: Barrier, results: Any) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    compiled = strzoo.compile(case.path, threads=1, batch=1, size=case.side)
    images = images_of(1, case.side)
    compiled(images)
    barrier.wait()
    started, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds:
        compiled(images)
        count += 1
    results.put(count / passed)
