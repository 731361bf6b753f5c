"""Training steps on the device against double precision on the CPU, and without a wait."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import strzoo
from strzoo.checkpoint.reading import read_document
from strzoo.errors import StrzooError
from strzoo.sparse.layers import STRLayer
from strzoo.sparse.magnitude_mask import magnitude_mask
from strzoo.sparse.selection import sparse_layers
from strzoo.training.builders import Network
from strzoo.training.loop import Stopped
from strzoo.training.results import Event, StepDone
from tests.helpers.runs import SHORT
from tests.helpers.trainers import METHODS, batches, make_trainer, small_network
from tests.helpers.waits import find_waits

CPU = torch.device("cpu")
Record = Callable[[str, object], None]


def state_of(network: Network) -> dict[str, Tensor]:
    return {key: value.detach().cpu().double() for key, value in network.model.state_dict().items()}


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative to the largest value of each tensor."""
    return max(
        float((found[key] - value).abs().max() / value.abs().max().clamp(min=1e-12))
        for key, value in expected.items()
    )


@pytest.mark.parametrize("method", METHODS)
def test_steps_are_those_of_double_precision_on_the_cpu(
    method: str, device: torch.device, record_property: Record
) -> None:
    steps = batches(5)
    exact = small_network(method, dtype=torch.float64)
    trainer = make_trainer(exact, CPU, method)
    start = state_of(exact)
    for images, labels in steps:
        trainer.take_step([(images.double(), labels)])
    network = small_network(method)
    trainer = make_trainer(network, device, method)
    for images, labels in steps:
        trainer.take_step([(images.to(device), labels.to(device))])
    expected = state_of(exact)
    error = largest_error(state_of(network), expected)
    record_property("largest relative error after 5 steps", f"{error:.1e}")
    assert error < 1e-4
    # The comparison saw learning, zeros and survivors.
    assert largest_error(start, expected) > 1e-2
    for ours, theirs in zip(
        sparse_layers(network.model).values(), sparse_layers(exact.model).values(), strict=True
    ):
        zero = ours.effective_weight().cpu() == 0
        assert 0.1 < float(zero.float().mean()) < 0.9
        assert torch.equal(zero, theirs.effective_weight() == 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_waits_for_nothing(method: str, precision: str, device: torch.device) -> None:
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("the loss scaling of fp16 waits on a CPU; on a GPU the optimizer takes it in")
    trainer = make_trainer(
        small_network(method), device, method, precision=precision, ema_decay=0.99
    )
    trainer.check_every = 1000  # the look at the loss, every tenth step, does wait
    steps = [(images.to(device), labels.to(device)) for images, labels in batches(8)]
    for step in steps[:5]:
        trainer.take_step([step])

    def more() -> None:
        for step in steps[5:]:
            trainer.take_step([step])

    assert not find_waits(more, device)


def test_the_profile_does_see_what_waits(device: torch.device) -> None:
    value = torch.ones(3, device=device)
    assert find_waits(lambda: value.sum().item(), device)["aten::item"] == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_thresholds_are_computed_in_fp32_under_autocast(
    precision: str, device: torch.device
) -> None:
    network = small_network("str")
    for layer in sparse_layers(network.model).values():
        assert isinstance(layer, STRLayer)
        # sigmoid(-9) is 1.2e-4; in bf16 the difference of it and a weight of 0.25 is lost.
        nn.init.constant_(layer.sparseThreshold, -9.0)
        nn.init.constant_(layer.weight, 0.25)
    trainer = make_trainer(network, device, "str", precision=precision, learning_rate=1e-3)
    images, labels = batches(1)[0]
    with trainer.accelerator.autocast():
        for layer in sparse_layers(network.model).values():
            value = float(layer.effective_weight().detach().flatten()[0])
            assert value == pytest.approx(0.25 - 1.2339e-4, abs=1e-7)
    trainer.take_step([(images.to(device), labels.to(device))])
    for layer in sparse_layers(network.model).values():
        assert isinstance(layer, STRLayer)
        assert layer.sparseThreshold.dtype == layer.sparseThreshold.grad.dtype == torch.float32
        assert layer.weight.dtype == torch.float32


class Limited(nn.Module):
    """A network in a memory that holds the activations of so many images."""

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__()
        self.model, self.most = model, most

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        logits: Tensor = self.model(images)
        return logits


def test_training_out_of_memory_halves_the_parts_and_computes_the_same_step(
    device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [(images.to(device), labels.to(device)) for images, labels in batches(2)]
    states = []
    for most in (16, 4):
        # Without BatchNorm, whose statistics are those of a part.
        network = Network(Limited(small_network("str", norm=False).model, most))
        trainer = make_trainer(network, device, "str")
        for step in steps:
            trainer.take_step([step])
        assert trainer.state.metric.sums[3] == 32  # each image counts once
        states.append(state_of(network))
    assert [r.message for r in caplog.records if "out of memory" in r.message] == [
        "out of memory: going on with 8 images at once",
        "out of memory: going on with 4 images at once",
    ]
    assert largest_error(states[1], states[0]) < 1e-4


def test_one_image_that_does_not_fit_is_an_error(device: torch.device) -> None:
    network = Network(Limited(small_network("str").model, 0))
    trainer = make_trainer(network, device, "str")
    step = [(images.to(device), labels.to(device)) for images, labels in batches(1)]
    with pytest.raises(StrzooError, match=r"out of memory on .* with 1 images at once"):
        trainer.take_step(step)


def test_a_stop_signal_is_heard_within_one_step(device: torch.device) -> None:
    trainer = make_trainer(small_network("str"), device, "str")
    step = [(images.to(device), labels.to(device)) for images, labels in batches(1)]
    trainer.check_every = 1000
    trainer.take_step(step)
    trainer._stop.name = "SIGTERM"
    with pytest.raises(Stopped):
        trainer.take_step(step)
    assert trainer.state.step == 2


@pytest.mark.slow
def test_a_run_stopped_in_mid_epoch_goes_on(device: torch.device, tmp_path: Path) -> None:
    config: Any = dataclasses.replace(SHORT, output=str(tmp_path), device=str(device))

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (1, 3):
            signal.raise_signal(signal.SIGTERM)

    first = strzoo.train(config, on_event=stop)
    assert not first.finished
    kept = read_document(tmp_path / "last.pth")
    assert kept["training"]["step"] in (3, 4)
    result = strzoo.train(dataclasses.replace(config, resume="auto"))
    assert result.finished
    assert [record.step for record in result.history] == [5, 10]
    assert result.best is not None
    # The controller went on with its own state.
    assert result.best.sparsity == pytest.approx(80, abs=0.01)
    fused = read_document(tmp_path / "last.pth")["optimizer"]["param_groups"][0]["fused"]
    assert bool(fused) == (device.type == "cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_mask_by_magnitude_keeps_what_a_sort_keeps(
    dtype: torch.dtype, memory: torch.memory_format, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, 3, 3, generator=generator).to(dtype)
    count = weight.numel()
    place = weight.to(device, memory_format=memory)
    for rate in (0.0, 1 / count, 0.5, 0.9023, 1.0):
        mask = magnitude_mask(place, rate).cpu()
        dropped = round(rate * count)
        order = weight.abs().flatten().sort().values
        assert int((mask != 0).sum()) == count - dropped
        kept = weight[mask != 0].abs().sort().values
        assert torch.equal(kept, order[dropped:])
