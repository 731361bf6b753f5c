from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import OfflineError, StrzooError, UnknownNameError, UsageError
from strzoo.settings import Settings
from strzoo.training.pruning import apply_gmp_rates, apply_rates, resolve_rates


def pruned_resnet20(method: str = "dnw") -> nn.Module:
    torch.manual_seed(0)
    return strzoo.sparsify_(strzoo.create_model("resnet20"), method)


def count_zeros(model: nn.Module) -> dict[str, int]:
    """Zeros of each layer that strzoo has made sparse, as it computes."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    return {name: int((layer.effective_weight() == 0).sum()) for name, layer in layers.items()}


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
    assert rates.source == "uniform 90 %"
    assert set(rates.layers.values()) == {0.9}
    zeros = count_zeros(model)
    assert len(zeros) == 22
    # 432 weights in the first layer: 389 of them is the nearest to 90 %.
    assert zeros["conv1"] == 389
    assert sum(zeros.values()) / 270_896 == pytest.approx(0.9, abs=1e-4)


def test_the_sparsity_of_an_str_checkpoint_becomes_the_prune_rates(str_file: Path) -> None:
    source = strzoo.read_checkpoint(str_file).effective_weights()
    model = pruned_resnet20()
    for given in (str_file, str(str_file), strzoo.read_checkpoint(str_file)):
        rates = resolve_rates(model, given)
        assert rates.layers["conv1"] == 0.0
    apply_rates(model, rates)
    learned = {name: int((weight == 0).sum()) for name, weight in source.items()}
    assert count_zeros(model) == learned
    assert 0.2 < sum(learned.values()) / 270_896 < 0.8


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
