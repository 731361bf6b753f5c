"""What networks, callers and file systems do that no reader expects."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import strzoo
from strzoo.data.preprocessing import SMALL
from strzoo.errors import StrzooError, UsageError
from tests.conftest import CliResult
from tests.helpers.photographs import small_network


class Resized(nn.Module):
    """A network that answers for another number of images than it was given."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.change = small_network(), change

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.change(self.network(x))
        return scores


@pytest.mark.parametrize(
    ("change", "given"),
    [(lambda y: y.repeat_interleave(2, 0), 2), (lambda y: y[:-1], 0), (lambda y: y[:1], None)],
)
def test_a_network_answers_once_for_each_image(
    change: Callable[[Tensor], Tensor],
    given: int | None,
    data: tuple[Path, list[Path], list[int]],
) -> None:
    network = Resized(change)
    images, labels = torch.randn(6, 3, 32, 32), torch.zeros(6, dtype=torch.int64)
    rows = {2: 12, 0: 5, None: 1}[given]
    with pytest.raises(UsageError, match=f"class scores for {rows} images when it is given 6"):
        strzoo.evaluate(network, [(images, labels)], preprocessing=SMALL)
    with pytest.raises(UsageError, match="it must give one row for each"):
        strzoo.evaluate(network, data[0], preprocessing=SMALL, workers=0)
    with pytest.raises(UsageError, match="it must give one row for each"):
        strzoo.predict(network, data[1][:3], preprocessing=SMALL)


@pytest.mark.parametrize(
    "options",
    [
        {"labels": "nope.txt"}, {"real": "nope.json"}, {"split": "nope"}, {"resume": "nope"},
        {"skip_broken": True}, {"decoder": "device"},
    ],
)  # fmt: skip
def test_options_of_files_are_refused_for_images_in_memory(options: dict[str, Any]) -> None:
    batch = (torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    with pytest.raises(UsageError, match=f"{next(iter(options))} is for data in files"):
        strzoo.evaluate(small_network(), [batch], preprocessing=SMALL, **options)


# torch says once in a process that tensors such as these are on their way.
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation", "ignore:.*nested tensors is")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x.to("meta"), "meta device"),
        (lambda x: x.to_sparse(), r"sparse tensor; pass .to_dense\(\)"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "quantized tensor"),
        (lambda x: torch.nested.nested_tensor([*x]), "nested tensor"),
    ],
)
def test_tensors_without_plain_numbers_are_named(
    make: Callable[[Tensor], Tensor], said: str
) -> None:
    network, images, labels = small_network(), torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    with pytest.raises(UsageError, match=f"images are .*{said}"):
        strzoo.evaluate(network, [(make(images), labels)], preprocessing=SMALL)
    with pytest.raises(UsageError, match=said):
        strzoo.predict(network, make(images[0]), preprocessing=SMALL)
    if "meta" in said or "sparse" in said:
        with pytest.raises(UsageError, match=f"labels are .*{said}"):
            strzoo.evaluate(network, [(images, make(labels))], preprocessing=SMALL)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("RGB", (0, 0)), "0x0 pixels has none"),
        (np.broadcast_to(np.uint8(1), (1 << 16, 1 << 16, 3)), "STRZOO_MAX_PIXELS"),
    ],
)
def test_images_of_no_or_too_many_pixels_are_named(image: Any, said: str) -> None:
    with pytest.raises(StrzooError, match=said):
        strzoo.predict(small_network(), image, preprocessing=SMALL)


def test_open_files_and_views_of_bytes_are_images(data: tuple[Path, list[Path], list[int]]) -> None:
    network, content = small_network(), data[1][0].read_bytes()
    (expected,) = strzoo.predict(network, data[1][0], preprocessing=SMALL)
    with open(data[1][0], "rb") as stream:
        (found,) = strzoo.predict(network, stream, preprocessing=SMALL)
    assert found.guesses == expected.guesses
    several: list[Any] = [io.BytesIO(content), memoryview(content), bytearray(content)]
    several[0].seek(0)
    together = strzoo.predict(network, [*several], preprocessing=SMALL)
    assert len(together) == 3
    for made in together:
        assert [g.index for g in made.guesses] == [g.index for g in expected.guesses]
    for one in several[1:]:
        (found,) = strzoo.predict(network, one, preprocessing=SMALL)
        assert found.guesses == expected.guesses
    with pytest.raises(UsageError, match="opened as text"):
        strzoo.predict(network, cast(Any, io.StringIO("no image")), preprocessing=SMALL)


def test_numbers_of_the_other_byte_order_are_read() -> None:
    network, labels = small_network(), np.array([0, 1, 2])
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    expected = strzoo.evaluate(network, [(images, labels)], preprocessing=SMALL)
    found = strzoo.evaluate(
        network, [(images.astype(">f4"), labels.astype(">i4"))], preprocessing=SMALL
    )
    assert found.predictions.tolist() == expected.predictions.tolist()
    assert found.loss == expected.loss


def test_a_crop_is_limited_as_images_are(
    data: tuple[Path, list[Path], list[int]], cli: Callable[..., CliResult], tmp_path: Path
) -> None:
    torch.save(small_network().state_dict(), tmp_path / "network.pth")
    for command in (("predict", tmp_path / "network.pth", data[1][0]),
                    ("evaluate", tmp_path / "network.pth", "--data", data[0])):  # fmt: skip
        made = cli(*command, "--crop", 100_000, "--resize", 1)
        assert "a crop of 100000 pixels needs 10,000,000,000 pixels" in made.error
        assert made.code == 2


def test_names_that_are_no_text_cost_nothing(
    data: tuple[Path, list[Path], list[int]], cli: Callable[..., CliResult], tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    for name in sorted(path.name for path in data[0].iterdir()):
        (folder / name).mkdir(parents=True)
        source = next((data[0] / name).iterdir())
        (folder / name / source.name).write_bytes(source.read_bytes())
    odd = os.fsdecode(b"odd\xff.jpg")
    (folder / name / odd).write_bytes(source.read_bytes())
    torch.save(small_network().state_dict(), tmp_path / "network.pth")
    files = [tmp_path / name for name in ("p.csv", "c.csv", "r.csv")]
    made = cli(
        "evaluate", tmp_path / "network.pth", "--data", folder, "--json", "--workers", 0,
        "--predictions", files[0], "--per-class", files[1], "--csv", files[2],
    )  # fmt: skip
    assert made.code == 0, made.err
    with open(files[0], encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert len(rows) == 1 + made.json["images"]
    assert sum("odd\\udcff.jpg" in row[0] for row in rows) == 1
