"""Networks as people have them: any that torch can export is exported, others are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import strzoo
from strzoo.errors import StrzooError, UsageError
from strzoo.files import atomic_path

SIZE = (3, 8, 8)
TORCH_2_6 = torch.__version__.startswith("2.6.")


class _Small(nn.Module):
    """A convolution, a normalisation and a layer of 5 classes, whose output `finish` changes."""

    def __init__(
        self, finish: Callable[[Tensor], Any] = lambda y: y, norm: type[nn.Module] | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.GroupNorm(2, 4) if norm else nn.Identity()
        self.fc = nn.Linear(4, 5)
        self.finish = finish

    def forward(self, images: Tensor) -> Any:
        return self.finish(self.fc(self.norm(self.conv(images)).relu().mean((2, 3))))


class _OurNames(nn.Module):
    """Tensors called as the tensors of built-in preprocessing, as the input and the output."""

    def __init__(self) -> None:
        super().__init__()
        for number, name in enumerate(("scale", "offset", "images", "logits")):
            self.register_buffer(name, torch.full((1, 3), 1.5 + number))

    def forward(self, images: Tensor) -> Tensor:
        x = images.mean((2, 3)) * self.scale + self.offset
        return x / self.images + self.logits


@pytest.mark.slow
@pytest.mark.parametrize(
    "finish",
    [
        lambda y: {"logits": y, "aux": y * 2},
        lambda y: (y, y.mean()),
        lambda y: y[:, :, None, None],
    ],
    ids=["a dict", "a tuple", "a map of one place"],
)
def test_the_scores_are_found_in_what_the_network_returns(
    finish: Callable[[Tensor], Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if TORCH_2_6 and "one place" in request.node.name:
        pytest.skip("torch 2.6's exporter fixes the batch of it")
    images = torch.randn(2, *SIZE)
    expected = _Small()(images).detach().numpy()
    made = strzoo.export_onnx(_Small(finish), tmp_path / "m.onnx", input_size=SIZE)
    found = onnxruntime.InferenceSession(str(made.path)).run(None, {"images": images.numpy()})[0]
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.skipif(TORCH_2_6, reason="torch 2.6 writes four of the normalisation's numbers")
def test_group_normalisation_is_exported_and_what_follows_it_is_counted(tmp_path: Path) -> None:
    made = strzoo.export_onnx(_Small(norm=nn.GroupNorm), tmp_path / "m.onnx", input_size=SIZE)
    report = strzoo.inspect_onnx(made.path).report
    assert [layer.output for layer in report.layers] == [(4, 6, 6), (5,)]
    assert report.params == 3 * 4 * 9 + 4 + 2 * 4 + 4 * 5 + 5


@pytest.mark.slow
def test_tensors_may_be_called_as_those_of_preprocessing(tmp_path: Path) -> None:
    network = _OurNames()
    made = strzoo.export_onnx(network, tmp_path / "m.onnx", input_size=SIZE, preprocessing=True)
    images = np.full((1, 8, 8, 3), 51, np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((51 / 255 - mean) / std * 1.5 + 2.5) / 3.5 + 4.5
    found = onnxruntime.InferenceSession(str(made.path)).run(None, {"images": images})[0]
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: _Small(lambda y: None), "returns a NoneType"),
        (lambda: _Small(lambda y: (y, y * 2)), "a tuple of 2 with tensors (1, 5), (1, 5)"),
        (lambda: _Small(lambda y: y.argmax(1)), "int64 of shape (1,)"),
        (lambda: torch.jit.trace(_Small().eval(), torch.zeros(1, *SIZE)), "is TorchScript"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), "1.weight has no shape yet"),
        (lambda: nn.Linear(8, 5, device="meta"), "weight is on the device meta"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy", "ignore:.torch.jit", "ignore::DeprecationWarning")
def test_what_cannot_be_exported_is_named(
    make: Callable[[], nn.Module], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        strzoo.export_onnx(make(), tmp_path / "m.onnx", input_size=SIZE)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StrzooError) as caught, atomic_path(tmp_path / "m.onnx") as temporary:
        raise StrzooError(f"cannot load {temporary} ({temporary.name})")
    assert str(caught.value) == f"cannot load {tmp_path / 'm.onnx'} (m.onnx)"


class OneByOne(nn.Module):
    """Goes through the images in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.head(self.conv(i[None]).relu().mean((2, 3)))[0] for i in images])


def test_a_network_that_counts_its_images_takes_any_number_once_compiled(tmp_path: Path) -> None:
    network, images = OneByOne().eval(), torch.randn(3, 3, 12, 12)
    with pytest.raises(UsageError, match=r"another one for each number of images.*--batch 1"):
        strzoo.export_onnx(network, tmp_path / "any.onnx", input_size=12)
    strzoo.export_onnx(network, tmp_path / "one.onnx", input_size=12, batch=1)
    with torch.no_grad():
        expected = network(images)
    for model in (network, tmp_path / "one.onnx"):
        found = torch.from_numpy(strzoo.compile(model, size=12)(images.numpy()))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
