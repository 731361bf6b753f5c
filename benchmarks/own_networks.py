"""Networks of timm and torchvision through the whole road: trained to 80 %, kept, rebuilt, used.

    python benchmarks/own_networks.py [--networks timm:regnety_002,...] [--size 32] [--folder runs]

Each network is trained for two short epochs on the bundled digits, written as images in class
folders, with a target of 80 %. Then its checkpoint alone is loaded, reported, evaluated, exported
to ONNX and compiled by the sparse engine. A row says how far the sparsity is from the target, and
the largest difference of logits (over the largest logit) from the trained network's.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from harness.record import Record, make_parser
from harness.results import Column
from PIL import Image

import strzoo
from strzoo.training.recipes import load_recipe

NETWORKS = (
    "timm:mobilenetv2_100", "timm:efficientnet_b0", "timm:regnety_002", "timm:convnext_atto",
    "timm:mobilenetv3_small_100", "torchvision:resnet18",
)  # fmt: skip
TARGET = 0.8
ABOUT = """Each network from random weights, made sparse, two epochs of the recipe `finetune` on 240
digits at {size} pixels with a target of 80 %; its checkpoint alone is rebuilt, reported, evaluated,
exported and compiled. Differences of logits are the largest, over the largest logit of the trained
network; the accuracy of two epochs says nothing."""
COLUMNS = [
    Column("network"), Column("sparsity, trained", "%", ".2f"),
    Column("sparsity, reported", "%", ".2f"), Column("top-1, trained", "%", ".2f"),
    Column("top-1, evaluated", "%", ".2f"), Column("rebuilt", "", ".1e"),
    Column("ONNX", "", ".1e"), Column("engine", "", ".1e"), Column("sparse engine"),
    Column("seconds", "", ".0f"),
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One network, in the order of `COLUMNS`. Sparsities in percent; differences relative to the
    largest logit; `compiled` is what the engine says if it cannot compile."""

    network: str
    sparsity: float
    reported: float
    top1: float
    evaluated: float
    rebuilt: float
    onnx: float
    engine: float | None
    compiled: str
    seconds: float


def write_digits(folder: Path, size: int) -> Path:
    """Bundled digits as PNG files in class folders: 24 of a class in train, 8 in val."""
    for split, digits, each in (("train", "train", 24), ("val", "test", 8)):
        data = strzoo.load_digits(digits)
        counts = [0] * 10
        for image, label in zip(data.images, data.labels.tolist(), strict=True):
            if counts[label] == each:
                continue
            plane = image[0] - image.min()
            pixels = (255 * plane / plane.max()).to(torch.uint8).numpy()
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(pixels).convert("RGB").resize((size, size))
            picture.save(place / f"{counts[label]}.png")
            counts[label] += 1
    return folder


def run(network: str, data: Path, size: int, folder: Path) -> Row:
    """Take one network the whole road."""
    started = time.perf_counter()
    config = replace(
        load_recipe("finetune"), architecture=network, data=str(data), image_size=size, epochs=2,
        batch_size=16, warmup_epochs=0, target_sparsity=TARGET, output=str(folder), workers=0,
        tensorboard=False, target_end=0.5, learning_rate=0.005,
    )  # fmt: skip
    result = strzoo.train(config)
    assert result.best is not None
    learned, file = folder / "best_str.pth", folder / "best_dense.pth"
    trained, rebuilt = strzoo.load(learned), strzoo.load(file)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, again = trained(images), rebuilt(images)

    def distance(found: torch.Tensor) -> float:
        return float((found - expected).abs().max() / expected.abs().max())

    report = strzoo.report(file)
    evaluated = strzoo.evaluate(file, data, workers=0)
    made = strzoo.export_onnx(file, folder / "model.onnx", force=True)
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {made.input_name: images.numpy()})
    engine, compiled = None, "yes"
    try:
        model = strzoo.compile(file, cache=False)
        engine = distance(torch.as_tensor(np.asarray(model(images))))
    except strzoo.StrzooError as error:
        compiled = str(error)
    return Row(
        network, result.best.sparsity, report.sparsity or 0.0, result.best.top1, evaluated.top1,
        distance(again), distance(torch.from_numpy(logits)), engine, compiled,
        time.perf_counter() - started,
    )  # fmt: skip


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    record = Record(
        parser, options, "own_networks", "From one's own network", ABOUT.format(size=options.size),
        packages=["torch", "torchvision", "timm", "onnxruntime", "strzoo"], free=["folder"],
    )  # fmt: skip
    table = record.table(COLUMNS)
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        data = write_digits(place / "digits", options.size)
        for network in options.networks.split(","):
            row = run(network, data, options.size, place / network.replace(":", "_"))
            table.add(*astuple(row))
            off = abs(row.sparsity - 100 * TARGET)
            table.judge(f"{row.network}: points off the sparsity", off, most=0.1)
            off = abs(row.evaluated - row.top1)
            table.judge(f"{row.network}: points between trained and evaluated", off, most=0.0)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
