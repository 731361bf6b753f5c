"""What a step minimises and how it moves: losses, teachers, mixed images, optimizers by name."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import strzoo
from strzoo.checkpoint.reading import read_document
from strzoo.data.preprocessing import IMAGENET
from strzoo.errors import StrzooError, UsageError
from strzoo.training.augmentation import RandomTransform, build_policy
from strzoo.training.builders import build_network, build_optimizer
from strzoo.training.config import TrainConfig
from strzoo.training.objective import Objective, build_teacher, distil
from strzoo.training.results import StepDone
from strzoo.training.schedules import LearningRate
from tests.helpers.runs import differences, final_state
from tests.training.test_datasets import FOLDER, write_folder


class Cut(Exception):  # noqa: N818 - stands for a kill
    pass


def cut(event: object) -> None:
    if isinstance(event, StepDone) and event.position == 4:
        raise Cut


def half_square(logits: Tensor, labels: Tensor, scale: float = 1.0) -> Tensor:
    return scale * logits.square().mean() / 2


@pytest.mark.slow
def test_a_run_with_all_of_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    teacher = strzoo.save_checkpoint(
        strzoo.create_model("resnet20", num_classes=2), tmp_path / "teacher.pth"
    )
    config = dataclasses.replace(
        FOLDER, data=str(data), epochs=2, checkpoint_every=1, log_every=1, keep_every=2,
        optimizer="adamw", learning_rate=0.01, min_learning_rate=0.001, layer_decay=0.5,
        clip_gradient=0.1, policy="trivialaugment", random_erasing=0.5, mixup=0.3, cutmix=1.0,
        crop_area=(0.5, 1.0), teacher=str(teacher), temperature=3.0,
    )  # fmt: skip
    whole = strzoo.train(dataclasses.replace(config, output=str(tmp_path / "whole")))
    assert whole.last is not None
    assert math.isfinite(whole.last.train_loss)
    assert (tmp_path / "whole" / "epoch_2.pth").exists()
    assert not (tmp_path / "whole" / "epoch_1.pth").exists()
    parts = dataclasses.replace(config, output=str(tmp_path / "parts"), resume="auto")
    with pytest.raises(Cut):
        strzoo.train(parts, on_event=cut)
    assert read_document(tmp_path / "parts" / "last.pth")["training"]["step"] == 0
    assert strzoo.train(parts).finished
    assert differences(final_state(tmp_path / "whole"), final_state(tmp_path / "parts")) == []


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, dict[str, Any]]:
    """A short run, and the state that it ends in."""
    folder = tmp_path_factory.mktemp("plain")
    config = dataclasses.replace(
        FOLDER,
        data=str(write_folder(folder / "data")),
        weight_decay=0.0,
        output=str(folder / "run"),
    )
    strzoo.train(config)
    return config, final_state(folder / "run")["state_dict"]


def test_a_gradient_without_length_moves_nothing_but_statistics(
    plain_run: tuple[TrainConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, moved = plain_run
    output = tmp_path / "run"
    strzoo.train(dataclasses.replace(config, clip_gradient=1e-9, output=str(output)))
    begun = strzoo.read_checkpoint(output / "initial.pth").state_dict
    found = final_state(output)["state_dict"]
    for key, value in begun.items():
        if key.endswith(".weight"):
            assert (found[f"module.{key}"] - value).abs().max() < 1e-7
            assert (moved[f"module.{key}"] - value).abs().max() > 1e-4


def test_a_teachers_answers_are_learned_at_their_temperature() -> None:
    logits, teachers = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 0.0]])
    # At T = 2: p = sigmoid(1) for the teacher's first class, q = sigmoid(-1) for ours.
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
    divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert float(distil(logits, teachers, 2.0)) == pytest.approx(4 * divergence, rel=1e-5)
    config = TrainConfig(num_classes=2, label_smoothing=0.0, distillation=0.25)
    objective = Objective(config, lambda images: teachers)  # type: ignore[arg-type]
    hard = math.log(1 + math.exp(-2))  # the label is the second class
    found = objective(logits, torch.tensor([1]), torch.zeros(1))
    assert float(found) == pytest.approx(0.75 * hard + 0.25 * 4 * divergence, rel=1e-5)


def test_a_teacher_of_other_classes_or_images_is_refused() -> None:
    device, network = torch.device("cpu"), strzoo.create_model("resnet20", num_classes=4)
    assert build_teacher(None, device, "fp32", (3, 8, 8), 4) is None
    assert build_teacher(network, device, "fp32", (3, 8, 8), 4) is not None
    with pytest.raises(UsageError, match=r"gives \(1, 4\) for an image, not \(1, 5\)"):
        build_teacher(network, device, "fp32", (3, 8, 8), 5)
    with pytest.raises(UsageError, match="does not run on images of 1x8x8"):
        build_teacher(network, device, "fp32", (1, 8, 8), 4)


def test_losses_by_their_dotted_path() -> None:
    logits, labels = torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.tensor([1, 0])
    own = f"{__name__}.half_square"
    config = TrainConfig(loss=own, loss_args={"scale": 3}, num_classes=2)  # type: ignore[arg-type]
    # 3 * (1 + 9 + 0 + 4) / 4 / 2
    assert float(Objective(config)(logits, labels, logits)) == pytest.approx(5.25)
    margin = TrainConfig(loss="torch.nn.MultiMarginLoss", num_classes=2)
    # Right by 2: no loss; wrong by 2: (1 + 2) / 2 classes; the mean of both.
    assert float(Objective(margin)(logits, labels, logits)) == pytest.approx(0.75)
    for path, message in (
        ("torch.nn.NoLoss", "torch.nn has no class or function 'NoLoss'"),
        ("nowhere.Loss", "cannot import nowhere"),
    ):
        with pytest.raises(StrzooError, match=message):
            Objective(TrainConfig(loss=path))
    fails = Objective(TrainConfig(loss="torch.nn.CosineEmbeddingLoss"))
    with pytest.raises(
        UsageError, match=r"loss=torch\.nn\.CosineEmbeddingLoss fails on logits \(2, 2\)"
    ):
        fails(logits, torch.zeros(3), logits)


@pytest.mark.parametrize(
    ("changes", "kind", "rates"),
    [
        ({"optimizer": "adamw", "optimizer_args": {"betas": [0.8, 0.9]}}, torch.optim.AdamW, {1}),
        ({"optimizer": "torch.optim.RMSprop"}, torch.optim.RMSprop, {1}),
        ({"layer_decay": 0.5}, torch.optim.SGD, {0.25, 0.5, 1}),
    ],
)
def test_optimizers_by_name_over_the_same_groups(
    changes: dict[str, Any], kind: type, rates: set[float]
) -> None:
    config = TrainConfig(architecture="resnet20", num_classes=4, method="str", weight_decay=0.1)
    config = dataclasses.replace(config, learning_rate=0.01, **changes)
    model = build_network(config).model
    made = build_optimizer(model, config)
    assert type(made) is kind
    groups = made.param_groups
    assert {(g["name"], g["weight_decay"]) for g in groups} == {
        ("weights", 0.1), ("thresholds", 0.1), ("normalisation", 0),
    }  # fmt: skip
    assert rates <= {group.get("lr_scale", 1) for group in groups}
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(map(id, model.parameters()))
    if "layer_decay" in changes:  # the classifier learns at the full rate
        scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        assert scales[id(model.fc.weight)] == 1
        assert scales[id(model.conv1.weight)] == min(scales.values())
    if kind is torch.optim.AdamW:
        assert groups[0]["betas"] == (0.8, 0.9)


def test_what_makes_no_optimizer_is_refused() -> None:
    model = nn.Linear(2, 2)
    for changes, message in (
        ({"optimizer": "torch.nn.Identity"}, "makes no torch.optim.Optimizer"),
        ({"optimizer_args": {"speed": 1}}, "cannot be made with optimizer_args: TypeError"),
    ):
        with pytest.raises(UsageError, match=message):
            build_optimizer(model, TrainConfig(**changes))


def test_no_rate_is_below_the_least() -> None:
    cosine = LearningRate("cosine", 0.2, 10, 0, least=0.1)
    assert [cosine.at(e) for e in (0, 5, 10)] == pytest.approx([0.2, 0.15, 0.1])
    steps = LearningRate("multistep", 1.0, 90, 0, milestones=(30, 60), gamma=0.1, least=0.05)
    assert [steps.at(e) for e in (0, 30, 60)] == pytest.approx([1, 0.1, 0.05])


def test_a_policy_draws_by_seed_epoch_and_number_alone_and_leaves_the_generators() -> None:
    steps = dataclasses.replace(IMAGENET, resize=24, crop=16)
    policy = build_policy(TrainConfig(policy="randaugment", policy_args={"magnitude": 20}))  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)

    def run(epoch: int, index: int) -> np.ndarray:
        transform = RandomTransform("none", steps, 0, 5, epoch, policy=policy)
        return transform(Image.fromarray(pixels), index)

    state = torch.get_rng_state()
    first = run(1, 3)
    torch.rand(3)
    assert np.array_equal(run(1, 3), first)
    assert not np.array_equal(run(2, 3), first) or not np.array_equal(run(1, 4), first)
    torch.set_rng_state(state)
    run(1, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (16, 16, 3)


def test_mixed_labels_are_shares_of_classes() -> None:
    torch.manual_seed(0)
    objective = Objective(TrainConfig(num_classes=3, mixup=1.0, random_erasing=1.0))
    images = torch.stack([torch.full((3, 8, 8), float(i + 1)) for i in range(4)])
    mixed, shares = objective.prepare(images, torch.tensor([0, 1, 2, 0]))
    assert shares.shape == (4, 3)
    assert torch.allclose(shares.sum(1), torch.ones(4))
    assert mixed.shape == images.shape
    assert (mixed.flatten(1) != mixed.flatten(1)[:, :1]).any()  # a rectangle is gone
    plain, labels = Objective(TrainConfig()).prepare(images, torch.tensor([0, 1, 2, 0]))
    assert plain is images
    assert labels.dtype == torch.int64
