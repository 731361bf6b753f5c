"""From a dense network to 90 %: fine-tuned in a third of the epochs, against trained from scratch.

    python benchmarks/fine_tuning.py
    python benchmarks/fine_tuning.py --data fashion

ResNet20 in all runs of a seed: dense; STR to 90 % from scratch, in as many epochs; the recipe
`finetune` from the dense network, in a third of them; and the same with the dense network as the
teacher. "fashion" is Fashion-MNIST (Debian's dataset-fashion-mnist) at half its resolution, as PNG
files in class folders. Mean and range of top-1 in percent over the seeds, on the held-out images;
what the bar asks is the difference from the dense network.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from fashion import PACKAGE_FOLDER, read_idx
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import spread
from PIL import Image
from torch import Tensor
from torch.nn import functional

import strzoo

ABOUT = """The dense network, STR to 90 % from scratch in as many epochs, and the recipe `finetune`
from the dense network in a third of them, also with the dense network as the teacher; ResNet20,
top-1 in percent. Fashion-MNIST has half its resolution. Bar: fine-tuned within 0.5 points of
dense."""
TARGET = 0.9
ALLOWED = 0.5  # percentage points below the dense network
RUNS = ("dense", "from scratch", "fine-tuned", "fine-tuned, distilled")
CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """What the runs train on: the keys that name it, and the pixels of a side."""

    name: str
    keys: tuple[tuple[str, object], ...]
    size: int


def write_fashion(folder: Path, images: int, source: Path = PACKAGE_FOLDER) -> Data:
    """`images` of the 60,000 training images (the same always) and 4,000 of the test images, at
    14x14 pixels, one pixel of black around."""
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    for split, stem, chosen in (
        ("train", "train", order[:images]),
        ("val", "t10k", torch.arange(4000)),
    ):
        pixels = read_idx(source, f"{stem}-images-idx3-ubyte.gz")[chosen]
        labels = read_idx(source, f"{stem}-labels-idx1-ubyte.gz")[chosen].tolist()
        small = functional.pad(functional.avg_pool2d(pixels[:, None].float(), 2), (1, 1, 1, 1))
        _write(folder / split, small[:, 0].byte(), labels)
    return Data("fashion", (("dataset", "folder"), ("data", str(folder)), ("image_size", 16)), 16)


def _write(folder: Path, pixels: Tensor, labels: Sequence[int]) -> None:
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        picture = Image.fromarray(image.numpy()).convert("RGB")
        picture.save(folder / CLASSES[label] / f"{number}.png")


def open_data(options: argparse.Namespace, folder: Path) -> Data:
    """The digits, or Fashion-MNIST written below `folder`."""
    if options.data == "digits":
        return Data("digits", (("dataset", "digits"),), 8)
    return write_fashion(folder, options.images)


def train(recipe: str, data: Data, folder: Path, seed: int, **changes: object) -> float:
    """Top-1 of the best epoch in which the network is as sparse as it should be."""
    keys = {
        "augmentation": "none" if data.name == "digits" else "pad_crop_flip", "padding": 1,
        "crop_pct": 1.0, "num_classes": 10, "seed": seed, "workers": 0, "tensorboard": False,
        "output": str(folder), **dict(data.keys), **changes,
    }  # fmt: skip
    if data.name == "digits":
        del keys["crop_pct"]
    started = time.perf_counter()
    result = strzoo.train(replace(strzoo.load_recipe(recipe), **keys))  # type: ignore[arg-type]
    assert result.best is not None
    print(f"{folder.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return result.best.top1


def run_seed(data: Data, place: Path, epochs: int, seed: int, batch: int) -> dict[str, float]:
    """All runs of a seed; top-1 by its name."""
    dense = place / f"dense_{seed}"
    short = max(1, epochs // 3)
    common = {"batch_size": batch, "lr_batch_size": batch}
    tuned = {**common, "architecture": "", "start_from": str(dense / "best_dense.pth"),
             "epochs": short, "warmup_epochs": 0, "learning_rate": 0.05,
             "target_end": 0.5}  # fmt: skip
    return {
        "dense": train("digits_dense", data, dense, seed, epochs=epochs, **common),
        "from scratch": train(
            "digits_str", data, place / f"scratch_{seed}", seed, epochs=epochs, **common,
            target_sparsity=TARGET,
        ),
        "fine-tuned": train(
            "finetune", data, place / f"tuned_{seed}", seed, **tuned, target_sparsity=TARGET
        ),
        "fine-tuned, distilled": train(
            "finetune", data, place / f"distilled_{seed}", seed, **tuned, target_sparsity=TARGET,
            teacher=str(dense / "best_dense.pth"), label_smoothing=0.0,
        ),
    }  # fmt: skip


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", choices=("digits", "fashion"), default="digits")
    parser.add_argument("--images", type=int, default=12_000, help="of Fashion-MNIST")
    parser.add_argument("--epochs", type=int, help="[default: digits 30, fashion 15]")
    parser.add_argument("--seeds", type=int, help="[default: digits 3, fashion 2]")
    parser.add_argument("--batch", type=int, help="[default: digits 64, fashion 128]")
    parser.add_argument("--folder", type=Path, help="keep the runs there")


def fill_data_options(options: argparse.Namespace) -> str:
    """Set what was not given to what the data take; returns how the data are called."""
    digits = options.data == "digits"
    options.epochs = options.epochs or (30 if digits else 15)
    options.seeds = options.seeds or (3 if digits else 2)
    options.batch = options.batch or (64 if digits else 128)
    return "digits" if digits else "Fashion-MNIST"


def main() -> int:
    parser = make_parser(__doc__)
    add_data_options(parser)
    options = parser.parse_args()
    title = "Fine-tuning to 90 %"
    record = Record(
        parser, options, "fine_tuning", title, ABOUT, packages=["torch", "strzoo"],
        kinds=["data"], free=["folder"],
    )  # fmt: skip
    record.results.title += f": {fill_data_options(options)}"
    found: dict[str, list[float]] = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        data = open_data(options, place / "images")
        for seed in range(options.seeds):
            made = run_seed(data, place, options.epochs, seed, options.batch)
            for name, top1 in made.items():
                found[name].append(top1)
            print(f"seed {seed}: {made}", file=sys.stderr, flush=True)
    table = record.table([
        Column("run"), Column("epochs", "", ".0f"), Column("zeros", "%", ".0f"),
        Column("top-1", "%"), Column("below dense", "points", ".2f"),
    ])  # fmt: skip
    for name, values in found.items():
        epochs = options.epochs if name in RUNS[:2] else max(1, options.epochs // 3)
        below = statistics.mean(d - v for d, v in zip(found["dense"], values, strict=True))
        zeros = 0 if name == "dense" else round(100 * TARGET)
        table.add(name, epochs, zeros, spread(values), below)
    lost = statistics.mean(found["dense"]) - statistics.mean(found["fine-tuned"])
    table.judge("what fine-tuning loses", lost, most=ALLOWED)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
