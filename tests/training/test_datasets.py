from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import strzoo
from strzoo.checkpoint.reading import read_document
from strzoo.data.images import BrokenImageError
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.training.config import TrainConfig
from strzoo.training.datasets import open_datasets
from strzoo.training.results import StepDone
from tests.helpers.runs import differences, final_state

CPU = torch.device("cpu")
FOLDER = TrainConfig(
    recipe="folder", architecture="resnet20", num_classes=2, dataset="folder", image_size=16,
    epochs=1, batch_size=8, warmup_epochs=0, learning_rate=0.05, workers=0, tensorboard=False,
)  # fmt: skip


def write_folder(folder: Path, images: int = 12) -> Path:
    """Two classes, one dark and one bright, in train and val."""
    random = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 5)):
        for label, name in enumerate(("bright", "dark")):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 100, (20 + number, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels + np.uint8(150 * (1 - label))).save(place / f"{number}.png")
    return folder


def write_cifar(folder: Path) -> tuple[Path, np.ndarray]:
    """CIFAR-10 of 4 images in each file; also the 20 training images, [20, 3, 32, 32]."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for number, file in enumerate(files):
        part = pixels[4 * number : 4 * number + 4]
        document = {b"data": part.reshape(4, -1), b"labels": [number, 1, 2, 9]}
        (folder / file).write_bytes(pickle.dumps(document, protocol=2))
    names = {b"label_names": [f"c{i}".encode() for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    return folder, pixels[:20]


@pytest.mark.slow
def test_a_folder_of_classes_is_trained_on_and_validated(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    config = dataclasses.replace(FOLDER, data=str(data), output=str(tmp_path / "run"), workers=1)
    result = strzoo.train(config)
    assert result.last is not None
    assert result.last.step == 24 // 8
    for name in ("initial.pth", "last.pth", "best_dense.pth"):
        trained_on = strzoo.read_checkpoint(tmp_path / "run" / name).trained_on
        assert trained_on is not None
        assert trained_on.input_size == (3, 16, 16)
        assert trained_on.class_names == ("bright", "dark")
        assert trained_on.preprocessing is not None
        assert (trained_on.preprocessing.resize, trained_on.preprocessing.crop) == (18, 16)
    best = tmp_path / "run" / "best_dense.pth"
    found = strzoo.evaluate(best, data, workers=0)
    assert (found.images, found.top1) == (10, result.last.top1)
    assert found.loss == pytest.approx(result.last.loss, rel=1e-4)
    # What it was trained on is what every command takes from the file.
    assert strzoo.report(best).input_size == (3, 16, 16)
    guesses = strzoo.predict(best, str(data / "val" / "dark" / "0.png"))[0].guesses
    assert {guess.name for guess in guesses} == {"bright", "dark"}
    made = strzoo.export_onnx(best, tmp_path / "best.onnx")
    assert made.input_shape == ("batch", 3, 16, 16)
    assert json.loads(made.metadata["strzoo.class_names"]) == ["bright", "dark"]
    steps = json.loads(made.metadata["strzoo.preprocessing"])
    assert (steps["resize"], steps["crop"], steps["input_height"]) == (18, 16, 16)


def test_workers_change_nothing_and_an_epoch_changes_the_crops(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    alone = open_datasets(dataclasses.replace(FOLDER, data=str(data)), CPU).train
    helped = open_datasets(dataclasses.replace(FOLDER, data=str(data), workers=2), CPU).train
    order = [3, 20, 0, 7, 11]
    first = list(alone.batches(order, 2, epoch=4))
    second = list(helped.batches(order, 2, epoch=4))
    # 12 bright images, then 12 dark ones.
    assert [labels.tolist() for _, labels in first] == [[0, 1], [0, 0], [0]]
    for (a, _), (b, _) in zip(first, second, strict=True):
        assert torch.equal(a, b)
    singly = [next(iter(alone.batches([i], 1, epoch=4)))[0] for i in order]
    assert torch.equal(torch.cat([images for images, _ in first]), torch.cat(singly))
    other = next(iter(alone.batches(order, 2, epoch=5)))[0]
    assert not torch.equal(first[0][0], other)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_files_goes_on_in_mid_epoch_to_the_same_end(workers: int, tmp_path: Path) -> None:
    class Cut(Exception):  # noqa: N818 - stands for a kill
        pass

    def cut(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            raise Cut

    data = write_folder(tmp_path / "data")
    config = dataclasses.replace(
        FOLDER, data=str(data), workers=workers, checkpoint_every=1, log_every=1
    )
    whole = dataclasses.replace(config, output=str(tmp_path / "whole"))
    strzoo.train(whole)
    parts = dataclasses.replace(config, output=str(tmp_path / "parts"), resume="auto")
    with pytest.raises(Cut):
        strzoo.train(parts, on_event=cut)
    assert read_document(tmp_path / "parts" / "last.pth")["training"]["step"] == 1
    assert strzoo.train(parts).finished
    assert differences(final_state(tmp_path / "whole"), final_state(tmp_path / "parts")) == []


def test_faults_of_a_folder_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", images=4)
    config = dataclasses.replace(FOLDER, data=str(data), output=str(tmp_path / "run"))

    def complaint(**changes: object) -> str:
        with pytest.raises(StrzooError) as caught:
            strzoo.train(dataclasses.replace(config, **changes))  # type: ignore[arg-type]
        assert not list((tmp_path / "run").glob("*.pth"))
        return str(caught.value)

    assert "needs data=FOLDER" in complaint(data=None)
    (tmp_path / "bare").mkdir()
    bare = complaint(data=str(tmp_path / "bare"))
    assert f"{tmp_path / 'bare'} has no training images: expected" in bare
    assert "8 images are too few for one batch: batch_size=16" in complaint(batch_size=16)
    assert "has 2 class folders, the model has 5 classes; set num_classes=2" in complaint(
        num_classes=5
    )
    (data / "train" / "empty").mkdir()
    assert f"{data / 'train' / 'empty'} has no images (1 of 3 class folders" in complaint()
    (data / "train" / "empty").rmdir()
    shutil.move(data / "val" / "dark", data / "val" / "dusk")
    assert "different classes: dark, dusk" in complaint()
    shutil.move(data / "val" / "dusk", data / "val" / "dark")
    (data / "train" / "dark" / "0.png").write_bytes(b"\x89PNG cut off")
    broken = data / "train" / "dark" / "0.png"
    with pytest.raises(BrokenImageError, match=r"cannot read .*dark/0\.png: .* resume=auto") as e:
        strzoo.train(config)
    # A run does not go on with fewer images, so that is not what is advised.
    assert "replace it by a readable image, then go on with resume=auto" in str(e.value)
    assert "or remove it and begin a new run" in str(e.value)
    shutil.copy(data / "train" / "dark" / "1.png", broken)
    assert strzoo.train(dataclasses.replace(config, resume="auto")).history


@pytest.mark.parametrize(
    ("files", "data", "message"),
    [
        (["a/1.png", "a/2.png"], "", "has only one class, a, and training tells classes apart"),
        (["train/a/1.png", "val/a/1.png"], "", "train has only one class, a,"),
        (["a/sub/1.png"], "", "lie one folder deeper .* as in .*a/sub: give .*a if its folders"),
        (["a/x/1.png", "b/y/1.png"], "", "lie one folder deeper .* or move the images up"),
        (
            ["1.png", "2.png"],
            "",
            "has images outside class folders; expected .*train with a folder",
        ),
        (["notes.txt"], "", "has no training images: expected"),
        (["a/1.png"], "none", "none does not exist; expected"),
        (
            ["a/1.png", "a/2.png", "a/3.png", "b/1.png"],
            "",
            "class b has 1 image, too few to hold 10",
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_on_says_what_is_wrong_with_it(
    files: list[str], data: str, message: str, tmp_path: Path
) -> None:
    for name in files:
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file) if file.suffix == ".png" else file.write_text("")
    config = dataclasses.replace(FOLDER, num_classes=0, data=str(tmp_path / "data" / data))
    with pytest.raises(UsageError, match=message):
        open_datasets(dataclasses.replace(config, num_classes=2), CPU)


def test_validation_images_without_one_of_the_classes_are_matched_by_the_training_names(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    data = write_folder(tmp_path / "data")
    shutil.copytree(data / "train" / "dark", data / "train" / "amber")
    config = dataclasses.replace(
        FOLDER, data=str(data), output=str(tmp_path / "run"), num_classes=3, batch_size=12
    )
    found = open_datasets(config, CPU)
    assert found.description.endswith("val of 2 of 3 classes")
    assert found.validation is not None
    (_, labels), *_ = found.validation.batches(range(10), 10)
    # The classes are amber, bright and dark.
    assert labels.tolist() == 5 * [1] + 5 * [2]
    strzoo.train(config)
    evaluated = cli("evaluate", tmp_path / "run", "--data", data / "val", "--workers", 0, "--json")
    assert (evaluated.code, evaluated.json["images"]) == (0, 10), evaluated.err
    shutil.move(data / "val" / "dark", data / "val" / "dusk")
    with pytest.raises(UsageError, match=r"dusk is none of the model's 3 classes \(amber, bright"):
        open_datasets(config, CPU)


def test_an_unwritable_run_folder_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output, message in (
        (tmp_path / "file", "it is a file; choose output="),
        (tmp_path / "file" / "run", "its folder is a file"),
    ):
        with pytest.raises(StrzooError, match=message):
            strzoo.train(dataclasses.replace(FOLDER, output=str(output)))


def test_cifar_is_fed_whole_and_normalised(tmp_path: Path) -> None:
    folder, pixels = write_cifar(tmp_path / "cifar-10-batches-py")
    config = TrainConfig(
        dataset="cifar10", num_classes=10, data=str(tmp_path), augmentation="none", epochs=10
    )
    data = open_datasets(config, CPU)
    assert data.validation is not None
    assert (len(data.train), len(data.validation)) == (20, 4)
    _, labels = next(iter(data.train.batches(range(0, 20, 4), 5, epoch=0)))
    assert labels.tolist() == [0, 1, 2, 3, 4]
    images, labels = next(iter(data.train.batches([5, 19], 2, epoch=0)))
    mean = np.array([0.4914, 0.4822, 0.4465], np.float32)[:, None, None]
    std = np.array([0.2470, 0.2435, 0.2616], np.float32)[:, None, None]
    assert np.allclose(images[1].numpy(), (pixels[19] / 255 - mean) / std, atol=1e-6)
    assert np.allclose(images[0].numpy(), (pixels[5] / 255 - mean) / std, atol=1e-6)
    assert labels.tolist() == [1, 9]
    with pytest.raises(UsageError, match="is CIFAR-10; use dataset=cifar10"):
        open_datasets(dataclasses.replace(config, dataset="cifar100", num_classes=100), CPU)
    with pytest.raises(UsageError, match="cifar10 has 10 classes, the model has 1000"):
        open_datasets(dataclasses.replace(config, num_classes=1000), CPU)
    (folder / "data_batch_3").unlink()
    with pytest.raises(StrzooError, match="data_batch_3"):
        open_datasets(config, CPU)
    (folder / "data_batch_3").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(
        IntegrityError, match=r"data_batch_3 is not a CIFAR file.*os\.system, which is refused"
    ):
        open_datasets(config, CPU)
