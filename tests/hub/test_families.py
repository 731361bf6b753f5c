"""FastGRNN networks through the calls that take any model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import IntegrityError, UsageError
from strzoo.hub.resolve import resolve
from strzoo.rnn import (
    FastGRNN,
    FastGRNNCell,
    SequenceClassifier,
    load_rnn,
    save_rnn,
    to_edgeml,
    write_folder,
)

STEPS, FEATURES, STATES, CLASSES = 5, 4, 6, 3
DEAD = 1  # columns of the learned rank of W


def make_classifier() -> SequenceClassifier:
    torch.manual_seed(0)
    rnn = FastGRNN(FEATURES, STATES, rank_w="learned", rank_u=2, s_init=-3.0)
    with torch.no_grad():
        rnn.cells[0].m_W[0] = 0.01
    mean, std = torch.randn(STEPS, FEATURES), torch.rand(STEPS, FEATURES) + 1
    return SequenceClassifier(rnn, CLASSES, mean=mean, std=std).eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_rnn(make_classifier(), tmp_path / "m.pth")


def test_a_report_counts_the_matrices_of_a_file_and_of_a_network(file: Path) -> None:
    made = strzoo.report(file)
    # Of both factors of W the dead column is zero.
    shapes = {"W1": (FEATURES, FEATURES), "W2": (FEATURES, STATES), "U1": (STATES, 2),
              "U2": (2, STATES)}  # fmt: skip
    zeros = {"W1": DEAD * FEATURES, "W2": DEAD * STATES, "U1": 0, "U2": 0}
    for layer in made.layers[:-1]:
        side = layer.name.removeprefix("rnn.cells.0.")
        assert layer.shape == shapes.pop(side)
        assert layer.params - (layer.nonzeros or 0) == zeros[side]
        assert layer.dense_macs == STEPS * layer.shape[0] * layer.shape[1]
    assert not shapes
    assert made.layers[0].threshold == pytest.approx(torch.tensor(-3.0).exp().item())
    assert made.layers[-1].dense_macs == STATES * CLASSES  # once a sequence
    weights = FEATURES * FEATURES + FEATURES * STATES + 2 * 2 * STATES + STATES * CLASSES
    assert made.weights == weights
    assert made.params == weights + 2 * STATES + 2 + CLASSES
    assert made.input_size == (STEPS, FEATURES)
    assert "ranks: rnn.cells.0.W 3, rnn.cells.0.U 2" in made.notes
    assert strzoo.report(nn.DataParallel(make_classifier())).layers == made.layers
    full = strzoo.report(FastGRNN(FEATURES, STATES), input_size=7)
    assert full.dense_macs == 7 * STATES * (FEATURES + STATES)
    assert strzoo.report(FastGRNNCell(FEATURES, STATES)).input_size == (1, FEATURES)
    with pytest.raises(UsageError, match="takes sequences of 4 features"):
        strzoo.report(file, input_size=(3, 32, 32))


def test_a_conversion_is_folded_and_computes_the_same(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = strzoo.convert(file, tmp_path / "folded.pth", verify=True)
    assert (made.architecture, made.source_format, made.verified) == (
        "fastgrnn", "learned ranks", True,
    )  # fmt: skip
    assert made.bytes == made.path.stat().st_size
    assert load_rnn(made.path).rnn.cells[0].rank_w == FEATURES - DEAD
    x = torch.randn(2, STEPS, FEATURES)
    torch.testing.assert_close(strzoo.load(made.path)(x), make_classifier()(x))
    for bad in ({"format": "str"}, {"half": True}, {"layout": "timm"}, {"entry": "ema"}):
        with pytest.raises(UsageError, match="is a FastGRNN network for sequences: "):
            strzoo.convert(file, tmp_path / "no.pth", **bad)
    with pytest.raises(UsageError, match="has no linear layer"):
        strzoo.convert(FastGRNN(2, 3), tmp_path / "no.pth")
    monkeypatch.setattr("strzoo.rnn.source.load_rnn", lambda path: load_rnn(file).double())
    network = load_rnn(file)
    network.fc.bias.data += 1
    with pytest.raises(strzoo.StrzooError, match="logits differ from the source's"):
        strzoo.convert(network, tmp_path / "no.pth", verify=True)
    assert not (tmp_path / "no.pth").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_export_has_the_networks_logits_and_a_report_beside_it(
    file: Path, tmp_path: Path, precision: str
) -> None:
    made = strzoo.export_onnx(file, tmp_path / "m.onnx", precision=precision)
    x = torch.randn(2, STEPS, FEATURES)
    (found,) = onnxruntime.InferenceSession(str(made.path)).run(None, {"sequences": x.numpy()})
    close = 0.05 if precision == "int8" else 1e-5
    expected = make_classifier()(x).detach()
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=close, atol=close)
    assert made.input_shape == ("batch", STEPS, FEATURES)
    assert made.relative_difference < 1e-5
    assert json.loads(made.report_path.read_text())["bytes"] == made.path.stat().st_size
    with pytest.raises(UsageError, match="softmax is not for it"):
        strzoo.export_onnx(file, tmp_path / "n.onnx", softmax=True)


def test_edgemls_files_and_folders_and_a_trainings_folder_are_recognised(tmp_path: Path) -> None:
    model = make_classifier()
    folder = write_folder(model, tmp_path / "edgeml")
    torch.save({f"module.{k}": v for k, v in to_edgeml(model, "rnn_list").items()},
               tmp_path / "e.pth", _use_new_zipfile_serialization=False)  # fmt: skip
    for source in (folder, tmp_path / "e.pth"):
        made = strzoo.report(str(source))
        assert made.weights < strzoo.report(model).weights  # folded
        assert any("sigmoid and tanh are assumed" in note for note in made.notes)
    run = tmp_path / "run"
    run.mkdir()
    save_rnn(model.fold(), run / "rank_3_2.pth")
    with pytest.raises(UsageError, match=r"has no result\.json: name one of its rank_"):
        strzoo.report(run)
    (run / "result.json").write_text('{"best": {"file": "/elsewhere/run/rank_3_2.pth"}}')
    assert resolve(run).path == run / "rank_3_2.pth"
    (run / "result.json").write_text('{"best": 3}')
    with pytest.raises(IntegrityError, match="does not name the best network"):
        strzoo.report(run)
    (tmp_path / "named.pth").write_bytes(b"bias_gate bias_update")
    with pytest.raises(IntegrityError, match=r"named\.pth is not a checkpoint"):
        strzoo.report(tmp_path / "named.pth")


def test_what_is_for_images_is_refused_and_other_networks_are_none_of_these(
    file: Path, resnet20_file: Path
) -> None:
    refused: tuple[Callable[[Path], object], ...] = (
        lambda model: strzoo.evaluate(model, data="digits"),
        lambda model: strzoo.compile(model),
        lambda model: strzoo.benchmark(model),
        lambda model: strzoo.verify(model),
        lambda model: strzoo.export_matrices(model, file.parent / "matrices"),
        lambda model: strzoo.get_transforms(str(model)),
        lambda model: strzoo.plan(strzoo.TrainConfig(start_from=str(model))),
    )
    for call in refused:
        with pytest.raises(UsageError, match=r"m\.pth is a FastGRNN network for sequences; "):
            call(file)
    assert resolve(file).kind == resolve(make_classifier()).kind == "family"
    assert resolve(file).sha256 != resolve(make_classifier()).sha256  # of the file, the tensors
    assert resolve(resnet20_file).kind == "checkpoint"
    assert resolve(nn.GRU(3, 4)).kind == "module"
