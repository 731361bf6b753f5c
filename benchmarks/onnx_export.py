"""The bars of ONNX export: time, size, agreement. Run from the checkout, on a quiet machine.

    python benchmarks/onnx_export.py                     # the table for benchmarks/RESULTS.md
    python benchmarks/onnx_export.py --store FOLDER      # also keep the files for onnx_runtime.py

ResNet50 has the published budget of 90.23 % and random weights, as no published weights are
assumed to be at hand; its BatchNorm statistics are those of the photographs, so that its
predictions depend on the image. The digits network is trained here.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
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
REPEATS = 5
DIGIT = (3, 8, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="keep the exported files and expected outputs")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.store or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; torch "
            f"{torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"
        )
        measure_resnet50(folder, arguments.repeats)
        measure_digits(folder)


def measure_resnet50(folder: Path, repeats: int) -> None:
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
        seconds = []
        for _ in range(repeats if precision == "fp32" else 1):
            command = [sys.executable, "-m", "strzoo", "export", str(checkpoint), "-o", str(file)]
            started = time.perf_counter()
            subprocess.run(
                [*command, "--precision", precision, "--images", str(photographs), "--force", "-q"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds.append(time.perf_counter() - started)
        report(file, network, samples, statistics.median(seconds))


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


def measure_digits(folder: Path) -> None:
    """ResNet20 trained with STR on the bundled digits; agreement on the 360 held-out ones."""
    torch.manual_seed(0)
    network = strzoo.create_model("resnet20", num_classes=10)
    strzoo.sparsify_(network, "str", s_init=-8.0)
    train, test = strzoo.load_digits("train"), strzoo.load_digits("test")
    strzoo.fit(network, train, FitConfig(epochs=30, weight_decay=5e-4, threshold_decay=8e-3))
    print(f"digits: top-1 {strzoo.evaluate(network, test).top1:.2f} % in torch")
    samples = Samples("held-out digits", test.images)
    for precision in PRECISIONS:
        file = folder / f"digits_{precision}.onnx"
        started = time.perf_counter()
        strzoo.export_onnx(
            network, file, input_size=DIGIT, precision=precision, images=train, force=True
        )
        report(file, network.eval(), samples, time.perf_counter() - started)
        print(f"    top-1 {strzoo.evaluate(file, test).top1:.2f} %")


def report(file: Path, network: nn.Module, samples: Samples, seconds: float) -> None:
    """One line of the table, and the expected outputs beside the file."""
    forward = session_forward(open_session(file))
    agreement = compare(network, forward, samples, 1)
    inspected = strzoo.inspect_onnx(file)
    print(
        f"{file.stem}: {seconds:.1f} s, {inspected.bytes / 1e6:.2f} MB, sparsity "
        f"{inspected.report.sparsity:.2f} %, relative difference "
        f"{agreement.relative_difference:.2e}, top-1 agreement {agreement.top1_agreement:.2f} % "
        f"of {agreement.images} ({samples.name})"
    )
    images: Tensor = samples.images[:3]
    with torch.inference_mode():
        expected = network(images).numpy()
        classes = network(samples.images).argmax(1).unique().numel()
    print(f"    torch predicts {classes} different classes on these images")
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
    main()
