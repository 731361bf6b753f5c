from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, nn

import strzoo
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.sparse.selection import sparse_layers
from strzoo.training.averaging import WeightAverage
from strzoo.training.optimisation import parameter_groups
from strzoo.training.sparsity_target import SparsityController, TargetSparsity, project_sparsity
from strzoo.training.threshold_projection import _stride


def count_zeros(model: nn.Module) -> float:
    """Fraction of zeros over all convolutions and linears, by the definition of sparsity."""
    zeros = total = 0
    for module in copy.deepcopy(strzoo.to_dense_(copy.deepcopy(model))).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            zeros += int((module.weight == 0).sum())
            total += module.weight.numel()
    return zeros / total


class Training:
    """A small network on random images; everything from one seed."""

    def __init__(self, steps: int, schedule: TargetSparsity, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip
        strzoo.sparsify_(self.model, **options)
        groups = parameter_groups(self.model, weight_decay=5e-4)
        self.optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.875)
        self.images, self.labels = torch.randn(32, 3, 12, 12), torch.arange(32) % 10
        self.controller = SparsityController(self.model, schedule, steps)
        self.controller.step(0)

    def run(self, first: int, last: int) -> list[float]:
        """Steps `first` to `last`; the sparsity after each."""
        path = []
        for step in range(first, last + 1):
            loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.controller.step(step)
            path.append(count_zeros(self.model))
        return path


@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize("target", [0.8, 0.98])
def test_the_target_is_met_however_short_the_training(steps: int, target: float) -> None:
    path = Training(steps, TargetSparsity(target)).run(1, steps)
    assert path[-1] == pytest.approx(target, abs=0.001)


@pytest.mark.parametrize("granularity", ["global", "layer", "filter", "weight"])
def test_every_granularity_of_thresholds_meets_the_target(granularity: str) -> None:
    training = Training(12, TargetSparsity(0.9), threshold=granularity, s_init=-5.0)
    assert training.run(1, 12)[-1] == pytest.approx(0.9, abs=0.001)


def test_the_density_falls_as_a_cosine_spends_its_learning_rate_and_is_then_held() -> None:
    training = Training(40, TargetSparsity(0.9, start=0.1, end=0.6, interval=1))
    path = training.run(1, 40)
    assert path[3] == pytest.approx(0.001, abs=0.001)  # where thresholds begin to matter
    # Half way between steps 4 and 24: the integral of 1 + cos(pi x) from 0 to 1/2 is 1/2 + 1/pi.
    assert path[13] == pytest.approx(1 - 0.999 * (0.1 / 0.999) ** (1 / 2 + 1 / math.pi), abs=0.002)
    assert path[23:] == pytest.approx([0.9] * 17, abs=0.001)
    assert training.controller.holding


def test_layers_left_dense_count_in_the_total() -> None:
    training = Training(10, TargetSparsity(0.7), skip=["8"])
    assert training.run(1, 10)[-1] == pytest.approx(0.7, abs=0.001)
    # 1,280 of the 6,320 weights are dense: at most 0.797 can become zero.
    with pytest.raises(UsageError, match=r"target_sparsity 0\.9 cannot be met: at most 0\.79"):
        Training(10, TargetSparsity(0.9), skip=["8"])


def test_the_distribution_over_layers_is_learned() -> None:
    training = Training(60, TargetSparsity(0.9))
    training.run(1, 60)
    learned = [layer.sparseThreshold.item() for layer in sparse_layers(training.model).values()]
    # A single threshold for all, which is what the layers start with, would leave them equal.
    assert max(learned) - min(learned) > 0.1


def _fewest_alive(keep: float) -> float:
    """The smallest density of a layer where one layer's weights are far below the others'."""
    torch.manual_seed(0)
    model = strzoo.sparsify_(nn.Sequential(nn.Linear(100, 40), nn.Linear(40, 100)))
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    controller = SparsityController(model, TargetSparsity(0.98, keep=keep), 1)
    controller.step(1)
    assert count_zeros(model) == pytest.approx(0.98, abs=0.001)
    layers = sparse_layers(model).values()
    return min(float((layer.effective_weight() != 0).float().mean()) for layer in layers)


def test_no_layer_dies() -> None:
    assert _fewest_alive(keep=0.0) == 0.0
    assert _fewest_alive(keep=0.005) == pytest.approx(0.005)


def test_a_resumed_training_decides_the_same_bit_for_bit() -> None:
    whole = Training(20, TargetSparsity(0.9, interval=3))
    whole.run(1, 20)
    first, second = (Training(20, TargetSparsity(0.9, interval=3)) for _ in range(2))
    first.run(1, 10)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.controller.load_state_dict(first.controller.state_dict())
    second.run(11, 20)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value), key
    with pytest.raises(IntegrityError, match="resume with the same target"):
        Training(20, TargetSparsity(0.8)).controller.load_state_dict(first.controller.state_dict())


def test_in_a_distributed_run_rank_zero_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        training = Training(5, TargetSparsity(0.9))
        before = training.controller.step(1)
        assert before is not None

        def receive(tensor: torch.Tensor, src: int) -> None:
            tensor[0] = 0.25  # what rank 0 decided

        training.controller.step(4)
        s = training.model[0].sparseThreshold.item()
        monkeypatch.setattr(distributed, "broadcast", receive)
        training.controller.step(5)
        expected = s * 0.7788007830714049  # exp(-0.25)
        assert training.model[0].sparseThreshold.item() == pytest.approx(expected, rel=1e-6)
    finally:
        distributed.destroy_process_group()


def test_a_trained_network_is_a_published_str_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = strzoo.sparsify_(strzoo.create_model("resnet20"))
    controller = SparsityController(model, TargetSparsity(0.95), total_steps=1)
    controller.step(1)
    path = strzoo.save_checkpoint(model, tmp_path / "model.pth")
    read = strzoo.read_checkpoint(path)
    thresholds = [v for k, v in read.state_dict.items() if k.endswith(".sparseThreshold")]
    assert {tuple(t.shape) for t in thresholds} == {(1, 1)}
    assert len(thresholds) == 22  # 19 convolutions, 2 shortcuts, the classifier
    assert read.sparsity() == pytest.approx(95.0, abs=0.1)


def test_an_average_is_brought_to_the_target_by_projection() -> None:
    training = Training(12, TargetSparsity(0.8))
    average = WeightAverage(training.model, decay=0.9)
    for step in range(1, 13):
        training.run(step, step)
        average.update(training.model)
    assert abs(count_zeros(average.module) - 0.8) > 0.001
    found = project_sparsity(average.module, 0.8)
    assert found.sparsity == pytest.approx(count_zeros(average.module))
    assert found.sparsity == pytest.approx(0.8, abs=0.001)


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    st.floats(0, 0.99), st.floats(0.01, 0.97), st.sampled_from([-3200.0, -8.0, -2.0]),
    st.sampled_from(["layer", "global", "filter"]), st.integers(0, 9),
)  # fmt: skip
def test_weights_that_are_exactly_zero_bound_the_sparsity_from_below(
    zeros: float, target: float, s_init: float, threshold: str, seed: int
) -> None:
    torch.manual_seed(seed)
    # Both layers are large enough to be sampled on the way to the target.
    layers = [nn.Linear(300, 120), nn.Linear(120, 300)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers:
            layer.weight.masked_fill_(torch.rand_like(layer.weight) < zeros, 0.0)
    exactly = count_zeros(model)
    strzoo.sparsify_(model, s_init=s_init, threshold=threshold)
    # No layer may keep fewer than 0.2 % of its weights: 72 of 36,000.
    controller = SparsityController(model, TargetSparsity(target, interval=1), 10)
    for step in range(11):
        controller.step(step)
        assert all(torch.isfinite(s).all() for s in model.parameters())
    assert count_zeros(model) == pytest.approx(max(target, exactly), abs=2e-4)
    if exactly > target + 0.01:  # with nothing left to do, no threshold moves
        before = [p.clone() for p in model.parameters()]
        controller.settle()
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_large_layers_are_sampled_on_the_way_and_counted_near_the_target() -> None:
    torch.manual_seed(0)
    model = strzoo.sparsify_(nn.Sequential(nn.Linear(600, 500), nn.Linear(500, 10)))
    schedule = TargetSparsity(0.9, start=0.0, end=0.5, interval=1)
    controller = SparsityController(model, schedule, 20)
    controller.step(0)
    controller.step(5)
    error = abs(count_zeros(model) - controller.wanted(5))
    assert 1e-5 < error < 0.005
    controller.settle()
    assert count_zeros(model) == pytest.approx(controller.wanted(5), abs=1e-5)
    for step in (12, 13):  # nothing is left to the last settling
        with torch.no_grad():
            model[0].weight.mul_(1.1)
        controller.step(step)
        assert count_zeros(model) == pytest.approx(0.9, abs=1e-5)


@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
def test_a_sample_holds_every_position_of_the_kernel(kernel: int) -> None:
    weight = torch.empty(256, 128, kernel, kernel)
    stride = _stride(weight)
    columns = torch.arange(weight[0].numel())[::stride]
    assert set((columns % kernel**2).tolist()) == set(range(kernel**2))
    # About 16,000 weights or more; too large a stride would make small samples of middling layers.
    assert weight.numel() / stride > 16_000 / 1.25


def test_what_cannot_be_is_refused() -> None:
    for value in (0.0, 1.0, 90):
        with pytest.raises(UsageError, match="is outside"):
            TargetSparsity(value)
    with pytest.raises(UsageError, match="the start first"):
        TargetSparsity(0.9, start=0.8, end=0.5)
    with pytest.raises(UsageError, match="at least 1 step"):
        TargetSparsity(0.9, interval=0)
    with pytest.raises(UsageError, match="keep is 1"):
        TargetSparsity(0.9, keep=1)
    with pytest.raises(UsageError, match="no STR layers"):
        SparsityController(nn.Linear(4, 4), TargetSparsity(0.9), 10)
    model = strzoo.sparsify_(nn.Linear(100, 10))
    with pytest.raises(UsageError, match="of 0 steps"):
        SparsityController(model, TargetSparsity(0.9), 0)
    with torch.no_grad():
        model.weight.fill_(3.0)  # sigmoid ends at 1
    with pytest.raises(StrzooError, match="larger than any threshold"):
        project_sparsity(model, 0.9)
