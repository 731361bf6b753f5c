from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

import strzoo
from strzoo.checkpoint.reading import read_document
from strzoo.cli.training import _View
from strzoo.training.results import EpochDone, EpochRecord, Event, RunStarted, StepDone
from tests.conftest import CliResult
from tests.helpers.runs import SHORT

Cli = Callable[..., CliResult]
QUICK = ("epochs=2", "batch_size=256", "warmup_epochs=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs with TensorBoard and plots (do not modify)."""
    from strzoo.training.parsing import apply_overrides
    from strzoo.training.recipes import load_recipe

    folder = tmp_path_factory.mktemp("runs") / "digits_str"
    changes = [*QUICK, f"output={folder}", "log_every=2"]
    strzoo.train(apply_overrides(load_recipe("digits_str"), changes))
    return folder


def test_the_recipes_and_the_keys_are_listed(cli: Cli) -> None:
    listed = cli("train", "--list")
    assert listed.code == 0
    for name in ("resnet50_str_90.23", "mobilenetv1_dense", "cifar10_resnet20_str", "digits_gmp"):
        assert name in listed.out
    groups = cli("train", "--list", "--json").json["groups"]
    assert [len(group["recipes"]) for group in groups] == [36, 8, 4, 4, 3, 10]
    assert "STR paper" in groups[0]["title"]
    names = {key["key"]: key for key in cli("train", "--keys", "--json").json["keys"]}
    assert names["label_smoothing"]["default"] == "0.1"
    assert names["milestones"]["type"] == "list of float, as 1,2"


def test_a_recipe_is_shown_as_yaml_that_trains_the_same(cli: Cli, tmp_path: Path) -> None:
    shown = cli("train", "mobilenetv1_str_89.01", "--show", "width=0.5", "freeze=fc")
    config = yaml.safe_load(shown.out)
    assert (config["s_init"], config["width"], config["freeze"]) == (-12800.0, 0.5, ["fc"])
    (tmp_path / "mine.yaml").write_text(shown.out)
    assert cli("train", tmp_path / "mine.yaml", "--show").out == shown.out


def test_a_dry_run_prints_the_plan_and_leaves_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("train", "digits_gmp", "--dry-run", "batch_size=128")
    assert done.code == 0
    # 1437 // 128 = 11 steps; halfway from epoch 5 to 20 the cubic is at 7/8 (12.5 is no epoch).
    assert "steps: 11 per epoch, 330 in 30 epochs; 128 images at once" in done.out
    assert "0.1 at the global batch of 128, although chosen for 64; scale_lr=true" in done.out
    assert "uniform 90 %" in done.out
    moments = cli("train", "digits_gmp", "--dry-run", "--json").json["moments"]
    assert [round(moments[e]["sparsity"], 6) for e in (5, 10, 20, 30)] == [
        0, round(90 * (1 - (2 / 3) ** 3), 6), 90, 90,
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        ("resnet50_str_90.23", (), "size of ImageNet-1k; no data given\nsteps: 5,005 per epoch"),
        ("resnet50_dense", ("data=/nowhere",), "ImageNet-1k; /nowhere is not here\nsteps: 5,005"),
        # 50,000 // 128 steps.
        ("cifar10_resnet20_str", ("data=/nowhere",), "; /nowhere is not here\nsteps: 390 per"),
        (
            "cifar10_resnet20_str", ("dataset=folder", "num_classes=7"),
            "no data given: the number of images, and of steps, is not known\n"
            "steps: not known, in 160 epochs; 128 images at once",
        ),
    ],
)  # fmt: skip
def test_a_dry_run_needs_no_data(
    recipe: str, changes: tuple[str, ...], said: str, cli: Cli
) -> None:
    done = cli("train", recipe, *changes, "--dry-run")
    assert done.code == 0, done.err
    assert said in done.out
    assert "90.00" in done.out or "learned" in done.out or recipe == "resnet50_dense"


def test_classes_that_cannot_be_counted_are_asked_for(cli: Cli) -> None:
    words = ("train", "finetune", "model=torchvision:resnet18", "data=elsewhere", "--dry-run")
    done = cli(*words)
    assert (done.code, done.out) == (2, "")
    assert "elsewhere is no folder; give data=FOLDER, or num_classes=N" in done.err
    assert cli(*words, "num_classes=5").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "name a recipe; strzoo train --list shows them"),
        (("digit_str",), 2, "no recipe is named 'digit_str'; nearest: digits_str"),
        (("digits_str", "target=0.9"), 2, "unknown key 'target'; did you mean target_"),
        (("digits_str", "num_classes=7"), 2, "digits has 10 classes, the model has 7"),
        (("digits_str", "device=tpu"), 2, "device 'tpu' is not one of cpu, cuda, cuda:N"),
        (("digits_str", "precision=tf32", "device=cpu"), 2, "precision=tf32 is for GPUs"),
        (("digits_dense", "width=0.5"), 2, "resnet20 has no option 'width'"),
        (("digits_dense", "freeze=layer9"), 2, "nothing to freeze matches 'layer9'"),
        (("digits_dense", "freeze=*"), 2, "freeze=* leaves nothing to train"),
        (("digits_str", "keep_dense=head"), 2, "'head' matches no layer"),
        (("digits_dnw", "budget=resnet50_str_90.23"), 2, "layer"),
        (("resnet50_dense",), 2, "dataset=folder needs data=FOLDER"),
    ],
)
def test_what_cannot_be_trained_ends_in_one_line(
    arguments: tuple[str, ...], code: int, message: str, cli: Cli, tmp_path: Path
) -> None:
    output = [f"output={tmp_path / 'run'}", "tensorboard=false"] if len(arguments) else []
    done = cli("train", *arguments, *output)
    assert done.code == code
    assert message in done.error


def test_a_run_leaves_all_its_files(run: Path) -> None:
    files = {path.name for path in run.iterdir()}
    assert files == {
        "config.yaml", "environment.json", "initial.pth", "last.pth", "best_str.pth",
        "best_dense.pth", "results.csv", "layers.json", "budget.json", "report.md", "report.json",
        "progress.png", "layers.png", "report.html", "tensorboard", ".lock",
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO((run / "results.csv").read_text())))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "5"), ("2", "10")]
    layers = json.loads((run / "layers.json").read_text())["layers"]
    weights = {name: layer["weights"] for name, layer in layers.items()}
    zeros = sum(layer["sparsity"][-1] * layer["weights"] / 100 for layer in layers.values())
    assert 100 * zeros / sum(weights.values()) == pytest.approx(float(rows[-1]["sparsity"]))
    assert float(rows[-1]["sparsity"]) == pytest.approx(90, abs=0.1)
    assert layers["conv1"]["threshold"][-1] > layers["conv1"]["threshold"][0] > 0
    budget = strzoo.load_budget(run / "budget.json")
    assert list(budget.layers) == list(layers)
    assert (budget.num_classes, budget.input_size) == (10, (3, 8, 8))
    report = (run / "report.md").read_text()
    assert "![progress](progress.png)" in report
    assert f"| last | 2 | {float(rows[-1]['top1']):.2f} |" in report
    assert (run / "progress.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "report.html").read_text()
    assert "Threshold of 6 layers over the epochs" in page
    assert f"top-1 {float(rows[-1]['top1']):.2f} %" in page
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    tags = board.Tags()["scalars"]
    assert {"step/loss", "validation/top1", "learning_rate", "sparsity/total"} <= set(tags)
    assert {f"{kind}/{name}" for kind in ("sparsity", "threshold") for name in layers} <= set(tags)
    last = board.Scalars("validation/top1")[-1]
    assert last.step == 10
    assert last.value == pytest.approx(float(rows[-1]["top1"]))


def test_the_checkpoints_are_in_the_published_form_and_convert(run: Path, cli: Cli) -> None:
    document = read_document(run / "last.pth")
    published = {"epoch", "arch", "state_dict", "best_acc1", "best_acc5", "best_train_acc1",
                 "best_train_acc5", "optimizer", "curr_acc1", "curr_acc5"}  # fmt: skip
    assert published | {"strzoo", "training"} == set(document)
    assert (document["epoch"], document["arch"]) == (2, "ResNet20")
    assert all(key.startswith("module.") for key in document["state_dict"])
    assert document["state_dict"]["module.fc.sparseThreshold"].shape == (1, 1)
    momenta = document["optimizer"]["state"]
    assert len(momenta) == len(list(strzoo.create_model("resnet20", layer="str").parameters()))
    done = cli("convert", run / "last.pth", run.parent / "dense.pth", "--verify")
    assert done.code == 0, done.err
    test = strzoo.load_digits("test")
    sparse = strzoo.evaluate(strzoo.load(run / "best_str.pth"), test)
    dense = strzoo.evaluate(strzoo.load(run / "best_dense.pth"), test)
    assert torch.equal(sparse.predictions, dense.predictions)
    best = json.loads((run / "report.json").read_text())["best"]
    assert sparse.top1 == pytest.approx(best["top1"])
    assert document["best_acc1"] == best["top1"]
    assert strzoo.read_checkpoint(run / "best_dense.pth").sparsity() == pytest.approx(
        best["sparsity"]
    )


@pytest.mark.slow
def test_what_was_trained_is_compiled_and_predicts_the_same(run: Path, cli: Cli) -> None:
    plan = run.parent / "digits.strz"
    done = cli("compile", run / "best_str.pth", "-o", plan, "--input-size", "8", "--no-cache")
    assert done.code == 0, done.err
    images = strzoo.load_digits("test").images[:64]
    with torch.inference_mode():
        expected = strzoo.load(run / "best_dense.pth")(images)
    torch.testing.assert_close(strzoo.compile(plan)(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dnw", "gmp"])
def test_the_budget_that_str_has_learned_is_transferred(
    method: str, run: Path, cli: Cli, tmp_path: Path
) -> None:
    output = tmp_path / method
    source = run / ("best_str.pth" if method == "dnw" else "budget.json")
    ends = ("prune_start=0", "prune_end=1") if method == "gmp" else ()
    done = cli(
        "train", f"digits_{method}", f"budget={source}", *QUICK, *ends, f"output={output}",
        "tensorboard=false", "--json", "--plot", tmp_path / "run.svg",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (tmp_path / "run.svg").read_text().startswith("<?xml")
    wanted = strzoo.load_budget(run / "budget.json")
    made = strzoo.load_budget(output / "budget.json")
    for name, percent in wanted.layers.items():  # to one weight of the smallest layer, 432
        assert made.layers[name] == pytest.approx(percent, abs=100 / 432)
    assert done.json["last"]["sparsity"] == pytest.approx(wanted.sparsity, abs=0.05)
    assert strzoo.read_checkpoint(output / "best_dense.pth").sparsity() == pytest.approx(
        wanted.sparsity, abs=0.05
    )


@pytest.mark.slow
def test_fine_tuning_keeps_the_zeros_and_takes_new_classes(
    run: Path, cli: Cli, tmp_path: Path
) -> None:
    before = strzoo.read_checkpoint(run / "best_dense.pth").state_dict
    done = cli(
        "train", "digits_dense", f"start_from={run / 'best_str.pth'}", "freeze=conv1,bn1", *QUICK,
        "precision=bf16", f"output={tmp_path / 'tuned'}", "tensorboard=false", "ema_decay=0.5",
    )  # fmt: skip
    assert done.code == 0, done.err
    after = strzoo.read_checkpoint(tmp_path / "tuned" / "last.pth").state_dict
    assert torch.equal(after["conv1.weight"], before["conv1.weight"])
    zeros = before["layer2.0.conv1.weight"] == 0
    assert bool(zeros.any())
    assert torch.equal(after["layer2.0.conv1.weight"] == 0, zeros)
    assert not torch.equal(after["layer2.0.conv1.weight"], before["layer2.0.conv1.weight"])
    wrong = cli("train", "digits_dense", f"start_from={run / 'best_str.pth'}",
                "architecture=resnet18", f"output={tmp_path / 'wrong'}")  # fmt: skip
    assert "is a resnet20, not a resnet18; set architecture=resnet20" in wrong.error


def test_the_live_display_shows_the_epochs_and_where_the_present_one_is() -> None:
    screen = Console(width=120, record=True, file=io.StringIO())
    view = _View(SHORT)
    record = EpochRecord(1, 5, 1.5, 40.0, 80.0, 1.2, 45.5, 90.0, 0.1, 61.25, 62.0, 2.0, 640.0, True)
    events: list[Event] = [
        RunStarted(Path("runs/short"), 2, 5, "digits", "cpu", "fp32", 1, 0, 0),
        EpochDone(record, best=True),
        StepDone(2, 3, 5, 1.25, 50.0, 0.05, 700.0),
    ]
    for event in events:
        drawn = view.draw(event)
    screen.print(drawn)
    text = screen.export_text()
    assert "45.50*" in text
    assert "61.25" in text
    assert "8/10" in text  # 5 steps of epoch 1 and 3 of epoch 2
    assert "loss 1.250  top-1 50.00 %  700 img/s" in text
