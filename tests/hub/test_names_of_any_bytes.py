"""Files and folders whose names are not UTF-8 work as others do. Linux allows any bytes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import strzoo
from strzoo.cli import run
from strzoo.rnn import FastGRNN, SequenceClassifier, load_rnn, save_rnn
from tests.helpers.foreign import small_network

ODD = os.fsdecode(b"\xff")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are texts here")


def _save_onnx(path: Path) -> None:
    strzoo.export_onnx(small_network(), path)


def _save_external(path: Path) -> None:
    _save_onnx(path)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=1024)


FORMS: dict[str, Callable[[Path], object]] = {
    "a.pth": lambda path: torch.save(small_network().state_dict(), path),
    "a.safetensors": lambda path: save_file(small_network().state_dict(), path),
    "a.onnx": _save_onnx,
    "external.onnx": _save_external,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["file", "folder"])
def test_the_network_in_it_computes_the_same(form: str, where: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    FORMS[form](plain / form)
    odd = plain / f"{ODD}{form}"
    if where == "file":
        shutil.copy(plain / form, odd)
    else:
        odd = tmp_path / ODD / form
        shutil.copytree(plain, odd.parent)
    image = np.zeros((32, 32, 3), np.uint8)
    assert strzoo.predict(odd, image)[0].guesses == strzoo.predict(plain / form, image)[0].guesses
    assert strzoo.report(odd).nonzeros == strzoo.report(plain / form).nonzeros


def test_what_is_written_can_have_such_a_name(tmp_path: Path) -> None:
    weight = small_network().state_dict()["conv1.weight"]
    for ending in ("pth", "safetensors"):
        path = tmp_path / f"{ODD}.{ending}"
        strzoo.save_checkpoint(small_network(), path)
        assert torch.equal(strzoo.read_checkpoint(path).state_dict["conv1.weight"], weight)
    exported = strzoo.export_onnx(small_network(), tmp_path / f"{ODD}.onnx").path
    strzoo.compile(exported).save(tmp_path / f"{ODD}.strz")
    image = np.zeros((1, 3, 32, 32), np.float32)
    (found,) = strzoo.InferenceSession(tmp_path / f"{ODD}.strz").run(None, {"images": image})
    wanted = small_network()(torch.from_numpy(image)).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    model = SequenceClassifier(FastGRNN(3, 4, 1), 5)
    saved = save_rnn(model, tmp_path / f"rnn{ODD}.pth")
    assert torch.equal(load_rnn(saved).state_dict()["fc.weight"], model.state_dict()["fc.weight"])


def test_texts_name_such_files_by_escapes(tmp_path: Path) -> None:
    path, images = tmp_path / f"{ODD}.pth", tmp_path / "images"
    torch.save(small_network().state_dict(), path)
    for label in range(3):
        (images / str(label)).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(images / str(label) / f"{ODD}.png")
    for name in ("report.md", "report.csv", "report.json"):
        assert run(["report", str(path), "-o", str(tmp_path / name)]) == 0
    assert run(["report", str(path), "--html", str(tmp_path / "report.html")]) == 0
    assert "\\udcff.pth" in (tmp_path / "report.md").read_text()
    arguments = ["evaluate", str(path), "--data", str(images)]
    found = {name: tmp_path / f"{name}.csv" for name in ("csv", "predictions")}
    for name, file in found.items():
        arguments += [f"--{name}", str(file)]
    assert run(arguments) == 0
    assert all("\\udcff" in file.read_text() for file in found.values())
