from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import strzoo
from strzoo.errors import UnknownNameError, UsageError
from strzoo.sparse.layers import DNWConv2d, SparseLayer, STRConv2d, STRLinear
from strzoo.sparse.selection import sparse_layers


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "torchvision resnet18": torchvision.models.resnet18(num_classes=10),
        "torchvision mobilenet_v2": torchvision.models.mobilenet_v2(num_classes=10),
        "timm mobilenetv3_small_050": timm.create_model("mobilenetv3_small_050", num_classes=10),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("method", ["str", "dnw", "gmp"])
def test_any_model_becomes_sparse_and_back_and_computes_the_same(name: str, method: str) -> None:
    model = networks()[name].eval()
    untouched = copy.deepcopy(model)
    images = torch.randn(2, 3, 64, 64)
    # timm's Linear computes what torch's does, and becomes it.
    types = {
        n: nn.Linear if isinstance(m, nn.Linear) else type(m) for n, m in model.named_modules()
    }
    parameters = dict(model.named_parameters())
    options: dict[str, Any] = {"s_init": -3.0} if method == "str" else {"prune_rate": 0.5}
    assert strzoo.sparsify_(model, method, **options) is model
    layers = sparse_layers(model)
    assert set(layers) == {n for n, t in types.items() if t in (nn.Conv2d, nn.Linear)}
    # Every parameter is the same object as before: an optimizer made earlier still trains it.
    now = dict(model.named_parameters())
    assert all(now[n] is p for n, p in parameters.items())
    with torch.no_grad():
        sparse = model(images)
        assert not torch.equal(sparse, untouched(images))
        strzoo.to_dense_(model)
        assert torch.equal(model(images), sparse)
    assert {n: type(m) for n, m in model.named_modules()} == types
    assert model.state_dict().keys() == untouched.state_dict().keys()


def test_str_that_starts_dense_changes_no_logit() -> None:
    model = torchvision.models.resnet18(num_classes=10).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        assert torch.equal(strzoo.sparsify_(model)(images), before)


def test_hooks_and_shared_layers_survive() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    calls: list[int] = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    strzoo.sparsify_(model)
    assert model[0] is model[2] is layer
    assert isinstance(layer, STRLinear)
    model(torch.randn(1, 4))
    assert len(calls) == 2


def test_skipped_layers_stay_dense() -> None:
    model = strzoo.create_model("resnet20")
    strzoo.sparsify_(model, skip=["conv1", "*.downsample.*", "fc"])
    names = set(sparse_layers(model))
    assert "layer1.0.conv1" in names
    assert not {"conv1", "fc", "layer2.0.downsample.0"} & names
    other = strzoo.create_model("resnet20")
    strzoo.sparsify_(other, skip=lambda name, layer: bool(layer.weight.shape[-1] == 1))
    assert all(layer.weight.shape[-1] == 3 for layer in sparse_layers(other).values())


def test_a_global_threshold_is_shared_by_all_layers() -> None:
    model = strzoo.sparsify_(strzoo.create_model("resnet20"), threshold="global", s_init=-3.0)
    thresholds = {id(layer.sparseThreshold) for layer in sparse_layers(model).values()}
    assert len(thresholds) == 1


def test_layers_whose_weights_are_read_past_their_forward_are_left_dense(
    caplog: pytest.LogCaptureFixture,
) -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(8, 8), block)
    with caplog.at_level(logging.WARNING, logger="strzoo"):
        strzoo.sparsify_(model)
    assert list(sparse_layers(model)) == ["0"]
    assert "1.linear1" in caplog.text
    assert "1.self_attn.out_proj" in caplog.text


def test_tied_weights_are_untied_by_to_dense() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    model = strzoo.sparsify_(nn.Sequential(first, second), s_init=-2.0)
    images = torch.randn(3, 4)
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(strzoo.to_dense_(model)(images), expected)


def test_a_budget_sets_the_rate_of_each_layer() -> None:
    budget = strzoo.load_budget("resnet50_erk_90")
    with torch.device("meta"):
        model = strzoo.create_model("resnet50")
    strzoo.sparsify_(model, "gmp", prune_rate=budget)
    rates = {name: layer.prune_rate for name, layer in sparse_layers(model).items()}
    assert rates["conv1"] == pytest.approx(0.58)
    assert rates == budget.prune_rates()


def test_what_cannot_be_done_is_refused_before_anything_changes() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))

    with pytest.raises(UsageError, match="'rigl' is not one of str, dnw, gmp"):
        strzoo.sparsify_(model(), "rigl")
    with pytest.raises(UsageError, match="STR learns its sparsity"):
        strzoo.sparsify_(model(), "str", prune_rate=0.5)
    with pytest.raises(UsageError, match="'row' is not one of layer, filter, weight, global"):
        strzoo.sparsify_(model(), threshold="row")
    with pytest.raises(UnknownNameError, match=r"'head' matches no layer; layers are 0, 1"):
        strzoo.sparsify_(model(), skip="head")
    with pytest.raises(UsageError, match="no dense Conv2d or Linear"):
        strzoo.sparsify_(nn.Sequential(nn.ReLU()))
    with pytest.raises(UsageError, match="no dense Conv2d or Linear"):
        strzoo.sparsify_(strzoo.sparsify_(model()))
    with pytest.raises(UnknownNameError, match="budget has no layer '1'"):
        strzoo.sparsify_(model(), "dnw", prune_rate={"0": 0.5})
    with pytest.raises(
        UnknownNameError, match="layer '2' of the budget is not one of the pruned layers, 0, 1"
    ):
        strzoo.sparsify_(model(), "dnw", prune_rate={"0": 0.5, "1": 0.5, "2": 0.5})
    untouched = model()
    with pytest.raises(UsageError, match="2 is outside"):
        strzoo.sparsify_(untouched, "dnw", prune_rate={"0": 0.5, "1": 2})
    assert not any(isinstance(m, SparseLayer) for m in untouched.modules())


def test_a_single_layer_is_a_model_too() -> None:
    layer = nn.Conv2d(3, 4, 3)
    assert isinstance(strzoo.sparsify_(layer, "dnw", prune_rate=0.5), DNWConv2d)
    assert type(strzoo.to_dense_(layer)) is nn.Conv2d
    assert int((layer.weight == 0).sum()) == 54  # half of 4 x 3 x 3 x 3
    assert not isinstance(layer, STRConv2d)


def test_a_budget_may_be_named_and_options_of_another_method_are_refused() -> None:
    with torch.device("meta"):
        model = strzoo.create_model("resnet50")
    strzoo.sparsify_(model, "dnw", prune_rate="resnet50_uniform_90")
    assert {layer.prune_rate for layer in sparse_layers(model).values()} == {0.9}
    with pytest.raises(UsageError, match="54 are sparse already"):
        strzoo.sparsify_(model)
    with pytest.raises(UsageError, match="threshold and s_init are for str"):
        strzoo.sparsify_(nn.Linear(2, 2), "gmp", threshold="filter", prune_rate=0.5)
    with pytest.raises(UnknownNameError, match="no budget is named"):
        strzoo.sparsify_(nn.Linear(2, 2), "gmp", prune_rate="half")


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Classes, attributes and values of all modules."""
    kinds = {name: (type(m), set(vars(m))) for name, m in model.named_modules()}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {"kinds": kinds, "tensors": {n: (id(t), t.clone()) for n, t in tensors}}


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    now = snapshot(model)
    assert now["kinds"] == before["kinds"]
    assert now["tensors"].keys() == before["tensors"].keys()
    for name, (identity, value) in before["tensors"].items():
        assert now["tensors"][name][0] == identity
        assert torch.equal(now["tensors"][name][1], value)


@pytest.mark.parametrize("method", ["str", "dnw", "gmp"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_conversion_that_fails_half_way_changes_nothing(
    method: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    linear = {"str": strzoo.STRLinear, "dnw": strzoo.DNWLinear, "gmp": strzoo.GMPLinear}[method]

    def fail(*args: Any, **options: Any) -> None:
        raise error("out of memory")

    before = snapshot(model)
    with monkeypatch.context() as patch:
        patch.setattr(linear, "init_sparsity", fail)
        with pytest.raises(error):
            strzoo.sparsify_(model, method)
    assert_unchanged(model, before)
    strzoo.sparsify_(model, method)
    before = snapshot(model)
    with monkeypatch.context() as patch:
        patch.setattr(linear, "effective_weight", fail)
        with pytest.raises(error):
            strzoo.to_dense_(model)
    assert_unchanged(model, before)
    strzoo.to_dense_(model)
    assert [type(m) for m in model] == [nn.Conv2d, nn.Flatten, nn.Linear]


def test_a_sparse_layer_of_an_unknown_class_is_refused_before_anything_changes() -> None:
    class OwnLinear(strzoo.STRLinear):
        pass

    model = nn.Sequential(strzoo.STRConv2d(3, 4, 3), OwnLinear(4, 2))
    before = snapshot(model)
    with pytest.raises(UsageError, match=r"OwnLinear has no dense counterpart; known are STRConv"):
        strzoo.to_dense_(model)
    assert_unchanged(model, before)


@pytest.mark.parametrize("s_init", [float("nan"), float("inf"), "low", None])
def test_an_initial_threshold_that_is_no_number_is_refused(s_init: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(UsageError, match=r"s_init is .*(a finite|expected a) number"):
        strzoo.sparsify_(model, s_init=s_init)
    assert type(model[0]) is nn.Linear


def test_what_stays_dense_says_why(caplog: pytest.LogCaptureFixture) -> None:
    class Classifier(nn.Linear):
        pass

    model = nn.ModuleDict(
        {
            "body": nn.Linear(4, 4),
            "classifier": Classifier(4, 2),
            "look": nn.MultiheadAttention(4, 1),
        }
    )
    with caplog.at_level(logging.WARNING, "strzoo"):
        strzoo.sparsify_(model)
    assert list(sparse_layers(model)) == ["body"]
    own, inside = caplog.messages
    assert own.startswith("classifier (Classifier) is left dense: ")
    assert "Classifier is a subclass of torch's Linear and may compute otherwise" in own
    assert inside.startswith("look.out_proj (NonDynamicallyQuantizableLinear) is left dense: ")
    assert "the attention module around it reads its weight directly" in inside


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gmp_is_compiled_once_however_its_rate_changes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10)).to(dtype)
    strzoo.sparsify_(model, "gmp")
    graphs = []

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(module)
        return module.forward

    compiled = torch.compile(model, backend=backend)
    images = torch.randn(4, 3, 8, 8, dtype=dtype)
    for rate in (0.0, 0.1, 0.35, 0.5, 0.75, 0.9, 0.95, 1.0):
        for layer in sparse_layers(model).values():
            layer.set_prune_rate(rate)
        model.zero_grad()
        compiled(images).square().sum().backward()
        found = [p.grad for p in model.parameters()]
        model.zero_grad()
        model(images).square().sum().backward()
        torch.testing.assert_close(found, [p.grad for p in model.parameters()])
    assert len(graphs) == 1
    copied = copy.deepcopy(model)
    assert copied.state_dict().keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
