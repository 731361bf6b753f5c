"""Three lines in a loop of one's own: the target is met however the loop is made."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

import strzoo
from strzoo.errors import IntegrityError, UsageError
from strzoo.sparse.selection import magnitude_layers
from strzoo.training.own_loop import control_sparsity
from tests.training.test_sparsity_target import count_zeros

STEPS = 24


def network(method: str = "str") -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 20, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 4),
    )  # fmt: skip
    return strzoo.sparsify_(model, method)


def train(
    model: nn.Module, control: Any, steps: int, *, parts: int = 1, bf16: bool = False
) -> None:
    """Steps on random images, from wherever the control is."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", enabled=bf16)
    for number in range(control.steps, control.steps + steps):
        random = torch.Generator().manual_seed(number)
        for _ in range(parts):
            images = torch.randn(8, 3, 9, 9, generator=random)
            labels = torch.randint(4, (8,), generator=random)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = nn.functional.cross_entropy(model(images), labels)
            scaler.scale(loss / parts).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        control.step()


@pytest.mark.parametrize("kind", ["plain", "accumulated", "amp", "compiled", "ddp"])
def test_the_target_is_met_however_the_loop_is_made(kind: str, tmp_path: Any) -> None:
    model = network()
    called: nn.Module = model
    if kind == "compiled":
        called = torch.compile(model, backend="eager")  # type: ignore[assignment]
    if kind == "ddp":
        distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
        )
        called = nn.parallel.DistributedDataParallel(model)
    try:
        control = strzoo.SparsityTarget(called, 0.8, STEPS)
        train(called, control, STEPS, parts=3 if kind == "accumulated" else 1, bf16=kind == "amp")
    finally:
        if kind == "ddp":
            distributed.destroy_process_group()
    total = 3 * 12 * 9 + 12 * 20 * 9 + 20 * 4
    assert abs(count_zeros(model) - 0.8) <= 1 / total
    assert control.sparsity == pytest.approx(count_zeros(model))
    assert control.wanted == 0.8
    train(called, control, 3)  # a loop may go on: the target is held
    control.settle()
    assert abs(count_zeros(model) - 0.8) <= 1 / total


@pytest.mark.parametrize("method", ["str", "gmp"])
def test_a_loop_that_is_taken_up_again_ends_at_the_same_weights(method: str) -> None:
    whole = network(method)
    train(whole, control_sparsity(whole, 0.7, STEPS), STEPS)
    first = network(method)
    control = control_sparsity(first, 0.7, STEPS)
    train(first, control, 11)
    saved = json.loads(json.dumps(control.state_dict()))
    second = network(method)
    second.load_state_dict(first.state_dict())
    again = control_sparsity(second, 0.7, STEPS)
    again.load_state_dict(saved)
    train(second, again, STEPS - 11)
    assert again.steps == STEPS
    for mine, expected in zip(
        second.state_dict().values(), whole.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, expected)
    with pytest.raises(IntegrityError, match=r"24 steps.*this"):
        control_sparsity(network(method), 0.7, 10).load_state_dict(saved)


def test_rates_of_gmp_rise_with_the_cube_and_those_of_dnw_are_there_at_once() -> None:
    model = network("gmp")
    schedule = strzoo.PruningSchedule(model, 0.8, 20, start=0.2, end=0.6)
    rates = []
    for _ in range(20):
        rates.append(model[0].prune_rate)
        schedule.step()
    # Half way, at step 8: 1 - (1/2)^3 of the rate.
    assert (rates[0], rates[4], rates[8], rates[12], rates[19]) == (
        0, 0, pytest.approx(0.8 * 7 / 8), 0.8, 0.8,
    )  # fmt: skip
    assert schedule.sparsity == pytest.approx(count_zeros(model))
    dense = copy.deepcopy(network("dnw"))
    strzoo.PruningSchedule(dense, {"0": 0.5, "3": 0.25, "6": 0.0}, 20)
    assert [dense[i].prune_rate for i in (0, 3, 6)] == [0.5, 0.25, 0]


def test_a_pruned_network_is_saved_as_it_computes(tmp_path: Path) -> None:
    model = strzoo.sparsify_(strzoo.create_model("resnet20"), "gmp")
    strzoo.PruningSchedule(model, 0.9, 10, end=0.5).load_state_dict({"step": 10, "total_steps": 10})
    file = strzoo.save_checkpoint(model, tmp_path / "pruned.pth")
    assert strzoo.read_checkpoint(file).sparsity() == pytest.approx(90, abs=0.01)
    assert len(magnitude_layers(model)) > 20  # it can be trained further


def test_what_cannot_be_controlled_is_refused() -> None:
    make: Any = strzoo
    control: Any = control_sparsity
    for made, message in (
        (lambda: make.SparsityTarget(network("gmp"), 0.8, 10), "no STR layers"),
        (lambda: make.SparsityTarget(network(), 1.5, 10), r"outside \(0, 1\)"),
        (lambda: make.PruningSchedule(network(), 0.8, 10), "no DNW or GMP layers"),
        (lambda: make.PruningSchedule(network("gmp"), 0.8, 10, start=0.9), "the start first"),
        (lambda: make.PruningSchedule(network("gmp"), 0.8, 0), "no schedule"),
        (lambda: control(nn.Linear(2, 2), 0.8, 10), "no sparse layers"),
        (lambda: make.SparsityTarget(network(), 0.8, "10"), "SparsityTarget: total_steps is '10'"),
        (lambda: make.SparsityTarget(network(), "0.9", 10), "target is '0.9'; expected a number"),
        (lambda: make.SparsityTarget(network(), 0.8, 10.5), "10.5; expected a whole number"),
        (lambda: make.SparsityTarget(None, 0.8, 10), "model is None; expected a Module"),
        (lambda: make.SparsityTarget(network(), 0.8, 10, interval=2.5), "interval is 2.5"),
        (lambda: make.PruningSchedule(network("gmp"), 0.8, 10.5), "PruningSchedule: total_steps"),
        (lambda: make.PruningSchedule(network("gmp"), None, 10), "prune rates are None; expected"),
        (lambda: make.PruningSchedule(network("gmp"), [0.5], 10), "prune rates are the list"),
        (lambda: make.PruningSchedule(network("gmp"), True, 10), "prune rates are True"),
        (
            lambda: make.PruningSchedule(network("gmp"), {"0": "x", "3": 0, "6": 0}, 10),
            "prune rate 'x' is no number",
        ),
        (lambda: control("model", 0.8, 10), "control_sparsity: model is 'model'"),
    ):
        with pytest.raises(UsageError, match=message):
            made()


def test_only_the_state_of_the_same_control_is_gone_on_from() -> None:
    target = strzoo.SparsityTarget(network(), 0.8, 10)
    schedule = strzoo.PruningSchedule(network("gmp"), 0.8, 10)
    right = {"step": 3, "total_steps": 10}
    own = {**target.state_dict(), "step": 3}
    cases: tuple[tuple[Any, Any, str], ...] = (
        (target, None, "state of the sparsity target is None, no mapping; give what its own"),
        (schedule, [1], r"state of the pruning schedule is the list \[1\], no mapping"),
        (schedule, {}, "holds nothing, not step, total_steps"),
        (schedule, {"total_steps": 10}, "holds total_steps, not step, total_steps"),
        (schedule, own, "holds schedule, total_steps, initial, step, not step, total_steps"),
        (target, right, "holds step, total_steps, not schedule, total_steps, initial, step"),
        (schedule, {**right, "step": "3"}, "has step='3', which is no whole number of at least 0"),
        (schedule, {**right, "step": -1}, "has step=-1"),
        (schedule, {**right, "total_steps": 9}, "was saved for 9 steps, this training has 10"),
        (target, {**own, "total_steps": None}, "has total_steps=None"),
        (target, {**own, "initial": "x"}, "has initial='x', which is no fraction"),
        (target, {**own, "schedule": 3}, "was saved with schedule 3 of 10 steps"),
    )
    for control, state, message in cases:
        with pytest.raises(IntegrityError, match=message):
            control.load_state_dict(state)
        assert control.steps == 0
    target.load_state_dict(own)
    schedule.load_state_dict(right)
    assert (target.steps, schedule.steps) == (3, 3)
