"""Windows of stride 2 over an image as windows over its squares of 2 x 2 pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("llvmlite")

from strzoo.engine.hardware import Hardware, host_hardware
from strzoo.engine.ir.graph import Convolution, Graph, Layer, Pads, Shape, Window
from strzoo.engine.ir.quads import QuantizeQuads, find_quads
from strzoo.engine.ir.shapes import infer_shape
from strzoo.engine.quantization import fixing, quads
from strzoo.engine.quantization.observation import observe
from strzoo.engine.quantization.quads import fix_quads
from strzoo.engine.quantization.squares import fold_squares
from tests.engine.runtime.test_run import run_engine
from tests.helpers.engine.fixed import run_fixed_graph
from tests.helpers.engine.spelled import LANES, needs_lanes, spelled_out


def make_layer(
    channels: int, kernel: tuple[int, int], pads: Pads, *, strides: tuple[int, int] = (2, 2)
) -> Convolution:
    weight = np.random.default_rng(0).standard_normal((5, channels, *kernel)).astype(np.float32)
    window = Window(kernel, strides, pads)
    return Convolution("stem", ("x",), "y", weight, np.zeros(5, np.float32), window)


def convolve(layer: Convolution, x: np.ndarray) -> torch.Tensor:
    top, left, bottom, right = layer.window.pads
    padded = functional.pad(torch.from_numpy(x), (left, right, top, bottom))
    weight = torch.from_numpy(layer.weight).double()
    return torch.conv2d(padded, weight, stride=layer.window.strides)


@pytest.mark.parametrize("pads", [(3, 3, 3, 3), (1, 1, 1, 1), (0, 0, 1, 1), (2, 1, 1, 2)])
@pytest.mark.parametrize("kernel", [(7, 7), (3, 3), (5, 3), (2, 2), (4, 6)])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_folded_window_computes_the_same(
    channels: int, kernel: tuple[int, int], pads: Pads
) -> None:
    layer = make_layer(channels, kernel, pads)
    folded = fold_squares(layer, (channels, 16, 20))
    if folded is None:  # no fewer words
        assert kernel in ((2, 2), (4, 6))
        return
    made, parts = folded
    x = np.random.default_rng(1).standard_normal((2, channels, 16, 20))
    squares = np.stack([x[:, c, row::2, column::2] for c, row, column in parts], 1)
    torch.testing.assert_close(convolve(made, squares), convolve(layer, x))


@pytest.mark.parametrize(
    ("channels", "kernel", "words"),
    [
        # 3 x 3 squares of three words; at two edges three squares each, of which a word has no
        # number; one corner of one word.
        (3, 7, 9 * 3 + 6 * 2 + 1),
        (3, 3, 3 + 2 * 2 + 1),
        (1, 7, 4 * 4),  # four numbers make a word
    ],
)
def test_fewer_words_are_multiplied(channels: int, kernel: int, words: int) -> None:
    layer = make_layer(channels, (kernel, kernel), (kernel // 2,) * 4)
    folded = fold_squares(layer, (channels, 32, 32))
    assert folded is not None
    assert np.count_nonzero(find_quads(folded[0].weight)) == 5 * words < 5 * kernel**2


@pytest.mark.parametrize(
    ("channels", "size", "strides"), [(3, 31, (2, 2)), (3, 32, (1, 1)), (4, 32, (2, 2))]
)
def test_windows_stay_as_they_are(channels: int, size: int, strides: tuple[int, int]) -> None:
    """Squares that are cut, other strides, words that are full already."""
    layer = make_layer(channels, (3, 3), (1, 1, 1, 1), strides=strides)
    assert fold_squares(layer, (channels, size, size)) is None


@needs_lanes
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize(("channels", "size"), [(3, 64), (1, 64), (3, 18)])
def test_a_folded_stem_runs(channels: int, size: int, readers: int, lanes: int) -> None:
    stem = make_layer(channels, (7, 7), (3, 3, 3, 3))
    layers: list[Layer] = [stem]
    shapes: dict[str, Shape] = {"x": (channels, size, size)}
    shapes["y"] = infer_shape(stem, [shapes["x"]])
    if readers == 2:  # of which one has the pixels
        side = Convolution(
            "side", ("x", "y"), "z", stem.weight[:, :, :1, :1], stem.bias, Window((1, 1), (2, 2))
        )
        layers.append(side)
        shapes["z"] = infer_shape(side, [shapes["x"], shapes["y"]])
    graph = Graph("x", layers[-1].output, shapes, tuple(layers), "a test")
    x = np.random.default_rng(2).standard_normal((4, *shapes["x"])).astype(np.float32)
    with spelled_out() as patch:
        patch.setattr(fixing, "CONVERTED", 0.0)  # even where it does not pay
        patch.setattr(quads, "_cycles", lambda *_: 0.0)
        identity = host_hardware().identity
        hardware = Hardware(lanes, 32 if lanes == 16 else 16, identity=identity, quads=True)
        seen = observe(graph, hardware, x[:2], x[2:])
        fixed = fix_quads(graph, seen, hardware, 1e9).graph
        found = run_engine(fixed, x, lanes=lanes, group=1, threads=2)
    folded = [layer for layer in fixed.layers if isinstance(layer, QuantizeQuads) and layer.parts]
    assert len(folded) == (readers == 1)
    expected = run_fixed_graph(fixed, x)
    # In a few places a sum is rounded the other way, by one of 255.
    apart, largest = np.abs(found.reshape(expected.shape) - expected), np.abs(expected).max()
    assert apart.max() <= 0.02 * largest
    assert np.mean(apart > 1e-4 * largest) < 0.05
