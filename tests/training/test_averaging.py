from __future__ import annotations

import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import UsageError
from strzoo.training.averaging import WeightAverage


def test_the_average_follows_parameters_thresholds_and_statistics() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    strzoo.sparsify_(model, s_init=-4.0)
    average = WeightAverage(model, decay=0.5)
    expected = {key: value.clone().double() for key, value in model.state_dict().items()}
    for update in range(1, 21):
        with torch.no_grad():
            for value in model.state_dict().values():
                value += update
        average.update(model)
        if update == 1:  # the first update is the start
            expected = {k: v.clone().double() for k, v in model.state_dict().items()}
            continue
        decay = min(0.5, update / (update + 9))
        for key, value in model.state_dict().items():
            expected[key] = decay * expected[key] + (1 - decay) * value.double()
    assert average.updates == 20
    found = average.module.state_dict()
    assert found.keys() == model.state_dict().keys()
    for key in ("0.weight", "0.sparseThreshold", "1.weight", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(found[key].double(), expected[key], rtol=1e-5, atol=0)
    assert found["1.num_batches_tracked"] == model.state_dict()["1.num_batches_tracked"]


def test_a_restored_average_goes_on_as_if_nothing_had_happened() -> None:
    model = nn.Linear(3, 3)
    first = WeightAverage(model)
    first.update(model)
    second = WeightAverage(nn.Linear(3, 3))
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        model.weight.add_(1.0)
    for average in (first, second):
        average.update(model)
    assert torch.equal(*(average.module.get_parameter("weight") for average in (first, second)))
    assert second.updates == 2
    assert not any(p.requires_grad for p in second.module.parameters())


def test_a_decay_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="decay is 1"):
        WeightAverage(nn.Linear(1, 1), decay=1)
