"""Outputs and gradients of whole sequences against numpy's, which know no backward pass."""

from __future__ import annotations

import copy
import functools
import logging
import unittest.mock
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from strzoo.rnn import products, step_kernels, steps, unrolling
from strzoo.rnn.cell import FastGRNNCell
from strzoo.rnn.gates import find_gate
from strzoo.rnn.layer import FastGRNN
from tests.helpers import fastgrnn

CASES: list[dict[str, Any]] = [
    {},
    {"rank_w": 2, "rank_u": 3},
    {"rank_w": "learned", "rank_u": "learned", "s_init": -0.5},
    {"gate": "quantSigm", "update": "quantTanh"},
    {"gate": "quantSigm4", "update": "relu", "rank_u": 1},
    {"gate": "tanh", "update": "sigmoid"},
]


def _layer(case: dict[str, Any]) -> FastGRNN:
    torch.manual_seed(1)
    layer = FastGRNN(3, 4, dtype=torch.double, **case)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.split(".")[-1][0] in "WUbzn":  # large enough that every term matters
                parameter.copy_(torch.randn_like(parameter))
            if ".m_" in name:
                parameter.add_(torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("plainly", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_are_those_of_an_independent_computation(
    case: dict[str, Any], plainly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plainly:
        monkeypatch.setattr(unrolling, "_fits_numpy", lambda *_: False)
    layer = _layer(case)
    gate, update = case.get("gate", "sigmoid"), case.get("update", "tanh")
    inputs = torch.randn(5, 2, 3, dtype=torch.double, requires_grad=True)
    state = torch.randn(2, 4, dtype=torch.double, requires_grad=True)
    weights = torch.randn(5, 2, 4, dtype=torch.double)
    output, final = layer(inputs, [state])
    (output * weights).sum().backward()

    given = {k.removeprefix("cells.0."): v for k, v in layer.named_parameters()}
    tensors: dict[str, Tensor] = {**given, "x": inputs, "h": state}
    arrays = {k: v.detach().numpy() for k, v in tensors.items()}

    def loss(name: str, value: np.ndarray) -> Any:
        p = {**arrays, name: value}
        return (fastgrnn.run(p, p["x"], p["h"], gate, update) * weights.numpy()).sum()

    expected = fastgrnn.run(arrays, arrays["x"], arrays["h"], gate, update)
    np.testing.assert_allclose(output.detach(), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(final[0].detach(), expected[-1], rtol=0, atol=1e-10)
    for name, tensor in tensors.items():
        found = fastgrnn.gradient(functools.partial(loss, name), arrays[name])
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad, found, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("batch", [1, 9, 70])
def test_every_size_of_chunk_and_product_gives_what_the_cell_gives_step_by_step(
    batch: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    monkeypatch.setattr(steps, "_CHUNK", 128)
    monkeypatch.setattr(products, "_SMALL_PRODUCT", 600)
    torch.manual_seed(0)
    layer = FastGRNN(5, 8, rank_u=2, dtype=torch.double)
    inputs = torch.randn(13, batch, 5, dtype=torch.double, requires_grad=True)
    cell = layer.cells[0]
    assert isinstance(cell, FastGRNNCell)
    state, states = torch.zeros(batch, 8, dtype=torch.double), []
    for step in inputs:
        state = cell(step, state)
        states.append(state)
    expected = torch.stack(states)
    found, _ = layer(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    parameters = [inputs, *layer.parameters()]
    by_layer = torch.autograd.grad(found.square().sum(), parameters)
    by_cell = torch.autograd.grad(expected.square().sum(), parameters)
    for one, other in zip(by_layer, by_cell, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", ["plain", "turned", "summed"])  # layouts of the gradient
@pytest.mark.parametrize("case", CASES[:1] + CASES[3:], ids=str)
def test_compiled_steps_are_the_independent_computation_to_the_rounding_of_fp32(
    case: dict[str, Any], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_FEW", 0)
    layer, inputs = _layer(case), 8 * torch.randn(6, 5, 3, dtype=torch.double)  # saturates too
    found: list[list[Tensor]] = []
    for dtype in (torch.double, torch.float32):
        one = copy.deepcopy(layer).to(dtype)
        x = inputs.detach().clone().to(dtype).requires_grad_()
        output, _ = one(x)
        judged = {"turned": output.transpose(0, 1), "summed": output.sum(0)}.get(form, output)
        (judged * torch.arange(4.0, dtype=dtype)).sum().backward()
        gradients = [p.grad for p in (x, *one.parameters())]
        found.append([output.detach(), *(g for g in gradients if g is not None)])
    for exact, compiled in zip(*found, strict=True):
        scale = float(exact.abs().max())
        torch.testing.assert_close(compiled.double(), exact, rtol=0, atol=1e-5 * scale)
    gates = find_gate(case.get("gate", "sigmoid")), find_gate(case.get("update", "tanh"))
    assert step_kernels.compile_steps(*gates) is not None  # so that not numpy was compared
    with torch.no_grad():
        broken = inputs.float()
        broken[2, 1, 0] = torch.nan
        output, _ = layer.float()(broken)
    assert output[2:, 1].isnan().all()  # no bound of a gate hides it
    assert output[:, [0, 2, 3, 4]].isfinite().all()


def test_where_llvmlite_fails_numpy_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(steps, "_FEW", 0)
    layer, inputs = _layer({}).float(), torch.randn(5, 2, 3)
    with torch.no_grad():
        expected, _ = layer(inputs)

    def fail(*_: object) -> None:
        raise RuntimeError("no executable memory")

    step_kernels.compile_steps.cache_clear()
    monkeypatch.setattr(step_kernels, "StepKernels", fail)
    with torch.no_grad(), caplog.at_level(logging.INFO, "strzoo"):
        found, _ = layer(inputs)
    step_kernels.compile_steps.cache_clear()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert "run on numpy: llvmlite failed (no executable memory)" in caplog.text


@pytest.mark.parametrize("threads", ["1", "2"])
def test_products_in_parts_and_by_torch_are_whole_products(
    threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    torch.manual_seed(0)
    rows, matrix = torch.randn(70, 90), torch.randn(90, 90)  # 567,000 multiplications
    with unittest.mock.patch.object(np, "dot", wraps=np.dot) as dot:
        found = products.Product([matrix], 70)(rows.numpy())
    assert dot.call_count == (1 if threads == "1" else 3 * (torch.get_num_threads() == 1))
    torch.testing.assert_close(torch.from_numpy(found), rows @ matrix)


def test_without_gradients_the_result_is_the_same_and_has_none() -> None:
    layer = _layer({})
    inputs = torch.randn(7, 3, 3, dtype=torch.double)
    expected, _ = layer(inputs)
    with torch.no_grad():
        found, _ = layer(inputs)
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_half_precision_takes_the_loop_of_torch() -> None:
    gates = find_gate("sigmoid"), find_gate("tanh")
    torch.manual_seed(0)
    tensors = [torch.randn(*s) for s in ((4, 2, 3), (3, 5), (5, 5), (1, 5), (1, 5))]
    scales, state = (torch.tensor([[0.7]]), torch.tensor([[0.02]])), torch.zeros(2, 5)

    def run(dtype: torch.dtype) -> Tensor:
        x, w, u, a, b = (t.to(dtype) for t in tensors)
        zeta, nu = (s.to(dtype) for s in scales)
        return unrolling.unroll(x, w, (u,), (a, b), (zeta, nu), state.to(dtype), gates)

    found = run(torch.bfloat16)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), run(torch.float32), rtol=0, atol=0.1)
