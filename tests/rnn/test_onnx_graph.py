from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from strzoo.errors import UsageError
from strzoo.onnx.sessions import open_session
from strzoo.rnn import FastGRNN, SequenceClassifier, quantise
from strzoo.rnn.onnx_graph import build_onnx
from tests.helpers import fastgrnn


def _model(**options: Any) -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(FastGRNN(3, 4, **options), 5, mean=torch.randn(3)).eval()


def test_the_graph_computes_the_equations_for_any_batch_and_length() -> None:
    model = _model(rank_u=2)
    session = open_session(build_onnx(model).SerializeToString())
    p = {k: v.double().numpy() for k, v in model.rnn.cells[0].state_dict().items()}
    fc, bias = (model.fc.weight.detach().numpy(), model.fc.bias.detach().numpy())
    for shape in ((1, 1, 3), (2, 9, 3)):
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        (found,) = session.run(["logits"], {"sequences": x})
        normal = (x - model.mean.numpy()).swapaxes(0, 1)
        final = fastgrnn.run(p, normal, np.zeros((shape[0], 4)), "sigmoid", "tanh")[-1]
        np.testing.assert_allclose(found, final @ fc.T + bias, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 2, "bidirectional": True, "gate": "quantSigm4", "update": "quantTanh"},
        {"gate": "quantSigm", "update": "relu", "rank_w": "learned", "s_init": -0.2},
    ],
    ids=str,
)
def test_layers_directions_and_gates_equal_torch_s(options: dict[str, Any]) -> None:
    model, x = _model(**options), torch.randn(2, 7, 3)
    session = open_session(build_onnx(model).SerializeToString())
    (found,) = session.run(None, {"sequences": x.numpy()})
    np.testing.assert_allclose(found, model(x).detach().numpy(), rtol=0, atol=1e-6)


def test_int8_matrices_are_stored_in_int8() -> None:
    made = build_onnx(quantise(_model(rank_u=2)))
    types = {t.name: t.data_type for t in made.graph.initializer}
    for name in ("rnn.cells.0.W", "rnn.cells.0.U1", "rnn.cells.0.U2", "fc.weight"):
        assert types[f"{name}_quantized"] == onnx.TensorProto.INT8
        assert name not in types
    zero = next(t for t in made.graph.initializer if t.name == "rnn.cells.0.W_quantized")
    assert np.abs(numpy_helper.to_array(zero)).max() == 127


def test_an_opset_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="opset 3 is not between"):
        build_onnx(_model(), opset=3)
