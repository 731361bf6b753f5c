"""One method of stage 3 in a process of its own, which answers what it is asked."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from harness.machine import find_peak
from torch import Tensor

from strzoo.devices import float32_mode
from strzoo.sparse.fused_threshold import FusedThresholds
from strzoo.sparse.magnitude_mask import magnitude_mask
from strzoo.sparse.selection import sparse_layers, str_layers
from strzoo.training.builders import build_network
from strzoo.training.config import TrainConfig
from strzoo.training.datasets import DataSets
from strzoo.training.loaders import MemoryLoader
from strzoo.training.loop import Trainer
from tests.helpers.waits import find_waits

RATE = 0.9  # the fraction of the weights that DNW and GMP drop


@dataclasses.dataclass(frozen=True)
class Work:
    """What is trained: the architecture, images a step, pixels a side, where and how."""

    architecture: str
    batch: int
    side: int
    device: str
    tiny: bool

    def config(self, method: str, *, compile: bool) -> TrainConfig:
        return TrainConfig(
            architecture=self.architecture,
            method=method,
            # sigmoid(-4.5) prunes about as much of a fresh ResNet50 as the others are told to.
            s_init=-4.5 if method == "str" else TrainConfig().s_init,
            prune_rate=RATE if method in ("dnw", "gmp") else None,
            prune_start=0,
            prune_end=1,
            epochs=4,
            warmup_epochs=0.0,
            learning_rate=1e-4,
            batch_size=self.batch,
            precision="bf16",
            compile=compile,
            augmentation="none",
        )


def make_trainer(work: Work, method: str, *, compile: bool) -> tuple[Trainer, list[Any]]:
    """A trainer and a batch of random images, one for all its steps."""
    device = torch.device(work.device, 0) if work.device == "cuda" else torch.device("cpu")
    config = work.config(method, compile=compile)
    torch.manual_seed(0)
    network = build_network(config, device)
    images = torch.randn(work.batch, 3, work.side, work.side)
    labels = torch.arange(work.batch) % config.num_classes
    loader = MemoryLoader(images, labels, config, device)
    data = DataSets(loader, None, "random images", (3, work.side, work.side))
    trainer = Trainer(config, network, data, device=device)
    trainer.check_every = 10**9  # one step makes an epoch here: it would look at each loss
    network.train()
    step = [(images.to(device, memory_format=torch.channels_last), labels.to(device))]
    return trainer, step


class Worker:
    """One method in this process; each method here answers a message of the same name."""

    def __init__(self, work: Work, method: str) -> None:
        self.work, self.method = work, method
        self.device = torch.device(work.device)
        self.trainer, self.batch = make_trainer(work, method, compile=False)

    def step(self) -> None:
        # Past the end of GMP's rise, and never the last step of an epoch, which looks at the loss.
        self.trainer.state.epoch, self.trainer.state.step = 3, -1
        self.trainer.take_step(self.batch)

    def warm(self) -> float:
        for _ in range(1 if self.work.tiny else 3):
            self.step()
        return self.time(1)

    def compile(self) -> float:
        """Seconds to compile, by the first steps."""
        started = time.perf_counter()
        del self.trainer, self.batch
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.trainer, self.batch = make_trainer(self.work, self.method, compile=True)
        self.warm()
        return time.perf_counter() - started

    def time(self, steps: int) -> float:
        """Seconds per step: of the clock, on a CPU of the processor."""
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        self._wait()
        started = clock()
        for _ in range(steps):
            self.step()
        self._wait()
        return (clock() - started) / steps

    def peak(self) -> float:
        """Largest memory of a step so far, in MB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        return find_peak()

    def waits(self) -> str:
        """What waits for the device in two steps."""

        def two() -> None:
            self.step()
            self.step()

        found = find_waits(two, self.device)
        return ", ".join(f"{name} x{count}" for name, count in found.items())

    def layers(self) -> dict[str, float]:
        """Milliseconds of all effective weights (STR: and their gradients), several ways."""
        model = self.trainer.model
        ways: dict[str, Callable[[], object]] = {}
        if self.method == "str":
            layers = list(str_layers(model).values())
            parameters = [p for one in layers for p in (one.weight, one.sparseThreshold)]

            def back(effective: tuple[Tensor, ...]) -> None:
                torch.autograd.grad(effective, parameters, [torch.ones_like(w) for w in effective])

            ways["layer by layer"] = lambda: back(tuple(m.effective_weight() for m in layers))
            fused = FusedThresholds.build(model) if self.device.type == "cuda" else None
            if fused is not None:
                plan = fused
                ways["in one kernel"] = lambda: back(plan.effective_weights())
        elif self.method != "dense":
            weights = [layer.weight.detach() for layer in sparse_layers(model).values()]
            ways["masks by histograms"] = lambda: [magnitude_mask(w, RATE) for w in weights]
            ways["masks by topk"] = lambda: [topk_mask(w) for w in weights]
        found = {}
        for name, way in ways.items():
            way()
            self._wait()
            started = time.perf_counter()
            for _ in range(1 if self.work.tiny else 5):
                way()
            self._wait()
            found[name] = 1e3 * (time.perf_counter() - started) / (1 if self.work.tiny else 5)
        return found

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def topk_mask(weight: Tensor) -> Tensor:
    """The mask as torch's own selection gives it, to compare with."""
    magnitude = weight.abs().reshape(-1)
    chosen = torch.topk(magnitude, round((1 - RATE) * magnitude.numel()), sorted=False).indices
    return torch.zeros_like(magnitude).index_fill_(0, chosen, 1.0)


def serve(connection: Connection, work: Work, method: str) -> None:
    """Answer messages: the name of a method of `Worker` and its arguments."""
    if work.tiny:
        torch.set_num_threads(1)
    try:
        with float32_mode(torch.device(work.device), "bf16"):
            worker = Worker(work, method)
            connection.send((True, None))
            while message := connection.recv():
                name, *arguments = message
                connection.send((True, getattr(worker, name)(*arguments)))
    except EOFError:
        return
    except Exception:
        connection.send((False, traceback.format_exc()))
