"""What int16 and int8 cost in accuracy: `python benchmarks/engine_accuracy.py`.

ResNet20 is trained with a sparsity target of 90 % on the bundled digits and on Fashion-MNIST
(Debian's package dataset-fashion-mnist; see `target_sparsity`), then runs on the test images: on
the sparse engine in fp32 and int16, and in dense int8 (static QDQ) on onnxruntime and OpenVINO, all
calibrated on the same training images. ResNet50 at 90.23 % was never trained; its signal to noise
is measured on the bundled photographs that it was not calibrated with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import torch
from engine_stages.models import decibels
from fashion import PACKAGE_FOLDER
from harness.record import Record, TableRecord, make_parser
from harness.results import Column
from target_sparsity import Bench, load_data
from torch import Tensor, nn

import strzoo
from strzoo.data.calibration import load_samples
from strzoo.data.imageset import ImageSet
from strzoo.data.preprocessing import IMAGENET, fit_preprocessing
from strzoo.onnx.precision import convert_precision
from tests.helpers.engine.networks import budget_rates, make_network

BATCH = 100
CALIBRATION = 48
LOST = 0.1  # points of top-1 that int16 may lose
DECIBELS = 20.0  # that int16 must be above int8
NETWORKS = ("digits", "fashion", "photographs")
ABOUT = f"""Signal to noise against torch in fp32, and top-1 on the test images; int8 is static QDQ,
calibrated on the same images. ResNet20 is trained to 90 % zeros here; ResNet50 was never trained,
which makes it amplify errors. Bars: int16 loses at most {LOST} points, and is {DECIBELS:g} dB above
int8 on the photographs."""


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--data", default=",".join(NETWORKS), help="some of these")
    parser.add_argument("--epochs", type=int, help="[default: digits 30, fashion 6]")
    parser.add_argument("--images", type=int, default=8000, help="of Fashion-MNIST, to train on")
    parser.add_argument("--sparsity", type=float, default=90.0)
    options = parser.parse_args()
    record = Record(
        parser, options, "engine_accuracy", "Sparse CPU engine: accuracy of int16 and int8", ABOUT,
        packages=["onnxruntime", "openvino", "torch", "llvmlite", "strzoo"],
    )  # fmt: skip
    table = record.table([
        Column("network"), Column("engine"), Column("top-1", "%", ".2f"),
        Column("agreement with fp32", "%", ".2f"), Column("", "dB", ".1f"),
    ])  # fmt: skip
    for name in options.data.split(","):
        if name == "photographs":
            compare_photographs(table)
        else:
            compare_trained(table, name, options)
    return record.finish()


def compare_trained(table: TableRecord, name: str, options: argparse.Namespace) -> None:
    """The rows of a trained network."""
    # Where the processor has no instructions for it, bf16 takes five times as long as fp32.
    half = name == "fashion" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    epochs = options.epochs or {"digits": 30, "fashion": 6}[name]
    settings = argparse.Namespace(
        data=name, images=options.images, folder=PACKAGE_FOLDER, epochs=epochs, batch_size=64,
        bf16=half, results=None,
    )  # fmt: skip
    torch.manual_seed(0)
    network = Bench(settings).train("target", 0, options.sparsity)
    network = strzoo.to_dense_(network).eval()
    train, test = load_data(name, options.images, PACKAGE_FOLDER)
    expected = run_torch(network, test.images)
    label = f"{name}, ResNet20 at {options.sparsity:g} %, {len(test)} test images"
    scores = {"torch, fp32": top1_of(expected, test)}
    table.add(label, "torch, fp32", scores["torch, fp32"], None, None)
    for engine, run in open_engines(network, train.images[:CALIBRATION]).items():
        parts = [run(part.numpy()) for part in test.images.float().split(BATCH)]
        found = np.concatenate(parts).reshape(expected.shape)
        scores[engine] = top1_of(found, test)
        noise = decibels(found, expected)
        table.add("", engine, scores[engine], agreement(found, expected), noise)
    lost = scores["sparse, fp32"] - scores["sparse, int16"]
    table.judge(f"what int16 loses on {name}", lost, most=LOST)


def compare_photographs(table: TableRecord) -> None:
    """The same for ResNet50, without labels."""
    network = make_network("resnet50", budget_rates("resnet50_str_90.23"), size=224)
    images = load_samples(None, (3, 224, 224), fit_preprocessing(IMAGENET, 224)).images
    held_out = torch.arange(len(images)) % 3 == 2
    expected = run_torch(network, images[held_out])
    label = f"photographs, ResNet50 at 90.23 %, {int(held_out.sum())} held out"
    noise = {}
    for engine, run in open_engines(network, images[~held_out]).items():
        outputs = np.concatenate([run(image.numpy()) for image in images[held_out].split(1)])
        noise[engine] = decibels(outputs, expected)
        table.add(label, engine, None, agreement(outputs, expected), noise[engine])
        label = ""
    above = noise["sparse, int16"] - max(v for k, v in noise.items() if k.endswith("int8"))
    table.say(f"int16 is {above:.1f} dB above int8 on the photographs (bar {DECIBELS:g}).")
    table.judge("what int16 is above int8, in dB,", above, least=DECIBELS)


def open_engines(
    network: nn.Module, calibration: Tensor
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The network on each engine."""
    calibration = calibration.float().contiguous()
    runs: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        strzoo.export_onnx(network, path, input_size=tuple(calibration.shape[1:]), tolerance=1e-3)
        onnx.save(convert_precision(onnx.load(str(path)), "int8", calibration), str(small))
        runs["sparse, fp32"] = strzoo.compile(path, 1, cache=False)
        compiled = strzoo.compile(path, 1, precision="int16", calibration=calibration, cache=False)
        runs["sparse, int16"] = compiled
        assert compiled.report.fixed is not None
        print(compiled.report.fixed.summary(), file=sys.stderr)
        model = small.read_bytes()
    runs["onnxruntime, int8"] = _on_onnxruntime(model)
    if find_spec("openvino"):
        runs["openvino, int8"] = _on_openvino(model)
    return runs


def _on_onnxruntime(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _on_openvino(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model, b""), "CPU", settings)
    return lambda images: next(iter(compiled([images]).values()))


def run_torch(network: nn.Module, images: Tensor) -> np.ndarray:
    with torch.inference_mode():
        parts = [network(part.float()) for part in images.split(BATCH)]
    result: np.ndarray = torch.cat(parts).flatten(1).numpy()
    return result


def top1_of(found: np.ndarray, test: ImageSet) -> float:
    """In percent."""
    return 100 * float(np.mean(found.argmax(1) == test.labels.numpy()))


def agreement(found: np.ndarray, expected: np.ndarray) -> float:
    """In percent."""
    return 100 * float(np.mean(found.argmax(1) == expected.argmax(1)))


if __name__ == "__main__":
    sys.exit(main())
