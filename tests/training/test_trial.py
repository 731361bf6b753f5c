"""Networks are tried before a run writes anything: what cannot be trained is said before it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import strzoo
from strzoo.errors import StrzooError
from strzoo.training.fit import FitConfig
from strzoo.training.trial import untouched
from tests.training.test_datasets import write_folder

NETWORKS = """
from collections import namedtuple

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

Outputs = namedtuple("Outputs", ["logits", "extra"])


class Net(nn.Module):
    def __init__(self, classes, form, channels=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head, self.extra, self.form = nn.Linear(8, classes), nn.Linear(8, classes), form

    def forward(self, x):
        y = self.body(x).mean((2, 3))
        return self.form(self, self.head(y), self.extra(y))


def pair(num_classes): return Net(num_classes, lambda net, y, z: (y, None))
def mapping(num_classes): return Net(num_classes, lambda net, y, z: {"logits": y, "extra": z})
def named(num_classes): return Net(num_classes, lambda n, y, z: Outputs(y, z) if n.training else y)
def maps(num_classes): return Net(num_classes, lambda net, y, z: y[:, :, None, None])
def half(num_classes): return Net(num_classes, lambda net, y, z: y).half()
def double(num_classes): return Net(num_classes, lambda net, y, z: y).double()
def two(num_classes): return Net(num_classes, lambda net, y, z: (y, z) if net.training else y)
def spread(num_classes): return Net(num_classes, lambda net, y, z: y[:, :, None].expand(-1, -1, 4))
def bands(num_classes): return Net(num_classes, lambda net, y, z: y, channels=4)
def cut(num_classes): return Net(num_classes, lambda net, y, z: y.detach())
def more(num_classes): return Net(num_classes, lambda net, y, z: torch.cat([y, z], 1))
def words(num_classes): return Net(num_classes, lambda net, y, z: "many")
def broken(num_classes): return Net(num_classes, lambda net, y, z: y @ y)
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with networks of one's own and images of two classes."""
    (tmp_path / "odd_networks.py").write_text(NETWORKS)
    write_folder(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("odd_networks", None)


def words(name: str, *more: str) -> list[str]:
    return ["train", "finetune", f"model=odd_networks:{name}", "data=data", "output=run",
            "image_size=12", "epochs=1", "warmup_epochs=0", "batch_size=8", "workers=0",
            "tensorboard=false", *more]  # fmt: skip


@pytest.mark.parametrize("name", ["pair", "mapping", "named", "maps", "half", "double"])
def test_scores_that_a_network_hands_out_its_own_way_are_trained_and_evaluated(
    name: str, networks: Path, cli: Callable[..., Any]
) -> None:
    assert cli(*words(name), "--dry-run").code == 0
    assert not (networks / "run").exists()
    found = cli(*words(name))
    assert found.code == 0, found.err
    noted = "the class scores alone are trained" in found.err
    assert noted == (name in ("pair", "mapping", "named"))
    assert ("are trained in float32" in found.err) == (name in ("half", "double"))
    begun, ended = (
        strzoo.read_checkpoint(networks / "run" / file, architecture=f"odd_networks:{name}")
        for file in ("initial.pth", "last.pth")
    )
    assert not torch.equal(begun.state_dict["head.weight"], ended.state_dict["head.weight"])
    # The trial has left BatchNorm as it was made: mean 0, no batch counted; then 24 / 8 batches.
    assert not begun.state_dict["body.1.running_mean"].any()
    assert [int(c.state_dict["body.1.num_batches_tracked"]) for c in (begun, ended)] == [0, 3]
    found = cli("evaluate", "run", "--data", "data", "--workers", "0", "--json",
                "--architecture", f"odd_networks:{name}")  # fmt: skip
    assert (found.code, found.json["images"]) == (0, 10), found.err


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("two", [], r"in training mode returns a tuple of 2 with tensors \(2, 2\), \(2, 2\)"),
        (
            "spread",
            [],
            r"gives float32 of shape \(1, 2, 4\); expected floats of shape \(N, classes",
        ),
        ("bands", [], "the first convolution of the network, body.0, takes 4 channels: build it"),
        ("cut", [], "logits that depend on nothing that is trained"),
        ("more", [], "gives scores of 4 classes, the data has 2; let its last layer have 2"),
        ("words", [], "the network returns a str; expected a tensor of floats"),
        ("broken", [], r"does not run on an image of shape \(3, 12, 12\) and type torch.float32"),
        ("pair", ["image_size=100000"], "a crop of 100000 pixels needs 10,000,000,000 pixels"),
        ("pair", ["image_size=2"], r"does not run on an image of shape \(3, 2, 2\)"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_run_has_a_folder(
    name: str, changes: list[str], message: str, networks: Path, cli: Callable[..., Any]
) -> None:
    for more in (["--dry-run"], []):
        found = cli(*words(name, *changes), *more)
        assert found.code == 2, found.err
        assert "defect" not in found.err
        assert re.search(message, found.err), found.err
        assert not (networks / "run").exists()


def test_a_folder_with_other_files_stays_when_a_run_is_refused(
    networks: Path, cli: Callable[..., Any]
) -> None:
    (networks / "run").mkdir()
    assert cli(*words("cut")).code == 2
    assert (networks / "run").is_dir()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda net, y: (y, y) if net.training else y, "in training mode returns a tuple of 2"),
        (lambda net, y: y.detach(), "depend on nothing that is trained"),
        (lambda net, y: (y, y), "the network returns a tuple of 2"),
    ],
)
def test_fit_refuses_the_same_outputs_and_leaves_the_network_as_it_was(
    form: Callable[..., Any], message: str
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 10)

        def forward(self, images: torch.Tensor) -> Any:
            return form(self, self.head(self.norm(images).mean((2, 3))))

    model = Net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(StrzooError, match=message):
        strzoo.fit(model, strzoo.load_digits("test"), FitConfig(epochs=1, warmup_epochs=0))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training


def test_a_trial_leaves_modes_buffers_and_random_numbers() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[1].eval()
    state = torch.random.get_rng_state()
    with untouched(model):
        model.train()
        model(torch.randn(8, 4))
        model[0].running_mean = torch.full((4,), 7.0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in model.modules()] == [True, True, False]
    assert (int(model[0].num_batches_tracked), float(model[0].running_mean.sum())) == (0, 0.0)


class Pixels(nn.Module):
    """BatchNorm of single pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(images)
        return found


def test_a_part_of_one_image_is_refused_where_batchnorm_needs_two_and_taken_elsewhere(
    networks: Path, cli: Callable[..., Any]
) -> None:
    # 12 x 12 pixels become one; 24 images in a step of 8 each, or of 5 with 4 left.
    one = ("image_size=3", "batch_size=8")
    for changes, message in (
        (["batch_size=1"], "of 1 image .* set batch_size=2 or more"),
        (["accumulate=8"], "set batch_size=16 or more, or accumulate=4"),
        (["batch_size=23", "keep_last_batch=true"], "set keep_last_batch=false, or another"),
        (["batch_size=20", "accumulate=10", "keep_last_batch=true"], None),
        (["batch_size=9", "accumulate=3", "keep_last_batch=true"], None),
        (["batch_size=21", "accumulate=3", "keep_last_batch=true"], None),
        (["batch_size=17", "accumulate=1", "keep_last_batch=true"], None),
        (["batch_size=16", "accumulate=4", "keep_last_batch=false"], None),
    ):
        found = cli(*words("maps", *one, *changes), "--dry-run")
        assert found.code == (2 if message else 0), (changes, found.err)
        assert message is None or re.search(message, found.err), found.err
    # Larger maps have more than one pixel of an image.
    assert cli(*words("maps", "batch_size=1")).code == 0


def test_fit_says_it_before_the_first_step_as_far_as_a_loader_tells() -> None:
    data = strzoo.load_digits("test")
    images, labels = data.images[:16], data.labels[:16]
    pairs = TensorDataset(images, labels)
    model, config = Pixels(), FitConfig(epochs=1, batch_size=1, warmup_epochs=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loader = DataLoader(pairs, batch_size=5)
    batches = list(zip(images.split(5), labels.split(5), strict=True))
    for given, message in (
        ((images, labels), "set batch_size=2 or more"),
        (loader, "of 1 image of shape .* set drop_last=True in the loader"),
        (batches, "set drop_last=True in the loader"),
    ):
        with pytest.raises(StrzooError, match=message):
            strzoo.fit(model, given, config)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    strzoo.fit(model, DataLoader(pairs, batch_size=5, drop_last=True), config)

    class Own:
        def __len__(self) -> int:
            return 4

        def __iter__(self) -> Any:
            return iter(batches)

    with pytest.raises(StrzooError, match="leave smaller batches out"):
        strzoo.fit(model, Own(), config)


SHARED = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.head = self.b, nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.c(self.b(self.a(x)).relu()).mean((2, 3)))


def build(num_classes): return nn.DataParallel(Net(num_classes))
"""


def test_a_wrapped_network_with_a_shared_layer_trains_resumes_and_is_evaluated(
    networks: Path, cli: Callable[..., Any]
) -> None:
    (networks / "odd_networks.py").write_text(SHARED)
    more = ["target_sparsity=0.5"]
    assert cli(*words("build", *more), "--dry-run").code == 0
    assert cli(*words("build", *more)).code == 0
    assert cli(*words("build", *more), "epochs=2", "resume=auto").code == 0
    found = cli("evaluate", "run", "--data", "data", "--workers", "0", "--json",
                "--architecture", "odd_networks:build")  # fmt: skip
    assert (found.code, found.json["images"]) == (0, 10), found.err
    # 3 x 8 x 9, 8 x 8 x 9 and 8 x 2 weights, the shared layer counted once.
    read = strzoo.read_checkpoint(networks / "run" / "best_str.pth",
                                  architecture="odd_networks:build")  # fmt: skip
    assert read.sparsity() == pytest.approx(50, abs=100 / 808)
