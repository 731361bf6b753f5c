"""The bars of ONNX export: time, size, agreement. Run from the checkout, on a quiet machine.

    python benchmarks/onnx_export.py
    python benchmarks/onnx_export.py --store FOLDER      # also keep the files for onnx_runtime.py

ResNet50 has the published budget of 90.23 % and random weights, as no published weights are
assumed to be at hand; its BatchNorm statistics are those of the photographs, so that its
predictions depend on the image. The digits network is trained here.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness.record import Record, TableRecord, make_parser
from harness.results import Column
from harness.turns import timed
from PIL import Image
from torch import Tensor, nn

import strzoo
from strzoo.data.calibration import Samples, load_samples
from strzoo.data.preprocessing import IMAGENET
from strzoo.onnx.parity import compare, session_forward
from strzoo.onnx.sessions import open_session
from strzoo.training.fit import FitConfig
from tests.helpers.published import str_state, write_published

PRECISIONS = ("fp32", "fp16", "int8")
NETWORKS = ("resnet50", "digits")
DIGIT = (3, 8, 8)
ABOUT = """ResNet50 has the published 90.23 % budget and random weights; its BatchNorm statistics
are those of 60 photographs (crops of pictures in scikit-image and scikit-learn), so that the
outputs depend on the image. Agreement is against torch's fp32 network on the same 60 photographs,
48 of which calibrated int8. The digits network is a ResNet20 trained with STR, checked on the 360
held-out digits, calibrated on training digits. Seconds are the whole command (process start,
reading, export, checks), the median for fp32, one run for the others; for the digits the call."""


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--store", type=Path, help="keep the exported files and expected outputs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=30, help="of the digits network")
    options = parser.parse_args()
    record = Record(
        parser, options, "onnx_export", "ONNX export: time, size, agreement", ABOUT,
        packages=["torch", "onnx", "onnxruntime", "onnxscript", "strzoo"], free=["store"],
    )  # fmt: skip
    table = record.table([
        Column(""), Column("seconds", "", ".1f"), Column("", "MB", ".2f"),
        Column("sparsity", "%", ".2f"), Column("largest relative difference", "", ".1e"),
        Column("top-1 agreement", "%", ".2f"), Column("top-1", "%", ".2f"),
    ])  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.store or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if "resnet50" in options.networks:
            measure_resnet50(table, folder, options.repeats)
        if "digits" in options.networks:
            measure_digits(record, table, folder, options.epochs)
    return record.finish()


def measure_resnet50(table: TableRecord, folder: Path, repeats: int) -> None:
    """Wall time of the whole command, process start included; size; agreement on photographs."""
    checkpoint = folder / "resnet50.pth"
    budget = strzoo.load_budget("resnet50_str_90.23")
    write_published(checkpoint, str_state("resnet50", budget), "resnet50")
    photographs = folder / "photographs"
    save_photographs(photographs)
    samples = load_samples(photographs, (3, 224, 224), IMAGENET)
    network = strzoo.load(checkpoint, format="str")
    estimate_batchnorm(network, samples.images)
    strzoo.save_checkpoint(strzoo.build_checkpoint(network, {"epoch": 0}), checkpoint, force=True)
    network = strzoo.load(checkpoint, format="dense")
    for precision in PRECISIONS:
        file = folder / f"resnet50_{precision}.onnx"
        command = [
            *(sys.executable, "-m", "strzoo", "export", str(checkpoint), "-o", str(file)),
            *("--precision", precision, "--images", str(photographs), "--force", "-q"),
        ]
        run = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
        seconds = [timed(run) for _ in range(repeats if precision == "fp32" else 1)]
        report(table, file, network, samples, statistics.median(seconds))


def estimate_batchnorm(network: nn.Module, images: Tensor) -> None:
    """Set the running statistics to those of `images`; scale and shift to the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.momentum = None  # a plain average
    network.train()
    with torch.no_grad():
        network(images)
    network.eval()


def measure_digits(record: Record, table: TableRecord, folder: Path, epochs: int) -> None:
    """ResNet20 trained with STR on the bundled digits; agreement on the 360 held-out ones."""
    torch.manual_seed(0)
    network = strzoo.create_model("resnet20", num_classes=10)
    strzoo.sparsify_(network, "str", s_init=-8.0)
    train, test = strzoo.load_digits("train"), strzoo.load_digits("test")
    strzoo.fit(network, train, FitConfig(epochs=epochs, weight_decay=5e-4, threshold_decay=8e-3))
    record.say(
        f"Top-1 of the digits network in torch: {strzoo.evaluate(network, test).top1:.2f} %."
    )
    samples = Samples("held-out digits", test.images)
    for precision in PRECISIONS:
        file = folder / f"digits_{precision}.onnx"
        export = partial(
            strzoo.export_onnx, network, file, input_size=DIGIT, precision=precision,
            images=train, force=True,
        )  # fmt: skip
        seconds = timed(export)
        top1 = strzoo.evaluate(file, test).top1
        report(table, file, network.eval(), samples, seconds, top1)


def report(
    table: TableRecord, file: Path, network: nn.Module, samples: Samples, seconds: float,
    top1: float | None = None,
) -> None:  # fmt: skip
    """One line of the table, and the expected outputs beside the file."""
    forward = session_forward(open_session(file))
    agreement = compare(network, forward, samples, 1)
    inspected = strzoo.inspect_onnx(file)
    table.add(
        file.stem.replace("_", " "), seconds, inspected.bytes / 1e6, inspected.report.sparsity,
        agreement.relative_difference, agreement.top1_agreement, top1,
    )  # fmt: skip
    images: Tensor = samples.images[:3]
    with torch.inference_mode():
        expected = network(images).numpy()
    np.savez(file.with_suffix(".npz"), images=images.numpy(), expected=expected)


def save_photographs(folder: Path) -> None:
    """Crops of the photographs in scikit-image and scikit-learn, 60 in all."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    folder.mkdir(exist_ok=True)
    pictures = [getattr(data, name)() for name in ("chelsea", "coffee", "rocket", "astronaut")]
    pictures += list(load_sample_images().images)
    for index, picture in enumerate(pictures):
        image = Image.fromarray(picture)
        side = min(image.size)
        for crop in range(10):
            size = round(side * (0.5 + 0.05 * crop))
            left = (image.width - size) * crop // 9
            top = (image.height - size) * (9 - crop) // 9
            window = image.crop((left, top, left + size, top + size))
            window.save(folder / f"{crop}{index}.png")


if __name__ == "__main__":
    sys.exit(main())
