"""`strzoo train` on networks from elsewhere and on folders of anyone's images."""

from __future__ import annotations

import dataclasses
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import strzoo
from strzoo.errors import NetworkError, OfflineError, UsageError
from strzoo.settings import Settings
from strzoo.training.builders import build_network
from strzoo.training.config import TrainConfig
from strzoo.training.parsing import apply_overrides, dump_config, read_config
from strzoo.training.recipes import load_recipe
from tests.models.test_external import forget, own
from tests.training.test_datasets import write_folder

__all__ = ["own"]  # a fixture
TINY = "timm:test_efficientnet"  # 0.4 million weights; timm states 160 pixels
QUICK = ("epochs=2", "warmup_epochs=0", "batch_size=8", "workers=0", "tensorboard=false")


def test_ones_own_network_is_fine_tuned_resumed_and_used_from_its_file(
    own: Path, cli: Callable[..., Any]
) -> None:
    data = write_folder(own / "data")
    for split in ("val", "train"):  # class folders alone
        for name in ("bright", "dark"):
            for file in (data / split / name).iterdir():
                target = own / "images" / name / f"{split}{file.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                file.rename(target)
    source = "own_network:build"
    words = ["train", "finetune", f"model={source}", "model_args.width=16", "data=images",
             "image_size=12", "output=run", "target_sparsity=0.8", "validation_share=0.2",
             *QUICK]  # fmt: skip
    planned = cli(*words, "--dry-run", "--json").json
    # 17 images of each class, 3 of them held out; 3 x 16 x 9 and 16 x 2 weights.
    assert (planned["images"], planned["config"]["num_classes"]) == (28, 2)
    assert sum(layer["weights"] for layer in planned["layers"]) == 464
    assert cli(*words).code == 0
    config = read_config(own / "run" / "config.yaml")
    assert (config.architecture, dict(config.model_args)) == (source, {"width": 16})
    assert cli(*[w.replace("epochs=2", "epochs=3") for w in words], "resume=auto").code == 0
    forget(own)
    evaluated = ("evaluate", "run", "--data", "images", "--workers", "0", "--json")
    refused = cli(*evaluated)
    assert (refused.code, (own / "imported").exists()) == (4, False)
    found = cli(*evaluated, "--architecture", source)
    assert (found.code, found.json["images"]) == (0, 34), found.err
    read = strzoo.read_checkpoint(own / "run" / "best_str.pth", architecture=source)
    assert read.sparsity() == pytest.approx(80, abs=100 / 464)
    assert read.trained_on is not None
    assert (read.trained_on.input_size, read.trained_on.class_names) == (
        (3, 12, 12), ("bright", "dark"),
    )  # fmt: skip
    # It goes on, its source and arguments taken from the file.
    more = ["train", "finetune_mask", "start_from=run/best_dense.pth", "data=images",
            "output=more", *QUICK]  # fmt: skip
    assert "--architecture own_network:build" in cli(*more).err
    assert cli(*more, "--architecture", source).code == 0
    kept = read_config(own / "more" / "config.yaml")
    assert (kept.architecture, kept.image_size) == (source, 12)
    again = strzoo.read_checkpoint(own / "more" / "best_dense.pth", architecture=source)
    assert again.sparsity() == pytest.approx(read.sparsity())


def test_size_and_preprocessing_are_what_the_networks_source_states(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    words = [
        "model=timm:test_convnext",
        f"data={data}",
        f"output={tmp_path / 'run'}",
        "epochs=1",
        *QUICK[1:],
    ]
    config = apply_overrides(load_recipe("finetune"), [*words, "checkpoint_activations=true"])
    strzoo.train(config)
    trained_on = strzoo.read_checkpoint(tmp_path / "run" / "best_str.pth").trained_on
    assert trained_on is not None
    assert trained_on.preprocessing is not None
    stated = timm.get_pretrained_cfg("test_convnext")
    assert trained_on.input_size == stated.input_size == (3, 160, 160)
    assert trained_on.preprocessing.mean == stated.mean == (0.5, 0.5, 0.5)
    assert trained_on.preprocessing.resize == round(160 / stated.crop_pct)
    smaller = apply_overrides(config, ["image_size=64", "mean=0.1,0.2,0.3"])
    made = strzoo.plan(smaller).config
    assert (made.image_size, made.mean, made.std) == (64, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def test_pretrained_weights_come_from_the_caches_of_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = Settings.from_env(offline=True)
    config = TrainConfig(architecture=TINY, num_classes=3, pretrained=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OfflineError, match="not in the hub's cache"):
        build_network(config, settings=offline)
    torch.manual_seed(1)
    published: Any = timm.create_model("test_efficientnet")
    folder = tmp_path / ("models--" + published.pretrained_cfg["hf_hub_id"].replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("f00")
    (folder / "snapshots" / "f00").mkdir(parents=True)
    save_file(published.state_dict(), folder / "snapshots" / "f00" / "model.safetensors")
    model: Any = build_network(config, settings=offline).model
    assert torch.equal(model.conv_stem.weight, published.conv_stem.weight)
    assert model.get_classifier().out_features == 3
    # torchvision's classifier is replaced, too.
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    config = dataclasses.replace(config, architecture="torchvision:squeezenet1_1")
    with pytest.raises(OfflineError, match=r"squeezenet1_1-.*\.pth is not there"):
        build_network(config, settings=offline)
    other = torchvision.models.squeezenet1_1()
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    torch.save(other.state_dict(), file)
    model = build_network(config, settings=offline).model
    assert torch.equal(model.features[0].weight, other.features[0].weight)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3)

    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    file.unlink()
    with pytest.raises(NetworkError, match=r"cannot be fetched \(URLError.*start_from=FILE"):
        build_network(config)


def test_a_dense_file_of_ones_own_training_is_where_a_sparse_one_begins(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mine: Any = timm.create_model("test_efficientnet", num_classes=2)
    torch.save({"model": mine.state_dict(), "epoch": 3}, tmp_path / "mine.pth")
    config = TrainConfig(
        architecture=TINY, num_classes=2, start_from=str(tmp_path / "mine.pth"), method="str",
        target_sparsity=0.8, keep_mask=False,
    )  # fmt: skip
    begun: Any = build_network(config).model
    assert isinstance(begun.conv_stem, strzoo.STRConv2d)
    assert torch.equal(begun.conv_stem.weight, mine.conv_stem.weight)
    fresh = build_network(dataclasses.replace(config, num_classes=5)).model
    assert fresh.get_classifier().weight.shape[0] == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrained=true"], "pretrained is for timm:NAME"),
        (["model_args.depth=3"], "model_args is for timm:NAME"),
        (["model_args=3"], r"model_args is given as model_args\.ARGUMENT=VALUE"),
        ([f"model={TINY}", "pretrained=true", "start_from=x"], "two beginnings"),
        (["crop_area=0.5"], "is not two positive numbers in order"),
        (["crop_area=0.5,2"], "more than the whole image"),
        (["mean=0.5,0.5"], "is not three numbers"),
        (["mean=0.5"], "for grey images give both"),
        (["mean=0.5", "std=1,1,1"], "other numbers of channels"),
        (["std=0,1,1"], "must be positive"),
        (["min_learning_rate=1"], "is above the peak"),
        (["optimizer=adam"], "is not one of sgd, adamw or the dotted path of your own"),
        (["optimizer=adamw", "nesterov=true"], "are for optimizer=sgd"),
        (["loss_args.weight=1"], "loss_args is for a loss of your own"),
        (["interpolation=cubic"], "is not one of nearest, bilinear"),
    ],
)
def test_keys_that_fit_nothing_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        apply_overrides(TrainConfig(), words)


def test_arguments_by_name_are_read_as_yaml_reads_them_and_written_as_a_mapping(
    tmp_path: Path,
) -> None:
    words = [f"model={TINY}", "model_args.drop_rate=1e-1", "model_args.act_layer=relu",
             "model_args.depths=[1, 2]", "model_args.flag=true"]  # fmt: skip
    config = apply_overrides(TrainConfig(), words)
    expected = {"act_layer": "relu", "depths": (1, 2), "drop_rate": 0.1, "flag": True}
    assert dict(config.model_args) == expected
    assert TrainConfig(architecture=TINY, model_args=expected) == config  # type: ignore[arg-type]
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert "  act_layer: relu\n" in dump_config(config)
    assert read_config(tmp_path / "config.yaml") == config
    assert apply_overrides(config, ["model_args=none"]).model_args == ()
    assert isinstance(strzoo.create_model(TINY, act_layer="relu"), nn.Module)
