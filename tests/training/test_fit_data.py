"""fit takes folders, tensors, data sets and loaders, and trains the same on all of them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import strzoo
from strzoo.errors import StrzooError, UsageError
from strzoo.training.fit import FitConfig
from strzoo.training.sampler import BatchSampler
from tests.training.test_datasets import write_folder

CONFIG = FitConfig(epochs=1, batch_size=40, warmup_epochs=0)
DATA = strzoo.load_digits("test")
PAIRS = TensorDataset(DATA.images, DATA.labels)


def network(inputs: int = 192, classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, classes))


# The order of the first epoch, for loaders that have one of their own.
ORDER = torch.tensor(BatchSampler(360, 40).indices(0))
ORDERED = TensorDataset(DATA.images[ORDER], DATA.labels[ORDER])


@pytest.mark.parametrize(
    "data",
    [
        (DATA.images, DATA.labels), PAIRS, DataLoader(ORDERED, batch_size=40),
        list(zip(DATA.images[ORDER].split(40), DATA.labels[ORDER].split(40), strict=True)),
    ],
    ids=["tensors", "dataset", "loader", "batches"],
)  # fmt: skip
def test_every_kind_of_data_trains_the_same_network(data: Any) -> None:
    model, other = network(), network()
    history = strzoo.fit(model, data, CONFIG)
    assert history == strzoo.fit(other, DATA, CONFIG)
    assert torch.equal(model[1].weight, other[1].weight)


def test_a_loader_decides_on_its_batches_and_every_one_is_a_step() -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                seen.append(len(images))
            return self.inner(images)

    strzoo.fit(Counting(), DataLoader(PAIRS, batch_size=100, shuffle=True), CONFIG)
    assert seen == [2, 100, 100, 100, 60]  # two blank images try the network


def test_a_path_is_a_folder_of_images_and_never_its_characters(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    config = FitConfig(epochs=1, batch_size=8, warmup_epochs=0, image_size=16, workers=0)
    images: list[tuple[int, ...]] = []
    model = network(3 * 16 * 16, classes=2)
    model.register_forward_pre_hook(lambda module, inputs: images.append(inputs[0].shape))
    for given in (data, str(data), data / "train"):
        images.clear()
        strzoo.fit(model, given, config)
        # To count the outputs; to try both modes; 24 images in three batches.
        tried = [(1, 3, 16, 16), (1, 3, 16, 16), (2, 3, 16, 16)]
        assert images == [*tried, *3 * [(8, 3, 16, 16)]]
    for missing in (tmp_path / "none", str(tmp_path / "none"), "/a/path/longer/than/one/batch" * 9):
        with pytest.raises(StrzooError, match="does not exist; give a folder, an ImageSet"):
            strzoo.fit(model, missing, config)
    with pytest.raises(UsageError, match="has 2 class folders, the model has 3 classes"):
        strzoo.fit(network(768, classes=3), data, config)


class Items(Dataset[Any]):
    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> Any:
        return self.item


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(PAIRS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (7, "a int is no data to train on; give a folder, an ImageSet, a pair of tensors"),
        ({"train": DATA}, "a dict is no data"),
        (DATA.images, "a Tensor is no data"),
        (
            (DATA.images.byte(), DATA.labels),
            r"of torch\.uint8, shape \(360, 3, 8, 8\); give float",
        ),
        ((DATA.images, DATA.labels[:5]), "labels that are not one class number for each of 360"),
        ((DATA.images, DATA.labels.float()), "labels that are not one class number"),
        ((DATA.images, DATA.labels + 1), "labels from 1 to 10, the network has 10 outputs: 0 to 9"),
        ((DATA.images[:0], DATA.labels[:0]), "there are no images"),
        ((DATA.images[:, :1], DATA.labels), r"does not run on an image of shape \(1, 8, 8\)"),
        (Items((DATA.images[0], 10)), "labels from 10 to 10, the network has 10 outputs"),
        (Items((object(), 1)), "the Items gives something that makes no batch"),
        (Items(DATA.images[0]), "the Items gives Tensor, not pairs"),
        (DataLoader(Stream()), "the DataLoader has no length"),
        (iter([]), "has no length"),
        ([], "there are no images"),
        ([1, 2], r"the list gives int, not pairs \(images, labels\)"),
        ([(DATA.images[:4], DATA.labels[:4] + 90)], "the network has 10 outputs"),
    ],
)
def test_what_is_no_data_for_the_network_says_what_is(data: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        strzoo.fit(network(), data, FitConfig(epochs=1, batch_size=4, warmup_epochs=0))


def test_a_training_in_which_nothing_became_sparse_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "strzoo"):
        strzoo.fit(strzoo.sparsify_(network()), DATA, CONFIG)
        (message,) = caplog.messages
        caplog.clear()
        strzoo.fit(network(), DATA, CONFIG)
        strzoo.fit(strzoo.sparsify_(network(), s_init=-4.0), DATA, CONFIG)
        assert caplog.messages == []
    assert message.startswith("STR has made 0.00 % of the weights zero: the thresholds are at most")
    assert "s_init=-8" in message


def test_small_images_are_computed_by_one_thread_unless_asked_otherwise() -> None:
    used: list[int] = []
    model = network()

    def note(*_: Any) -> None:
        used.append(torch.get_num_threads())

    model.register_forward_hook(note)
    torch.set_num_threads(2)
    try:
        strzoo.fit(model, DATA, FitConfig(epochs=1, warmup_epochs=0))
        assert set(used[1:]) == {1}
        strzoo.fit(model, DATA, FitConfig(epochs=1, warmup_epochs=0, threads=3))
        assert used[-1] == 3
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_busy_machine_is_told_once_if_threads_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with caplog.at_level(logging.WARNING, "strzoo"):
        strzoo.fit(network(), DATA, FitConfig(epochs=2, warmup_epochs=0, threads=1))
        assert caplog.messages == []
        strzoo.fit(network(), DATA, FitConfig(epochs=2, warmup_epochs=0, threads=2))
    (message,) = caplog.messages
    assert "busy (a load of 9.0 on 2 cores)" in message
    assert "threads=1 can be many times faster" in message
