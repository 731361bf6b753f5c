"""Fixtures of a small ResNet20 that tests of several folders share; conftest.py registers them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import strzoo
from strzoo.data.imageset import ImageSet
from strzoo.training.fit import FitConfig
from tests.helpers.published import str_state


@pytest.fixture(scope="session")
def resnet20_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An STR ResNet20 of 90 % sparsity with BatchNorm statistics that matter."""
    path = tmp_path_factory.mktemp("deployment") / "resnet20.pth"
    torch.save({"state_dict": str_state("resnet20", 90.0)}, path)
    return path


@pytest.fixture(scope="session")
def resnet20_onnx(resnet20_file: Path) -> strzoo.OnnxExport:
    """That network as fp32 ONNX."""
    return strzoo.export_onnx(resnet20_file, resnet20_file.with_suffix(".onnx"))


@pytest.fixture(scope="session")
def digits_network() -> tuple[nn.Module, ImageSet, ImageSet]:
    """A ResNet20 trained on the digits with STR for three epochs; training and held-out digits."""
    train, test = strzoo.load_digits("train"), strzoo.load_digits("test")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # images this small are no faster with more
    torch.manual_seed(0)
    network = strzoo.create_model("resnet20", num_classes=10)
    strzoo.sparsify_(network, "str", s_init=-4.0)
    try:
        strzoo.fit(network, train, FitConfig(epochs=3))
    finally:
        torch.set_num_threads(threads)
    return network.eval(), train, test
