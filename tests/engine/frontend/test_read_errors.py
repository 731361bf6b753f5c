"""What cannot be read is refused in one line that says what and where."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from strzoo.engine.frontend.read import read_graph
from strzoo.engine.frontend.reading import OPERATORS
from strzoo.errors import IntegrityError, StrzooError, UsageError
from tests.helpers.engine.models import build
from tests.helpers.engine.reference import run_graph

MAP = "float[N, A, B, C] y"


def refusal(model: onnx.ModelProto | bytes, kind: type[StrzooError] = UsageError) -> str:
    with pytest.raises(kind) as caught:
        read_graph(model, source="net.onnx")
    message = str(caught.value)
    assert message.startswith("net.onnx")
    assert "\n" not in message
    return message


def test_all_unsupported_operators_are_listed_once_with_a_node() -> None:
    body = """s = Sin (x) m = Pow (s, x) t = Sin (m) l = Asinh (t)
              y = Conv <dilations = [1, 1], strides = [1, 1], auto_pad = "odd"> (x, w)
              z = Add (l, y)"""
    model = build(body, output="float[N, A, B, C] z", w=np.ones((4, 4, 2, 2), np.float32))
    for node, name in zip(model.graph.node, ("first", "mul", "second", "leaky"), strict=False):
        node.name = name
    message = refusal(model)
    assert "cannot run Sin at first (2 nodes); Pow at mul (its input 'x' is not" in message
    assert "; Asinh at leaky; " in message
    assert "Conv at y (auto_pad 'odd')" in message
    assert message.endswith("docs/engine.md says what the engine runs")


def test_the_documents_name_the_operators_that_the_engine_reads() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "engine.md").read_text()
    listed = text.partition("ONNX operators that it reads: ")[2].partition(". Those")[0]
    assert re.findall(r"`(\w+)`", listed) == sorted(OPERATORS)


def test_a_message_stays_readable_however_many_operators_there_are() -> None:
    body = " ".join(f"v{i} = Kind{i % 40}{'x' * 200} (x)" for i in range(2000))
    inputs = ", ".join(f"v{i}" for i in range(2000))
    message = refusal(build(f"{body} y = Concat <axis = 1> ({inputs})", output=MAP))
    assert "(50 nodes)" in message
    assert "and 24 more operators" in message
    assert len(message) < 3000


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("m = ReduceMax <axes = [1]> (x) y = Mul (m, x)", "ReduceMax at m"),
        ("p = GlobalAveragePool (x) y = Sub (p, x)", "Sub at y (of shapes [N, 4, 1, 1] and [N, 4,"),
        ("y = Pow (x, x)", "Pow at y (its input 'x' is not a constant)"),
        ("y = Max (x, x)", "Max at y (of other than a value and a constant)"),
        ("y = PRelu (x, w)", "PRelu at y (slopes of shape (6,))"),
        ("y = Gelu <approximate = \"odd\"> (x)", "Gelu at y (approximated by odd)"),
        ("y = Add (x, w)", "Add at y (a constant of shape (6,) with images of [N, 4, 7, 6])"),
        ("y = Div (c, x)", "Div at y (of several constants by a computed value)"),
        ("y = Concat <axis = 2> (x, x)", "Concat at y (along another axis than the channels)"),
        ("y = Conv (x, x)", "Conv at y (its input 'x' is not a constant)"),
        ("y = Conv (x, w3)", "Conv at y (1 axes; images have two)"),
        ("y = Conv <pads = [-1, 0, 0, 0]> (x, w4)", "Conv at y (negative padding)"),
        ("y, i = MaxPool <kernel_shape = [2, 2]> (x) z = Add (y, i)", "its second output is used"),
        ("y = AveragePool <kernel_shape = [2, 2], pads = [2, 0, 0, 0]> (x)",
         "AveragePool at y (windows that see nothing but padding)"),
        ("t = Constant <value_int = 1> () b = Cast <to = 9> (t) y = Dropout (x, one, b)",
         "Dropout at y (in training mode)"),
        ("y = BatchNormalization <training_mode = 1> (x, c, c, c, c)", "training mode"),
        ("y = ReduceMean <axes = [1, 2]> (x)", "ReduceMean at y (over other axes than height"),
        ("y = Flatten <axis = 2> (x)", "Flatten at y (along another axis than the channels)"),
        ("s = Constant <value_ints = [-1, 84]> () y = Reshape (x, s)",
         "Reshape at y (of images and another axis into one)"),
        ("s = Constant <value_ints = [2, 84]> () y = Reshape (x, s)",
         "Reshape at y (from [N, 4, 7, 6] to [2, 84])"),
        ("s = Constant <value_ints = [0, 2, 2, 6, 7]> () r = Reshape (x, s) y = Conv (r, w4)",
         "Reshape at r (it makes a [N, 2, 2, 6, 7] that is then used as a map)"),
        ("y = Softmax <axis = 1> (x)", "Softmax at y (along another axis than the channels"),
        ("y = Cast <to = 7> (x)", "Cast at y (to integers)"),
        ("y = Transpose <perm = [2, 0, 3, 1]> (x)", "Transpose at y (of images)"),
        ("f = Flatten (x) y = Gemm <transA = 1> (f, w)", "Gemm at y (of transposed images)"),
        ("s = Shape (x) z = Constant <value_int = 0> () n = Gather (s, z) t = Add (n, n) "
         "y = Reshape (x, t)", "Add at t (it computes with the batch size)"),
        ("q = QuantizeLinear (x, one) y = DequantizeLinear (q, one)", "QuantizeLinear at q"),
    ],
)  # fmt: skip
def test_each_refusal_says_why(body: str, expected: str) -> None:
    constants = {
        "one": np.float32(1),
        "w": np.ones(6, np.float32),
        "w3": np.ones((4, 4, 2), np.float32),
        "w4": np.ones((4, 2, 1, 1), np.float32),
        "c": np.ones(4, np.float32),
    }
    outputs = "z" if " z = G" in body or " z = A" in body else "y"
    model = build(body, output=f"float[N, A, B, C] {outputs}", opset=17, **constants)
    assert expected in refusal(model)


def test_operators_of_other_domains_are_named_with_them() -> None:
    model = build("y = Relu (x)", output=MAP)
    model.graph.node[0].domain = "com.microsoft"
    assert "com.microsoft.Relu at y" in refusal(model)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("uint8[N, 4, 7, 6] x", "takes bytes, preprocessing is part of the network"),
        ("int64[N, 4, 7, 6] x", "takes int64"),
        ("float[N, 4, 7] x", "is [?, 4, 7]; expected images, [N, C, H, W]"),
        ("float[N, C, 7, 6] x", "is [?, ?, 7, 6]; expected images, [N, C, H, W]"),
        ("float[N, 4, H, 6] x", "leaves the height open; give the size"),
        ("float[N, 4, 7, 6] x, float[N, 4] other", "is [?, 4]; expected images, [N, C, H, W]"),
    ],
)
def test_inputs_that_are_not_images_are_refused(image: str, expected: str) -> None:
    assert expected in refusal(build("y = Relu (x)", image=image, output=MAP))


def test_a_size_that_contradicts_the_file_is_refused() -> None:
    model = build("y = Relu (x)", image="float[N, 3, H, 6] x", output=MAP)
    with pytest.raises(UsageError, match="the width of the images is given as 9; it is fixed at 6"):
        read_graph(model, size=(5, 9))
    with pytest.raises(UsageError, match="the height of the images is given as 0; it must be"):
        read_graph(model, size=(0, 6))


def test_an_input_too_small_for_the_network_is_a_usage_error() -> None:
    body = "a = MaxPool <kernel_shape = [5, 5]> (x) y = MaxPool <kernel_shape = [5, 5]> (a)"
    message = refusal(build(body, output=MAP))
    assert "y: its window spans 5 pixels, the map has 3; the input size is too small" in message


def test_weights_that_do_not_fit_are_an_integrity_error() -> None:
    model = build("y = Conv (x, w)", output=MAP, w=np.ones((4, 3, 1, 1), np.float32))
    message = refusal(model, IntegrityError)
    assert "a weight of shape (4, 3, 1, 1) in 1 groups does not fit 4 channels" in message
    lost = build("y = Conv (x, w)", output=MAP)
    assert "'w' is used before it is made" in refusal(lost, IntegrityError)
    short = build("y = Conv (x, w)", output=MAP, w=np.ones((4, 4, 1, 1), np.float32))
    short.graph.initializer[0].raw_data = b"123"
    assert "the tensor 'w' is damaged" in refusal(short, IntegrityError)
    few = build("y = Conv (x)", output=MAP)
    assert "Conv 'y' is malformed" in refusal(few, IntegrityError)


def test_weights_in_a_file_that_was_not_read_are_asked_for(tmp_path: Path) -> None:
    model = build("y = Conv (x, w)", output=MAP, w=np.ones((4, 4, 1, 1), np.float32))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    alone = onnx.load(str(path), load_external_data=False)
    assert "are in another file: give the path" in refusal(alone)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(StrzooError, match=r"w\.bin"):
        read_graph(path)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StrzooError, match=r"none\.onnx does not exist"):
        read_graph(tmp_path / "none.onnx")
    for content in (b"", b"not a model", b"\x08\x07"):
        refusal(content, IntegrityError)
        path = tmp_path / "net.onnx"
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match=r"net\.onnx is not"):
            read_graph(path)


MODEL = build(
    "c = Conv <pads = [1, 1, 1, 1]> (x, w) p = GlobalAveragePool (c) f = Flatten (p) "
    "y = Gemm <transB = 1> (f, t)",
    w=np.ones((3, 4, 3, 3), np.float32),
    t=np.ones((2, 3), np.float32),
).SerializeToString()


@pytest.mark.slow
@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_file_is_read_or_refused_and_never_crashes(data: st.DataObject) -> None:
    content = bytearray(MODEL)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(StrzooError):
        graph = read_graph(bytes(content[: data.draw(st.integers(1, len(content)))]))
        assert run_graph(graph, np.ones((1, *graph.shapes[graph.input]))).shape[0] == 1
