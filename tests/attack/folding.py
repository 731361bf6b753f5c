"""ONNX files that are small and become large while constants are computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.attack.case import Case
from tests.attack.graphs import WEIGHT, convolution, graph, head, node, weight
from tests.attack.networks import Make, cases_of

_BILLION = 10**9


def _added(nodes: list[Any], weights: list[Any], opset: int = 17) -> onnx.ModelProto:
    """The constant `k` is added to what a convolution makes."""
    add = node("Add", ["c", "k"], ["d"])
    return graph(
        [convolution(), *nodes, add, *head("d")], [weight("w", WEIGHT), *weights], opset=opset
    )


def _twice(kind: str, count: int, **attributes: Any) -> onnx.ModelProto:
    """Each node takes the one before twice."""
    nodes = [node(kind, [f"k{i}", f"k{i}"], [f"k{i + 1}"], **attributes) for i in range(count)]
    nodes.append(node("Identity", [f"k{count}"], ["k"]))
    return _added(nodes, [weight("k0", np.ones((1, 10, 1, 1), np.float32))])


def _shaped(kind: str, shape: list[int], **attributes: Any) -> onnx.ModelProto:
    inputs = {"Expand": ["one", "s"], "Tile": ["one", "s"]}.get(kind, ["s"])
    numbers = weight("s", np.array(shape, np.int64))
    one = weight("one", np.ones((1, 1, 1, 1), np.float32))
    return _added([node(kind, inputs, ["k"], **attributes)], [numbers, one])


def _range(start: float, limit: float, step: float, kind: str = "f4") -> onnx.ModelProto:
    parts = [weight(n, np.array(v, kind)) for n, v in zip("abc", (start, limit, step), strict=True)]
    return _added([node("Range", ["a", "b", "c"], ["k"])], parts)


def _reshaped(shape: list[int]) -> onnx.ModelProto:
    numbers = weight("s", np.array(shape, np.int64))
    return graph(
        [convolution(), node("Reshape", ["c", "s"], ["r"]), node("Flatten", ["r"], ["y"])],
        [weight("w", WEIGHT), numbers],
    )


def _padded(pads: list[int], mode: str = "constant") -> onnx.ModelProto:
    nodes = [node("Pad", ["x", "p"], ["q"], mode=mode), convolution("q"), *head()]
    return graph(nodes, [weight("w", WEIGHT), weight("p", np.array(pads, np.int64))])


def _gathered(indices: Any) -> onnx.ModelProto:
    array = weight("a", np.ones((4, 1, 1), np.float32))
    return _added([node("Gather", ["a", "i"], ["k"])], [array, weight("i", indices)])


def _sliced(starts: list[int], ends: list[int], steps: list[int]) -> onnx.ModelProto:
    names = ["a", "s", "e", "x", "t"]
    arrays = [np.ones((10, 1, 1), np.float32), starts, ends, [0] * len(starts), steps]
    parts = [weight(n, np.asarray(a)) for n, a in zip(names, arrays, strict=True)]
    return _added([node("Slice", names, ["k"])], parts)


def _binary(kind: str, a: Any, b: Any) -> onnx.ModelProto:
    nodes = [node(kind, ["a", "b"], ["q"]), node("Cast", ["q"], ["k"], to=1)]
    return _added(nodes, [weight("a", a), weight("b", b)])


def _cast_text() -> onnx.ModelProto:
    nodes = [node("Cast", ["a"], ["k"], to=8)]
    return _added(nodes, [weight("a", np.ones(4, np.float32))])


def _many(count: int) -> onnx.ModelProto:
    """Many constants, each within the limits, all of them not."""
    made = []
    for index in range(count):
        made.append(node("ConstantOfShape", ["s"], [f"m{index}"]))
        made.append(node("Add", [f"k{index}", f"m{index}"], [f"k{index + 1}"]))
    made.append(node("Identity", [f"k{count}"], ["k"]))
    parts = [weight("s", np.array([1 << 26], np.int64)), weight("k0", np.zeros(1, np.float32))]
    return _added(made, parts)


def _resized(scale: float) -> onnx.ModelProto:
    scales = weight("s", np.array([1, 1, scale, scale], np.float32))
    nodes = [node("Resize", ["x", "", "s"], ["q"]), convolution("q"), *head()]
    return graph(nodes, [weight("w", WEIGHT), scales], shape=(1, 3, 8, 8))


def _loop(count: int) -> onnx.ModelProto:
    """A loop that runs without an end."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["more"]), node("Relu", ["v"], ["o"])],
        "body",
        [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("go", 9, []),
         helper.make_tensor_value_info("v", 1, None)],
        [helper.make_tensor_value_info("more", 9, []), helper.make_tensor_value_info("o", 1, None)],
    )  # fmt: skip
    nodes = [
        convolution(),
        helper.make_node("Loop", ["n", "t", "c"], ["l"], body=body),
        *head("l"),
    ]
    parts = [weight("w", WEIGHT), weight("n", np.array(count)), weight("t", np.array(True))]
    return graph(nodes, parts)


def _models() -> dict[str, Make]:
    tensor = helper.make_tensor("v", 1, [1], [1.0])
    return {
        "Concat doubles 40 times": lambda: _twice("Concat", 40, axis=2),
        "Concat doubles 26 times": lambda: _twice("Concat", 26, axis=2),
        "Concat on axis 99": lambda: _twice("Concat", 2, axis=99),
        "Add doubles its names 200 times": lambda: _twice("Add", 200),
        "ConstantOfShape 10^12": lambda: _shaped("ConstantOfShape", [10**6, 10**6], value=tensor),
        "ConstantOfShape 10^9": lambda: _shaped("ConstantOfShape", [_BILLION]),
        "ConstantOfShape negative": lambda: _shaped("ConstantOfShape", [-5, 3]),
        "ConstantOfShape 2^126": lambda: _shaped("ConstantOfShape", [1 << 62, 1 << 62]),
        "ConstantOfShape of 100 axes": lambda: _shaped("ConstantOfShape", [1] * 100),
        "Expand 10^12": lambda: _shaped("Expand", [10**6, 1, 1000, 1000]),
        "Expand negative": lambda: _shaped("Expand", [-1, 1, 1, 1]),
        "Expand 2^63": lambda: _shaped("Expand", [1 << 62, 2, 1, 1]),
        "Tile 10^12": lambda: _shaped("Tile", [10**6, 1, 1000, 1000]),
        "Range of 10^12": lambda: _range(0, 1e12, 1),
        "Range of nothing a step": lambda: _range(0, 1, 0),
        "Range of integers, no step": lambda: _range(0, 1, 0, "i8"),
        "Range infinite": lambda: _range(0, np.inf, 1),
        "Range nan": lambda: _range(np.nan, 1, 1),
        "Range of 1e-30 steps": lambda: _range(0, 1, 1e-30),
        "Reshape to 10^18": lambda: _reshaped([10**18]),
        "Reshape twice unknown": lambda: _reshaped([-1, -1]),
        "Reshape to -7": lambda: _reshaped([-7, 1]),
        "Reshape to zeros": lambda: _reshaped([0] * 30),
        **{f"Pad of {p}": lambda p=p: _padded([0, 0, 0, 0, 0, 0, p, p])  # type: ignore[misc]
           for p in (10_000, 10**6, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))},
        "Pad reflects 10^9": lambda: _padded([0, 0, 0, 0, 0, 0, _BILLION, 0], "reflect"),
        "Pad of three": lambda: _padded([1, 1, 1]),
        "Gather 10^9": lambda: _gathered(np.zeros((1 << 20,), np.int64)),
        "Gather outside": lambda: _gathered(np.array([1 << 40])),
        "Gather of -2^62": lambda: _gathered(np.array([-(1 << 62)])),
        "Slice by zero": lambda: _sliced([0], [10], [0]),
        "Slice to 2^63": lambda: _sliced([-(1 << 63)], [(1 << 63) - 1], [1]),
        "Slice by -2^63": lambda: _sliced([0], [10], [-(1 << 63)]),
        "Slice of other counts": lambda: _sliced([0, 0], [1], [1]),
        "Div by zero": lambda: _binary("Div", np.array([5]), np.array([0])),
        "Div of -2^63 by -1": lambda: _binary("Div", np.array([-(1 << 63)]), np.array([-1])),
        "Pow of 10^300": lambda: _binary("Pow", np.array([1e300]), np.array([1e300])),
        "Mul of 2^62": lambda: _binary("Mul", np.array([1 << 62]), np.array([4])),
        "Add of a plane": lambda: _binary(
            "Add", np.zeros((1 << 16, 1), np.float32), np.zeros((1, 1 << 16), np.float32)
        ),
        "Cast to text": _cast_text,
        "many constants": lambda: _many(12),
        "Resize by 10^4": lambda: _resized(1e4),
        "Resize by 10^9": lambda: _resized(1e9),
        "Resize by nan": lambda: _resized(np.nan),
        "Loop of 2^62": lambda: _loop(1 << 62),
        "Loop of -1": lambda: _loop(-1),
    }  # fmt: skip


def cases() -> Iterator[Case]:
    yield from cases_of("onnx folding", _models())
