"""Stage 3: the price of sparsity in a training step, eager and compiled, and what waits in it.

Each method trains in a process of its own, so that the peak memory is its own and all can compile
at once. They take turns in every round; a ratio is the median of the rounds' ratios to dense.
"""

from __future__ import annotations

import multiprocessing
import statistics
from multiprocessing.connection import Connection
from typing import Any

import strzoo
from device_stages.rows import FAILS, OK, Stage
from device_stages.training_worker import Work, serve

BARS = {"str": 1.05, "dnw": 1.10, "gmp": 1.10}
METHODS = ("dense", *BARS)
MEMORY_BAR = 1.05
ROUNDS, STEPS = 5, 6


class Trainees:
    """The processes, by method. One that fails or is late is left out from then on."""

    def __init__(self, stage: Stage, work: Work) -> None:
        self._stage = stage
        context = multiprocessing.get_context("spawn")
        self._connections: dict[str, Connection] = {}
        self._processes = []
        for method in METHODS:
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, work, method), daemon=True)
            process.start()
            there.close()
            self._connections[method] = here
            self._processes.append(process)
        self._collect("begin", list(METHODS))

    def ask_all(self, *message: Any) -> dict[str, Any]:
        """The answer of each method, all at work at once."""
        for connection in self._connections.values():
            connection.send(message)
        return self._collect(str(message[0]), list(self._connections))

    def ask_each(self, *message: Any) -> dict[str, Any]:
        """The answer of each method, one after the other."""
        answers: dict[str, Any] = {}
        for method in list(self._connections):
            self._connections[method].send(message)
            answers |= self._collect(str(message[0]), [method])
        return answers

    def _collect(self, what: str, methods: list[str]) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for method in methods:
            connection = self._connections[method]
            if not connection.poll(max(self._stage.left, 0)):
                self._stage.skip(f"{method}: {what}", "the time was up")
                del self._connections[method]
                continue
            try:
                good, answer = connection.recv()
            except EOFError:
                good, answer = False, "the process ended"
            if good:
                answers[method] = answer
                continue
            print(answer, flush=True)
            self._stage.say(f"{method}: {what}", answer.strip().splitlines()[-1], verdict=FAILS)
            del self._connections[method]
        return answers

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def run(stage: Stage) -> None:
    work = Work("resnet50", 256, 224, stage.device, tiny=False)
    if stage.tiny:
        work = Work("resnet20", 4, 32, stage.device, tiny=True)
    trainees = Trainees(stage, work)
    stage.say(
        "steps",
        f"{work.architecture}, batch {work.batch}, {work.side} pixels, bf16, channels-last, "
        f"strzoo {strzoo.__version__}",
    )
    try:
        trainees.ask_each("warm")  # one by one: cuDNN measures its algorithms
        compare(stage, trainees, "eager")
        memory = trainees.ask_each("peak")
        for method, peak in memory.items():
            stage.say(f"{method}, peak MB", peak)
            if method in BARS and "dense" in memory:
                ratio = peak / memory["dense"]
                stage.judge(f"{method} / dense, peak memory", ratio, most=MEMORY_BAR)
        for method, found in trainees.ask_each("waits").items():
            stage.say(
                f"{method}, what waits", found or "nothing", "nothing", FAILS if found else OK
            )
        for method, ways in trainees.ask_each("layers").items():
            for name, milliseconds in ways.items():
                stage.say(f"{method}, all layers, {name}, ms", milliseconds)
        for method, seconds in trainees.ask_all("compile").items():
            stage.say(f"{method}, seconds to compile", seconds)
        compare(stage, trainees, "compiled")
    finally:
        trainees.close()


def compare(stage: Stage, trainees: Trainees, how: str) -> None:
    """Step times in turns, and their ratios to dense."""
    rounds, steps = (1, 1) if stage.tiny else (ROUNDS, STEPS)
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        if found and stage.left < 10:
            break
        found.append(trainees.ask_each("time", steps))
    for method in METHODS:
        seconds = [one[method] for one in found if method in one]
        if not seconds:
            continue
        stage.say(f"{method}, {how}, ms per step", 1e3 * statistics.median(seconds))
        ratios = [one[method] / one["dense"] for one in found if {method, "dense"} <= set(one)]
        if method in BARS and ratios:
            ratio = statistics.median(ratios)
            stage.judge(f"{method} / dense, {how}, step time", ratio, most=BARS[method])
