from __future__ import annotations

import gc
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from strzoo.errors import UsageError
from strzoo.sparse.layers import (
    DNWConv2d,
    DNWLinear,
    GMPConv2d,
    GMPLinear,
    STRConv2d,
    STRLinear,
    magnitude_mask,
    soft_threshold,
)

SHAPES = {"layer": (1, 1), "filter": (6, 1, 1, 1), "weight": (6, 5, 3, 3)}


def reference(weight: np.ndarray, s: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, ...]:
    """Soft threshold and its gradients, weight by weight in double precision, from eq. 4.

    Returns the result, d loss / d weight, and d loss / d s before summing over shared s.
    """
    result, grad_weight, grad_s = (np.zeros_like(weight) for _ in range(3))
    for index in np.ndindex(weight.shape):
        w, sigmoid = weight[index], 1 / (1 + math.exp(-s[index]))
        if abs(w) > sigmoid:
            result[index] = math.copysign(abs(w) - sigmoid, w)
            grad_weight[index] = grad[index]
            grad_s[index] = -math.copysign(1, w) * sigmoid * (1 - sigmoid) * grad[index]
    return result, grad_weight, grad_s


@pytest.mark.parametrize("granularity", SHAPES)
def test_soft_threshold_and_gradients_match_the_equations_in_double(granularity: str) -> None:
    generator = np.random.default_rng(0)
    weight = generator.normal(0, 0.3, (6, 5, 3, 3))
    s = generator.normal(-1.5, 0.5, SHAPES[granularity])
    grad = generator.normal(size=weight.shape)
    broadcast = np.broadcast_to(s.reshape(()) if granularity == "layer" else s, weight.shape)
    result, grad_weight, grad_s = reference(weight, broadcast, grad)
    if granularity == "layer":
        grad_s = grad_s.sum().reshape(1, 1)
    elif granularity == "filter":
        grad_s = grad_s.sum((1, 2, 3), keepdims=True)

    w = torch.tensor(weight, requires_grad=True)
    parameter = torch.tensor(s, requires_grad=True)
    found = soft_threshold(w, torch.sigmoid(parameter))
    found.backward(torch.tensor(grad))
    assert w.grad is not None
    assert parameter.grad is not None
    np.testing.assert_allclose(found.detach().numpy(), result, rtol=0, atol=1e-15)
    np.testing.assert_allclose(w.grad.numpy(), grad_weight, rtol=0, atol=1e-15)
    np.testing.assert_allclose(parameter.grad.numpy(), grad_s, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("granularity", SHAPES)
def test_soft_threshold_passes_gradcheck(granularity: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3, dtype=torch.double, requires_grad=True)
    threshold = torch.rand(SHAPES[granularity], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(soft_threshold, (weight, threshold))


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=40),
    st.floats(0, 10, width=32),
)
def test_soft_threshold_equals_the_published_formula_bit_for_bit(
    values: list[float], t: float
) -> None:
    weight, threshold = torch.tensor(values), torch.tensor([[t]])
    published = torch.sign(weight) * torch.relu(torch.abs(weight) - threshold[0])
    assert torch.equal(soft_threshold(weight, threshold), published)


def test_no_weight_is_negative_zero_after_thresholding() -> None:
    result = soft_threshold(torch.tensor([-0.1, -0.0, 0.1]), torch.tensor(0.5))
    assert not torch.signbit(result).any()


def test_a_very_negative_s_leaves_the_weights_as_they_are() -> None:
    layer = STRConv2d(3, 4, 3, s_init=-3200.0)
    assert torch.equal(layer.effective_weight(), layer.weight)


def test_half_precision_weights_keep_a_single_precision_threshold() -> None:
    layer = STRLinear(64, 32, s_init=-4.0).to(torch.bfloat16)
    layer.sparseThreshold.data = layer.sparseThreshold.data.float()
    effective = layer.effective_weight()
    effective.float().sum().backward()
    assert effective.dtype == torch.bfloat16
    assert layer.sparseThreshold.grad is not None
    assert layer.sparseThreshold.grad.dtype == torch.float32


def test_the_gradient_is_the_same_in_channels_last_memory() -> None:
    torch.manual_seed(0)
    weight, grad = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    found = []
    for memory in (torch.contiguous_format, torch.channels_last):
        w = weight.clone(memory_format=memory).requires_grad_()
        t = torch.full((1, 1), 0.4, requires_grad=True)
        soft_threshold(w, t).backward(grad.clone(memory_format=memory))
        assert w.grad is not None
        assert t.grad is not None
        found.append((w.grad, t.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def _allocated(function: object) -> int:
    """Bytes that torch allocated in all while `function` ran, on the CPU."""
    assert callable(function)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        function()
    return sum(
        max(event.self_cpu_memory_usage, 0)
        for event in profile.events() or ()
        if not event.name.startswith("ProfilerStep")
    )


def test_forward_allocates_its_result_alone_and_backward_one_tensor_more() -> None:
    weight = torch.randn(512, 512, requires_grad=True)
    threshold = torch.full((1, 1), 0.5, requires_grad=True)
    grad = torch.ones(512, 512)
    size = weight.numel() * weight.element_size()
    kept: list[Tensor] = []
    forward = _allocated(lambda: kept.append(soft_threshold(weight, threshold)))
    assert size <= forward < 1.1 * size
    backward = _allocated(lambda: torch.autograd.grad(kept[0], (weight, threshold), grad))
    assert size <= backward < 1.1 * size


def test_only_the_result_is_saved_for_backward() -> None:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    weight = torch.randn(32, 32, requires_grad=True)
    threshold = torch.full((1, 1), 0.5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = soft_threshold(weight, threshold)
    gc.collect()
    assert [tensor.data_ptr() for tensor in saved] == [result.data_ptr()]


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 0.5, -0.5, 1.0, -2.0]), min_size=1, max_size=30),
    st.floats(0, 1),
)
def test_the_mask_drops_the_exact_count_of_smallest_weights_ties_included(
    values: list[float], rate: float
) -> None:
    weight = torch.tensor(values)
    mask = magnitude_mask(weight, rate)
    assert int((mask == 0).sum()) == round(rate * len(values))
    kept, dropped = weight.abs()[mask == 1], weight.abs()[mask == 0]
    if len(kept) and len(dropped):
        assert dropped.max() <= kept.min()


def test_dnw_passes_the_gradient_to_all_weights_and_gmp_to_the_kept() -> None:
    for kind, reaches_all in ((DNWLinear, True), (GMPLinear, False)):
        layer = kind(4, 1, bias=False, prune_rate=0.5)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[3.0, -0.1, 0.2, -4.0]]))
        layer(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).backward()
        assert torch.equal(layer.effective_weight(), torch.tensor([[3.0, 0.0, 0.0, -4.0]]))
        expected = [[1.0, 2.0, 3.0, 4.0]] if reaches_all else [[1.0, 0.0, 0.0, 4.0]]
        assert layer.weight.grad is not None
        assert layer.weight.grad.tolist() == expected


@pytest.mark.parametrize("kind", [STRConv2d, DNWConv2d, GMPConv2d])
def test_a_sparse_convolution_computes_with_its_effective_weight(kind: type) -> None:
    torch.manual_seed(0)
    options = {"s_init": -2.0} if kind is STRConv2d else {"prune_rate": 0.7}
    layer = kind(4, 8, 3, stride=2, padding=1, groups=2, dilation=2, **options)
    images = torch.randn(2, 4, 9, 9)
    weight = layer.effective_weight()
    expected = nn.functional.conv2d(images, weight, layer.bias, 2, 1, 2, 2)
    assert torch.equal(layer(images), expected)
    assert (weight == 0).any()


def test_a_shared_threshold_is_one_parameter_of_several_layers() -> None:
    shared = nn.Parameter(torch.full((1, 1), -2.0))
    model = nn.Sequential(STRLinear(4, 4, threshold=shared), STRLinear(4, 4, threshold=shared))
    assert sum(1 for p in model.parameters() if p is shared) == 1
    model(torch.randn(2, 4)).sum().backward()
    assert shared.grad is not None


def test_bad_options_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'channel' is not one of layer, filter, weight"):
        STRConv2d(3, 4, 3, threshold="channel")
    with pytest.raises(UsageError, match=r"shape \(2,\)"):
        STRConv2d(3, 4, 3, threshold=nn.Parameter(torch.zeros(2)))
    with pytest.raises(UsageError, match=r"1\.5 is outside"):
        DNWConv2d(3, 4, 3, prune_rate=1.5)
    layer = GMPConv2d(3, 4, 3)
    with pytest.raises(UsageError, match=r"-0\.1 is outside"):
        layer.set_prune_rate(-0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # compilers warn of themselves (torch 2.6, Python 3.13.0)
def test_a_sparse_network_can_be_traced_exported_and_compiled() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(STRConv2d(3, 4, 3, s_init=-2.0), nn.Flatten(), STRLinear(144, 2))
    images = torch.randn(2, 3, 8, 8)
    expected = model(images)
    exported = torch.export.export(model.eval(), (images,)).module()
    torch.testing.assert_close(exported(images), expected)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(images), expected)
    gradients = [
        torch.autograd.grad(f(images).square().sum(), list(model.parameters()))
        for f in (model, compiled)
    ]
    for eager, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(traced, eager)
