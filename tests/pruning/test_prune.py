"""`strzoo prune` and `strzoo.prune`, from a network to a smaller loss than magnitude leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import strzoo
from strzoo.data.imageset import ImageSet
from strzoo.errors import UsageError
from tests.training.test_datasets import write_folder

Digits = tuple[nn.Module, ImageSet, ImageSet]


@pytest.mark.slow
def test_second_order_keeps_what_magnitude_loses(digits_network: Digits) -> None:
    network, train, test = digits_network
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = {
        method: strzoo.prune(network, train, 0.9, method=method, images=100, validation=test)
        for method in ("magnitude", "obc")
    }
    for made in found.values():
        assert made.before is not None
        assert made.before.top1 > 85
        assert made.sparsity == pytest.approx(90, abs=100 / 270_000)
        assert made.sparsity == pytest.approx(strzoo.report(made.network, input_size=8).sparsity)
        assert all(layer.sparsity < 100 for layer in made.layers)
    assert found["obc"].lost is not None
    assert found["magnitude"].lost is not None
    assert found["obc"].lost < found["magnitude"].lost - 10
    errors = {m: sum(layer.error for layer in made.layers) for m, made in found.items()}
    assert errors["obc"] < errors["magnitude"] / 2
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    with pytest.raises(UsageError, match=r"has 90\.00 % zeros already; choose a sparsity above"):
        strzoo.prune(found["obc"].network, train, 0.9)


def test_the_command_writes_a_checkpoint_that_goes_on(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    data = write_folder(tmp_path / "data")
    torch.manual_seed(0)
    network = strzoo.create_model("timm:test_efficientnet", num_classes=2)  # depthwise, SE
    given = strzoo.save_checkpoint(network, tmp_path / "given.pth")
    file = tmp_path / "pruned.safetensors"
    words = ["prune", given, "--data", data, "--sparsity", "0.7", "--input-size", "32",
             "--skip", "conv_stem", "--workers", "0", "--images", "8", "-o", file]  # fmt: skip
    made = cli(*words, "--validation", data / "val", "--json").json
    assert (made["schema"], made["images"], made["after"]["images"]) == (1, 8, 10)
    assert made["lost"] == made["before"]["top1"] - made["after"]["top1"]
    read = strzoo.read_checkpoint(file)
    assert read.architecture == "timm:test_efficientnet"
    assert read.sparsity() == pytest.approx(made["sparsity"]) == pytest.approx(70, abs=1e-3)
    assert bool(read.state_dict["conv_stem.weight"].all())
    assert read.trained_on is not None
    assert read.trained_on.input_size == strzoo.report(file).input_size == (3, 32, 32)
    shown = cli(*words, "--force", "--method", "magnitude")
    assert "70.00 % now (magnitude, 8 images" in shown.out, shown.err
    assert "exists; pass --force" in cli(*words).error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 80.0}, "80 % is 0.8"),
        ({"method": "best"}, "'best' is not one of obc, magnitude"),
        ({"sparsity": 0.9999}, "out of reach: .* choose at most 0.99"),
        ({"output": "a.onnx"}, "must end in one of .pth"),
        ({"data": torch.zeros(2, 5, 8, 8)}, "does not run on images of shape"),
    ],
    ids=["percent", "method", "reach", "suffix", "images"],
)
def test_what_cannot_be_done_is_said_in_one_line(
    changes: dict[str, Any], message: str, digits_network: Digits
) -> None:
    network, train, _ = digits_network
    arguments = {"data": train, "sparsity": 0.5, "images": 8, **changes}
    with pytest.raises(UsageError, match=message):
        strzoo.prune(network, **arguments)


class _Answers(nn.Module):
    """A network whose scores stand in a dictionary, as libraries give them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.body(images)}


def test_scores_are_found_in_what_a_network_returns_as_evaluation_finds_them() -> None:
    torch.manual_seed(0)
    network, images = _Answers(), torch.randn(8, 3, 12, 12)
    found, plain = (strzoo.prune(one, images, 0.5).network for one in (network, network.body))
    state = plain.state_dict()
    assert {f"body.{key}": value.tolist() for key, value in state.items()} == {
        key: value.tolist() for key, value in found.state_dict().items()
    }
    with pytest.raises(UsageError, match=r"expected floats of shape \(N, classes\)"):
        strzoo.prune(network.body[:1], images, 0.5)
