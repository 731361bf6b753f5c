"""Nodes that stand in another order than they run in, as onnxruntime takes them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import strzoo
from strzoo.errors import IntegrityError
from strzoo.onnx.files import check_model
from strzoo.onnx.sessions import open_session

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    path = tmp_path_factory.mktemp("order") / "sorted.onnx"
    return strzoo.export_onnx(network, path, input_size=(3, 16, 16)).path


def _reorder(path: Path, seed: int | None) -> Path:
    model = onnx.load(path)
    nodes = list(model.graph.node)[::-1]
    if seed is not None:
        random.Random(seed).shuffle(nodes)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    onnx.save(model, path.with_name("shuffled.onnx"))
    return path.with_name("shuffled.onnx")


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_file_in_any_order_is_reported_and_runs_as_the_sorted_one(
    exported: Path, seed: int | None
) -> None:
    path = _reorder(exported, seed)
    expected = open_session(path).run(None, {"images": IMAGES})[0]
    np.testing.assert_allclose(strzoo.compile(path, cache=False)(IMAGES), expected, atol=1e-5)
    alone = strzoo.compile(path, cache=False, islands="none")
    np.testing.assert_allclose(alone(IMAGES), expected, atol=1e-5)
    found = strzoo.report(path)
    assert [layer.output for layer in found.layers] == [(8, 14, 14), (4, 12, 12)]
    # 8 filters of 3x3x3 on 14x14, 4 of 3x3x8 on 12x12, and a pool that adds 4 maps of 12x12.
    assert found.dense_macs == 27 * 8 * 14**2 + 72 * 4 * 12**2 + 4 * 12**2


def _model(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _node(name: str, reads: str, makes: str) -> onnx.NodeProto:
    return helper.make_node("Sum", reads.split(), makes.split(), name)


def test_only_what_has_to_move_moves() -> None:
    nodes = [_node("c", "b", "c"), _node("a", "x", "a"), _node("d", "x", "d"), _node("b", "a", "b")]
    given = _model([*nodes, _node("y", "c d", "y")])
    before = given.SerializeToString()
    found = check_model(given, "m.onnx")
    assert [node.name for node in found.graph.node] == ["a", "d", "b", "c", "y"]
    assert given.SerializeToString() == before
    assert check_model(found, "m.onnx") is found


def test_what_a_branch_reads_from_outside_comes_before_it() -> None:
    inner = [_node("inner2", "t", "r"), _node("inner1", "late", "t")]
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 4])
    body = helper.make_graph(inner, "branch", [], [result])
    branch = helper.make_node("If", ["flag"], ["y"], "if", then_branch=body, else_branch=body)
    constant = helper.make_tensor("v", TensorProto.BOOL, [], [True])
    flag = helper.make_node("Constant", [], ["flag"], "flag", value=constant)
    found = check_model(_model([flag, branch, _node("late", "x", "late")]), "m.onnx")
    assert [node.name for node in found.graph.node] == ["flag", "late", "if"]
    for attribute in found.graph.node[2].attribute:
        assert [node.name for node in attribute.g.node] == ["inner1", "inner2"]


def test_a_circle_is_refused_by_name(tmp_path: Path) -> None:
    nodes = [_node("y", "b", "y"), _node("a", "x b", "a"), _node("b", "a", "b")]
    onnx.save(_model(nodes), tmp_path / "m.onnx")
    for read in (strzoo.report, strzoo.compile):
        with pytest.raises(IntegrityError, match=r"m\.onnx is damaged: .*circle \('b', 'a'\)"):
            read(tmp_path / "m.onnx")
    onnx.save(_model([_node("own", "x y", "y")]), tmp_path / "m.onnx")
    with pytest.raises(IntegrityError, match=r"circle \('own'\)"):
        strzoo.report(tmp_path / "m.onnx")
