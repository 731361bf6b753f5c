from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import strzoo
from strzoo.errors import IntegrityError, StrzooError, UnknownNameError, UsageError
from strzoo.zoo.budgets import (
    Budget,
    compare_budgets,
    is_rounded,
    list_budgets,
    load_budget,
    read_budget,
)

STR_SPARSITIES = (
    79.55, 81.27, 87.70, 90.23, 90.55, 94.80, 95.03, 95.15,
    96.11, 96.53, 97.78, 98.05, 98.22, 98.79, 98.98, 99.10,
)  # fmt: skip
# MACs in millions that the paper's budgets leave, for the six published networks.
PUBLISHED_MACS = {
    81.27: 705.4, 90.23: 342.7, 95.15: 162.3, 96.11: 127.0, 98.05: 72.9, 98.98: 47.4,
}  # fmt: skip


def test_the_sixteen_str_budgets_and_the_five_baselines_ship() -> None:
    names = [f"resnet50_str_{s:.2f}" for s in STR_SPARSITIES]
    names += [f"resnet50_{m}_90" for m in ("uniform", "erk", "snfs", "vd", "gs")]
    mobile = ["mobilenetv1_str_89.01", "mobilenetv1_gmp_89.03"]
    assert list_budgets() == sorted(names + mobile)
    assert all(len(load_budget(name).layers) == 54 for name in names)
    assert all(len(load_budget(name).layers) == 28 for name in mobile)


@pytest.mark.parametrize(
    ("name", "sparsity", "backbone", "macs"),
    # Table 8: overall, without fc; Table 2: 42M and 82M. 41.75 M to the digit: layers are rounded.
    [("mobilenetv1_str_89.01", 89.01, 92.93, 41.75), ("mobilenetv1_gmp_89.03", 89.03, 88.71, 82.3)],
)
def test_a_budget_of_mobilenetv1_gives_the_papers_sparsity_and_macs(
    name: str, sparsity: float, backbone: float, macs: float
) -> None:
    budget = load_budget(name)
    # MACs from the definition of MobileNetV1 at 224 pixels: a 3x3 layer of stride 2, then pairs of
    # a depthwise and a 1x1 layer; the pool adds 1024 channels of 7x7.
    weights, macs_of = {"model.0.0": 27 * 32}, {"model.0.0": 27 * 32 * 112**2}
    inputs, size = 32, 112
    pairs = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
             (1024, 2), (1024, 1))  # fmt: skip
    for number, (outputs, stride) in enumerate(pairs, start=1):
        size //= stride
        weights[f"model.{number}.0"], weights[f"model.{number}.3"] = 9 * inputs, inputs * outputs
        macs_of[f"model.{number}.0"] = 9 * inputs * size**2
        macs_of[f"model.{number}.3"] = inputs * outputs * size**2
        inputs = outputs
    weights["fc"] = macs_of["fc"] = 1024 * 1000
    assert list(budget.layers) == list(weights)

    def share(names: list[str]) -> float:
        return sum(weights[n] * budget.layers[n] for n in names) / sum(weights[n] for n in names)

    assert share(list(weights)) == pytest.approx(sparsity, abs=0.01)
    assert share([n for n in weights if n != "fc"]) == pytest.approx(backbone, abs=0.01)
    expected = 1024 * 49 + sum(macs_of[n] * (1 - p / 100) for n, p in budget.layers.items())
    report = strzoo.report_budget(budget)
    assert report.sparse_macs == pytest.approx(expected, rel=1e-4)
    assert expected / 1e6 == pytest.approx(macs, abs=0.05)
    assert report.sparsity == pytest.approx(sparsity, abs=0.01)


@pytest.mark.parametrize("sparsity", STR_SPARSITIES)
def test_a_str_budget_gives_the_published_sparsity_and_flops(sparsity: float) -> None:
    report = strzoo.report_budget(load_budget(f"resnet50_str_{sparsity:.2f}"))
    # Half a digit of the published total and half a digit of each layer.
    assert report.sparsity == pytest.approx(sparsity, abs=0.01)
    if sparsity in PUBLISHED_MACS:
        assert report.sparse_macs is not None
        assert round(report.sparse_macs / 1e6, 1) == PUBLISHED_MACS[sparsity]


def test_macs_of_a_budget_are_those_of_the_formula() -> None:
    # Independent of fvcore and of the shipped counts: MACs from the definition of ResNet50.
    budget = load_budget("resnet50_str_90.23")
    macs = {"conv1": 7 * 7 * 3 * 64 * 112**2, "fc": 2048 * 1000}
    inputs = 64
    for stage, (planes, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        size = 56 // 2 ** (stage - 1)
        for block in range(depth):
            name = f"layer{stage}.{block}"
            before = size * 2 if block == 0 and stage > 1 else size
            macs[f"{name}.conv1"] = inputs * planes * before**2
            macs[f"{name}.conv2"] = 9 * planes * planes * size**2
            macs[f"{name}.conv3"] = 4 * planes * planes * size**2
            if block == 0:
                macs[f"{name}.downsample.0"] = inputs * 4 * planes * size**2
            inputs = 4 * planes
    expected = 2048 * 7 * 7 + sum(macs[n] * (1 - p / 100) for n, p in budget.layers.items())
    found = strzoo.report_budget(budget).sparse_macs
    assert found == pytest.approx(expected, rel=1e-5)  # nonzeros are whole numbers


def test_the_baselines_are_near_ninety_percent_and_uniform_is_exactly() -> None:
    for method in ("uniform", "erk", "snfs", "vd", "gs"):
        budget = load_budget(f"resnet50_{method}_90")
        report = strzoo.report_budget(budget)
        assert report.sparsity == pytest.approx(budget.sparsity, abs=0.01)
        assert report.sparsity == pytest.approx(90, abs=0.5)
    assert set(load_budget("resnet50_uniform_90").layers.values()) == {90.0}


budgets = st.builds(
    Budget,
    name=st.text(min_size=1),
    architecture=st.text(),
    method=st.text(),
    sparsity=st.floats(0, 100),
    source=st.text(),
    layers=st.dictionaries(st.text(), st.floats(0, 100), min_size=1),
    num_classes=st.none() | st.integers(1, 1000),
    input_size=st.none() | st.tuples(*[st.integers(1, 300)] * 3),
    options=st.dictionaries(st.text(), st.booleans() | st.floats(0, 9) | st.text()),
)


@settings(max_examples=50)
@given(budget=budgets)
def test_a_budget_survives_writing_and_reading(
    budget: Budget, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("budgets") / "budget.json"
    strzoo.write_budget(budget, path)
    found = read_budget(path)
    assert found == budget
    assert list(found.layers) == list(budget.layers)


def test_an_existing_file_is_not_overwritten_without_force(tmp_path: Path) -> None:
    budget = load_budget("resnet50_uniform_90")
    path = strzoo.write_budget(budget, tmp_path / "b.json")
    other = dataclasses.replace(budget, name="other")
    with pytest.raises(StrzooError, match="--force"):
        strzoo.write_budget(other, path)
    assert read_budget(path) == budget
    strzoo.write_budget(other, path, force=True)
    assert read_budget(path) == other


def test_comparing_gives_the_difference_of_each_layer() -> None:
    first, second = load_budget("resnet50_str_81.27"), load_budget("resnet50_uniform_90")
    lines = compare_budgets(first, second)
    assert len(lines) == 54
    assert lines[0].layer == "conv1"
    assert lines[0].difference == pytest.approx(90 - 51.4)
    shorter = dataclasses.replace(second, layers={"conv1": 90.0})
    with pytest.raises(UnknownNameError, match=r"layer1\.0\.conv1"):
        compare_budgets(first, shorter)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layers": {"conv1": 101}}, "conv1 is 101"),
        ({"layers": {}}, "no layers"),
        ({"layers": {"conv1": "much"}}, "conv1: expected float"),
        ({"sparsity": -1}, "sparsity is -1"),
        ({"schema": 9}, "schema 9"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"num_classes": 0}, "num_classes is 0; expected 1 to"),
        ({"input_size": [3, 32]}, "input_size is [3, 32]; expected channels, height and width"),
    ],
)
def test_a_faulty_budget_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    path = tmp_path / "b.json"
    strzoo.write_budget(load_budget("resnet50_uniform_90"), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(IntegrityError) as error:
        load_budget(path)
    assert named in str(error.value)


def test_a_budget_is_extracted_from_any_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    with torch.no_grad():
        model[0].weight.view(-1)[:54] = 0  # 54 of 216 weights: 25 %
        model[3].weight.view(-1)[:1440] = 0  # 1,440 of 2,880 weights: 50 %
    budget = strzoo.extract_budget(model, input_size=(3, 8, 8), name="mine")
    assert dict(budget.layers) == {"0": 25.0, "3": 50.0}
    assert budget.sparsity == pytest.approx(100 * (54 + 1440) / (216 + 2880))


def test_an_extracted_budget_applied_again_prunes_as_many_weights() -> None:
    torch.manual_seed(0)
    model = strzoo.create_model("resnet20")
    strzoo.sparsify_(model, "str", s_init=-3.0)
    budget = strzoo.extract_budget(model, input_size=(3, 32, 32))
    other = strzoo.sparsify_(strzoo.create_model("resnet20"), "dnw", prune_rate=budget)
    again = strzoo.extract_budget(other, input_size=(3, 32, 32))
    assert dict(again.layers) == pytest.approx(dict(budget.layers), abs=1e-9)
    assert 0 < budget.sparsity < 100


def _conv_macs(stem: int, side: int, classes: int) -> int:
    """Of ResNet18, whose stem has windows of `stem` and leaves `side`, counted by hand: each stage
    has four 3x3 convolutions, and all but the first halve the side and have a 1x1 shortcut."""
    macs, inputs = stem * stem * 3 * 64 * (side if stem == 3 else 2 * side) ** 2, 64
    for planes in (64, 128, 256, 512):
        side //= 1 if planes == 64 else 2
        macs += 9 * planes * (inputs + 3 * planes) * side**2
        macs += inputs * planes * side**2 if inputs != planes else 0
        inputs = planes
    return macs + 512 * classes + 512 * side**2  # classifier and average pool


@pytest.mark.parametrize(
    ("options", "classes", "size", "macs"),
    [
        ({"small_stem": True}, 10, None, _conv_macs(3, 32, 10)),
        ({}, 7, None, _conv_macs(7, 56, 7)),
        ({}, 1000, (3, 64, 64), _conv_macs(7, 16, 1000)),
    ],
)
def test_a_budget_is_counted_as_the_network_it_was_taken_from(
    options: dict[str, Any], classes: int, size: Any, macs: int, tmp_path: Path
) -> None:
    model = strzoo.create_model("resnet18", num_classes=classes, **options)
    budget = strzoo.extract_budget(model, input_size=size)
    made = strzoo.report_budget(read_budget(strzoo.write_budget(budget, tmp_path / "b.json")))
    assert made.dense_macs == macs
    assert made.num_classes == classes
    assert not any("rounded" in note or "states no" in note for note in made.notes)


def test_a_budget_that_states_no_network_is_of_the_architectures_usual_one() -> None:
    budget = strzoo.extract_budget(strzoo.create_model("resnet20"))
    older = Budget(budget.name, "resnet20", "str", 0.0, "", budget.layers)
    made = strzoo.report_budget(older)
    assert (made.input_size, made.num_classes) == ((3, 32, 32), 10)
    assert made.layers[-1].dense_macs == 64 * 10
    assert "states no number of classes and no input size" in made.notes[1]
    with pytest.raises(UsageError, match="'depth': 3, which is no option of resnet20; it has"):
        strzoo.report_budget(dataclasses.replace(older, options={"depth": 3}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((51.23, 60.0), True),  # 51.23 % of 216 and 60 % of 80 weights are no whole numbers
        ((90.0, 80.0), False),  # rates, which were not rounded
        ((25.0, 50.0), False),  # 54 and 40 weights to the digit
        ((51.23456, 60.0), False),
    ],
)
def test_rounding_is_said_of_budgets_that_were_rounded(
    values: tuple[float, float], said: bool
) -> None:
    assert is_rounded(dict(zip("ab", values, strict=True)), {"a": 216, "b": 80}) == said


def test_fractions_and_a_wrong_total_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def written(total: float, layers: dict[str, float]) -> Path:
        budget = Budget("b", "", "str", total, "", layers)
        return strzoo.write_budget(budget, tmp_path / "b.json", force=True)

    def pruned(path: Path) -> list[str]:
        caplog.clear()
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8, 9))  # 24, 72 weights
        strzoo.sparsify_(model, "dnw", prune_rate=load_budget(path))
        return [record.getMessage() for record in caplog.records]

    fractions = pruned(written(0.9, {"0": 0.9, "2": 0.9}))
    assert len(fractions) == 1
    assert "is of 0.9 % at most; its values are percent" in fractions[0]
    assert pruned(written(0.0, {"0": 0.0, "2": 0.0})) == []
    assert pruned(written(75.0, {"0": 50.0, "2": 1e2 * 5 / 6})) == []  # 12 and 60 of 96 zeros
    assert "its layers have 50.00 to 80.00 %" in pruned(written(90.0, {"0": 50.0, "2": 80.0}))[0]
    # Between those of the layers, and not what 12 and 57.6 of 96 make.
    assert "its layers have 72.50 %" in pruned(written(60.0, {"0": 50.0, "2": 80.0}))[0]
    for name in list_budgets():
        load_budget(name).prune_rates()
        assert strzoo.report_budget(load_budget(name)).notes[2:] == ()
