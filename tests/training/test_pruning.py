from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import OfflineError, StrzooError, UnknownNameError, UsageError
from strzoo.settings import Settings
from strzoo.training.pruning import apply_gmp_rates, apply_rates, resolve_rates, tabulate_pruning


def pruned_resnet20(method: str = "dnw") -> nn.Module:
    torch.manual_seed(0)
    return strzoo.sparsify_(strzoo.create_model("resnet20"), method)


@pytest.fixture
def str_file(tmp_path: Path) -> Path:
    """A ResNet20 with STR whose first convolution keeps all and whose others keep about half."""
    torch.manual_seed(1)
    model = strzoo.sparsify_(strzoo.create_model("resnet20"), s_init=-3.0)
    with torch.no_grad():
        model.conv1.sparseThreshold.fill_(-100.0)
    return strzoo.save_checkpoint(model, tmp_path / "str.pth")


def test_one_rate_serves_all_layers() -> None:
    model = pruned_resnet20()
    rates = resolve_rates(model, "0.9")
    assert rates == resolve_rates(model, 0.9)
    apply_rates(model, rates)
    table = tabulate_pruning(model, rates)
    assert len(table.layers) == 22
    assert table.weights == 270_896
    assert table.source == "uniform 90 %"
    assert all(layer.wanted == pytest.approx(90.0) for layer in table.layers)
    # 432 weights in the first layer: 389 of them is the nearest to 90 %.
    assert table.layers[0].actual == pytest.approx(100 * 389 / 432)
    assert table.actual == pytest.approx(90.0, abs=0.01)


def test_the_sparsity_of_an_str_checkpoint_becomes_the_prune_rates(str_file: Path) -> None:
    source = strzoo.read_checkpoint(str_file).effective_weights()
    model = pruned_resnet20()
    for given in (str_file, str(str_file), strzoo.read_checkpoint(str_file)):
        rates = resolve_rates(model, given)
        assert rates.layers["conv1"] == 0.0
    apply_rates(model, rates)
    table = tabulate_pruning(model, rates)
    for row in table.layers:
        zeros = int((source[row.layer] == 0).sum())
        assert row.actual == pytest.approx(100 * zeros / row.weights)
        assert row.wanted == pytest.approx(row.actual)
    assert 20 < table.wanted < 80
    document = table.to_dict()
    assert document["schema"] == 1
    assert document["layers"][0]["layer"] == "conv1"


def test_gmp_rates_rise_to_the_final_ones_layer_by_layer() -> None:
    model = pruned_resnet20("gmp")
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    final = {name: index / 100 for index, name in enumerate(names)}
    rates = resolve_rates(model, final)
    apply_gmp_rates(model, rates, epoch=50, start=20, end=80)  # half way: 7/8 of the final rate
    assert [model.get_submodule(n).prune_rate for n in names] == pytest.approx(
        [7 / 8 * rate for rate in final.values()]
    )


def test_a_model_id_names_its_budget() -> None:
    with torch.device("meta"):
        model = strzoo.sparsify_(strzoo.create_model("resnet50"), "dnw")
    budget = strzoo.load_budget("resnet50_str_90.23")
    for given in ("resnet50_str_90.23", "resnet50_str_90_23", budget):
        rates = resolve_rates(model, given)
        assert dict(rates.layers) == budget.prune_rates()
        assert rates.source == "budget resnet50_str_90.23"


def test_a_model_without_a_budget_gives_that_of_its_weights(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = strzoo.sparsify_(strzoo.create_model("mobilenetv1"), "dnw")
    settings = Settings(tmp_path, offline=True)
    with pytest.raises(OfflineError, match=r"mobilenetv1_str_75\.28"):
        resolve_rates(model, "mobilenetv1_str_75.28", settings=settings)


def test_rates_that_do_not_fit_are_refused_by_name(str_file: Path) -> None:
    model = pruned_resnet20()
    with pytest.raises(
        UnknownNameError, match=r"layer 'layer1\.0\.conv3' of budget resnet50_erk_90"
    ):
        resolve_rates(model, "resnet50_erk_90")
    with pytest.raises(UnknownNameError, match="no budget or model is named 'resnet50_str_91'"):
        resolve_rates(model, "resnet50_str_91")
    with pytest.raises(UsageError, match=r"90\.0 is outside"):
        resolve_rates(model, 90)
    with pytest.raises(StrzooError, match="does not exist"):
        resolve_rates(model, str_file.with_name("missing.pth"))
    with pytest.raises(UsageError, match="no DNW or GMP layers"):
        resolve_rates(strzoo.create_model("resnet20"), 0.9)


def test_single_precision_rounds_the_share_that_is_kept_as_a_mean_in_fp32_does(
    str_file: Path,
) -> None:
    model = pruned_resnet20()
    checkpoint = strzoo.read_checkpoint(str_file)
    exact = resolve_rates(model, checkpoint).layers
    rounded = resolve_rates(model, checkpoint, single_precision=True).layers
    for name, weight in checkpoint.effective_weights().items():
        assert rounded[name] == 1 - (weight.abs() > 0).float().mean().item()
        assert exact[name] == pytest.approx(rounded[name], abs=2**-23)
    assert exact != rounded
