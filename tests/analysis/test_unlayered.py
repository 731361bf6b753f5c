"""Attention and recurrent modules compute with weights that are no layers; values by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import strzoo
from strzoo.analysis import counting


class _Attends(nn.Module):
    """Sixteen tokens of eight features out of a 32x32 image, of which attention is computed."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.e = nn.Conv2d(3, 8, 8, 8)
        self.a = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.f = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.e(x).flatten(2).mT
        tokens = tokens if self.a.batch_first else tokens.transpose(0, 1)
        found = self.a(tokens, key=tokens, value=tokens, need_weights=False)[0]
        return self.f(found.mean(1 if self.a.batch_first else 0))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("fvcore", [True, False])
def test_attention_is_counted_as_its_onnx_file_is(
    batch_first: bool, fvcore: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fvcore:
        monkeypatch.setattr(counting, "has_fvcore", lambda: False)
    model = _Attends(batch_first).eval()
    before = torch.backends.mha.get_fastpath_enabled()
    made = strzoo.report(model, input_size=(3, 32, 32))
    assert torch.backends.mha.get_fastpath_enabled() == before
    macs = {layer.name: layer.dense_macs for layer in made.layers}
    # 8 x 192 weights at 4 x 4 places; 8 x 8 for each of 16 tokens; the classifier.
    assert macs == {"e": 1536 * 16, "a.out_proj": 64 * 16, "f": 80}
    assert made.layers[1].output == (16, 8)
    assert made.other_macs["linear"] == 3 * 64 * 16  # query, key and value
    assert any("a.in_proj_weight" in note and "192 weights" in note for note in made.notes)
    if fvcore:  # the mean of 16 tokens too
        assert made.dense_macs == 24576 + 3072 + 1024 + 80 + 128
        exported = strzoo.export_onnx(model, tmp_path / "a.onnx", input_size=(3, 32, 32)).path
        assert strzoo.report(exported).dense_macs == made.dense_macs


def test_an_encoder_layer_is_counted_without_the_fused_operator() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
    made = strzoo.report(model, input_size=(3, 4, 4))
    macs = {layer.name: layer.dense_macs for layer in made.layers}
    assert macs == {
        "1.self_attn.out_proj": 3 * 16 * 16,
        "1.linear1": 3 * 16 * 32,
        "1.linear2": 3 * 32 * 16,
    }
    assert made.other_macs["linear"] == 3 * 3 * 16 * 16


def test_layers_that_do_not_run_and_recurrent_matrices_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Linear(4, 4)
            self.used = nn.Linear(4, 4)
            self.gru = nn.GRU(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.gru(self.used(x))[0]

    made = strzoo.report(Odd(), input_size=(4,))
    notes = "\n".join(made.notes)
    assert "no MACs were counted of aside:" in notes
    # Three gates of 3 units for 4 inputs and 3 states.
    assert "63 weights of recurrent layers" in notes
    assert "gru.weight_ih_l0, gru.weight_hh_l0" in notes
