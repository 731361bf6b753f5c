"""What networks put out, read as class scores: probabilities, several outputs, dicts, tuples."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

import strzoo
from strzoo.errors import UsageError

COLOURS = 3
SHARP = 4.0  # what the mean of a channel is multiplied with


def images(count: int = 6) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 8, 8] of one bright channel each, and which one it is."""
    labels = torch.arange(count) % COLOURS
    pixels = torch.zeros(count, 3, 8, 8)
    pixels[torch.arange(count), labels] = 1.0
    return pixels, labels


class Colours(nn.Module):
    """Logits: the mean of each channel times SHARP, then what `finish` makes of them."""

    def __init__(self, finish: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.finish = finish

    def forward(self, x: Tensor) -> Any:
        return self.finish(SHARP * x.mean((2, 3)))


# By hand: logits (4, 0, 0); the right class has probability e^4 / (e^4 + 2).
RIGHT = math.exp(SHARP) / (math.exp(SHARP) + 2)
Pair = namedtuple("Pair", ["logits", "aux"])


@pytest.mark.parametrize(
    "finish",
    [
        lambda x: x,
        lambda x: x.softmax(1),
        lambda x: {"logits": x, "features": x.repeat(1, 9)},
        lambda x: {"something": x},
        lambda x: (x, x.argmax(1)),
        lambda x: [x],
        lambda x: Pair(x, x),
        lambda x: x[:, :, None, None],
        lambda x: x.half(),
    ],
    ids=["logits", "softmax", "dict", "named", "tuple", "list", "namedtuple", "maps", "half"],
)
def test_scores_are_found_in_whatever_a_network_returns(finish: Callable[[Tensor], Any]) -> None:
    result = strzoo.evaluate(Colours(finish), [images()])
    assert result.correct_top1 == 6
    assert result.loss == pytest.approx(-math.log(RIGHT), rel=2e-3)


@pytest.mark.parametrize(
    ("finish", "said"),
    [
        (lambda x: (x, x + 1), "a tuple of 2 with tensors"),
        (lambda x: {"a": x, "b": x}, "a dict with a, b; expected a tensor of floats"),
        (lambda x: x.argmax(1), r"gives int64 of shape \(6,\); expected floats"),
        (lambda x: x[:, :, None].expand(-1, -1, 7), r"of shape \(6, 3, 7\); expected floats"),
        (lambda x: "no", "returns a str; expected a tensor"),
    ],
)
def test_what_could_be_several_things_is_an_error_in_one_line(
    finish: Callable[[Tensor], Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        strzoo.evaluate(Colours(finish), [images()])


def write_graph(path: Path, nodes: list[onnx.NodeProto], outputs: list[Any]) -> Path:
    """A network of channel means times SHARP, then `nodes`."""
    factor = numpy_helper.from_array(np.array([SHARP], np.float32), "factor")
    head = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
        helper.make_node("Mul", ["mean", "factor"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
    graph = helper.make_graph([*head, *nodes], "g", inputs, outputs, [factor])
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


LOGITS = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
SOFT = helper.make_tensor_value_info("soft", TensorProto.FLOAT, ["N", 3])
BEST = helper.make_tensor_value_info("best", TensorProto.INT64, ["N"])


def test_onnx_outputs_are_chosen_and_read_by_what_they_are(tmp_path: Path) -> None:
    softmax = helper.make_node("Softmax", ["logits"], ["soft"], axis=1)
    by_hand = [
        helper.make_node("Exp", ["logits"], ["exp"]),
        helper.make_node("ReduceSum", ["exp"], ["sum"], keepdims=1),
        helper.make_node("Div", ["exp", "sum"], ["soft"]),
    ]
    by_hand[1] = helper.make_node("ReduceL1", ["exp"], ["sum"], axes=[1], keepdims=1)
    best = helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0)
    for name, nodes, outputs in (
        ("plain", [], [LOGITS]),
        ("graph", [softmax], [SOFT]),
        ("values", by_hand, [SOFT]),
        ("argmax", [softmax, best], [BEST, SOFT]),
        ("both", [softmax], [SOFT, LOGITS]),
    ):
        path = write_graph(tmp_path / f"{name}.onnx", nodes, outputs)
        result = strzoo.evaluate(path, [images()])
        assert (result.correct_top1, name) == (6, name)
        assert result.loss == pytest.approx(-math.log(RIGHT), rel=1e-5), name
        assert bool(result.notes) == (name != "plain"), name
    two = write_graph(
        tmp_path / "two.onnx",
        [helper.make_node("Neg", ["logits"], ["soft"])],
        [LOGITS, SOFT],
    )
    asked = strzoo.evaluate(two, [images()], output="soft")
    assert asked.correct_top1 == 0
    assert "output 'soft' of 2: asked for" in asked.notes[0]
    with pytest.raises(UsageError, match="no output 'nothing'; the outputs are"):
        strzoo.evaluate(two, [images()], output="nothing")


def test_a_probability_is_printed_as_it_is(tmp_path: Path) -> None:
    softmax = helper.make_node("Softmax", ["logits"], ["soft"], axis=1)
    path = write_graph(tmp_path / "soft.onnx", [softmax], [SOFT])
    steps = strzoo.get_card("resnet50_dense").preprocessing
    plain = type(steps)(8, 8, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    (made,) = strzoo.predict(path, Image.new("RGB", (8, 8), (255, 0, 0)), preprocessing=plain)
    assert made.guesses[0].index == 0
    assert made.guesses[0].probability == pytest.approx(RIGHT, rel=1e-5)


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "pair": lambda x, y: (x, y),
    "columns": lambda x, y: (x, y[:, None]),
    "uint8 labels": lambda x, y: (x, y.to(torch.uint8)),
    "float labels": lambda x, y: (x, y.float()),
    "list": lambda x, y: (x, y.tolist()),
    "numpy": lambda x, y: (x.numpy(), y.numpy()),
    "with index": lambda x, y: (x, y, torch.arange(len(y))),
    "mapping": lambda x, y: {"pixel_values": x, "labels": y},
    "half": lambda x, y: (x.half(), y),
    "one-hot": lambda x, y: (x, nn.functional.one_hot(y, COLOURS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_are_taken_as_loaders_give_them(form: str) -> None:
    assert strzoo.evaluate(Colours(), [FORMS[form](*images())]).correct_top1 == 6


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (torch.zeros(2, 3, 8, 8), "a batch is .*; expected"),
        ((torch.zeros(2, 3, 8, 8), torch.tensor([0, 7])), "labels go up to 7; .* has 3 classes"),
        ((torch.zeros(2, 3, 8, 8), torch.zeros(3).long()), "has 2 images and 3 labels"),
        ((torch.zeros(2, 8), torch.zeros(2).long()), r"images are .*; expected \[N, 3, H, W\]"),
        ((torch.zeros(2, 3, 8, 8), ["a", "b"]), "labels are"),
        ("text", "a batch is"),
    ],
)
def test_batches_of_other_forms_are_named(batch: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        strzoo.evaluate(Colours(), [batch])
    with pytest.raises(UsageError, match="data is a int; expected"):
        strzoo.evaluate(Colours(), 3)  # type: ignore[arg-type]


def test_a_network_in_half_precision_gets_inputs_of_its_own_type() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).half()
    assert strzoo.evaluate(network, [images()]).images == 6


def test_data_of_1001_classes_have_no_background(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 1001)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
        helper.make_node("MatMul", ["mean", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1001])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)],
                                ir_version=8), path)  # fmt: skip
    for index in range(1001):
        (folder := tmp_path / "data" / f"class{index:04d}").mkdir(parents=True)
        Image.new("RGB", (8, 8), (index % 256, index // 4, 99)).save(folder / "a.png")
    found = strzoo.evaluate(path, tmp_path / "data", workers=0)
    assert (found.images, int(found.labels.max())) == (1001, 1000)
    assert not any("background" in note for note in found.notes)
    dropped = strzoo.evaluate(path, [images()])
    assert any("is taken for the background" in note for note in dropped.notes)
