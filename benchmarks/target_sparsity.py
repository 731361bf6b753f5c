"""The sparsity target against plain STR: is it met, and what accuracy is left?

    python benchmarks/target_sparsity.py --results FILE
    python benchmarks/target_sparsity.py --data fashion --bf16 --results FILE

Plain STR cannot be told a sparsity: for each target its threshold decay is searched with the first
seed until the sparsity is within `--near` of it, then the other seeds are trained with that decay.
What is left of the distance is bridged by interpolation: a seed's target run is compared with the
line through the two plain runs of that seed next to it, in top-1 over log(1 - sparsity).

The recipe of all is the demo's: ResNet20, SGD, cosine, label smoothing. "fashion" is Fashion-MNIST
padded to 32x32 with three equal channels: the shape of CIFAR-10. Runs already in `--results` are
not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from fashion import PACKAGE_FOLDER, load_fashion
from harness.record import Record, TableRecord, make_parser
from harness.results import Column
from harness.turns import spread
from torch import nn

import strzoo
from strzoo.data.imageset import ImageSet
from strzoo.errors import UsageError
from strzoo.training.fit import measure_sparsity
from strzoo.training.optimisation import parameter_groups
from strzoo.training.schedules import LearningRate
from strzoo.training.sparsity_target import SparsityController, TargetSparsity

TARGETS = (80.0, 90.0, 95.0, 98.0)
PLAIN_S_INIT = -8.0  # the demo's
ABOUT = """`docs/target-sparsity.md` has the method and what led to its schedule. Percent, mean and
range of {seeds} seeds; the difference is the target's top-1 less plain STR's at the same sparsity,
paired by seed, with its standard error. ResNet20, {0:,} training images, {1:,} test images,
{epochs} epochs; Fashion-MNIST is padded to 32x32 with three channels."""
FIRST_DECAYS = (4e-3, 1e-2)  # the search starts from these
FARTHEST = 8.0  # times the least or the greatest that was tried, in one step


@dataclass(frozen=True)
class Setup:
    """What all runs of a comparison share. `images` is the size of the training set."""

    data: str
    images: int
    epochs: int
    batch_size: int
    bf16: bool


@dataclass(frozen=True)
class Run:
    """One training; sparsity and top-1 in percent. `setting` is the threshold decay of "plain" STR,
    the percent of zeros for "target", 0 for "dense"."""

    kind: str
    seed: int
    setting: float
    sparsity: float
    top1: float


@cache
def load_data(name: str, images: int, folder: Path) -> tuple[ImageSet, ImageSet]:
    """Training and test images."""
    if name == "digits":
        return strzoo.load_digits("train"), strzoo.load_digits("test")
    return load_fashion(folder, images)


class Bench:
    """Trains networks, or finds them in the file of results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.train_set, self.test_set = load_data(options.data, options.images, options.folder)
        images = len(self.train_set)
        self.setup = Setup(
            options.data, images, options.epochs, options.batch_size, bool(options.bf16)
        )
        self.file: Path | None = options.results
        self.runs: list[Run] = []
        for line in self._read_results():
            record = json.loads(line)
            if all(record.pop(key) == value for key, value in asdict(self.setup).items()):
                self.runs.append(Run(**record))

    def _read_results(self) -> list[str]:
        if self.file is None or not self.file.exists():
            return []
        return self.file.read_text(encoding="utf-8").splitlines()

    def run(self, kind: str, seed: int, setting: float = 0.0) -> Run:
        """The training of that kind; see `Run` for `setting`."""
        for run in self.runs:
            if (run.kind, run.seed, run.setting) == (kind, seed, setting):
                return run
        model = self.train(kind, seed, setting)
        top1 = strzoo.evaluate(model, self.test_set).top1
        run = Run(kind, seed, setting, measure_sparsity(model), top1)
        line = json.dumps({**asdict(self.setup), **asdict(run)})
        print(line, flush=True)
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        self.runs.append(run)
        return run

    def train(self, kind: str, seed: int, setting: float) -> nn.Module:
        setup, images, labels = self.setup, self.train_set.images, self.train_set.labels
        torch.manual_seed(seed)
        model = strzoo.create_model("resnet20", num_classes=self.train_set.num_classes)
        if kind != "dense":
            strzoo.sparsify_(model, s_init=PLAIN_S_INIT if kind == "plain" else -3200.0)
        model = model.to(memory_format=torch.channels_last)
        decay = setting if kind == "plain" else None
        groups = parameter_groups(model, weight_decay=5e-4, threshold_decay=decay)
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.875)
        rate = LearningRate("cosine", 0.1, setup.epochs, warmup_epochs=min(2, setup.epochs / 8))
        steps = len(labels) // setup.batch_size
        controller = None
        if kind == "target":
            schedule = TargetSparsity(setting / 100)
            controller = SparsityController(model, schedule, steps * setup.epochs)
            controller.step(0)
        loss_function = nn.CrossEntropyLoss(label_smoothing=0.1)
        generator = torch.Generator().manual_seed(seed)
        done = 0
        model.train()
        for epoch in range(setup.epochs):
            order = torch.randperm(len(labels), generator=generator)
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = rate.at(epoch + step / steps)
                batch = order[step * setup.batch_size : (step + 1) * setup.batch_size]
                inputs = images[batch].contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16, enabled=setup.bf16):
                    outputs = model(inputs)
                loss = loss_function(outputs.float(), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                done += 1
                if controller is not None:
                    controller.step(done)
        return model.eval()

    def search_decay(self, target: float, near: float, tries: int) -> float:
        """The threshold decay that gives plain STR, first seed, about that sparsity."""
        known = [run for run in self.runs if run.kind == "plain" and run.seed == 0]
        for _ in range(tries):
            if abs(_nearest(known, target).sparsity - target) <= near:
                break
            known.sort(key=lambda run: run.setting)
            x = [math.log(run.setting) for run in known]
            y = [_logit(run.sparsity) for run in known]
            wanted = _logit(target)
            inside = [
                i for i in range(len(known) - 1) if min(y[i : i + 2]) <= wanted <= max(y[i : i + 2])
            ]
            i = inside[0] if inside else (0 if wanted < y[0] else len(known) - 2)
            slope = (x[i + 1] - x[i]) / max(y[i + 1] - y[i], 1e-9)
            found = x[i] + slope * (wanted - y[i])
            # Far from all that was tried, the line says little, and training may diverge.
            found = min(max(found, x[0] - math.log(FARTHEST)), x[-1] + math.log(FARTHEST))
            decay = float(f"{math.exp(found):.4g}")
            known.append(self.run("plain", 0, decay))
        return _nearest(known, target).setting


def _nearest(runs: Sequence[Run], sparsity: float) -> Run:
    return min(runs, key=lambda run: abs(run.sparsity - sparsity))


def _logit(percent: float) -> float:
    share = min(max(percent, 0.01), 99.99) / 100
    return math.log(share / (1 - share))


def top1_at(sparsity: float, runs: Sequence[Run]) -> float:
    """Top-1 of plain STR at that sparsity: on the line, in log(1 - sparsity), through the two runs
    on either side of it, or the two nearest if none is on one side. Of one run: its own top-1."""
    ordered = sorted(set(runs), key=lambda run: run.sparsity)
    if len(ordered) == 1:
        return ordered[0].top1
    above = sum(run.sparsity < sparsity for run in ordered)
    i = min(max(above, 1), len(ordered) - 1)
    low, high = ordered[i - 1], ordered[i]
    x, x0, x1 = (math.log(100 - s) for s in (sparsity, low.sparsity, high.sparsity))
    return low.top1 + (high.top1 - low.top1) * (x - x0) / (x1 - x0)


def add_comparison(
    table: TableRecord, ours: Sequence[Sequence[Run]], plain: Sequence[Sequence[Run]]
) -> None:
    """One row per target: `ours` and `plain` hold for each target the runs of all seeds."""
    by_seed = [list(runs) for runs in zip(*plain, strict=True)]
    for runs, theirs in zip(ours, plain, strict=True):
        gains = [
            run.top1 - top1_at(run.sparsity, curve)
            for run, curve in zip(runs, by_seed, strict=True)
        ]
        table.add(
            runs[0].setting, spread([r.sparsity for r in runs], 3), spread([r.top1 for r in runs]),
            spread([r.sparsity for r in theirs]), spread([r.top1 for r in theirs]),
            theirs[0].setting, f"{statistics.mean(gains):+.2f} ± {_standard_error(gains):.2f}",
        )  # fmt: skip


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--data", choices=("digits", "fashion"), default="digits")
    parser.add_argument("--folder", type=Path, default=PACKAGE_FOLDER, help="of Fashion-MNIST")
    parser.add_argument("--images", type=int, default=8000, help="of Fashion-MNIST, to train on")
    parser.add_argument("--bf16", action="store_true", help="train in mixed precision")
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS, help="percent")
    parser.add_argument("--seeds", type=int, help="[default: digits 6, fashion 3]")
    parser.add_argument("--epochs", type=int, help="[default: digits 30, fashion 6]")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--near", type=float, default=0.3, help="points, in the search")
    parser.add_argument("--tries", type=int, default=5, help="trainings per target, at most")
    parser.add_argument("--results", type=Path, help="JSON lines: appended to, and not repeated")
    options = parser.parse_args()
    label = {"digits": "digits", "fashion": "Fashion-MNIST"}[options.data]
    title = f"The sparsity target against plain STR: {label}"
    record = Record(
        parser, options, "target_sparsity", title, packages=["torch", "strzoo"], kinds=["data"],
        free=["folder", "results", "bf16"],
    )  # fmt: skip
    options.seeds = options.seeds or {"digits": 6, "fashion": 3}[options.data]
    options.epochs = options.epochs or {"digits": 30, "fashion": 6}[options.data]
    try:
        bench, seeds = Bench(options), range(options.seeds)
    except UsageError as error:
        parser.error(str(error))
    images = len(bench.train_set), len(bench.test_set)
    record.results.about = ABOUT.format(*images, epochs=options.epochs, seeds=options.seeds)
    dense = [bench.run("dense", seed) for seed in seeds]
    ours = [[bench.run("target", seed, target) for seed in seeds] for target in options.targets]
    for decay in FIRST_DECAYS:
        bench.run("plain", 0, decay)
    decays = [bench.search_decay(t, options.near, options.tries) for t in options.targets]
    plain = [[bench.run("plain", seed, decay) for seed in seeds] for decay in decays]
    table = record.table([
        Column("target", "", "g"), Column("reached"), Column("top-1"),
        Column("plain STR's sparsity"), Column("its top-1"), Column("its decay", "", ".3g"),
        Column("difference"),
    ])  # fmt: skip
    add_comparison(table, ours, plain)
    record.say(f"The dense twin has a top-1 of {spread([run.top1 for run in dense])} %.")
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
