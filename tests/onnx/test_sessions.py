"""int8 sums are exact on every processor, also those whose 16-bit sums of two products saturate.

Without VNNI, 2 * 255 * 127 does not fit into 16 bits; here all products are that large.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import strzoo
from strzoo.errors import UsageError
from strzoo.onnx.sessions import SATURATING, open_session

CHANNELS = 16


def test_sums_of_int8_products_are_exact() -> None:
    constants = {
        "one": np.float32(1), "zero": np.uint8(0), "flat": np.int8(0), "scale": np.float32(10_000),
        "w": np.full((1, CHANNELS, 1, 1), 127, np.int8),
    }  # fmt: skip
    names = ["x", "one", "zero", "w", "one", "flat", "scale", "zero"]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", names, ["y"])],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, CHANNELS, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 1, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    images = np.full((1, CHANNELS, 4, 4), 255, np.uint8)
    (found,) = open_session(model.SerializeToString()).run(None, {"x": images})
    # 16 * 255 * 127 = 518,160, which is 51.8 of 10,000; saturated it would be 26.
    assert (found == 52).all()


class _Sum(nn.Module):
    """The sum of all channels, of which every product is the largest that int8 has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, 4, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).mean((2, 3))


@pytest.mark.parametrize("reduce_range", [False, True])
def test_an_int8_export_is_exact_or_says_where_it_is_not(
    reduce_range: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = torch.ones(4, CHANNELS, 4, 4)
    with caplog.at_level(logging.WARNING):
        made = strzoo.export_onnx(
            _Sum(), tmp_path / "a.onnx", input_size=(CHANNELS, 4, 4), precision="int8",
            images=images, reduce_range=reduce_range,
        )  # fmt: skip
    weights = [numpy_helper.to_array(t) for t in onnx.load(made.path).graph.initializer]
    largest = max(abs(w.astype(int)).max() for w in weights if w.dtype == np.int8 and w.ndim == 4)
    assert largest == (64 if reduce_range else 127)
    feed = {made.input_name: images.numpy()}
    (exact,) = open_session(made.path).run(None, feed)
    np.testing.assert_allclose(exact, CHANNELS, rtol=0.02)
    (default,) = onnxruntime.InferenceSession(made.path).run(None, feed)
    if reduce_range or not caplog.records:
        np.testing.assert_allclose(default, exact, rtol=0.01)
    else:
        assert "reduce_range=True" in caplog.text
        assert np.abs(default - exact).max() > 0.3 * CHANNELS
    (timed,) = open_session(made.path, entries=SATURATING).run(None, feed)
    assert (timed == default).all()  # what benchmarks time is what a user's program runs


def test_a_reduced_range_is_for_int8(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for int8 weights, not for fp16"):
        strzoo.export_onnx(_Sum(), tmp_path / "a.onnx", precision="fp16", reduce_range=True)
    assert not list(tmp_path.iterdir())


def test_a_file_whose_layers_share_weights_in_8_bits_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As files of others have them; strzoo's own have a weight for each layer."""
    from strzoo.onnx import precision

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.last(self.layer(self.layer(x).relu()).relu().mean((2, 3)))
            return scores

    network = Twice().eval()
    whole = strzoo.export_onnx(network, tmp_path / "whole.onnx", input_size=16)
    monkeypatch.setattr(precision, "_unshared", lambda model: model)
    graph = precision.convert_precision(onnx.load(whole.path), "int8", torch.rand(8, 3, 16, 16))
    onnx.save(graph, tmp_path / "shared.onnx")
    x = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    with caplog.at_level("WARNING", "strzoo"):
        session = open_session(tmp_path / "shared.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert "layers share weights in 8 bits" in caplog.text
