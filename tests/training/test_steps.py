"""Ten training steps of each method against NumPy, written from the equations in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import strzoo
from strzoo.training.optimisation import parameter_groups
from strzoo.training.pruning import apply_gmp_rates, resolve_rates
from strzoo.training.schedules import LearningRate

Array = np.ndarray
STEPS, BATCH, CLASSES = 10, 6, 5
RATE, MOMENTUM, DECAY, THRESHOLD_DECAY, SMOOTHING = 0.2, 0.875, 0.01, 0.03, 0.1
S_INIT = -1.8  # sigmoid 0.14: about a third of the weights below are at or under it

# What a method is, in NumPy: from weights, threshold parameters and the step to the effective
# weights, and from their gradients to those of weights and of threshold parameters.
Forward = Callable[[Array, Array, int], Array]
Backward = Callable[[Array, Array, Array, int], tuple[Array, Array]]


def _sigmoid(s: Array) -> Array:
    return 1 / (1 + np.exp(-s))


def _str_forward(w: Array, s: Array, step: int) -> Array:
    """Eq. 4 of the paper: sign(w) relu(|w| - sigmoid(s))."""
    return np.sign(w) * np.maximum(np.abs(w) - _sigmoid(s), 0)


def _str_backward(w: Array, s: Array, grad: Array, step: int) -> tuple[Array, Array]:
    alive = np.abs(w) > _sigmoid(s)
    slope = _sigmoid(s) * (1 - _sigmoid(s))
    return grad * alive, -grad * np.sign(w) * alive * slope


def _largest(w: Array, rate: float) -> Array:
    """1 for the weights that stay: all but the round(rate * n) smallest magnitudes, by sorting."""
    order = np.argsort(np.abs(w), axis=None)
    mask = np.ones(w.size)
    mask[order[: round(rate * w.size)]] = 0
    return mask.reshape(w.shape)


def _gmp_rate(step: int) -> float:
    """From 0 at step 2 to 0.7 at step 7, by 1 - (1 - x)^3 (arXiv:1710.01878, eq. 1)."""
    progress = min(max((step - 2) / 5, 0), 1)
    return 0.7 * (1 - (1 - progress) ** 3)


METHODS: dict[str, tuple[Forward, Backward]] = {
    "str": (_str_forward, _str_backward),
    "dnw": (
        lambda w, s, step: w * _largest(w, 0.6),
        lambda w, s, grad, step: (grad, np.zeros_like(w)),
    ),
    "gmp": (
        lambda w, s, step: w * _largest(w, _gmp_rate(step)),
        lambda w, s, grad, step: (grad * _largest(w, _gmp_rate(step)), np.zeros_like(w)),
    ),
}


def _loss_and_gradients(
    images: Array, labels: Array, conv: Array, linear: Array
) -> tuple[float, Array, Array]:
    """3x3 convolution, ReLU, linear, cross-entropy with smoothed labels; gradients by hand."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(2, 3))
    before = np.einsum("ncyxij,ocij->noyx", windows, conv)
    features = np.maximum(before, 0).reshape(len(images), -1)
    logits = features @ linear.T
    logits = logits - logits.max(1, keepdims=True)
    log_probability = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = np.full((len(images), CLASSES), SMOOTHING / CLASSES)
    wanted[np.arange(len(images)), labels] += 1 - SMOOTHING
    loss = -(wanted * log_probability).sum() / len(images)
    grad_logits = (np.exp(log_probability) - wanted) / len(images)
    grad_before = (grad_logits @ linear).reshape(before.shape) * (before > 0)
    grad_conv = np.einsum("ncyxij,noyx->ocij", windows, grad_before)
    return float(loss), grad_conv, grad_logits.T @ features


def _threshold_shape(granularity: str, weight: Array) -> tuple[int, ...]:
    if granularity in ("layer", "global"):
        return (1,) * weight.ndim
    return weight.shape[:1] + (1,) * (weight.ndim - 1) if granularity == "filter" else weight.shape


def _sum_to(value: Array, shape: tuple[int, ...]) -> Array:
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return value.sum(axis=axes, keepdims=True)


@pytest.mark.parametrize(
    ("method", "granularity"),
    [
        ("str", "layer"),
        ("str", "filter"),
        ("str", "weight"),
        ("str", "global"),
        ("dnw", "layer"),
        ("gmp", "layer"),
    ],
)
def test_ten_steps_are_those_of_the_equations(method: str, granularity: str) -> None:
    random = np.random.default_rng(7)
    images = random.normal(size=(STEPS, BATCH, 2, 6, 6))
    labels = random.integers(0, CLASSES, (STEPS, BATCH))
    weights = [random.normal(0, 0.35, (4, 2, 3, 3)), random.normal(0, 0.3, (CLASSES, 64))]

    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES, bias=False)
    ).double()
    layers = [model[0], model[3]]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data.copy_(torch.from_numpy(weight))
    if method == "str":
        strzoo.sparsify_(model, threshold=granularity, s_init=S_INIT)
    else:
        strzoo.sparsify_(model, method, prune_rate=0.6)
    optimizer = torch.optim.SGD(
        parameter_groups(model, weight_decay=DECAY, threshold_decay=THRESHOLD_DECAY),
        lr=1.0,
        momentum=MOMENTUM,
    )
    schedule = LearningRate("cosine", RATE, epochs=STEPS, warmup_epochs=3)
    criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    final_rates = resolve_rates(model, 0.7) if method == "gmp" else None

    forward, backward = METHODS[method]
    thresholds = [np.full(_threshold_shape(granularity, w), S_INIT) for w in weights]
    speeds = [np.zeros_like(w) for w in weights]
    threshold_speeds = [np.zeros_like(s) for s in thresholds]
    pruned = []
    for step in range(STEPS):
        # Warm-up from 1/7 of the rate, then half a cosine over the seven steps that are left.
        rate = RATE * ((step + 0.5) / 3.5 if step < 3 else
                       (1 + math.cos(math.pi * (step - 3) / 7)) / 2)  # fmt: skip
        effective = [forward(w, s, step) for w, s in zip(weights, thresholds, strict=True)]
        loss, *grads = _loss_and_gradients(images[step], labels[step], *effective)
        both = [backward(w, s, g, step) for w, s, g in zip(weights, thresholds, grads, strict=True)]
        weight_grads = [b[0] for b in both]
        threshold_grads = [_sum_to(b[1], s.shape) for b, s in zip(both, thresholds, strict=True)]
        if granularity == "global":
            total = sum(float(g.sum()) for g in threshold_grads)
            threshold_grads = [np.full_like(g, total) for g in threshold_grads]

        if final_rates is not None:
            apply_gmp_rates(model, final_rates, epoch=step, start=2, end=7)
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(step)
        output = criterion(model(torch.from_numpy(images[step])), torch.from_numpy(labels[step]))
        optimizer.zero_grad()
        output.backward()
        optimizer.step()

        assert output.item() == pytest.approx(loss, abs=1e-10, rel=0)
        for i, layer in enumerate(layers):
            _assert_near(layer.weight.grad, weight_grads[i])
            speeds[i] = MOMENTUM * speeds[i] + weight_grads[i] + DECAY * weights[i]
            weights[i] = weights[i] - rate * speeds[i]
            _assert_near(layer.weight, weights[i])
            _assert_near(optimizer.state[layer.weight]["momentum_buffer"], speeds[i])
            if method == "str":
                s = layer.sparseThreshold
                _assert_near(s.grad, threshold_grads[i])
                threshold_speeds[i] = (
                    MOMENTUM * threshold_speeds[i]
                    + threshold_grads[i]
                    + THRESHOLD_DECAY * thresholds[i]
                )
                thresholds[i] = thresholds[i] - rate * threshold_speeds[i]
                _assert_near(s, thresholds[i])
                _assert_near(optimizer.state[s]["momentum_buffer"], threshold_speeds[i])
        pruned.append(float(np.mean(np.concatenate([e.ravel() for e in effective]) == 0)))
    assert 0.2 < pruned[-1] < 0.8  # the comparison saw both zeros and survivors


def _assert_near(found: Any, expected: Array) -> None:
    values = found.detach().numpy()
    np.testing.assert_allclose(values.reshape(expected.shape), expected, rtol=0, atol=1e-10)
