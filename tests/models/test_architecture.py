"""A fifth architecture, from outside the package, goes the whole road."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import strzoo
from strzoo.errors import IntegrityError, UsageError
from strzoo.models import registry
from strzoo.models.architecture import Architecture, ForeignLayout


class Plain(nn.Module):
    """Two convolutions and a linear classifier; `side` is the pixels of its images."""

    def __init__(
        self, *, num_classes: int, conv: Callable[..., nn.Module] = nn.Conv2d, side: int = 16
    ) -> None:
        super().__init__()
        self.side = side
        self.first = conv(3, 8, 3, padding=1)
        self.second = conv(8, 12, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.second(torch.relu(self.first(x)))))
        return self.head(x.mean((2, 3)))


def recognise(state: Mapping[str, Tensor], declared: Mapping[str, Any]) -> dict[str, Any] | None:
    return {"side": declared.get("side", 16)} if "second.weight" in state else None


PLAIN = Architecture(
    name="plain",
    published="PlainNet",
    build=Plain,
    options={"side": 16},
    recognise=recognise,
    input_size=lambda options: (3, options["side"], options["side"]),
    num_classes=4,
    head="head",
    layouts=(
        ForeignLayout(
            "timm",
            "other.plain()",
            lambda classes: Plain(num_classes=classes),
            lambda key: key.replace("head", "classifier").replace("first", "stem"),
            "classifier",
            ("stem.weight", "classifier.weight"),
        ),
    ),
)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    assert strzoo.register_architecture(PLAIN) is PLAIN
    yield
    registry._registered.clear()


@pytest.mark.slow
def test_a_fifth_architecture_goes_the_whole_road(tmp_path: Path) -> None:
    assert "plain" in strzoo.list_architectures()
    torch.manual_seed(0)
    network = strzoo.create_model("plain", side=20, layer="str")
    path = strzoo.save_checkpoint(network, tmp_path / "plain.pth")
    document = torch.load(path, weights_only=True)
    assert document["arch"] == "PlainNet"

    loaded = strzoo.load(path, format="str")
    images = torch.rand(3, 3, 20, 20)
    with torch.no_grad():
        expected = network.eval()(images)
        assert torch.equal(loaded(images), expected)
    assert strzoo.load(path, num_classes=7)(images).shape == (3, 7)

    # By hand: 3x8x9 + 8 at 20x20, 8x12x9 + 12 at 10x10, 12x4 + 4, BatchNorm 2x12.
    made = strzoo.report(path)
    assert made.input_size == (3, 20, 20)
    assert made.params == (216 + 8) + (864 + 12) + (48 + 4) + 24
    assert [layer.dense_macs for layer in made.layers] == [216 * 400, 864 * 100, 48]
    assert made.layers[0].threshold is not None

    foreign = strzoo.convert(path, tmp_path / "foreign.pth", layout="timm").path
    keys = torch.load(foreign, weights_only=True)
    assert "stem.weight" in keys
    assert "classifier.bias" in keys
    assert strzoo.read_checkpoint(foreign).architecture == "plain"

    result = strzoo.evaluate(path, [(images, expected.argmax(1))])
    assert result.correct_top1 == 3

    exported = strzoo.export_onnx(path, tmp_path / "plain.onnx")
    assert exported.input_shape == ("batch", 3, 20, 20)
    assert exported.metadata["strzoo.architecture"] == "plain"
    assert strzoo.report(exported.path).layers[1].dense_macs == 864 * 100
    pytest.importorskip("llvmlite")
    compiled = strzoo.compile(path, cache=False)
    assert np.allclose(compiled(images.numpy()), expected.numpy(), atol=1e-4)


def test_what_contradicts_the_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'resnet50' is registered already"):
        strzoo.register_architecture(Architecture("resnet50", "Mine", Plain, {}))
    with pytest.raises(UsageError, match="published name 'resnet18' is that of resnet18"):
        strzoo.register_architecture(Architecture("mine", "resnet18", Plain, {}))
    with pytest.raises(UsageError, match="'My Net' is not lower-case letters and digits"):
        strzoo.register_architecture(Architecture("My Net", "Mine", Plain, {}))
    with pytest.raises(UsageError, match="plain has no option 'width'; it has side"):
        strzoo.create_model("plain", width=2)
    state = strzoo.create_model("plain").state_dict()
    del state["norm.bias"]
    with pytest.raises(IntegrityError, match=r"not a complete plain: missing: norm\.bias"):
        strzoo.build_checkpoint(state)
