"""Channels that are taken or reordered are read by the convolution behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

from strzoo.engine.frontend.read import read_graph
from strzoo.engine.passes import simplify
from tests.helpers.engine.models import assert_agrees, build

RANDOM = np.random.default_rng(8)


def weights(out: int, channels: int, density: float) -> np.ndarray:
    dense = RANDOM.standard_normal((out, channels, 3, 3)).astype(np.float32)
    dense[RANDOM.random(dense.shape) >= density] = 0
    return dense


def count(body: str, density: float, **more: Any) -> int:
    given: dict[str, Any] = {
        "w": weights(6, 4, density),
        "v": weights(5, 2, density),
        "halves": np.array([0, 2, 2, 7, 6]),
        "back": np.array([0, 4, 7, 6]),
        **more,
    }
    used = {name: array for name, array in given.items() if name in body}
    model = build(body, output="float[N, A, B, C] y", opset=18, **used)
    assert_agrees(model)
    return len(simplify(read_graph(model)).layers)


SHUFFLE = """h = Reshape (x, halves) t = Transpose <perm = [0, 2, 1, 3, 4]> (h)
    s = Reshape (t, back) """


def test_a_shuffle_and_a_split_before_sparse_convolutions_are_no_layers() -> None:
    pads = "<pads = [1, 1, 1, 1]>"
    split = "a, b = Split <axis = 1, num_outputs = 2> (s) "
    both = f"{SHUFFLE} {split} c = Conv {pads} (a, v) d = Conv {pads} (b, v) y = Add (c, d)"
    assert count(both, 0.4) == 2
    # A dense half would multiply the zeros of the other one: the two splits stay.
    assert count(both, 1.0) == 4
    assert count(f"{SHUFFLE} y = Conv (s, w)", 1.0) == 1


def test_blocks_of_channels_that_int8_needs_are_not_torn_apart() -> None:
    blocks = np.zeros((6, 4, 3, 3), np.float32)
    blocks[0] = 1
    wide = f"{SHUFFLE} y = Conv (s, w)"
    assert count(wide, 0, w=blocks) == 1
    eight = np.zeros((6, 8, 1, 1), np.float32)
    eight[:, :4] = RANDOM.standard_normal((6, 4, 1, 1))
    body = """k = Concat <axis = 1> (x, x) r = Relu (k) h = Reshape (r, halves)
        t = Transpose <perm = [0, 2, 1, 3, 4]> (h) s = Reshape (t, back) y = Conv (s, w)"""
    shapes = {"halves": np.array([0, 2, 4, 7, 6]), "back": np.array([0, 8, 7, 6])}
    assert count(body, 0, w=eight, **shapes) == 4
