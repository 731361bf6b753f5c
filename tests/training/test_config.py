from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import strzoo
from strzoo.errors import IntegrityError, StrzooError, UnknownNameError, UsageError
from strzoo.training.config import TrainConfig
from strzoo.training.parsing import apply_overrides, dump_config, read_config
from strzoo.training.recipes import list_recipe_groups, list_recipes, load_recipe
from strzoo.zoo.paper import find_paper_result, load_paper_table
from tests.conftest import CliResult


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr=0.1", "unknown key 'lr'; did you mean learning_rate?"),
        ("batchsize=64", "unknown key 'batchsize'; did you mean batch_size"),
        ("weigth_decay=0", "unknown key 'weigth_decay'; did you mean weight_decay"),
        ("zzz=1", "unknown key 'zzz'; strzoo train --keys lists them"),
        ("epochs", "'epochs' is not key=value"),
        ("epochs=1.5", "epochs='1.5' is of the wrong type; expected: whole number"),
        ("learning_rate=fast", "learning_rate='fast' is of the wrong type; expected: number"),
        ("compile=maybe", "compile='maybe' is of the wrong type; expected: true or false"),
        ("milestones=1,x", "milestones='x' is of the wrong type; expected: list of float"),
        ("epochs=none", "epochs='none' is of the wrong type"),
        ("learning_rate=1e999", "learning_rate=inf is not finite"),
        ("batch_size=-128", "batch_size=-128 must be positive"),
        ("method=prune", "method='prune' is not one of dense, str, dnw, gmp"),
        ("target_sparsity=90", "90 % is target_sparsity=0.9"),
        ("prune_rate=0.9", "prune_rate is for method=dnw and gmp, not str; use target_sparsity"),
        ("method=dnw", "method=dnw needs prune_rate .* or budget"),
        ("method=dense", None),
        ("schedule=multistep", "schedule=multistep needs milestones"),
        ("warmup_epochs=100", "leaves nothing of epochs=100; lower it .warmup_epochs=20 or 0"),
        ("keep_dense=first,fc", None),
        ("learning_rate=1e-3", None),
        ("data=/a=b", None),
    ],
)
def test_a_change_is_taken_or_refused_with_what_to_do(text: str, message: str | None) -> None:
    base = TrainConfig(method="str")
    if message is not None:
        with pytest.raises(UsageError, match=message):
            apply_overrides(base, [text])
        return
    key, _, value = text.partition("=")
    expected: Any = {"keep_dense": ("first", "fc"), "learning_rate": 0.001}.get(key, value)
    assert getattr(apply_overrides(base, [text]), key) == expected


def test_a_budget_takes_the_place_of_a_uniform_rate_and_the_other_way_round() -> None:
    uniform = TrainConfig(method="dnw", prune_rate=0.9)
    transferred = apply_overrides(uniform, ["budget=run/budget.json"])
    assert (transferred.prune_rate, transferred.budget) == (None, "run/budget.json")
    assert apply_overrides(transferred, ["prune_rate=0.5"]) == TrainConfig(
        method="dnw", prune_rate=0.5
    )
    with pytest.raises(UsageError, match="one of them"):
        apply_overrides(uniform, ["budget=x", "prune_rate=0.1"])


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(
    st.builds(
        TrainConfig,
        about=st.text(),
        learning_rate=st.floats(1e-12, 1e6),
        weight_decay=st.floats(0, 1e-3),
        seed=st.integers(0, 2**40),
        ema_decay=st.none() | st.floats(0, 0.9999),
        freeze=st.lists(st.text(min_size=1)).map(tuple),
        compile=st.booleans(),
        data=st.none() | st.text(min_size=1),
    )
)
@example(TrainConfig(about="\x85 \u2028 é"))
def test_a_written_configuration_is_read_back_the_same(config: TrainConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        assert read_config(file) == config


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("epochs: 3\nepochs: 4", IntegrityError, "'epochs' appears twice"),
        ("epochs: [", IntegrityError, "is not a recipe in YAML"),
        ("- epochs", IntegrityError, "holds no mapping"),
        ("epochs: '3'", UsageError, "epochs='3' is of the wrong type"),
        ("epochs: 3.0", UsageError, r"epochs=3\.0 is of the wrong type"),
        ("compile: 1", UsageError, "compile=1 is of the wrong type"),
        ("num_class: 1", UsageError, "unknown key 'num_class'; did you mean num_classes"),
        ("recipe: !!python/name:os.system", IntegrityError, "is not a recipe in YAML"),
    ],
)
def test_a_recipe_file_is_read_strictly(
    text: str, error: type[StrzooError], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(error, match=message):
        load_recipe(file)


def test_a_recipe_file_may_write_numbers_as_people_do(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("weight_decay: 1e-4\nlearning_rate: 1\nmilestones: [3, 6]\nschedule: multistep")
    config = load_recipe(file)
    assert (config.weight_decay, config.learning_rate, config.milestones) == (1e-4, 1.0, (3.0, 6.0))
    assert config.recipe == "mine"


PAPERS = [name for group in list_recipe_groups()[:2] for name in group.recipes]
# Common to all experiments of the paper (its section 4 and the published configurations).
COMMON = {
    "reproduce": "original", "num_classes": 1000, "epochs": 100, "batch_size": 256,
    "learning_rate": 0.256, "momentum": 0.875, "schedule": "cosine", "warmup_epochs": 5,
    "label_smoothing": 0.1, "threshold_decay": None, "nesterov": False, "fan": "fan_in",
    "dataset": "folder", "augmentation": "resized_crop_flip", "image_size": 224,
    "prune_span": (20, 79),
}  # fmt: skip
DENSE_DECAY = 2**-15  # 3.0517578125e-5, which the configurations of DNW and GMP round


def test_the_recipes_of_the_paper_hold_its_tables_10_and_11_and_the_common_settings() -> None:
    found = {}
    for name in PAPERS:
        config = load_recipe(name)
        assert {key: getattr(config, key) for key in COMMON} == COMMON
        assert config.recipe == name
        found[name] = config
    steered = {name for name, config in found.items() if config.target_sparsity is not None}
    assert steered == {f"resnet50_gs_{s}" for s in ("89.54", "93.84", "96.06", "97.91")}
    assert all("gives no hyperparameters" in found[name].about for name in steered)
    assert {found[name].threshold for name in steered} == {"global"}
    printed = [row for n in (10, 11) for row in load_paper_table(n).hyperparameters]
    assert len(printed) == 21
    for row in printed:
        config = found[row.recipe]
        assert row.recipe == f"{row.architecture}_str_{row.sparsity:.2f}"
        assert (config.method, config.threshold, config.architecture) == (
            "str", "layer", row.architecture,
        )  # fmt: skip
        assert (config.weight_decay, config.s_init) == (row.weight_decay, row.s_init)
    rest = [found[name] for name in set(found) - {row.recipe for row in printed}]
    assert all(c.weight_decay == pytest.approx(DENSE_DECAY, rel=1e-8) for c in rest)
    # 21 of STR, 4 of STR-GS, 8 of DNW, 7 and 2 of GMP, 2 dense.
    assert len(found) == 44


# The paper's architectures: weights of convolutions and classifier, BatchNorm parameters called bn
# (ResNet50's but for the shortcuts'), the others, and layers, each with a threshold in STR.
SIZES = {"resnet50": (25_502_912, 45_440, 7_680, 54), "mobilenetv1": (4_209_088, 0, 21_888, 28)}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet50", "mobilenetv1"])
def test_a_dry_run_of_every_recipe_of_the_paper_expects_what_the_paper_prints(
    architecture: str, cli: Callable[..., CliResult]
) -> None:
    weights, called_bn, not_called_bn, layers = SIZES[architecture]
    for name in PAPERS:
        config = load_recipe(name)
        if config.architecture != architecture:
            continue
        done = cli("train", name, "--dry-run", "--json")
        assert done.code == 0, done.err
        made = done.json
        row = find_paper_result(name)
        assert row is not None
        assert row.flops is not None
        printed = (row.top1, row.sparsity, row.params, row.flops)
        expected = made["expected"]
        assert printed == tuple(expected[n] for n in ("top1", "sparsity", "params", "flops"))
        for figure in (f"{row.top1:.2f} %", f"{row.sparsity:.2f} %", row.params, row.flops):
            assert figure in config.about
        thresholds = 0 if config.method != "str" else 1 if config.threshold == "global" else layers
        assert [(g["name"], g["parameters"], g["weight_decay"]) for g in made["groups"]] == [
            ("bn", called_bn, config.weight_decay),
            ("thresholds", thresholds, config.weight_decay),
            ("rest", weights + not_called_bn, config.weight_decay),
        ]
        final = made["moments"][-1]["sparsity"]
        if config.method == "str" and config.target_sparsity is None:
            assert final is None
        elif name == "mobilenetv1_gmp_74.11":
            # 75 % of all but the first and depthwise layers: 864 and 9 * 4960 of 4,209,088.
            pruned = 75 * (1 - (864 + 9 * 4960) / 4_209_088)
            # The last of its 60 epochs is a 216,000th short of the rate.
            assert final == pytest.approx(pruned * (1 - 60**-3), abs=1e-9)
        else:
            tolerance = 0.5 if "erk" in name else 0.01  # ERK's budget is in whole percents
            assert final == pytest.approx(row.sparsity, abs=tolerance)
        dense = [layer["name"] for layer in made["layers"] if layer["method"] == "dense"]
        if config.architecture == "mobilenetv1" and config.method == "gmp":
            assert dense == [f"model.{number}.0" for number in range(14)]
        elif config.method != "dense":
            assert dense == []
    shown = cli("train", f"{architecture}_dense", "--dry-run").out
    assert f"the paper: {load_recipe(f'{architecture}_dense').about}" in " ".join(shown.split())
    assert f"{weights + not_called_bn:,}" in shown


def test_our_own_recipes_say_that_the_settings_are_ours() -> None:
    for name in set(list_recipes()) - set(PAPERS):
        assert "Our own settings" in load_recipe(name).about


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("extends: resnet50_gmp\nepochs: 90\n")
    (tmp_path / "two.yaml").write_text("extends: ./one.yaml\nseed: 3\n")
    config = load_recipe(tmp_path / "two.yaml")
    expected = dataclasses.replace(
        load_recipe("resnet50_gmp_str_90.23"), epochs=90, seed=3, recipe="two"
    )
    assert config == expected
    (tmp_path / "one.yaml").write_text("extends: ./two.yaml\n")
    with pytest.raises(UsageError, match="goes round in a circle"):
        load_recipe(tmp_path / "two.yaml")
    (tmp_path / "one.yaml").write_text("extends: [a]\n")
    with pytest.raises(UsageError, match="is not the name or file of a recipe"):
        load_recipe(tmp_path / "one.yaml")
    (tmp_path / "one.yaml").write_text("extends: resnet50_xyz\n")
    with pytest.raises(UnknownNameError, match="no recipe is named 'resnet50_xyz'"):
        load_recipe(tmp_path / "one.yaml")


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="nearest: digits_dense"):
        load_recipe("digit_dense")
    with pytest.raises(UnknownNameError, match=r"ambiguous; it could be resnet50_str_90\.23, res"):
        load_recipe("resnet50_str_90")
    assert load_recipe("resnet50_str_90_23").recipe == "resnet50_str_90.23"
    assert load_recipe("resnet50_dnw").recipe == "resnet50_dnw_str_90.23"


def test_the_learning_rate_is_scaled_only_if_asked_for() -> None:
    config = dataclasses.replace(load_recipe("resnet50_dense"), batch_size=1024)
    assert config.peak_learning_rate == 0.256
    assert dataclasses.replace(config, scale_lr=True).peak_learning_rate == 0.256 * 4


def test_a_plan_counts_what_the_paper_prints_and_expects_what_the_schedules_say() -> None:
    made = strzoo.plan(load_recipe("resnet50_gmp"))
    # 25,502,912 convolution weights; of the 53,120 of BatchNorm those of the four shortcuts, 256 to
    # 2048 channels, are not called bn. 1,281,167 / 256 = 5004.6.
    assert [(g.name, g.parameters, g.weight_decay) for g in made.groups] == [
        ("bn", 53_120 - 2 * 3840, 3.051757813e-5),
        ("thresholds", 0, 3.051757813e-5),
        ("rest", 25_502_912 + 2 * 3840, 3.051757813e-5),
    ]
    assert (made.steps, made.total_steps, made.parameters) == (5005, 500_500, 25_556_032)
    ours = strzoo.plan(dataclasses.replace(load_recipe("resnet50_gmp"), reproduce="false"))
    assert [(g.name, g.parameters, g.weight_decay) for g in ours.groups] == [
        ("weights", 25_502_912, 3.051757813e-5), ("normalisation", 53_120, 0.0),
    ]  # fmt: skip
    assert (ours.steps, ours.reproduced) == (5004, ())
    sparsities = {m.epoch: m.sparsity for m in made.moments}
    assert sparsities[20] == 0
    assert sparsities[79] == sparsities[100] == pytest.approx(90.23, abs=0.01)
    # 1 - (1 - 30/60)^3 of the way at epoch 50, or with 59 epochs in our own form.
    assert sparsities[50] == pytest.approx(90.23 * (1 - (30 / 60) ** 3), abs=0.01)
    assert ours.moments[50].sparsity == pytest.approx(90.23 * (1 - (29 / 59) ** 3), abs=0.01)
    assert "no data given" in made.data
    learned = strzoo.plan(load_recipe("mobilenetv1_str_89.01"), processes=8)
    assert {m.sparsity for m in learned.moments} == {None}
    assert learned.part == 32


@pytest.mark.parametrize(
    ("threshold", "thresholds"),
    # Of the 20 layers between the ends; 16, 32 and 64 filters in 6, 6 and 6 of them and in the
    # two projections; weights: 3x3 convolutions and the projections.
    [
        ("layer", 20),
        ("global", 1),
        ("filter", 6 * 16 + 7 * 32 + 7 * 64),
        ("weight", 9 * (6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2) + 16 * 32 + 32 * 64),
    ],
)
def test_a_plan_has_a_threshold_for_each_layer_filter_or_weight_that_is_not_kept_dense(
    threshold: str, thresholds: int
) -> None:
    config = dataclasses.replace(
        load_recipe("digits_str"), threshold=threshold, keep_dense=("first", "last"),
        threshold_decay=0.25,
    )  # fmt: skip
    made = strzoo.plan(config)
    assert [layer.name for layer in made.layers if layer.method == "dense"] == ["conv1", "fc"]
    groups = {group.name: group for group in made.groups}
    assert groups["thresholds"].parameters == thresholds
    assert groups["thresholds"].weight_decay == 0.25
    assert made.moments[-1].sparsity == 90


@pytest.mark.parametrize("method", ["gmp", "dnw"])
def test_fine_tuning_by_another_method_takes_its_rate_and_the_epochs_there_are(
    method: str, tmp_path: Path
) -> None:
    words = ["architecture=resnet20", "num_classes=10", "dataset=digits", "augmentation=none"]
    recipe = load_recipe("finetune")
    config = apply_overrides(recipe, [*words, f"method={method}", "prune_rate=0.8"])
    assert (config.target_sparsity, config.epochs) == (None, 10)
    expected = dict.fromkeys(range(11), 80.0)
    if method == "gmp":  # 20 and 79 of 100 epochs; the cube of arXiv:1710.01878 between
        assert config.prune_span == (2, 7.9)
        expected = {
            epoch: 80 * (1 - (1 - min(max((epoch - 2) / 5.9, 0), 1)) ** 3) for epoch in range(11)
        }
        made = strzoo.plan(config).config
        assert (made.prune_start, made.prune_end) == (2, 7.9)
        longer = apply_overrides(config, ["epochs=30", "prune_end=12"])
        assert longer.prune_span == (6, 12)
    moments = strzoo.plan(config).moments
    assert {m.epoch: m.sparsity for m in moments} == pytest.approx(expected)
    # A file that extends the recipe means the same.
    (tmp_path / "own.yaml").write_text(
        f"extends: finetune\nmethod: {method}\nprune_rate: 0.8\narchitecture: resnet20\n"
    )
    assert load_recipe(tmp_path / "own.yaml").target_sparsity is None
    with pytest.raises(UsageError, match=r"target_sparsity is for .* or set target_sparsity=none"):
        apply_overrides(recipe, [f"method={method}", "prune_rate=0.8", "target_sparsity=0.9"])
    # Back to STR nothing of the other method is left.
    assert apply_overrides(config, ["method=str"]).prune_rate is None
    dense = apply_overrides(load_recipe("resnet50_gmp"), ["method=dense"])
    assert (dense.budget, dense.keep_dense) == (None, ())
