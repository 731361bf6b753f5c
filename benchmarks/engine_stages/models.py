"""The networks of `benchmarks/engine.py`: pruned, exported, with what they compute in float64.

They are pruned by magnitude, to a published budget or to one rate in all layers but the first and
the depthwise ones, with random weights and BatchNorm calibrated on standard normal images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from engine_stages.process import SIZE, images_of
from strzoo.benchmarking.int8_files import write_int8
from tests.helpers.engine.networks import budget_rates, export, make_network

LARGEST = 16  # batch


def prepare(model: str, folder: Path) -> tuple[Path, np.ndarray]:
    """The ONNX file of `model`, such as "resnet50 90.23", and its outputs for `LARGEST` images.

    A model without a published budget is pruned to that rate.
    """
    path = folder / f"{model.replace(' ', '_').replace(':', '_')}.onnx"
    reference = path.with_suffix(".npy")
    if not reference.exists():
        architecture, sparsity = model.split()
        published = not architecture.startswith("timm:")
        rates = (
            budget_rates(f"{architecture}_str_{sparsity}") if published else float(sparsity) / 100
        )
        network = make_network(architecture, rates, size=SIZE)
        onnx.save(export(network, SIZE), str(path))
        np.save(reference, run_double(network, images_of(LARGEST)))
    return path, np.load(reference)


def prepare_int8(path: Path) -> Path:
    """The same network in int8 (static QDQ), calibrated on the bundled images."""
    small = path.with_suffix(".int8.onnx")
    return small if small.exists() else write_int8(path, small, (3, SIZE, SIZE))


def run_double(network: nn.Module, images: np.ndarray) -> np.ndarray:
    network = network.double()
    with torch.inference_mode():
        parts = [network(part) for part in torch.from_numpy(images).double().split(4)]
    result: np.ndarray = torch.cat(parts).numpy()
    return result


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    """Signal to noise of `found`."""
    noise = np.sum((found.astype(np.float64) - expected) ** 2)
    return float(10 * np.log10(np.sum(expected.astype(np.float64) ** 2) / max(noise, 1e-300)))
