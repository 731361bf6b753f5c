"""ONNX files whose structure is wrong: cycles, absurd attributes, functions, files beside them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.attack.case import READ, Case
from tests.attack.graphs import (
    WEIGHT,
    claimed,
    convolution,
    convolution_graph,
    graph,
    head,
    node,
    save,
    value,
    weight,
)

COMMANDS = itertools.cycle(
    (
        ("inspect", "a.onnx"),
        ("compile", "a.onnx", "-o", "out.strz"),
        ("predict", "a.onnx", "@image"),
        ("report", "a.onnx"),
        ("evaluate", "a.onnx", "--data", "@images"),
        ("compile", "a.onnx", "-o", "out.strz", "--input-size", "8"),
        ("benchmark", "a.onnx", "--runs", "1", "--no-memory", "--engines", "onnxruntime"),
        ("predict", "a.onnx", "@image", "--engine", "sparse"),
        ("inspect", "a.onnx", "--input-size", "8", "--json"),
    )
)
MADE = ("out.strz",)
# onnxruntime computes for hours, takes as much memory as the result has, or ends the process; what
# it runs is not bounded (docs/security.md). To compile a network is to measure it.
NOT_COMPUTED = ("Loop of 2^62", "Div of -2^63 by -1", "convolution, pad of 1000000",
                "convolution, last pad of 1000000", "Pad of 1000000")  # fmt: skip
Make = Callable[[], onnx.ModelProto]


def cases_of(family: str, models: dict[str, Make]) -> Iterator[Case]:
    for name, make in models.items():
        for command in (next(COMMANDS), next(COMMANDS)):
            if name in NOT_COMPUTED and command[0] != "report":
                command = ("inspect", "a.onnx")

            def write(folder: Path, make: Make = make) -> None:
                save(folder / "a.onnx", make())

            yield Case(f"{family}: {name} ({command[0]})", write, command, (*READ, 6), MADE)


def _circle(kind: str, count: int) -> onnx.ModelProto:
    """Nodes whose weight comes from the last of them."""
    extra = {"DequantizeLinear": ["s"]}.get(kind, [])
    nodes = [node(kind, [f"w{(i + 1) % count}", *extra], [f"w{i}"]) for i in range(count)]
    return graph([*nodes, convolution(name="w0"), *head()], [weight("s", np.float32(1))])


def _long(kind: str, count: int) -> onnx.ModelProto:
    """A long way from a weight to its layer."""
    nodes = [node(kind, [f"w{i}"], [f"w{i + 1}"]) for i in range(count)]
    return graph([*nodes, convolution(name=f"w{count}"), *head()], [weight("w0", WEIGHT)])


def _function(name: str, nodes: list[Any]) -> onnx.FunctionProto:
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], ["b"], nodes, sets)


def _called(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    call = helper.make_node(functions[0].name, ["x"], ["y"], domain="f")
    return graph([call], functions=list(functions))


def _inner(name: str, made: str = "b", source: str = "a") -> onnx.NodeProto:
    return helper.make_node(name, [source], [made], domain="f")


def _doubling(depth: int) -> onnx.ModelProto:
    functions = [
        _function(f"F{i}", [_inner(f"F{i + 1}", "m"), _inner(f"F{i + 1}", "b", "m")])
        for i in range(depth)
    ]
    return _called(*functions, _function(f"F{depth}", [node("Relu", ["a"], ["b"])]))


def _nested(depth: int) -> onnx.ModelProto:
    """If in If in If."""
    body = helper.make_graph([node("Relu", ["x"], ["o"])], "b", [], [value("o", ["N"])])
    for _ in range(depth):
        branch = helper.make_node("If", ["k"], ["o"], then_branch=body, else_branch=body)
        body = helper.make_graph([branch], "b", [], [value("o", ["N"])])
        if body.ByteSize() > 1_000_000:
            break
    return graph([*body.node, node("Identity", ["o"], ["y"])], [weight("k", np.array(True))])


def _deep(depth: int) -> onnx.ModelProto:
    """If with one branch in one branch, deeper than protobuf goes."""
    body = helper.make_graph([node("Relu", ["x"], ["o"])], "b", [], [value("o", ["N"])])
    for _ in range(depth):
        branch = helper.make_node("If", ["k"], ["o"], then_branch=body)
        body = helper.make_graph([branch], "b", [], [value("o", ["N"])])
    return graph([*body.node, node("Identity", ["o"], ["y"])], [weight("k", np.array(True))])


def _with(change: Callable[[onnx.ModelProto], object]) -> Make:
    def make() -> onnx.ModelProto:
        model = convolution_graph()
        change(model)
        return model

    return make


def _metadata(key: str, text: str) -> Make:
    return _with(lambda model: model.metadata_props.add(key=key, value=text))


def _sized(*shape: int | str) -> Make:
    return lambda: graph([convolution(), *head()], [weight("w", WEIGHT)], shape=shape)


def _sparse(dims: list[int], indices: list[int]) -> onnx.ModelProto:
    model = graph([convolution(), *head()])
    made = helper.make_sparse_tensor(
        weight("w", np.ones(len(indices), np.float32)), weight("i", np.array(indices)), dims
    )
    model.graph.sparse_initializer.append(made)
    return model


def _models() -> dict[str, Make]:
    wide = {f"{side} of {pad}": {"pads": [pad if i == k else 1 for i in range(4)]}
            for k, side in ((0, "pad"), (3, "last pad"))
            for pad in (10_000, 10**6, 1 << 31, 1 << 62, -1, -(1 << 62))}  # fmt: skip
    odd: dict[str, dict[str, Any]] = {
        **wide,
        "dilation of 10,000": {"dilations": [10_000, 10_000]},
        "dilation of 2^62": {"dilations": [1 << 62, 1]},
        "dilation of zero": {"dilations": [0, 0]},
        "stride of zero": {"strides": [0, 1]},
        "stride of -1": {"strides": [-1, 1]},
        "stride of 2^62": {"strides": [1 << 62, 1]},
        "kernel of 30,000": {"kernel_shape": [30_000, 30_000]},
        "kernel of zero": {"kernel_shape": [0, 3]},
        "groups of zero": {"group": 0},
        "groups of 2^62": {"group": 1 << 62},
        "groups of -3": {"group": -3},
        "pads of texts": {"pads": ["a", "b"]},
        "pads of three": {"pads": [1, 1, 1]},
        "auto pad of words": {"auto_pad": "ANY"},
    }
    found: dict[str, Make] = {
        f"convolution, {name}": lambda a=attributes: convolution_graph(**a)  # type: ignore[misc]
        for name, attributes in odd.items()
    }
    for pool in ("MaxPool", "AveragePool"):
        for name, attributes in {
            "kernel of 30,000": {"kernel_shape": [30_000, 30_000], "pads": [15_000] * 4},
            "kernel of 2^62": {"kernel_shape": [1 << 62, 1]},
            "kernel of zero": {"kernel_shape": [0, 0]},
            "stride of 2^62": {"kernel_shape": [2, 2], "strides": [1 << 62, 1]},
            "stride of zero": {"kernel_shape": [2, 2], "strides": [0, 0]},
            "pads of 2^31": {"kernel_shape": [2, 2], "pads": [1 << 31] * 4},
            "no kernel": {},
            "three axes": {"kernel_shape": [2, 2, 2]},
        }.items():
            found[f"{pool}, {name}"] = lambda p=pool, a=attributes: graph(  # type: ignore[misc]
                [convolution(), node(p, ["c"], ["p"], **a), *head("p")], [weight("w", WEIGHT)]
            )
    found |= {
        "identities in a circle": lambda: _circle("Identity", 3),
        "an identity of itself": lambda: _circle("Identity", 1),
        "DequantizeLinear in a circle": lambda: _circle("DequantizeLinear", 2),
        "2,000 identities": lambda: _long("Identity", 2000),
        "20,000 transposes": lambda: _long("Transpose", 20_000),
        "a layer of itself": lambda: graph(
            [convolution("d", "d"), *head("d")], [weight("w", WEIGHT)]
        ),
        "a function calls itself": lambda: _called(_function("F", [_inner("F")])),
        "functions call each other": lambda: _called(
            _function("F", [_inner("G")]), _function("G", [_inner("F")])
        ),
        "functions double 40 times": lambda: _doubling(40),
        "functions double 14 times": lambda: _doubling(14),
        "branches double": lambda: _nested(40),
        "branches 25 deep": lambda: _deep(25),
        "no nodes": lambda: graph([]),
        "no inputs": _with(lambda m: m.graph.ClearField("input")),
        "no outputs": _with(lambda m: m.graph.ClearField("output")),
        "no weights": _with(lambda m: m.graph.ClearField("initializer")),
        "no version": _with(lambda m: m.ClearField("ir_version")),
        "version 10^6": _with(lambda m: setattr(m, "ir_version", 10**6)),
        "no operator set": _with(lambda m: m.ClearField("opset_import")),
        "operator set 10^9": _with(lambda m: setattr(m.opset_import[0], "version", 10**9)),
        "operator set -1": _with(lambda m: setattr(m.opset_import[0], "version", -1)),
        "operator of 100,000 letters": _with(
            lambda m: setattr(m.graph.node[0], "op_type", "A" * 100_000)
        ),
        "names with controls": _with(lambda m: setattr(m.graph.node[0], "name", "a\x1b[31m\n\0")),
        "a node without outputs": _with(lambda m: m.graph.node[1].ClearField("output")),
        "a node without inputs": _with(lambda m: m.graph.node[0].ClearField("input")),
        "an input that nothing makes": _with(
            lambda m: m.graph.node[1].input.__setitem__(0, "none")
        ),
        "two of one name": _with(lambda m: m.graph.node.add().CopyFrom(m.graph.node[0])),
        "weight of no type": _with(lambda m: setattr(m.graph.initializer[0], "data_type", 0)),
        "weight of type 999": _with(lambda m: setattr(m.graph.initializer[0], "data_type", 999)),
        "weight of texts": _with(
            lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.STRING)
        ),
        "weight of 10^12": lambda: graph(
            [convolution(), *head()], [claimed("w", [10**6, 10**6, 1, 1])]
        ),
        "weight of 2^126": lambda: graph(
            [convolution(), *head()], [claimed("w", [1 << 62, 1 << 62, 1, 1])]
        ),
        "weight of -3": lambda: graph([convolution(), *head()], [claimed("w", [-3, 3, 3, 3])]),
        "weight of zero": lambda: graph([convolution(), *head()], [claimed("w", [0, 3, 3, 3])]),
        "weight cut off": lambda: graph([convolution(), *head()], [claimed("w", [10, 3, 3, 3])]),
        "weight of 100 axes": lambda: graph([convolution(), *head()], [claimed("w", [1] * 100)]),
        "weight not finite": lambda: graph(
            [convolution(), *head()], [weight("w", np.full_like(WEIGHT, np.nan))]
        ),
        "sparse of 10^12": lambda: _sparse([10**6, 10**6, 1, 1], [0]),
        "sparse outside": lambda: _sparse([10, 3, 3, 3], [10**9]),
        "sparse negative": lambda: _sparse([10, 3, 3, 3], [-1]),
        "sparse shape negative": lambda: _sparse([-10, 3, 3, 3], [0]),
        "input of 2^31": _sized(1, 3, 1 << 31, 8),
        "input of 2^62": _sized(1, 3, 1 << 62, 1 << 62),
        "input of 30,000": _sized(1, 3, 30_000, 30_000),
        "input of 10^6 images": _sized(10**6, 3, 8, 8),
        "input of 2^62 images": _sized(1 << 62, 3, 8, 8),
        "input negative": _sized(1, 3, -8, -8),
        "input of zero": _sized(1, 3, 0, 0),
        "input of one axis": _sized(8),
        "input of 64 axes": _sized(*[1] * 64),
        "input of a text": _with(
            lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING)
        ),
        "input of no type": _with(lambda m: m.graph.input[0].ClearField("type")),
        "names of classes deep": _metadata("strzoo.class_names", "[" * 100_000),
        "names of classes nested": _metadata("strzoo.class_names", "[" + "[" * 900 + "]" * 901),
        "classes a mapping": _metadata("strzoo.class_names", '{"a": 1}'),
        "classes of 5,000 digits": _metadata("strzoo.class_names", "[" + "9" * 5000 + "]"),
        "preprocessing deep": _metadata("strzoo.preprocessing", "[" * 100_000),
        "preprocessing infinite": _metadata("strzoo.preprocessing", _PREPROCESSING % "1e999"),
        "preprocessing of 10^18": _metadata(
            "strzoo.preprocessing", _PREPROCESSING % "1" + "0" * 18
        ),
        "preprocessing huge": _metadata("strzoo.preprocessing", _PREPROCESSING % 10**9),
        "preprocessing negative": _metadata("strzoo.preprocessing", _PREPROCESSING % -5),
        "preprocessing of words": _metadata("strzoo.preprocessing", '{"mean": "abc"}'),
        "sparsity of words": _metadata("strzoo.sparsity", "1e99999"),
        "output of words": _metadata("strzoo.output", "softmax" * 10_000),
    }
    return found


_PREPROCESSING = (
    '{"resize": %s, "crop": 8, "interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1], '
    '"built_in": false, "input_height": 8, "input_width": 8}'
)


def _external(location: str, **entries: str) -> onnx.ModelProto:
    model = graph([convolution(), *head()])
    tensor = model.graph.initializer.add(
        name="w", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
    )
    tensor.dims.extend(WEIGHT.shape)
    for key, text in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=text)
    return model


def _places() -> Iterator[Case]:
    """Weights in other files, which are elsewhere or no files."""
    size = str(WEIGHT.nbytes)
    kinds = {
        "above": ("../secret", {}),
        "absolute": ("/etc/hostname", {}),
        "/dev/zero": ("/dev/zero", {"length": size}),
        "of Windows": ("C:\\secret", {}),
        "above in Windows' spelling": ("..\\secret", {}),
        "of a device by link": ("zero", {}),
        "of a FIFO": ("fifo", {}),
        "of a folder": ("folder", {}),
        "of a loop": ("loop", {}),
        "of nothing": ("none", {}),
        "of no name": ("", {}),
        "of a null character": ("a\0b", {}),
        "of a long name": ("a" * 5000, {}),
        "too short": ("short", {}),
        "beyond its end": ("whole", {"offset": str(1 << 40)}),
        "of 2^62 bytes": ("whole", {"length": str(1 << 62)}),
        "of -1 bytes": ("whole", {"length": "-1"}),
        "of superscripts": ("whole", {"length": "\xb2"}),
        "of 5,000 digits": ("whole", {"offset": "9" * 5000}),
    }
    for name, (location, entries) in kinds.items():
        for command in (next(COMMANDS), next(COMMANDS)):

            def write(folder: Path, location: str = location, entries: Any = entries) -> None:
                save(folder / "a.onnx", _external(location, **entries))
                os.symlink("/dev/zero", folder / "zero")
                os.symlink("loop", folder / "loop")
                os.mkfifo(folder / "fifo")
                (folder / "folder").mkdir()
                (folder / "short").write_bytes(bytes(100))
                (folder / "whole").write_bytes(WEIGHT.tobytes())

            yield Case(f"onnx: weights {name} ({command[0]})", write, command)


def _bytes() -> Iterator[Case]:
    contents = {
        "empty": b"",
        "zeros": bytes(1000),
        "groups without an end": b"\x0b" * 1000,
        "a length of 2^64": b"\x3a" + b"\xff" * 9 + b"\x01",
        "lengths in lengths": b"\x3a\x7f" * 200,
        "html": b"<!DOCTYPE html><p>quota",
    }
    sound = convolution_graph().SerializeToString()
    contents |= {f"cut at {n}": sound[: n * len(sound) // 8] for n in range(1, 8)}
    contents |= {
        f"byte {n} changed": sound[:n] + bytes([sound[n] ^ 0x55]) + sound[n + 1 :]
        for n in (*range(0, 40, 5), *range(len(sound) - 120, len(sound), 17))
    }
    for name, content in contents.items():

        def write(folder: Path, content: bytes = content) -> None:
            (folder / "a.onnx").write_bytes(content)

        yield Case(f"onnx: {name}", write, next(COMMANDS), READ, MADE)


def cases() -> Iterator[Case]:
    yield from cases_of("onnx", _models())
    yield from _places()
    yield from _bytes()
