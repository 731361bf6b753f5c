"""The sparsity target against plain STR: is it met, and what accuracy is left?

    python benchmarks/target_sparsity.py --data digits --seeds 3
    python benchmarks/target_sparsity.py --data crops --seeds 2 --epochs 8

Plain STR cannot be told a sparsity: for each target its threshold decay is searched with the first
seed until the sparsity is within `--near` of it, then the other seeds are trained with that decay.
The recipe of both is the demo's: ResNet20, SGD, cosine, label smoothing. Crops are 32x32 pieces of
ten real photographs, to be told apart; test pieces come from the right quarter of each.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

import strzoo
from strzoo.data.imageset import ImageSet
from strzoo.training.fitting import measure_sparsity
from strzoo.training.optimisation import parameter_groups
from strzoo.training.schedules import LearningRate
from strzoo.training.target import SparsityController, TargetSparsity

TARGETS = (80.0, 90.0, 95.0, 98.0)
PLAIN_S_INIT = -8.0  # the demo's
FIRST_DECAYS = (2e-3, 1e-2, 5e-2)
PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training; sparsity and top-1 in percent."""

    kind: str
    seed: int
    setting: float
    sparsity: float
    top1: float


@cache
def load_data(name: str) -> tuple[ImageSet, ImageSet]:
    """Training and test images."""
    if name == "digits":
        return strzoo.load_digits("train"), strzoo.load_digits("test")
    return crops(100, left=0.0, right=0.75, seed=0), crops(60, left=0.75, right=1.0, seed=1)


def crops(each: int, *, left: float, right: float, seed: int) -> ImageSet:
    """`each` crops of every photograph from that part of its width, contrast normalised."""
    import skimage
    from PIL import Image

    random = np.random.default_rng(seed)
    folder = Path(skimage.__file__).parent / "data"
    pieces, labels = [], []
    for label, name in enumerate(PHOTOGRAPHS):
        pixels = np.asarray(Image.open(folder / name).convert("RGB"), dtype=np.float32)
        height, width = pixels.shape[:2]
        for _ in range(each):
            x = int(random.integers(int(left * width), int(right * width) - 32 + 1))
            y = int(random.integers(0, height - 32 + 1))
            piece = pixels[y : y + 32, x : x + 32]
            pieces.append((piece - piece.mean()) / (piece.std() + 1.0))
            labels.append(label)
    images = torch.from_numpy(np.stack(pieces).transpose(0, 3, 1, 2).copy())
    return ImageSet(images, torch.tensor(labels), len(PHOTOGRAPHS))


def train(data: str, kind: str, seed: int, setting: float, options: argparse.Namespace) -> Run:
    """Train one network: "dense", "plain" STR with `setting` as threshold decay, or "target" STR
    with `setting` as percent of zeros."""
    images, test = load_data(data)
    torch.manual_seed(seed)
    model = strzoo.create_model("resnet20", num_classes=images.num_classes)
    if kind != "dense":
        strzoo.sparsify_(model, s_init=PLAIN_S_INIT if kind == "plain" else -3200.0)
    decay = setting if kind == "plain" else None
    groups = parameter_groups(model, weight_decay=5e-4, threshold_decay=decay)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.875)
    rate = LearningRate("cosine", 0.1, options.epochs, warmup_epochs=min(2, options.epochs / 8))
    steps = len(images) // options.batch_size
    controller = None
    if kind == "target":
        schedule = TargetSparsity(setting / 100)
        controller = SparsityController(model, schedule, steps * options.epochs)
        controller.step(0)
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.1)
    generator = torch.Generator().manual_seed(seed)
    done = 0
    model.train()
    for epoch in range(options.epochs):
        order = torch.randperm(len(images), generator=generator)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate.at(epoch + step / steps)
            batch = order[step * options.batch_size : (step + 1) * options.batch_size]
            loss = loss_function(model(images.images[batch]), images.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if controller is not None:
                controller.step(done)
    top1 = strzoo.evaluate(model.eval(), test).top1
    result = Run(kind, seed, setting, measure_sparsity(model), top1)
    print(json.dumps({"data": data, "epochs": options.epochs, **asdict(result)}), flush=True)
    return result


def search_decay(data: str, target: float, known: list[Run], options: argparse.Namespace) -> Run:
    """A plain run of seed 0 whose sparsity is near the target, by interpolation on known runs."""
    for _ in range(options.tries):
        nearest = min(known, key=lambda run: abs(run.sparsity - target))
        if abs(nearest.sparsity - target) <= options.near:
            return nearest
        known.sort(key=lambda run: run.setting)
        x = [math.log(run.setting) for run in known]
        y = [_logit(run.sparsity) for run in known]
        wanted = _logit(target)
        pairs = range(len(known) - 1)
        inside = [i for i in pairs if min(y[i : i + 2]) <= wanted <= max(y[i : i + 2])]
        i = inside[0] if inside else (0 if wanted < y[0] else len(known) - 2)
        slope = (x[i + 1] - x[i]) / (y[i + 1] - y[i])
        known.append(train(data, "plain", 0, math.exp(x[i] + slope * (wanted - y[i])), options))
    return min(known, key=lambda run: abs(run.sparsity - target))


def _logit(percent: float) -> float:
    share = min(max(percent, 0.01), 99.99) / 100
    return math.log(share / (1 - share))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("digits", "crops"), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--near", type=float, default=0.3, help="points, in the search")
    parser.add_argument("--tries", type=int, default=5, help="trainings per target, at most")
    options = parser.parse_args()
    data, seeds = options.data, range(options.seeds)
    dense = [train(data, "dense", seed, 0.0, options).top1 for seed in seeds]
    ours = {t: [train(data, "target", seed, t, options) for seed in seeds] for t in TARGETS}
    known = [train(data, "plain", 0, decay, options) for decay in FIRST_DECAYS]
    print(f"\ndense twin: top-1 {_spread(dense)} %\n")
    print("| target % | reached % | top-1 % | plain STR's sparsity % | top-1 % | threshold decay |")
    print("|---:|---:|---:|---:|---:|---:|")
    for target, runs in ours.items():
        first = search_decay(data, target, known, options)
        plain = [first, *(train(data, "plain", s, first.setting, options) for s in seeds[1:])]
        print(
            f"| {target:g} | {_spread([r.sparsity for r in runs], 3)} "
            f"| {_spread([r.top1 for r in runs])} | {_spread([r.sparsity for r in plain])} "
            f"| {_spread([r.top1 for r in plain])} | {first.setting:.3g} |",
            flush=True,
        )


def _spread(values: list[float], digits: int = 2) -> str:
    """Mean and range."""
    low, high = min(values), max(values)
    return f"{statistics.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
