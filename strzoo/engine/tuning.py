"""tune_tilings: measure how each convolution runs best, within the plan it is part of.

First the tiles that layers have in common are tried, then what each layer chooses for itself. In
each round every layer under trial takes its next candidate, and the whole plan runs several times,
instruction by instruction in the network's order, so that the caches hold what they hold in a
normal run. The largest layers are tried first. Medians are compared, and a candidate must beat the
cost model's choice by more than the noise.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import median

import numpy as np

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Graph
from strzoo.engine.layout.allocation import plan_memory
from strzoo.engine.layout.layouts import lay_out
from strzoo.engine.layout.problems import LayerProblem, choose_tilings, list_problems
from strzoo.engine.layout.tiling import Tiling, candidates, choose_tiling, estimate, rank_tiles
from strzoo.engine.lowering.lower import lower
from strzoo.engine.lowering.plan import array_shape
from strzoo.engine.runtime.run import Memory, Program
from strzoo.engine.runtime.threads import Team
from strzoo.engine.storage.machine_code import MachineCode, compile_kernels

log = logging.getLogger(__name__)

TILES = 4  # sizes other than the rules' that are measured
CANDIDATES = 4  # of each layer that are measured
RUNS = 9  # of each plan in a round
MARGIN = 0.03  # a candidate must be faster by so much than what the rules chose
_LARGEST = 0.7  # of the time: the layers that are tried first


def tune_tilings(
    graph: Graph, hardware: Hardware, images: int, threads: int, seconds: float
) -> dict[str, Tiling]:
    """The tilings of all convolutions: measured while `seconds` last, otherwise by the cost model.

    A round that is running when the time is over is finished, which takes seconds at most.
    """
    clock = _Clock(seconds)
    problems = list_problems(graph, hardware, images, threads)
    best = choose_tilings(problems, hardware)
    bench = _Bench(graph, hardware, images, threads)
    times = bench.measure(best)
    clock.lap()
    fastest = {name: times.get(name, 0.0) for name in best}
    rules = dict(best)
    tried = 0
    for turn in range(TILES):
        trial = _other_tiles(problems, best, turn, hardware)
        if not trial or not clock.allows():
            break
        measured = bench.measure({**best, **trial})
        clock.lap()
        tried += len(trial)
        for group in {problems[name].group for name in trial}:
            names = [name for name in trial if problems[name].group == group]
            before = sum(fastest[name] for name in names)
            if sum(measured[name] for name in names) < before * (1 - MARGIN):
                best |= {name: trial[name] for name in names}
                fastest |= {name: measured[name] for name in names}
    lists = {name: _candidates(problems[name], best[name], hardware) for name in best}
    for names in _phases(fastest, lists):
        for turn in range(CANDIDATES):
            trial = {name: lists[name][turn] for name in names if turn < len(lists[name])}
            if not trial or not clock.allows():
                break
            measured = bench.measure({**best, **trial})
            clock.lap()
            tried += len(trial)
            for name, tiling in trial.items():
                if measured[name] < fastest[name] * (1 - MARGIN):
                    best[name], fastest[name] = tiling, measured[name]
    changed = [name for name in best if best[name] != rules[name]]
    if changed and clock.allows():
        best = bench.confirm(rules, best)
    log.info(
        "tuning: %d candidates in %.1f s; %d of %d layers changed",
        tried,
        clock.spent,
        sum(best[name] != rules[name] for name in best),
        len(best),
    )
    return best


class _Clock:
    """Whether there is time for another round that takes as long as the longest so far."""

    def __init__(self, seconds: float) -> None:
        self._start = self._last = time.perf_counter()
        self._end, self._longest = self._start + seconds, 0.0

    def lap(self) -> None:
        now = time.perf_counter()
        self._longest, self._last = max(self._longest, now - self._last), now

    def allows(self) -> bool:
        return time.perf_counter() + self._longest <= self._end

    @property
    def spent(self) -> float:
        return time.perf_counter() - self._start


def _other_tiles(
    problems: Mapping[str, LayerProblem],
    best: Mapping[str, Tiling],
    turn: int,
    hardware: Hardware,
) -> dict[str, Tiling]:
    """For every group of layers whose tiles are the same, the next most promising tile."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, layer in problems.items():
        groups[layer.group].append(name)
    trial: dict[str, Tiling] = {}
    for names in groups.values():
        rules = problems[names[0]].tile
        posed = [problems[name].problem for name in names if not problems[name].depthwise]
        others = [tile for tile in rank_tiles(posed, hardware) if tile != rules]
        if turn < len(others):
            tile = others[turn]
            trial |= {name: choose_tiling(problems[name].problem, tile, hardware) for name in names}
    return trial


def _candidates(layer: LayerProblem, chosen: Tiling, hardware: Hardware) -> list[Tiling]:
    """The most promising by the cost model, in tiles of the chosen size."""
    if layer.depthwise:
        return []
    ordered = sorted(
        candidates(layer.problem, chosen.tile, hardware),
        key=lambda t: (estimate(layer.problem, t, hardware), t),
    )
    return [tiling for tiling in ordered if tiling != chosen][:CANDIDATES]


def _phases(times: Mapping[str, float], lists: Mapping[str, list[Tiling]]) -> list[list[str]]:
    """The layers that take most of the time, then the others."""
    ordered = sorted((name for name in lists if lists[name]), key=lambda name: -times[name])
    total = sum(times[name] for name in ordered)
    first: list[str] = []
    for name in ordered:
        if sum(times[n] for n in first) >= _LARGEST * total:
            break
        first.append(name)
    return [first, ordered[len(first) :]]


class _Codes:
    """Machine code from several compilations."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self._parts: list[MachineCode] = []

    def add(self, code: MachineCode) -> None:
        self._parts.append(code)
        self.addresses |= code.addresses


class _Bench:
    """Times plans of one graph."""

    def __init__(self, graph: Graph, hardware: Hardware, images: int, threads: int) -> None:
        self._graph, self._hardware = graph, hardware
        self._images, self._threads = images, threads
        self._code = _Codes()
        given, made = (
            (images, *array_shape([graph.shapes[name] for name in names]))
            for names in (graph.inputs, graph.outputs)
        )
        self._input = np.random.default_rng(0).standard_normal(given, dtype=np.float32)
        self._result = np.empty(made, np.float32)

    @cached_property
    def _team(self) -> Team:
        """Made when first used, because it needs code."""
        return Team(self._threads, self._code)

    def measure(self, tilings: Mapping[str, Tiling]) -> dict[str, float]:
        """Median seconds of each layer."""
        program = self._program(tilings)
        memory = Memory(program.plan, self._threads)
        runs = [self._run_steps(program, memory) for _ in range(RUNS + 1)][1:]
        layers: dict[str, float] = defaultdict(float)
        for index, name in enumerate(program.plan.layers):
            layers[name] += median(run[index] for run in runs)
        return layers

    def confirm(self, rules: dict[str, Tiling], tuned: dict[str, Tiling]) -> dict[str, Tiling]:
        """`tuned` if the whole plan is faster with it, else `rules`; the two are run in turn."""
        programs = [self._program(tilings) for tilings in (rules, tuned)]
        memories = [Memory(program.plan, self._threads) for program in programs]
        seconds: list[list[float]] = [[], []]
        for turn in range(2 * RUNS + 1):
            for index in (0, 1):
                memory = memories[index]
                memory.reset()
                start = time.perf_counter()
                self._team.run(self._tasks(programs[index], memory, [slice(None)]))
                if turn:
                    seconds[index].append(time.perf_counter() - start)
        return tuned if median(seconds[1]) <= median(seconds[0]) else rules

    def _program(self, tilings: Mapping[str, Tiling]) -> Program:
        graph, hardware, threads = self._graph, self._hardware, self._threads
        memory = plan_memory(graph, lay_out(graph, self._images, hardware, threads, tilings))
        plan = lower(graph, memory, hardware, tilings, threads)
        known = self._code.addresses
        missing = [kernel for kernel in plan.kernels if kernel.name not in known]
        if missing:
            self._code.add(compile_kernels(missing, hardware))
        return Program(plan, self._code)

    def _tasks(self, program: Program, memory: Memory, parts: Sequence[slice]) -> list[np.ndarray]:
        """The tasks of each thread: the parts of the plan, one after the other."""
        return [
            np.array(
                [
                    program.task(memory, self._input, self._result, thread, self._threads, part)
                    for part in parts
                ],
                np.int64,
            )
            for thread in range(self._threads)
        ]

    def _run_steps(self, program: Program, memory: Memory) -> list[float]:
        """Seconds of each instruction; the first thread waits for the others after each."""
        memory.reset()
        parts = [slice(index, index + 1) for index in range(len(program))]
        return self._team.time(self._tasks(program, memory, parts))
