"""start_from: what a key says about how a network begins is applied, or refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import UsageError
from strzoo.sparse.selection import str_layers
from strzoo.training.builders import build_network
from strzoo.training.config import TrainConfig
from strzoo.training.recipes import load_recipe

BASE = TrainConfig(
    architecture="resnet20", num_classes=10, method="str", dataset="digits", s_init=-7.0
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ResNet20: dense, and with STR of one threshold per filter whose first layer is dense."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    dense = strzoo.create_model("resnet20", num_classes=10)
    made = {"dense": strzoo.save_checkpoint(dense, folder / "dense.pth")}
    strzoo.sparsify_(dense, skip=["conv1"], threshold="filter", s_init=-3.0)
    made["str"] = strzoo.save_checkpoint(dense, folder / "str.pth")
    return made


def build(**changes: Any) -> tuple[nn.Module, tuple[str, ...]]:
    network = build_network(dataclasses.replace(BASE, **changes))
    return network.model, network.notes


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("dense", {"initialisation": "signed_constant"}, "initialisation=signed_constant is for"),
        ("dense", {"fan": "fan_out"}, "fan=fan_out is for random weights; start_from=.* leave fan"),
        ("dense", {"init_density": 0.1}, "init_density=0.1 is for random weights"),
        ("dense", {"small_stem": True}, "has small_stem=false, not true; set small_stem=false"),
        ("dense", {"head_bias": True}, "has head_bias=false, not true; set head_bias=false"),
        ("dense", {"width": 0.5}, r"has width=1\.0, not 0\.5; set width=1\.0"),
        ("dense", {"architecture": "resnet18"}, "is a resnet20, not a resnet18"),
        (
            "str",
            {"threshold": "layer"},
            "per filter, not layer; set threshold=filter",
        ),
        ("str", {"threshold": "global"}, "one threshold per filter, not global"),
    ],
)
def test_a_key_that_the_file_contradicts_is_refused(
    file: str, changes: dict[str, Any], message: str, files: dict[str, Path]
) -> None:
    with pytest.raises(UsageError, match=message):
        build(start_from=str(files[file]), **changes)


def test_a_dense_file_becomes_str_as_the_keys_say(files: dict[str, Path]) -> None:
    model, _ = build(start_from=str(files["dense"]), threshold="filter", keep_dense=("first", "fc"))
    layers = str_layers(model)
    assert len(layers) == 20
    assert not {"conv1", "fc"} & set(layers)
    assert {float(layer.sparseThreshold.detach().max()) for layer in layers.values()} == {-7.0}
    assert {layer.granularity for layer in layers.values()} == {"filter"}


def test_an_str_file_goes_on_from_its_thresholds_and_new_layers_begin_at_s_init(
    files: dict[str, Path],
) -> None:
    model, notes = build(
        start_from=str(files["str"]), threshold="filter", num_classes=4, keep_dense=("layer1.*",)
    )
    layers = str_layers(model)
    # 22 layers, 6 of them in layer1.
    assert len(layers) == 16
    begin = {name: set(layer.sparseThreshold.flatten().tolist()) for name, layer in layers.items()}
    assert begin.pop("conv1") == begin.pop("fc") == {-7.0}
    assert set().union(*begin.values()) == {-3.0}
    assert notes == (
        f"14 layers go on from the thresholds in {files['str']}; s_init=-7 is where conv1, fc "
        "begins",
    )
    before = strzoo.load(files["str"], format="dense").state_dict()
    made_dense = model.get_submodule("layer1.0.conv1")
    assert type(made_dense) is nn.Conv2d
    assert torch.equal(made_dense.weight, before["layer1.0.conv1.weight"])


def test_zeros_that_stay_cannot_be_more_than_the_target(files: dict[str, Path]) -> None:
    zeros = strzoo.read_checkpoint(files["str"]).sparsity()
    assert zeros > 30
    start: dict[str, Any] = {"start_from": str(files["str"]), "threshold": "filter"}
    with pytest.raises(UsageError, match=rf"{zeros:.2f} % of the weights .* keep_mask=false"):
        build(**start, target_sparsity=0.2)
    build(**start, target_sparsity=0.2, keep_mask=False)
    build(**start, target_sparsity=zeros / 100)


@pytest.mark.slow
def test_fine_tuning_a_sparse_network_meets_the_target_again(tmp_path: Path) -> None:
    sparse = dataclasses.replace(
        load_recipe("digits_str"), epochs=2, warmup_epochs=0.0, batch_size=256,
        target_sparsity=0.95, output=str(tmp_path / "a"), tensorboard=False,
    )  # fmt: skip
    strzoo.train(sparse)
    again = dataclasses.replace(
        sparse, start_from=str(tmp_path / "a" / "best_str.pth"), epochs=1, learning_rate=0.01,
        output=str(tmp_path / "b"),
    )  # fmt: skip
    result = strzoo.train(again)
    assert result.last is not None
    assert result.last.sparsity == pytest.approx(95, abs=0.1)


def test_any_layer_may_stay_dense_in_a_run(tmp_path: Path) -> None:
    config = dataclasses.replace(
        load_recipe("digits_str"), epochs=1, warmup_epochs=0.0, batch_size=512,
        target_sparsity=0.7, keep_dense=("layer2.*",), output=str(tmp_path), tensorboard=False,
    )  # fmt: skip
    strzoo.train(config)
    read = strzoo.read_checkpoint(tmp_path / "last.pth")
    assert not any(name.startswith("layer2") for name in read.thresholds())
    model = read.build_model()
    assert type(model.get_submodule("layer2.1.conv2")) is nn.Conv2d
    assert type(model.get_submodule("layer3.1.conv2")) is strzoo.STRConv2d


def test_what_reading_the_file_took_is_said_and_zeros_alone_are_refused(tmp_path: Path) -> None:
    good = strzoo.create_model("resnet20", num_classes=10).state_dict()
    weights = {key for key in good if key.endswith("weight") and good[key].dim() > 1}
    zero = {key: 0 * value if key in weights else value for key, value in good.items()}
    file = tmp_path / "both.pth"
    torch.save({"model": good, "model_ema": zero}, file)
    config = dataclasses.replace(load_recipe("finetune"), start_from=str(file), num_classes=10)
    assert any("'model_ema' holds weights too" in note for note in build_network(config).notes)
    torch.save({"model": zero, "model_ema": good}, file)
    with pytest.raises(UsageError, match=r"all weights of start_from=.* are zero"):
        build_network(config)
