"""Functions of results beside torch in float64, over the whole range of fp32's small numbers.

They are computed for several vectors at once, and apart from the sums where these are many: maps of
several sizes have tiles of several sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("llvmlite")

import strzoo
from tests.helpers.engine.models import build

CHANNELS = 16
# What makes y of c, and the function that it is.
KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "{y} = Elu ({c})": functional.elu,
    "{y} = Erf ({c})": torch.erf,
    "{y} = Exp ({c})": torch.exp,
    "{y} = Gelu ({c})": functional.gelu,
    '{y} = Gelu <approximate = "tanh"> ({c})': partial(functional.gelu, approximate="tanh"),
    "{y} = Mish ({c})": functional.mish,
    "{y} = Sigmoid ({c})": torch.sigmoid,
    "{y}s = Sigmoid ({c}) {y} = Mul ({y}s, {c})": functional.silu,
    "{y} = Softplus ({c})": functional.softplus,
    "{y} = Softsign ({c})": functional.softsign,
    "{y} = Tanh ({c})": torch.tanh,
}
# A permutation of the channels.
WEIGHT = np.eye(CHANNELS, dtype=np.float32)[::-1, :, None, None].copy()


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (10, 14), (28, 56)], ids=str)
@pytest.mark.parametrize("convolved", [False, True], ids=["alone", "convolved"])
def test_functions_are_those_of_float64(size: tuple[int, int], convolved: bool) -> None:
    count = CHANNELS * size[0] * size[1]
    # Most are around zero, where functions bend; some are as large as exp allows.
    x = np.sinh(np.linspace(-5.1, 5.1, count)).astype(np.float32)
    x = np.random.default_rng(0).permutation(x).reshape(1, CHANNELS, *size)
    shape = f"float[N, {CHANNELS}, {size[0]}, {size[1]}]"
    names = [f"y{index}" for index in range(len(KINDS))]
    body, weights = "", {}
    for name, kind in zip(names, KINDS, strict=True):
        body += f"c{name} = Conv (x, w) " if convolved else f"c{name} = Identity (x) "
        body += kind.format(y=name, c=f"c{name}") + " "
    if convolved:
        weights["w"] = WEIGHT
    output = ", ".join(f"{shape} {name}" for name in names)
    model = build(body, image=f"{shape} x", output=output, opset=20, **weights)
    made: Any = strzoo.compile(model.SerializeToString(), 1, islands="none", cache=False)
    found = made(x)
    given = (x[:, ::-1] if convolved else x).astype(np.float64)
    for name, (kind, function) in zip(names, KINDS.items(), strict=True):
        expected = function(torch.from_numpy(given)).numpy()
        error = np.abs(found[name].reshape(expected.shape) - expected)
        # Relative to the result or, where that is small, to what it was computed of.
        size_ = np.maximum(np.maximum(np.abs(expected), np.abs(given)), 0.5)
        assert (error / size_).max() < 6e-7, kind


def test_softplus_is_exact_where_it_is_small() -> None:
    """A logarithm of it would show an error that is small beside 1 alone."""
    x = np.linspace(-80, 4, 16 * 64, dtype=np.float32).reshape(1, 16, 8, 8)
    shape = "float[N, 16, 8, 8]"
    model = build("y = Softplus (x)", image=f"{shape} x", output=f"{shape} y", opset=20)
    made: Any = strzoo.compile(model.SerializeToString(), 1, islands="none", cache=False)
    expected = np.log1p(np.exp(x.astype(np.float64)))
    assert np.abs(made(x).reshape(x.shape) / expected - 1).max() < 1e-6
