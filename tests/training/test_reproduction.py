"""`reproduce=original`: the steps of the published code, against an independent computation."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import strzoo
from strzoo.errors import UsageError
from strzoo.models.blocks import classify
from strzoo.models.resnet import BasicBlock, stage
from strzoo.training import builders
from strzoo.training.builders import Network, build_network
from strzoo.training.config import TrainConfig
from strzoo.training.datasets import DataSets
from strzoo.training.loaders import MemoryLoader
from strzoo.training.loop import Trainer
from strzoo.training.results import Event, StepDone
from strzoo.training.sampler import BatchSampler
from tests.helpers.original import Original, mobilenetv1, resnet18, trained

IMAGES, BATCH, CLASSES = 45, 12, 5  # 12, 12, 12 and 9 images: four steps an epoch
CONFIG = TrainConfig(
    reproduce="original",
    num_classes=CLASSES,
    epochs=5,
    batch_size=BATCH,
    learning_rate=0.05,
    warmup_epochs=2,
    weight_decay=0.01,
    augmentation="none",
    log_every=1,
    channels_last=False,
)
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"method": "dense"},
    "str": {"method": "str", "s_init": -3.0},
    "dnw": {"method": "dnw", "prune_rate": 0.77},
    "gmp": {"method": "gmp", "prune_rate": 0.77, "prune_start": 1, "prune_end": 3},
}
# The published width takes minutes; `FULL_WIDTH=1 pytest` trains it.
WIDTH = 64 if os.environ.get("FULL_WIDTH") else 8


class NarrowResNet18(nn.Module):
    """ResNet18, names and all, with `WIDTH` channels in the first stage instead of 64."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        conv, w = nn.Conv2d, WIDTH
        self.conv1 = conv(3, w, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(w), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(conv, BasicBlock, w, w, 2, 1)
        self.layer2 = stage(conv, BasicBlock, w, 2 * w, 2, 2)
        self.layer3 = stage(conv, BasicBlock, 2 * w, 4 * w, 2, 2)
        self.layer4 = stage(conv, BasicBlock, 4 * w, 8 * w, 2, 2)
        self.fc = conv(8 * w, num_classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return classify(self.fc, x.mean((2, 3), keepdim=True))


@dataclasses.dataclass
class Run:
    """A run of strzoo: what it began with, what it ended with, the loss of each step, and the
    parameters and their momentum after the third."""

    network: Network
    initial: dict[str, Tensor]
    momentum: dict[str, Tensor]
    losses: list[float]
    third: dict[str, Tensor]
    third_momentum: dict[str, Tensor]


def train(config: TrainConfig, images: Tensor, labels: Tensor) -> Run:
    """The loop of `strzoo.train` on a network in float64."""
    torch.manual_seed(3)
    network = build_network(config)
    network.model.double()
    initial = {name: value.clone() for name, value in network.model.state_dict().items()}
    seen = 0.0, 0
    run = Run(network, trained(initial), {}, [], {}, {})

    def watch(event: Event) -> None:
        nonlocal seen
        if not isinstance(event, StepDone):
            return
        # The mean over the images of the epoch so far; the last step has fewer.
        count = min(event.step * BATCH, IMAGES)
        total, before = event.loss * count, seen if event.step > 1 else (0.0, 0)
        run.losses.append((total - before[0]) / (count - before[1]))
        seen = total, count
        if len(run.losses) == 3:
            run.third.update({n: p.detach().clone() for n, p in network.model.named_parameters()})
            run.third_momentum.update(momenta())

    def momenta() -> dict[str, Tensor]:
        state = trainer.state.optimizer.state
        return {names[id(p)]: s["momentum_buffer"].clone() for p, s in state.items()}

    cpu = torch.device("cpu")
    shape = tuple(images.shape[1:])
    data = DataSets(MemoryLoader(images, labels, config, cpu), None, "noise", shape,
                    image_type=images.dtype)  # fmt: skip
    trainer = Trainer(config, network, data, device=cpu, on_event=watch)
    names = {id(p): n for n, p in network.model.named_parameters()}
    trainer.run()
    run.momentum.update(momenta())
    return run


def batches(images: Tensor, labels: Tensor, epochs: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The order that docs/training.md promises: a permutation by seed and epoch, cut in batches."""
    for epoch in range(epochs):
        order = torch.from_numpy(np.random.default_rng((0, epoch)).permutation(IMAGES))
        for chosen in order.split(BATCH):
            yield epoch, images[chosen], labels[chosen]


def noise(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, 3, size, size, generator=generator, dtype=torch.float64)
    return images, torch.randint(CLASSES, (IMAGES,), generator=generator)


def independent(config: TrainConfig, parameters: dict[str, Tensor]) -> Original:
    return Original(
        resnet18 if config.architecture == "resnet18" else mobilenetv1,
        parameters, config.method, config.prune_rate or 0.0,
        learning_rate=config.learning_rate, weight_decay=config.weight_decay,
        decay_bn=config.is_on("decay_normalisation"), epochs=config.epochs,
        warmup=int(config.warmup_epochs), prune_start=int(config.prune_span[0]),
        prune_end=int(config.prune_span[1]), exponential=config.schedule == "exponential",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("dense", {"decay_normalisation": False}),
        ("str", {}),
        ("dnw", {"schedule": "exponential"}),
        ("gmp", {}),
    ],
)
def test_twenty_steps_of_resnet18_are_those_of_the_published_code(
    method: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builders, "create_model", lambda name, **options: NarrowResNet18(**options))
    config = dataclasses.replace(CONFIG, architecture="resnet18", **METHODS[method], **more)
    images, labels = noise(16)
    run = train(config, images, labels)
    expected = independent(config, run.initial).run(batches(images, labels, 5))
    assert len(run.losses) == len(expected.losses) == 20
    assert run.losses == pytest.approx(expected.losses, rel=1e-10)
    found = dict(run.network.model.named_parameters())
    assert set(found) == set(expected.parameters)
    assert ("conv1.sparseThreshold" in found) == (method == "str")
    for name, value in expected.parameters.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            run.momentum[name], expected.momentum[name], rtol=1e-10, atol=1e-10
        )
    if method == "gmp":
        layer = run.network.model.get_submodule("layer4.0.conv1")
        count = int(config.prune_rate * (1 - (1 / 3) ** 3) * layer.weight.numel())
        assert int((layer.effective_weight() == 0).sum()) == count


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_steps_of_mobilenetv1_are_those_of_the_published_code(method: str) -> None:
    # At small batches a rounding grows tenfold in each step or two, more slowly at a low rate.
    config = dataclasses.replace(
        CONFIG, architecture="mobilenetv1", width=0.125, learning_rate=5e-4, **METHODS[method]
    )
    images, labels = noise(48)
    run = train(config, images, labels)
    expected = independent(config, run.initial)
    for number, batch in enumerate(batches(images, labels, 5), start=1):
        expected.step(*batch)
        if number == 3:
            for name, value in expected.parameters.items():
                torch.testing.assert_close(run.third[name], value, rtol=1e-10, atol=1e-10)
                torch.testing.assert_close(
                    run.third_momentum[name], expected.momentum[name], rtol=1e-10, atol=1e-10
                )
    assert run.losses[:3] == pytest.approx(expected.losses[:3], rel=1e-10)
    assert run.losses == pytest.approx(expected.losses, rel=1e-6)


def test_mobilenetv1_begins_as_torch_makes_it_but_for_its_classifier() -> None:
    config = dataclasses.replace(CONFIG, architecture="mobilenetv1", method="str")
    torch.manual_seed(0)
    model = build_network(config).model
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and name != "fc":
            bound = layer.weight[0].numel() ** -0.5
            assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert model.fc.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.05)
    mended = build_network(dataclasses.replace(config, reproduce="false")).model
    # Kaiming's sqrt(2 / fan) against a uniform's 1 / sqrt(3 fan).
    ratio = (
        mended.get_submodule("model.13.3").weight.std()
        / model.get_submodule("model.13.3").weight.std()
    )
    assert ratio.item() == pytest.approx(6**0.5, rel=0.01)


def test_a_dense_last_layer_has_a_bias_and_dense_ends_begin_as_torch_makes_them() -> None:
    config = dataclasses.replace(
        CONFIG, architecture="resnet18", method="str", keep_dense=("first", "last")
    )
    model = build_network(config).model
    bound = (3 * 49) ** -0.5
    assert 0.9 * bound < float(model.conv1.weight.detach().abs().max()) <= bound
    assert model.fc.bias.detach().abs().max() > 0
    assert type(model.conv1) is type(model.fc) is nn.Conv2d
    assert build_network(dataclasses.replace(config, reproduce="false")).model.fc.bias is None
    ours = dataclasses.replace(config, head_bias=False, default_initialisation=())
    assert build_network(ours).model.fc.bias is None
    assert "head_bias" in config.reproduced
    assert "default_initialisation" in config.reproduced


def test_every_difference_is_a_key_of_its_own() -> None:
    assert TrainConfig().reproduced == ()
    keys = CONFIG.reproduced
    assert set(keys) == {
        "budget_fp32", "prune_truncate", "prune_per_epoch", "keep_last_batch", "lr_per_epoch",
        "gamma_continuous", "decay_normalisation", "groups_by_name",
    }  # fmt: skip
    for key in keys:
        off: dict[str, Any] = {key: False}
        on: dict[str, Any] = {key: True}
        assert dataclasses.replace(CONFIG, **off).reproduced == tuple(
            other for other in keys if other != key
        )
        assert dataclasses.replace(TrainConfig(), **on).reproduced == (key,)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_last_batch_is_shared_and_any_step_of_it_can_be_returned_to(processes: int) -> None:
    sampler = BatchSampler(45, 12, 7, processes, keep_last=True)
    assert (sampler.steps_per_epoch, sampler.images_per_epoch) == (4, 45)
    assert [sampler.step_images(step) for step in range(4)] == [12, 12, 12, 9]
    shares = [sampler.indices(2, rank) for rank in range(processes)]
    assert sorted(number for share in shares for number in share) == list(range(45))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for start in range(5):
        done = min(start, 3) * 12 // processes
        expected = shares[0][done:] if start < 4 else []
        assert sampler.indices(2, 0, start) == expected
    if processes > 1:
        with pytest.raises(UsageError, match=f"has 1 images for {processes} processes; set keep"):
            BatchSampler(37, 12, processes=processes, keep_last=True)


@pytest.mark.slow
def test_a_checkpoint_is_one_of_the_published_code_and_such_a_one_is_gone_on_with(
    tmp_path: Path,
) -> None:
    config = TrainConfig(
        reproduce="original", architecture="resnet20", num_classes=10, method="str", s_init=-8.0,
        dataset="digits", augmentation="none", epochs=3, batch_size=720, warmup_epochs=1,
        learning_rate=0.1, tensorboard=False, output=str(tmp_path / "run"),
    )  # fmt: skip
    strzoo.train(dataclasses.replace(config, epochs=2, output=str(tmp_path / "short")))
    document = torch.load(tmp_path / "short" / "last.pth", weights_only=False)
    # What its --resume does: strict keys under `module.`, three groups in its order.
    model = strzoo.create_model("resnet20", layer=partial(strzoo.STRConv2d, s_init=-8.0))
    wrapped = nn.Sequential()
    wrapped.add_module("module", model)
    parameters = list(wrapped.named_parameters())
    bn = [p for n, p in parameters if "bn" in n]
    thresholds = [p for n, p in parameters if "sparseThreshold" in n]
    rest = [p for n, p in parameters if "bn" not in n and "sparseThreshold" not in n]
    optimizer = torch.optim.SGD([{"params": p} for p in (bn, thresholds, rest)], 0.1, momentum=0.9)
    wrapped.load_state_dict(document["state_dict"])
    optimizer.load_state_dict(document["optimizer"])
    assert document["epoch"] == 2
    assert document["best_acc1"] > 0
    momentum = optimizer.state[model.conv1.weight]["momentum_buffer"]
    assert momentum.abs().max() > 0
    # And the other way round: its file, as its save_checkpoint writes it.
    for group in optimizer.param_groups:
        group["lr"] = np.float64(0.05)
    theirs = {
        "epoch": 2, "arch": "ResNet20", "state_dict": wrapped.state_dict(), "best_acc1": 12.5,
        "best_acc5": 50.0, "optimizer": optimizer.state_dict(), "curr_acc1": 12.5,
    }  # fmt: skip
    torch.save(theirs, tmp_path / "epoch_1.state")
    went_on = dataclasses.replace(config, resume=str(tmp_path / "epoch_1.state"))
    notes: list[str] = []
    result = strzoo.train(went_on, on_event=lambda event: notes.extend(getattr(event, "notes", ())))
    assert "after 2 epochs, best top-1 12.50 %" in notes[0]
    assert [record.epoch for record in result.history] == [3]
    last = torch.load(tmp_path / "run" / "last.pth", weights_only=False)
    assert last["epoch"] == 3
    with pytest.raises(UsageError, match="has the optimizer groups of the published code"):
        strzoo.train(dataclasses.replace(went_on, reproduce="false", output=str(tmp_path / "x")))
    with pytest.raises(UsageError, match="has 2 epochs, the run epochs=1"):
        strzoo.train(
            dataclasses.replace(went_on, epochs=1, warmup_epochs=0.0, output=str(tmp_path / "y"))
        )
