from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from strzoo.errors import StrzooError, UsageError, VerificationError
from strzoo.rnn import FastGRNN, SequenceClassifier, export_onnx, export_rnn


def _model() -> SequenceClassifier:
    torch.manual_seed(0)
    rnn = FastGRNN(3, 4, rank_w="learned", rank_u=2, s_init=-0.2)
    return SequenceClassifier(rnn, 5, mean=torch.randn(6, 3), std=torch.rand(6, 3) + 1)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_export_equals_torch_and_says_what_it_is(tmp_path: Path, precision: str) -> None:
    model = _model()
    made = export_rnn(model, tmp_path / "m.onnx", precision=precision, name="mine")
    assert made.relative_difference is not None
    assert made.relative_difference < 1e-5
    assert made.bytes == made.path.stat().st_size
    file = onnx.load(str(made.path))
    values = {entry.key: entry.value for entry in file.metadata_props}
    assert values["strzoo.model"] == "mine"
    assert values["strzoo.precision"] == precision
    sizes = [d.dim_param or d.dim_value for d in file.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", 6, 3]  # each of its 6 steps is normalised on its own
    if precision == "fp32":
        parameters = sum(p.numel() for p in model.fold().parameters())
        assert made.kilobytes == 4 * parameters / 1024
    with pytest.raises(StrzooError, match="exists; pass --force"):
        export_rnn(_model(), made.path)


def test_a_file_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = export_onnx.build_onnx

    def wrong(model: SequenceClassifier, *, opset: int) -> onnx.ModelProto:
        made = build(model, opset=opset)
        (bias,) = (t for t in made.graph.initializer if t.name == "fc.bias")
        bias.raw_data = bytes(len(bias.raw_data))
        return made

    monkeypatch.setattr(export_onnx, "build_onnx", wrong)
    with pytest.raises(VerificationError, match="nothing was written"):
        export_rnn(_model(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'fp16' is not one of fp32, int8"):
        export_rnn(_model(), tmp_path / "m.onnx", precision="fp16")
