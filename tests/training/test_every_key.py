"""Every key of a training configuration changes what it says that it changes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import strzoo
from strzoo.training.config import TrainConfig
from tests.helpers.runs import differences, final_state
from tests.training.test_datasets import FOLDER, write_folder

Changes = Mapping[str, Any]
Run = Callable[..., Path]
TEACHER, OTHER, HALF, BUDGET = "<teacher>", "<other>", "<half>", "<budget>"  # places, made below

BASE = dataclasses.replace(
    FOLDER, architecture=f"{__name__}:tiny", epochs=2, weight_decay=0.01, log_every=1
)
RESNET: Changes = {"architecture": "resnet20"}
SMALL: Changes = {"architecture": "mobilenetv1", "width": 0.25}
STR: Changes = {"method": "str", "s_init": -4.0}
DNW: Changes = {"method": "dnw", "prune_rate": 0.5}
GMP: Changes = {"method": "gmp", "prune_rate": 0.513, "prune_start": 0.0, "prune_end": 2.0}


def half_square(logits: Tensor, labels: Tensor, scale: float = 1.0) -> Tensor:
    return scale * logits.square().mean() / 2


def tiny(num_classes: int = 1000, channels: int = 8) -> nn.Module:
    """The network of most runs."""
    parts = OrderedDict(
        first=nn.Conv2d(3, channels, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(),
        second=nn.Conv2d(channels, 16, 3, stride=2),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        fc=nn.Linear(16, num_classes),
    )
    return nn.Sequential(parts)


class Darker:
    """A transform of PIL images."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def __call__(self, image: Any) -> Any:
        return image.point(lambda value: int(value * self.share))


# Of each key: what both runs have, and what one of them has more. They end in other weights.
WEIGHTS: dict[str, tuple[Changes, Changes]] = {
    "data": ({}, {"data": OTHER}),
    "validation_share": ({"data": HALF}, {"validation_share": 0.5}),
    "augmentation": ({}, {"augmentation": "none"}),
    "padding": ({"augmentation": "pad_crop"}, {"padding": 1}),
    "crop_area": ({}, {"crop_area": (0.5, 0.6)}),
    "crop_ratio": ({}, {"crop_ratio": (0.3, 0.4)}),
    "policy": ({}, {"policy": "trivialaugment"}),
    "policy_args": ({"policy": f"{__name__}.Darker"}, {"policy_args": {"share": 0.9}}),
    "random_erasing": ({}, {"random_erasing": 1.0}),
    "mixup": ({}, {"mixup": 1.0}),
    "cutmix": ({}, {"cutmix": 1.0}),
    "image_size": ({}, {"image_size": 24}),
    "interpolation": ({}, {"interpolation": "nearest"}),
    "mean": ({}, {"mean": (0.5, 0.5, 0.5)}),
    "std": ({}, {"std": (0.5, 0.5, 0.5)}),
    "reproduce": (RESNET, {"reproduce": "original"}),
    "architecture": ({}, RESNET),
    "model_args": ({}, {"model_args": {"channels": 16}}),
    "num_classes": ({}, {"num_classes": 0, "data": OTHER}),
    "small_stem": ({**SMALL, "image_size": 32}, {"small_stem": True}),
    "width": (SMALL, {"width": 0.2}),
    "head_bias": (RESNET, {"head_bias": True}),
    "initialisation": (RESNET, {"initialisation": "signed_constant"}),
    "default_initialisation": (RESNET, {"default_initialisation": ("first",)}),
    "fan": (RESNET, {"fan": "fan_out"}),
    "init_density": (RESNET, {"init_density": 0.5}),
    "start_from": ({}, {"start_from": TEACHER}),
    "keep_mask": ({**RESNET, "start_from": HALF}, {"keep_mask": False}),
    "freeze": ({}, {"freeze": ("first",)}),
    "precision": ({}, {"precision": "bf16"}),
    "seed": ({}, {"seed": 1}),
    "method": ({}, STR),
    "threshold": (STR, {"threshold": "filter"}),
    "block": (STR, {"block": 4}),
    "s_init": (STR, {"s_init": -3.0}),
    "target_sparsity": (STR, {"target_sparsity": 0.9}),
    "target_start": ({**STR, "target_sparsity": 0.9}, {"target_start": 0.6}),
    "target_end": ({**STR, "target_sparsity": 0.9}, {"target_end": 0.5}),
    "prune_rate": (DNW, {"prune_rate": 0.8}),
    "budget": (DNW, {"budget": BUDGET, "prune_rate": None}),
    "prune_truncate": ({**DNW, "prune_rate": 0.513}, {"prune_truncate": True}),
    "prune_per_epoch": (GMP, {"prune_per_epoch": True}),
    "prune_start": (GMP, {"prune_start": 1.0}),
    "prune_end": (GMP, {"prune_end": 1.0}),
    "keep_dense": (STR, {"keep_dense": ("first",)}),
    "epochs": ({}, {"epochs": 1}),
    "batch_size": ({}, {"batch_size": 12}),
    "keep_last_batch": ({"batch_size": 10}, {"keep_last_batch": True}),
    "accumulate": ({}, {"accumulate": 2}),  # BatchNorm sees half a batch
    "learning_rate": ({}, {"learning_rate": 0.06}),
    "lr_batch_size": ({"scale_lr": True}, {"lr_batch_size": 128}),
    "scale_lr": ({}, {"scale_lr": True}),
    "schedule": ({}, {"schedule": "constant"}),
    "warmup_epochs": ({}, {"warmup_epochs": 1.0}),
    "lr_per_epoch": ({}, {"lr_per_epoch": True}),
    "milestones": ({"schedule": "multistep", "milestones": (1.5,)}, {"milestones": (1.0,)}),
    "gamma": ({"schedule": "multistep", "milestones": (1.0,)}, {"gamma": 0.5}),
    "gamma_epochs": ({"schedule": "exponential", "gamma_epochs": 1.5}, {"gamma_epochs": 0.5}),
    "gamma_continuous": ({"schedule": "exponential"}, {"gamma_continuous": True}),
    "min_learning_rate": ({}, {"min_learning_rate": 0.04}),
    "optimizer": ({}, {"optimizer": "adamw"}),
    "optimizer_args": ({"optimizer": "adamw"}, {"optimizer_args": {"betas": [0.5, 0.6]}}),
    "momentum": ({}, {"momentum": 0.5}),
    "nesterov": ({}, {"nesterov": True}),
    "weight_decay": ({}, {"weight_decay": 0.1}),
    "threshold_decay": (STR, {"threshold_decay": 0.1}),
    "decay_normalisation": ({}, {"decay_normalisation": True}),
    "groups_by_name": ({}, {"groups_by_name": True}),
    "layer_decay": ({}, {"layer_decay": 0.5}),
    "clip_gradient": ({}, {"clip_gradient": 0.01}),
    "loss": ({}, {"loss": f"{__name__}.half_square"}),
    "loss_args": ({"loss": f"{__name__}.half_square"}, {"loss_args": {"scale": 3.0}}),
    "label_smoothing": ({}, {"label_smoothing": 0.3}),
    "teacher": ({}, {"teacher": TEACHER}),
    "distillation": ({"teacher": TEACHER}, {"distillation": 0.9}),
    "temperature": ({"teacher": TEACHER}, {"temperature": 5.0}),
}
# Keys that leave the weights as they are, and what of the run tells that they work.
RESULTS: dict[str, tuple[Changes, Callable[[Path], Any]]] = {
    "crop_pct": ({"crop_pct": 0.5}, lambda folder: read_loss(folder)),
    "validation": ({"validation": OTHER}, lambda folder: read_loss(folder)),
    "ema_decay": ({"ema_decay": 0.5}, lambda folder: read_loss(folder)),  # what is evaluated
    "keep_every": ({"keep_every": 2}, lambda folder: [p.name for p in folder.glob("epoch_*")]),
    "about": ({"about": "what for"}, lambda folder: (folder / "report.md").read_text()[:50]),
    "recipe": ({"recipe": "other"}, lambda folder: (folder / "report.md").read_text()[:50]),
}
# Keys whose work is seen by tests of their own.
ELSEWHERE = {
    "budget_fp32": "test_reproduction.py",
    "channels_last": "test_reproduction.py",
    "checkpoint_activations": "test_any_network.py",
    "checkpoint_every": "test_resuming.py",
    "compile": "test_every_key.py",
    "dataset": "test_datasets.py",
    "device": "../device/test_training.py",
    "log_every": "../cli/test_train.py",
    "output": "test_datasets.py",
    "pretrained": "test_any_network.py",
    "resume": "test_resuming.py",
    "sync_batchnorm": "test_distribution.py",
    "tensorboard": "../cli/test_train.py",
    "threads": "test_fit_data.py",
    "workers": "test_datasets.py",
}


def read_loss(folder: Path) -> float:
    return float(json.loads((folder / "report.json").read_text())["last"]["loss"])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the folders and files lie that the tables above name."""
    folder = tmp_path_factory.mktemp("keys")
    teacher = strzoo.build_checkpoint(tiny(2), architecture=BASE.architecture)
    strzoo.save_checkpoint(teacher, folder / "teacher.pth")  # whose code the base names
    pruned = strzoo.create_model("resnet20", num_classes=2)
    with torch.no_grad():
        for parameter in pruned.parameters():
            if parameter.dim() == 4:
                parameter[parameter.abs() < parameter.abs().median()] = 0
    strzoo.save_checkpoint(pruned, folder / "half.pth")
    layers = dict.fromkeys(("first", "second", "fc"), 30.0)
    strzoo.write_budget(
        strzoo.Budget("half", BASE.architecture, "str", 30.0, "by hand", layers),
        folder / "budget.json",
    )
    bare = write_folder(folder / "bare") / "train"  # no validation images
    return {
        "data": str(write_folder(folder / "data")), OTHER: str(write_folder(folder / "o", 16)),
        TEACHER: str(folder / "teacher.pth"), BUDGET: str(folder / "budget.json"),
        HALF: str(bare), f"{HALF} start_from": str(folder / "half.pth"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trains with changes of the base, each set of them once; the folder of the run."""
    done: dict[tuple[tuple[str, str], ...], Path] = {}

    def start(changes: Changes, again: bool = False) -> Path:
        given = {"data": places["data"], **changes}
        for key, value in given.items():
            if isinstance(value, str):
                given[key] = places.get(f"{value} {key}", places.get(value, value))
        name = tuple(sorted((key, repr(value)) for key, value in given.items()))
        if name not in done or again:
            done[name] = tmp_path_factory.mktemp("run") / "run"
            strzoo.train(dataclasses.replace(BASE, output=str(done[name]), **given))
        return done[name]

    return start


@pytest.mark.parametrize("key", WEIGHTS)
def test_a_key_changes_the_weights(key: str, run: Run) -> None:
    before, more = WEIGHTS[key]
    one, other = (final_state(run(given)) for given in (before, {**before, **more}))
    assert differences(one["state_dict"], other["state_dict"])


@pytest.mark.parametrize("key", RESULTS)
def test_a_key_changes_the_results(key: str, run: Run) -> None:
    changes, read = RESULTS[key]
    assert read(run({})) != read(run(changes))


@pytest.mark.parametrize("before", [{}, STR, GMP], ids=["dense", "str", "gmp"])
def test_nothing_changes_without_a_change(before: Changes, run: Run) -> None:
    one, other = (final_state(run(before, again=again)) for again in (False, True))
    assert differences(one, other) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # compilers warn of themselves
def test_a_compiled_run_is_one_graph_and_ends_in_the_same_weights(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter, real = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: real(network, backend=counter))
    found = final_state(run({**GMP, "compile": True}))
    assert differences(final_state(run(GMP))["state_dict"], found["state_dict"]) == []
    assert counter.frame_count == 1  # in 6 steps, each of another rate


def test_every_key_is_looked_at() -> None:
    names = [one.name for one in dataclasses.fields(TrainConfig)]
    assert sorted([*WEIGHTS, *RESULTS, *ELSEWHERE]) == sorted(names)
    for name, file in ELSEWHERE.items():
        assert re.search(rf"\b{name}\b", (Path(__file__).parent / file).read_text()), name
