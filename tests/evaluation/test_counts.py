"""Counts are exact: against a naive loop, and for any batch size, workers and resumption."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import nn

import strzoo
from strzoo.data.images import BrokenImageError
from strzoo.data.preprocessing import IMAGENET, SMALL
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.evaluation.results import EvalResult
from tests.helpers.expectations import CLASSES, check
from tests.helpers.photographs import (
    crop_photographs,
    jpeg,
    reference_logits,
    small_network,
    write_class_folders,
)
from tests.helpers.published import str_state


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1, "workers": 0},
        {"batch_size": 7, "workers": 2},
        {"batch_size": 64, "workers": 1},
        {"batch_size": 8, "workers": 3, "channels_last": False},
    ],
)
def test_counts_are_those_of_a_naive_loop_for_any_batch_size_and_workers(
    options: dict[str, Any], data: tuple[Path, list[Path], list[int]], expected: dict[str, Any]
) -> None:
    result = strzoo.evaluate(small_network(), data[0], preprocessing=SMALL, **options)
    check(result, expected)
    assert 0 < result.correct_top1 < result.images  # the labels are neither all right nor wrong
    assert result.layout == "folders of the model's own classes"
    assert sum(row.correct_top1 for row in result.per_class()) == expected["correct_top1"]
    assert {row.name: row.images for row in result.per_class()} == {
        name: data[2].count(i) for i, name in enumerate(CLASSES)
    }


def test_a_checkpoint_counts_the_same_as_str_and_converted_on_the_fly(
    data: tuple[Path, list[Path], list[int]], tmp_path: Path
) -> None:
    state = str_state("resnet20", 50.0, num_classes=10)
    torch.save({"state_dict": state}, tmp_path / "str.pth")
    as_it_is = strzoo.evaluate(tmp_path / "str.pth", data[0], workers=0)
    dense = strzoo.evaluate(tmp_path / "str.pth", data[0], workers=0, format="dense")
    assert as_it_is.ranked is not None
    assert dense.ranked is not None
    assert torch.equal(as_it_is.ranked, dense.ranked)
    assert as_it_is.loss == dense.loss
    logits = reference_logits(strzoo.load(tmp_path / "str.pth"), data[1], resize=32, crop=32)
    assert torch.equal(as_it_is.predictions, logits.argmax(1))


def test_the_network_is_left_as_it_was(data: tuple[Path, list[Path], list[int]]) -> None:
    model = strzoo.create_model("resnet20").train()
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strzoo.evaluate(model, data[0], preprocessing=SMALL, workers=0)
    assert model.training
    assert not model.layer1.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Hungry(nn.Module):
    """Runs out of memory beyond `limit` images, as a GPU does."""

    def __init__(self, model: nn.Module, limit: int) -> None:
        super().__init__()
        self.model, self.limit, self.sizes = model, limit, list[int]()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.model(images)


def test_out_of_memory_halves_the_batch_and_goes_on(
    data: tuple[Path, list[Path], list[int]],
    expected: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Hungry(small_network(), 5)
    result = strzoo.evaluate(model, data[0], preprocessing=SMALL, batch_size=16, workers=0)
    check(result, expected)
    assert model.sizes[1:5] == [16, 8, 4, 4]  # the first run only counts classes
    assert "going on with 4 images at once" in caplog.text
    with pytest.raises(StrzooError, match="out of memory on cpu with 1 images"):
        strzoo.evaluate(LaterHungry(small_network(), 0), data[0], preprocessing=SMALL, workers=0)


@pytest.mark.slow
def test_the_cpu_computes_a_few_large_images_at_once(
    data: tuple[Path, list[Path], list[int]],
) -> None:
    model = Hungry(small_network(), 1000)
    steps = replace(IMAGENET, resize=224)
    result = strzoo.evaluate(model, data[0], preprocessing=steps, batch_size=10, workers=0)
    # Four of 224 x 224 pixels with one thread; the first run only counts classes.
    assert model.sizes[1:4] == [4, 4, 2]
    assert sum(model.sizes[1:]) == result.images
    logits = reference_logits(small_network(), data[1], resize=224, crop=224)
    assert torch.equal(result.predictions, logits.argmax(1))


class LaterHungry(Hungry):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.sizes:
            self.sizes.append(1)
            return self.model(images)
        return super().forward(images)


@pytest.mark.slow
def test_an_unreadable_image_is_an_error_or_counts_as_wrong(
    data: tuple[Path, list[Path], list[int]], tmp_path: Path, expected: dict[str, Any]
) -> None:
    import shutil

    folder = Path(shutil.copytree(data[0], tmp_path / "set"))
    right = [i for i, label in enumerate(data[2]) if int(expected["predictions"][i]) == label]
    spoiled = [folder / data[1][i].relative_to(data[0]) for i in right[:2]]
    spoiled[0].write_bytes(spoiled[0].read_bytes()[:700])
    spoiled[1].write_bytes(b"")
    arguments = (small_network(), folder)
    with pytest.raises(BrokenImageError, match=spoiled[0].name) as caught:
        strzoo.evaluate(*arguments, preprocessing=SMALL, batch_size=64)
    assert str(spoiled[0]) in str(caught.value)
    result = strzoo.evaluate(*arguments, preprocessing=SMALL, skip_broken=True, batch_size=5)
    assert result.images == expected["images"]
    assert result.correct_top1 == expected["correct_top1"] - 2
    names = [path.relative_to(folder).as_posix() for path in spoiled]
    assert [name for name, _ in result.broken] == names
    assert [int(result.predictions[i]) for i in right[:2]] == [-1, -1]
    assert math.isfinite(result.loss)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_was(
    data: tuple[Path, list[Path], list[int]], tmp_path: Path, expected: dict[str, Any]
) -> None:
    kept, seen = tmp_path / "kept", []

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        if done >= 12:
            raise KeyboardInterrupt

    def run(**options: Any) -> EvalResult:
        arguments = {"preprocessing": SMALL, "batch_size": 4, "workers": 1, "resume": kept}
        return strzoo.evaluate(small_network(), data[0], **{**arguments, **options})

    with pytest.raises(KeyboardInterrupt):
        run(on_progress=interrupt)
    assert seen == [4, 8, 12]
    with pytest.raises(IntegrityError, match="other weights, images, preprocessing or precision"):
        run(preprocessing=replace(SMALL, resize=40))
    totals = []
    result = run(on_progress=lambda done, total: totals.append(total), batch_size=8)
    check(result, expected)
    assert result.resumed == 12
    assert totals[0] == expected["images"] - 12
    assert list(tmp_path.iterdir()) == []


def test_a_subset_is_also_judged_among_its_own_classes(tmp_path: Path) -> None:
    chosen = {"n01440764": 0, "n02119789": 278, "n03255030": 543}  # tench, kit fox, dumbbell
    paths = write_class_folders(tmp_path / "set", list(chosen), [0, 1, 2, 0, 1, 2, 1])
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 1000))
    torch.manual_seed(0)
    nn.init.normal_(cast(nn.Linear, model[2]).weight)
    small = replace(IMAGENET, resize=36, crop=32)
    result = strzoo.evaluate(model, tmp_path / "set", preprocessing=small, workers=0)
    paths.sort()
    truth = torch.tensor([chosen[p.parent.name] for p in paths])
    logits = reference_logits(model, paths, resize=36, crop=32)
    own = torch.tensor(list(chosen.values()))
    assert result.correct_top1 == int((logits.argmax(1) == truth).sum())
    assert result.subset is not None
    assert result.subset.classes == (0, 278, 543)
    assert result.subset.correct_top1 == int((own[logits[:, own].argmax(1)] == truth).sum())
    assert result.subset.correct_top5 == 7  # three classes, five answers
    assert len(result.warnings) == (result.top1 < 1)


def test_real_labels_count_any_accepted_class(tmp_path: Path) -> None:
    images = tmp_path / "val"
    images.mkdir()
    pieces = crop_photographs(4)
    for number, image in enumerate(pieces, 1):
        (images / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(jpeg(image))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 1000))
    small = replace(IMAGENET, resize=36, crop=32)
    logits = reference_logits(model, sorted(images.iterdir()), resize=36, crop=32).double()
    order = logits.argsort(1, descending=True)
    # Right at the first place; at the third; at none of five; and without a label.
    sets = [[int(order[0, 9]), int(order[0, 0])], [int(order[1, 2])], [int(order[2, 7])], []]
    (tmp_path / "real.json").write_text(json.dumps(sets))
    result = strzoo.evaluate(
        model, images, real=tmp_path / "real.json", preprocessing=small, workers=0
    )
    assert (result.images, result.correct_top1, result.correct_top5) == (3, 1, 2)
    chances = logits.softmax(1)
    joint = [float(chances[i, s].sum()) for i, s in enumerate(sets[:3])]
    assert result.loss == pytest.approx(-sum(map(math.log, joint)) / 3, rel=1e-5)


def test_published_top1_stands_beside_the_measured_one(str_file: Path, tmp_path: Path) -> None:
    images = tmp_path / "val"
    images.mkdir()
    for number, image in enumerate(crop_photographs(3), 1):
        (images / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(jpeg(image))
    answers = reference_logits(strzoo.load(str_file), sorted(images.iterdir())).argmax(1).tolist()
    truth = [answers[0], answers[1], (answers[2] + 1) % 1000]
    (tmp_path / "val.txt").write_text(
        "".join(f"ILSVRC2012_val_{i:08}.JPEG {t}\n" for i, t in enumerate(truth, 1))
    )
    result = strzoo.evaluate(str_file, images, workers=0)
    assert (result.model, result.correct_top1) == ("mobilenetv1_str_75.28", 2)
    card = strzoo.get_card("mobilenetv1_str_75.28")
    assert result.published_top1 == card.published.top1
    assert result.difference == pytest.approx(200 / 3 - card.published.top1)
    assert result.precision == "fp32"


def test_bf16_is_named_in_the_result(data: tuple[Path, list[Path], list[int]]) -> None:
    result = strzoo.evaluate(
        small_network(), data[0], preprocessing=SMALL, workers=0, precision="bf16"
    )
    assert result.precision == "bf16"
    assert result.images == len(data[1])


@pytest.mark.slow
def test_decoding_on_the_device_states_the_difference(
    data: tuple[Path, list[Path], list[int]], expected: dict[str, Any]
) -> None:
    result = strzoo.evaluate(
        small_network(), data[0], preprocessing=SMALL, workers=1, decoder="device"
    )
    check_ = result.decoder_check
    assert check_ is not None
    assert check_.images == expected["images"]
    assert check_.pil_top1 == pytest.approx(100 * expected["correct_top1"] / check_.images)
    assert check_.top1 == result.top1
    differing = int((result.predictions != expected["predictions"]).sum())
    assert check_.different_predictions == differing


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"precision": "fp8"}, "not one of auto, fp32"),
        ({"precision": "tf32"}, "tf32 is for GPUs"),
        ({"device": "tpu"}, "not one of cpu, cuda"),
        ({"device": "cuda:99"}, "GPUs are visible"),
        ({"decoder": "opencv"}, "not one of pil, device"),
        ({"providers": ["cpu"]}, "for ONNX files"),
        ({"preprocessing": replace(SMALL, interpolation="cubic")}, "not one of nearest"),
    ],
)
def test_an_argument_out_of_range_is_named(
    options: dict[str, Any], named: str, data: tuple[Path, list[Path], list[int]]
) -> None:
    with pytest.raises(UsageError, match=named):
        strzoo.evaluate(small_network(), data[0], **options)


def test_outputs_that_are_not_finite_are_an_error(
    data: tuple[Path, list[Path], list[int]],
) -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)).repeat(1, 4)[:, :10] * torch.inf

    for precision, advice in (("fp32", "weights are NaN"), ("bf16", "try --precision fp32")):
        with pytest.raises(StrzooError, match=f"not finite; .*{advice}"):
            strzoo.evaluate(Broken(), data[0], preprocessing=SMALL, workers=0, precision=precision)
    with pytest.raises(StrzooError, match="not finite"):
        strzoo.evaluate(Broken(), [(torch.ones(2, 3, 32, 32), torch.zeros(2, dtype=torch.long))])


def test_a_batch_without_images_changes_nothing() -> None:
    images, labels = torch.ones(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
    batches = [(images, labels), (images[:0], labels[:0])]
    assert strzoo.evaluate(small_network(), batches).images == 2
    with pytest.raises(UsageError, match="no images to evaluate"):
        strzoo.evaluate(small_network(), batches[1:])


def test_pictures_in_memory_need_no_files() -> None:
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = small_network()(images).argmax(1)
    labels = answers.clone()
    labels[0] = (labels[0] + 1) % 10
    result = strzoo.evaluate(small_network(), [(images[:2], labels[:2]), (images[2:], labels[2:])])
    assert (result.images, result.correct_top1) == (5, 4)
    assert torch.equal(result.predictions, answers)
    with pytest.raises(UsageError, match="no images"):
        strzoo.evaluate(small_network(), [])


def test_pil_images_of_any_mode_are_labelled_alike(tmp_path: Path) -> None:
    image = crop_photographs(1)[0].convert("L")
    for name, mode in (("a", "L"), ("b", "RGB"), ("c", "RGBA")):
        (tmp_path / name).mkdir()
        image.convert(mode).save(tmp_path / name / "x.png")
    for extra in "defghij":
        (tmp_path / extra).mkdir()
        Image.new("RGB", (40, 40), (200, 30, 60)).save(tmp_path / extra / "x.png")
    result = strzoo.evaluate(small_network(), tmp_path, preprocessing=SMALL, workers=0)
    assert len(set(result.predictions[:3].tolist())) == 1
