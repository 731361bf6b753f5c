"""`strzoo tradeoff`: accuracy and latency at several sparsities, and one recommendation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import strzoo
from strzoo.benchmarking.tradeoff_results import TradeoffPoint, recommend
from strzoo.data.imageset import ImageSet
from strzoo.errors import UsageError
from tests.models.test_external import own
from tests.training.test_datasets import write_folder

__all__ = ["own"]  # a fixture

Digits = tuple[nn.Module, ImageSet, ImageSet]


def point(sparsity: float, engine: str, top1: float, ms: float) -> TradeoffPoint:
    times = tuple(ms + 0.001 * i for i in range(20))
    return TradeoffPoint(sparsity, engine, top1, ms, ms, 10 / ms, times)


DENSE = point(0, "onnxruntime", 90.0, 10)


@pytest.mark.parametrize(
    ("others", "taken", "said"),
    [
        # Within a point of 90, 80 % is the fastest; 95 % is faster and loses too much.
        (
            [
                point(80, "sparse", 89.5, 5),
                point(90, "sparse", 89.0, 4),
                point(95, "sparse", 80, 2),
            ],
            (90, "sparse"),
            ("90 % on the sparse engine: 2.50 times as fast", "for 1.00 points", "loses 10.00"),
        ),
        # Nearly as fast and more accurate is better.
        (
            [point(80, "sparse", 89.9, 4.1), point(90, "sparse", 89.2, 4)],
            (80, "sparse"),
            ("80 % on the sparse engine",),
        ),
        # 3 % faster is not faster.
        (
            [point(80, "sparse", 90.0, 9.7)],
            (0, "onnxruntime"),
            ("the dense network on onnxruntime: no point that loses at most 1 points",),
        ),
        (
            [point(0, "int8", 90.2, 4), point(70, "sparse", 89.5, 6)],
            (0, "int8"),
            ("in int8", "without loss", "fastest without int8 is 70 % on the sparse engine, 1.67"),
        ),
    ],
    ids=["sparse", "more accurate", "dense", "int8"],
)
def test_the_fastest_point_within_the_allowed_loss_is_recommended(
    others: list[TradeoffPoint], taken: tuple[float, str], said: tuple[str, ...]
) -> None:
    found = recommend([DENSE, *others], 1.0, images=10_000, margin=0.5)
    assert (found.sparsity, found.engine) == taken
    assert all(words in found.reason for words in said), found.reason
    assert "images tell" not in found.reason
    assert "50 images tell top-1 to 3.0 points only" in recommend([DENSE], 1.0, 50, 3.0).reason


@pytest.mark.slow
def test_the_command_measures_accuracy_and_latency_at_each_sparsity(
    own: Path, cli: Callable[..., Any]
) -> None:
    source = "own_network:build"
    torch.manual_seed(0)
    network = strzoo.create_model(source, num_classes=10, width=16)
    pruned = strzoo.prune(network, "digits", 0.3, images=64, input_size=(3, 8, 8)).network
    file = strzoo.save_checkpoint(pruned, own / "mine.pth", architecture=source)
    words = ["tradeoff", file, "--data", "digits", "--sparsities", "20,90", "--runs", "2",
             "--images", "64", "--plot", "frontier.svg", "--architecture", source]  # fmt: skip
    made = cli(*words, "--json").json
    test = strzoo.load_digits("test")
    further = strzoo.prune(pruned, "digits", 0.9, images=64, input_size=(3, 8, 8)).network
    expected = [strzoo.evaluate(n, test).top1 for n in (pruned, further)]
    assert made["notes"] == ["20 % is left out: the network has 30.1 %"]  # 178 of 592
    engines = ("onnxruntime", "int8", "sparse")
    assert [p["engine"] for p in made["points"]] == [*engines, *engines]
    for number, top1 in enumerate(expected):
        for place in (0, 2):
            assert made["points"][3 * number + place]["top1"] == pytest.approx(top1)
    assert made["points"][-1]["sparsity"] == pytest.approx(90, abs=0.1)
    assert (made["points"][0]["ratio"], made["images"]) == (1.0, 360)
    assert made["recommendation"]["reason"]
    assert "<svg" in Path("frontier.svg").read_text()
    assert "frontier.svg exists; pass --force" in cli(*words).error


@pytest.mark.slow
def test_class_folders_alone_are_divided_and_each_sparsity_is_fine_tuned(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", 20) / "train"
    torch.manual_seed(0)
    network = strzoo.create_model("timm:test_resnet", num_classes=2)
    file = strzoo.save_checkpoint(network, tmp_path / "mine.pth")
    made = strzoo.tradeoff(
        file, data, sparsities=[0.5], epochs=1, engines=["onnxruntime"], runs=1, images=4, workers=0
    )
    assert [p.sparsity for p in made.points] == [0, pytest.approx(50, abs=0.1)]
    assert made.images == 8  # a fifth of 20, in both classes
    assert "8 of 40 are held out" in made.notes[0]
    assert made.how == "fine-tuned for 1 epochs each"


@pytest.mark.slow
def test_what_cannot_be_done_is_said_in_one_line(digits_network: Digits) -> None:
    network, train, test = digits_network
    for changes, message in (
        ({"sparsities": [80]}, "are not fractions"),
        ({"engines": ["tpu"]}, "'tpu' is not one of onnxruntime, int8, sparse"),
        ({"validation": None}, "images in memory need validation images"),
        ({"epochs": 1, "sparsities": [0.9], "engines": []}, "a model id or a checkpoint file"),
        ({"runs": 0}, "must be at least 1"),
    ):
        arguments: dict[str, Any] = {"validation": test, "images": 4, **changes}
        with pytest.raises(UsageError, match=message):
            strzoo.tradeoff(network, train, **arguments)
