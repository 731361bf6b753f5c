"""Mutated `.strz` files: what is accepted must run without touching memory that is not the plan's.

    python -m tests.fuzz.plans [COUNT] [--seed SEED]

Numbers of rows, tables, memory sizes and kernels of small plans are changed and the file is sealed
again. Each file that is accepted runs between guard pages in a process of its own, which a fault or
a hang ends; the number of the mutation is then reported, and

    python -m tests.fuzz.plans 1 --seed SEED --start NUMBER

repeats it. The exit code is 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from strzoo.engine.hardware import host_hardware
from strzoo.engine.ir.graph import (
    Add,
    Affine,
    AveragePool,
    Bounds,
    Clamp,
    Combine,
    Concat,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Graph,
    Layer,
    Linear,
    MaxPool,
    Normalize,
    Pick,
    PRelu,
    Rearrange,
    Resample,
    Softmax,
    Window,
)
from strzoo.engine.ir.shapes import infer_shape
from strzoo.engine.layout.tiling import Tiling
from strzoo.engine.quantization import fixing, quads
from strzoo.engine.quantization.observation import observe
from strzoo.engine.storage import plan_files
from strzoo.engine.storage.plan_files import PlanFile, ThreadedPlan, read_plans, write_plans
from strzoo.errors import IntegrityError
from strzoo.sealed_files import CONTENT
from tests.helpers.engine.guarded import UNWRITTEN, Codes, run_guarded
from tests.helpers.engine.plans import make_plan
from tests.helpers.sealing import seal

SECONDS = 20  # that a mutation may take
GROUPS = {1: 1, 2: 3}  # threads of the plans for groups of one and of two images
INTERESTING = (0, 1, 2, 3, 4, 7, 8, 15, 16, 64, 4096, 65535, 1 << 20, 1 << 31, 1 << 38, -1, -4)


def _weights(seed: int, *shape: int, density: float = 0.4) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_normal(shape) * (random.random(shape) < density)).astype(np.float32)


def _bias(count: int) -> np.ndarray:
    return np.linspace(-1, 1, count, dtype=np.float32)


def _conv(name: str, inputs: tuple[str, ...], shape: tuple[int, ...], **options: Any) -> Layer:
    density = options.pop("density", 0.4)
    weight = _weights(len(name), *shape, density=density)
    window = Window(
        shape[2:],  # type: ignore[arg-type]
        options.pop("strides", (1, 1)),
        options.pop("pads", (0, 0, 0, 0)),
    )
    return Convolution(name, inputs, name, weight, _bias(shape[0]), window, **options)


def _chain(*layers: Layer, shape: tuple[int, ...]) -> Graph:
    shapes = {"x": shape}
    for layer in layers:
        shapes[layer.output] = infer_shape(layer, [shapes[name] for name in layer.inputs])
    return Graph("x", layers[-1].output, shapes, layers, "test")


def make_graphs() -> list[tuple[Graph, dict[str, Tiling]]]:
    """Two networks that together need every kernel in most of its forms."""
    pads = (1, 1, 1, 1)
    first = _chain(
        _conv("stem", ("x",), (12, 3, 3, 3), strides=(2, 2), pads=pads, bounds=Bounds(0.0)),
        _conv("one", ("stem",), (12, 12, 1, 1)),
        _conv("sum", ("one", "stem"), (12, 12, 3, 3), pads=pads, bounds=Bounds(0.0, 6.0)),
        _conv("deep", ("sum",), (12, 1, 3, 3), pads=pads, groups=12, density=1.0),
        MaxPool("largest", ("deep",), "largest", Window((3, 3), (2, 2), pads)),
        _conv("dense", ("largest",), (16, 12, 3, 3), pads=pads, density=1.0),
        Concat("join", ("largest", "dense"), "join"),
        AveragePool("mean", ("join",), "mean", Window((2, 2), pads=pads)),
        GlobalAveragePool("global", ("mean",), "global", flat=True),
        Linear("head", ("global",), "head", _weights(1, 10, 28), _bias(10)),
        Softmax("soft", ("head",), "soft"),
        shape=(3, 18, 14),
    )
    second = _chain(
        _conv("twice", ("x",), (8, 1, 3, 3), pads=pads, groups=4, density=1.0),
        _conv("groups", ("twice",), (8, 2, 3, 3), pads=pads, groups=4),
        Affine("scaled", ("groups",), "scaled", _bias(8), _bias(8)),
        Add("added", ("scaled", "twice"), "added"),
        Clamp("clamped", ("added",), "clamped", Bounds(-0.5, 0.5)),
        GlobalAveragePool("squeezed", ("clamped",), "squeezed"),
        _conv("gate", ("squeezed",), (8, 8, 1, 1), bounds=Bounds(0.0, 0.0, "sigmoid")),
        Combine("excited", ("clamped", "gate"), "excited", "mul", Bounds(0.1, 0.0, "leaky")),
        Normalize("even", ("excited",), "even", _bias(8), _bias(8), 1e-3),
        PRelu("slopes", ("even",), "slopes", _bias(8)),
        Pick("picked", ("slopes",), "picked", np.arange(6), np.array([4, 0, 0, 1, 3])),
        Rearrange("turned", ("picked",), "turned", np.arange(60).reshape(2, 6, 5), 4, 1),
        Resample("sums", ("turned",), "sums", *_sums(6, 6), *_sums(5, 5)),
        Flatten("flat", ("sums",), "flat"),
        Linear("full", ("flat",), "full", _weights(2, 9, 8 * 6 * 5, density=1.0), _bias(9)),
        Linear("few", ("full",), "few", _weights(3, 5, 9), _bias(5), Bounds(0.0)),
        shape=(4, 6, 5),
    )
    return [(first, {"one": Tiling(4, 3), "dense": Tiling(2, 2)}), (second, {})]


def _sums(size: int, made: int) -> tuple[np.ndarray, np.ndarray]:
    """Two pixels of `size` for each of `made`, and their weights."""
    places = np.random.default_rng(made).integers(0, size, (2, made))
    return places, np.full(places.shape, 0.5, np.float32)


def make_fewer_bits() -> list[Graph]:
    """The same small network in 16-bit fixed point and, where the processor has it, in 8 bits."""
    pads = (1, 1, 1, 1)
    graph = _chain(
        _conv("stem", ("x",), (12, 3, 3, 3), strides=(2, 2), pads=pads, bounds=Bounds(0.0)),
        MaxPool("largest", ("stem",), "largest", Window((3, 3), (2, 2), pads)),
        _conv("one", ("largest",), (12, 12, 1, 1)),
        _conv("sum", ("one", "largest"), (12, 12, 3, 3), pads=pads, bounds=Bounds(0.0, 6.0)),
        _conv("deep", ("sum",), (12, 1, 3, 3), pads=pads, groups=12, density=1.0),
        _conv("last", ("deep",), (64, 12, 3, 3), pads=pads, strides=(2, 2), bounds=Bounds(0.0)),
        GlobalAveragePool("global", ("last",), "global", flat=True),
        Linear("head", ("global",), "head", _weights(1, 10, 64), _bias(10)),
        shape=(3, 18, 14),
    )
    hardware = host_hardware()
    images = np.random.default_rng(0).standard_normal((2, 3, 18, 14)).astype(np.float32)
    seen = observe(graph, hardware, images, images)
    with patch.object(fixing, "CONVERTED", 0.0), patch.object(quads, "_cycles", lambda *_: 0.0):
        ways = [fixing.fix] * hardware.fixed + [quads.fix_quads] * hardware.quads
        return [fix(graph, seen, hardware, 1e9).graph for fix in ways]


def make_files(folder: Path, groups: Mapping[int, int]) -> None:
    """Write the `.strz` files that are mutated, for groups of images and so many threads each."""
    hardware = host_hardware()
    for number, (graph, tilings) in enumerate(make_graphs()):
        for images, threads in groups.items():
            plan = make_plan(graph, hardware, images, tilings, threads)
            entry = ThreadedPlan(plan, threads, ())
            content = PlanFile("m", "0", threads, images, 0.0, hardware, (entry,))
            write_plans(folder / f"{number}_{images}.strz", content)
    for number, graph in enumerate(make_fewer_bits()):
        plan = make_plan(graph, hardware, threads=groups.get(1, 1))
        entry = ThreadedPlan(plan, groups.get(1, 1), ())
        content = PlanFile("m", "0", groups.get(1, 1), 1, 0.0, hardware, (entry,))
        write_plans(folder / f"bits_{number}.strz", content)


class Mutator:
    """Changes numbers of the content of one file."""

    def __init__(self, path: Path) -> None:
        self.whole = path.read_bytes()
        content = self.whole[CONTENT:]
        (length,) = struct.unpack("<Q", content[:8])
        self.header = json.loads(content[8 : 8 + length])
        self.arrays = content[8 + length :]

    def mutate(self, random: np.random.Generator) -> bytes:
        """A sealed file with one to three changes."""
        header, arrays = json.loads(json.dumps(self.header)), bytearray(self.arrays)
        plan = header["plans"][0]
        for _ in range(random.integers(1, 4)):
            kind = random.random()
            if kind < 0.5:
                self._change_row(plan, arrays, random)
            elif kind < 0.93:
                self._change_table(plan, arrays, random)
            else:
                self._change_header(plan, random)
        text = json.dumps(header).encode()
        text += b" " * (-(8 + len(text)) % 64)
        return seal(struct.pack("<Q", len(text)) + text + arrays)

    def _number(self, old: int, plan: dict[str, Any], random: np.random.Generator) -> int:
        kind = random.integers(0, 6)
        if kind == 0:
            return int(random.choice(INTERESTING))
        if kind == 1:
            return old + int(random.choice([-64, -8, -4, -2, -1, 1, 2, 4, 8, 64]))
        if kind == 2:
            return max(old, 1) * int(random.choice([2, 3, 1 << 10, 1 << 20])) // 2
        if kind == 3:
            size = [plan["arena"], plan["scratch"], plan["constants"][1]][random.integers(0, 3)]
            return int(size) - int(random.choice([0, 4, 16, 64, 256, 4096]))
        if kind == 4:
            return int(random.integers(0, 1 << int(random.integers(1, 24))))
        return old // 2

    def _rows(self, plan: dict[str, Any], arrays: bytearray) -> np.ndarray:
        start, size = plan["rows"]
        view = np.frombuffer(arrays, np.int64, size // 8, start)
        return view.reshape(-1, plan["row_fields"])

    def _change_row(
        self, plan: dict[str, Any], arrays: bytearray, random: np.random.Generator
    ) -> None:
        rows = self._rows(plan, arrays)
        instruction = random.integers(0, len(rows))
        kernel = plan["kernels"][plan["steps"][instruction]][0]
        field = random.integers(2, len(self.header["fields"][kernel]))
        old = int(rows[instruction, field])
        new = int(random.choice(rows[instruction])) if random.random() < 0.1 else None
        new = self._number(old, plan, random) if new is None else new
        rows[instruction, field] = max(min(new, 1 << 62), -1 << 62)

    def _change_table(
        self, plan: dict[str, Any], arrays: bytearray, random: np.random.Generator
    ) -> None:
        """A few numbers of a table of an instruction, near its start or anywhere."""
        start, size = plan["constants"]
        offset = int(random.integers(0, size))
        if random.random() < 0.8:
            offset = int(random.choice(self._rows(plan, arrays).reshape(-1))) % size
            offset += 4 * int(random.integers(0, 1 << int(random.integers(1, 8))))
        width = int(random.choice([2, 4, 4]))
        offset = start + min(offset, size - width) // width * width
        kind = np.dtype({2: "<u2", 4: "<i4"}[width])
        view = np.frombuffer(arrays, kind, 1, offset)
        limits = np.iinfo(kind)
        view[0] = np.clip(self._number(int(view[0]), plan, random), limits.min, limits.max)

    def _change_header(self, plan: dict[str, Any], random: np.random.Generator) -> None:
        if random.random() < 0.6:
            name = str(random.choice(["arena", "scratch", "images", "input_shape", "output_shape"]))
            values = plan if isinstance(plan[name], int) else plan[name]
            key: Any = name if values is plan else int(random.integers(0, len(values)))
        else:
            values = plan["kernels"][random.integers(0, len(plan["kernels"]))][1]
            values = values.get("walk", values)
            if "patch" in values and random.random() < 0.5:
                values = values["patch"]
            key = str(random.choice([k for k, v in values.items() if isinstance(v, int)]))
        if isinstance(values[key], bool):
            values[key] = not values[key]
        else:
            values[key] = self._number(values[key], plan, random)


def run_one(content: bytes, path: Path, codes: Codes, random: np.random.Generator) -> str:
    """What became of a file: "refused" or "accepted".

    Raises:
        AssertionError: it ran but left results unwritten.
    """
    path.write_bytes(content)
    try:
        found = read_plans(path, codes.hardware)
    except IntegrityError:
        return "refused"
    for entry in found.plans:
        plan = entry.plan
        if 4 * plan.arena + plan.scratch + np.prod(plan.input_shape) > 1 << 31:
            return "accepted, too large to run"
        images = random.standard_normal(
            (int(random.integers(1, plan.images + 1)), *plan.input_shape)
        ).astype(np.float32)
        threads, at_end = int(random.integers(1, 4)), bool(random.integers(0, 2))
        result = run_guarded(plan, codes, images, threads=threads, at_end=at_end)
        assert not (result.view(np.uint32) == UNWRITTEN).any(), "results were not written"
    return "accepted"


OUTCOMES = ("refused", "accepted", "accepted, too large to run")
PROGRESS = struct.Struct(f"<{1 + len(OUTCOMES)}q")  # number of the mutation, counts of outcomes


def work(folder: Path, seed: int, start: int, stop: int, *, unchecked: bool = False) -> None:
    """Run mutations [start, stop); the file `progress` says how far it came."""
    if unchecked:  # to see that a fault is found
        plan_files.check_plan = lambda plan, hardware: None
    mutators = [Mutator(path) for path in sorted(folder.glob("*.strz"))]
    codes = Codes(host_hardware(), folder / "codes")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    counts = dict.fromkeys(OUTCOMES, 0)
    with open(folder / "progress", "r+b", buffering=0) as progress:
        for number in range(start, stop):
            progress.seek(0)
            progress.write(PROGRESS.pack(number, *counts.values()))
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            random = np.random.default_rng((seed, number))
            content = mutators[number % len(mutators)].mutate(random)
            counts[run_one(content, folder / "mutant", codes, random)] += 1
        progress.seek(0)
        progress.write(PROGRESS.pack(stop, *counts.values()))


def fuzz(
    count: int,
    seed: int = 0,
    start: int = 0,
    *,
    groups: Mapping[int, int] = GROUPS,
    unchecked: bool = False,
) -> tuple[Counter[str], list[str]]:
    """How many mutations were refused and accepted, and what went wrong."""
    counts: Counter[str] = Counter()
    problems: list[str] = []
    memory = "/dev/shm"  # files there are written fastest
    with tempfile.TemporaryDirectory(dir=memory if os.path.isdir(memory) else None) as name:
        folder = Path(name)
        make_files(folder, groups)
        first, stop = start, start + count
        while first < stop and len(problems) < 20:
            (folder / "progress").write_bytes(PROGRESS.pack(first, *[0] * len(OUTCOMES)))
            command = [sys.executable, "-m", "tests.fuzz.plans", "--work", name, str(stop - first)]
            command += ["--seed", str(seed), "--start", str(first), *["--unchecked"] * unchecked]
            child = subprocess.run(command, capture_output=True, text=True, check=False)
            first, *numbers = PROGRESS.unpack((folder / "progress").read_bytes())
            counts.update(dict(zip(OUTCOMES, numbers, strict=True)))
            code = child.returncode
            if code:
                reason = signal.Signals(-code).name if code < 0 else child.stderr.strip()[-400:]
                problems.append(f"mutation {first}: {reason}")
                first += 1
    return counts, problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--unchecked", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        stop = options.start + options.count
        work(options.work, options.seed, options.start, stop, unchecked=options.unchecked)
        return 0
    began = time.monotonic()
    counts, problems = fuzz(options.count, options.seed, options.start, unchecked=options.unchecked)
    print(f"{options.count} mutations in {time.monotonic() - began:.0f} s: {dict(counts)}")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
