"""The Triton kernels of all thresholds against `soft_threshold`, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import strzoo
from strzoo.sparse.fused_threshold import FusedThresholds, has_triton
from tests.helpers.runs import run_program


def make_network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(40, 64, 3, bias=False).to(memory_format=torch.channels_last),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 16, 10),
    )
    return strzoo.sparsify_(model, s_init=-5.0)


def run(device: torch.device, *, fused: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients of one batch."""
    model = make_network().to(device)
    torch.manual_seed(1)
    images, labels = torch.randn(4, 3, 8, 8).to(device), torch.tensor([1, 2, 3, 4]).to(device)
    if fused:
        plan = FusedThresholds.build(model)
        assert plan is not None
        with plan.applied():
            logits = model(images)
    else:
        logits = model(images)
    nn.functional.cross_entropy(logits, labels).backward()
    assert not any("effective_weight" in vars(layer) for layer in model.modules())
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), grads


def check(device: torch.device) -> None:
    """Weights and their gradients agree to the bit, those of thresholds to their rounding."""
    logits, grads = run(device, fused=False)
    ours, found = run(device, fused=True)
    tolerance = 0 if device.type == "cpu" else 1e-5  # cuDNN may choose another algorithm
    torch.testing.assert_close(ours, logits, rtol=tolerance, atol=tolerance)
    for name, value in grads.items():
        assert value.abs().max() > 0
        slack = 1e-5 if "Threshold" in name else tolerance
        torch.testing.assert_close(found[name], value, rtol=slack, atol=slack * 0.01)


INTERPRETED = """
import torch
from tests.sparse.test_fused_threshold import check
check(torch.device("cpu"))
"""


@pytest.mark.slow
@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
def test_the_kernels_compute_what_layers_do_as_triton_interprets_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when Triton is imported
    assert run_program(INTERPRETED) == 0


@pytest.mark.cuda
def test_the_kernels_compute_what_layers_do_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    check(torch.device("cuda", 0))


def test_layers_that_do_not_fit_together_are_left_to_themselves() -> None:
    several = strzoo.sparsify_(nn.Sequential(nn.Conv2d(3, 4, 3)), threshold="filter")
    assert FusedThresholds.build(several) is None
    double = strzoo.sparsify_(nn.Sequential(nn.Conv2d(3, 4, 3)).double())
    assert FusedThresholds.build(double) is None
    assert FusedThresholds.build(nn.Conv2d(3, 4, 3)) is None
