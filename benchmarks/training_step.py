"""The price of sparsity in a training step: STR, DNW and GMP against the dense network.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/training_step.py
    python benchmarks/training_step.py --device cuda --batch-size 256 --precision bf16 --steps 20

One step is forward, loss, backward and SGD with momentum, on one batch over and over. The methods
take turns in every round; a ratio is the median of the rounds' ratios. On the CPU the time is the
processor's, not the clock's, so that other work on the core counts less. Peak memory is measured
in a process of its own for each method. "The layers alone" is what a sparse step does besides a
dense one, measured without the network: all effective weights and their gradients.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from harness.machine import find_peak
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import medians, ratio, take_turns
from torch import nn

import strzoo
from strzoo.sparse.selection import sparse_layers
from strzoo.training.optimisation import parameter_groups

METHODS = ("dense", "str", "dnw", "gmp")
BARS = {"dense": None, "str": 1.10, "dnw": 1.10, "gmp": 1.10}
MEMORY_BAR = 1.05
ABOUT = """Forward, loss, backward, SGD with momentum. The methods take turns in every round, a
ratio is the median of the rounds' ratios; seconds are the processor's on a CPU. STR starts at s =
-4.5, DNW and GMP drop 90 %. "The layers alone" is all effective weights and the gradients through
them, without the network: what a sparse step does more than a dense one. Peak memory is of a
process per method."""
PRUNE_RATE = 0.9


class Trainee:
    """A network of one method and its optimizer; `step` trains it once."""

    def __init__(self, method: str, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.device = torch.device(options.device)
        model = strzoo.create_model(options.architecture)
        if method == "str":
            # -4.5 prunes about as much of a freshly initialised ResNet50 as the others are told to.
            strzoo.sparsify_(model, s_init=-4.5)
        elif method != "dense":
            strzoo.sparsify_(model, method, prune_rate=PRUNE_RATE)
        memory = torch.channels_last if options.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=memory)  # type: ignore[call-overload]
        self.half = options.precision == "bf16"
        groups = parameter_groups(model, weight_decay=3.0517578125e-5)
        self.optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=0.875)
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(options.batch_size, 3, options.size, options.size, generator=generator)
        self.images = images.to(self.device, memory_format=memory)
        self.labels = (torch.arange(options.batch_size) % 10).to(self.device)

    def step(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = self.loss(self.model(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def timed_steps(self, count: int) -> float:
        """Seconds per step."""

        def steps() -> None:
            for _ in range(count):
                self.step()

        return self._timed(steps) / count

    def layers_alone(self, count: int = 5) -> float:
        """Seconds for the effective weights of all layers and the gradients through them."""
        layers = list(sparse_layers(self.model).values())
        grads = [torch.ones_like(layer.weight) for layer in layers]

        def pass_through() -> None:
            effective = [layer.effective_weight() for layer in layers]
            for weight, layer, grad in zip(effective, layers, grads, strict=True):
                torch.autograd.grad(weight, list(layer.parameters(recurse=False)), grad)

        return statistics.median(self._timed(pass_through) for _ in range(count))

    def _timed(self, function: Callable[[], object]) -> float:
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        self._wait()
        start = clock()
        function()
        self._wait()
        return clock() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure_memory(method: str, options: argparse.Namespace) -> float:
    """Peak MB of three steps in this process."""
    trainee = Trainee(method, options)
    for _ in range(3):
        trainee.step()
    if options.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    return find_peak()


def memory_of(method: str) -> float:
    """Peak MB of a process that trains with that method alone."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", method]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--architecture", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="per method and round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--memory-of", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(measure_memory(options.memory_of, options))
        return 0
    record = Record(
        parser, options, "training_step",
        "The training step: STR, DNW and GMP against the dense network", ABOUT,
        packages=["torch", "numpy", "strzoo"],
    )  # fmt: skip
    trainees = {method: Trainee(method, options) for method in options.methods}
    ways = {
        method: lambda trainee=trainee: trainee.timed_steps(options.steps)
        for method, trainee in trainees.items()
    }
    seconds = take_turns(ways, options.rounds)
    alone = {method: t.layers_alone() for method, t in trainees.items() if method != "dense"}
    trainees.clear()
    ways.clear()
    memory = {method: memory_of(method) for method in options.methods}
    table = record.table([
        Column(""), Column("seconds per step", "", ".3f"), Column("ratio", "", ".3f"),
        Column("bar", "", ".2f"), Column("the layers alone", "s", ".3f"),
        Column("peak", "MB", ".0f"), Column("ratio", "", ".3f"), Column("bar", "", ".2f"),
    ])  # fmt: skip
    for method, middle in medians(seconds).items():
        bar = BARS[method]
        longer = ratio(seconds[method], seconds["dense"]) if "dense" in seconds else None
        larger = memory[method] / memory["dense"] if "dense" in memory else None
        most = MEMORY_BAR if bar else None
        table.add(method, middle, longer, bar, alone.get(method), memory[method], larger, most)
        if longer is not None and larger is not None:
            table.judge(f"the time of {method}", longer, most=bar)
            table.judge(f"the memory of {method}", larger, most=most)
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    record.say(
        f"{options.architecture}, batch {options.batch_size} at {options.size} pixels, "
        f"{options.precision}, {where}, {torch.get_num_threads()} threads."
    )
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
