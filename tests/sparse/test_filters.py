from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import strzoo
from strzoo.errors import IntegrityError, UsageError
from strzoo.sparse.filters import ChannelGroup, ChannelImportance, count_filters

NETWORKS: dict[str, dict[str, Any]] = {
    "resnet20": {}, "resnet18": {"small_stem": True}, "resnet50": {"small_stem": True},
    "mobilenetv1": {"width": 0.25, "small_stem": True},
}  # fmt: skip


def pruned(architecture: str, share: float = 0.5) -> nn.Module:
    """A network whose statistics are no one's and of whose channels about `share` are dead."""
    torch.manual_seed(0)
    model = strzoo.create_model(architecture, num_classes=6, **NETWORKS[architecture])
    strzoo.sparsify_filters_(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    for shared in importances(model):
        nn.init.uniform_(shared.importance, -1, 1)
        shared.sparseThreshold.data.fill_(math.log(share / (1 - share)))  # sigmoid of it is share
    return model.eval()


def importances(model: nn.Module) -> list[ChannelImportance]:
    return [module for module in model.modules() if isinstance(module, ChannelImportance)]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", NETWORKS)
def test_the_network_without_its_dead_channels_computes_the_same(architecture: str) -> None:
    model = pruned(architecture)
    left, total = count_filters(model)
    assert 0.4 * total < left < 0.6 * total
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(3, 3, 16, 16)
    small = strzoo.remove_filters(model)
    with torch.no_grad():
        expected, found = model(images), small(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert float(expected.std()) > 0
    assert {name for name, _ in small.named_parameters()} == {
        name for name, _ in model.named_parameters() if ".channels." not in name
    }
    assert {type(m) for m in small.modules() if isinstance(m, nn.BatchNorm2d)} == {nn.BatchNorm2d}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for layer in (m for m in small.modules() if isinstance(m, nn.Conv2d)):
        assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
    macs = [strzoo.report(m, input_size=16).dense_macs for m in (model, small)]
    assert macs[1] < 0.5 * macs[0]


def test_widths_are_rounded_up_by_channels_of_zeros() -> None:
    model = pruned("mobilenetv1")
    small = strzoo.remove_filters(model, multiple=8)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(small(images), expected, rtol=1e-4, atol=1e-3)
    exact = strzoo.remove_filters(model)
    for name, layer in exact.named_modules():
        if isinstance(layer, nn.Conv2d) and name != "fc":
            assert small.get_submodule(name).out_channels == 8 * math.ceil(layer.out_channels / 8)
    with pytest.raises(UsageError, match="multiple is 0"):
        strzoo.remove_filters(model, multiple=0)


def test_the_branches_of_a_residual_stage_agree_on_their_channels() -> None:
    model = pruned("resnet18")
    small = strzoo.remove_filters(model)
    for stage in ("layer2", "layer3", "layer4"):
        writers = [f"{stage}.0.downsample.0", f"{stage}.0.conv2", f"{stage}.1.conv2"]
        widths = {small.get_submodule(name).out_channels for name in writers}
        assert widths == {small.get_submodule(f"{stage}.1.conv1").in_channels}
        shared = model.get_submodule(f"{stage}.0.bn2").channels
        assert model.get_submodule(f"{stage}.1.bn2").channels is shared
        assert widths == {int(torch.count_nonzero(shared.effective()))}
    # The stem writes to the first stage, which has no projection.
    assert model.bn1.channels is model.get_submodule("layer1.1.bn2").channels


def test_at_first_nothing_changes_and_a_dead_group_keeps_one_channel_of_zeros() -> None:
    torch.manual_seed(0)
    plain = strzoo.create_model("resnet20")
    model = strzoo.sparsify_filters_(copy.deepcopy(plain), s_init=-1e4)
    images = torch.randn(4, 3, 8, 8)
    for training in (True, False):
        expected, found = plain.train(training)(images), model.train(training)(images)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model.bn1.running_var, plain.bn1.running_var)
    shared = model.get_submodule("layer1.0.bn1").channels
    with torch.no_grad():
        shared.importance.zero_()
        shared.importance[3] = 1e-30  # below any threshold that is not zero
    shared.sparseThreshold.data.fill_(0.0)
    small = strzoo.remove_filters(model)
    assert small.get_submodule("layer1.0.conv1").out_channels == 1
    torch.testing.assert_close(small(images), model(images))


def test_importances_and_thresholds_learn_and_decay() -> None:
    data = strzoo.load_digits("test")
    torch.manual_seed(0)
    model = strzoo.sparsify_filters_(
        strzoo.create_model("mobilenetv1", width=0.25, num_classes=10, small_stem=True),
        s_init=-1.0, g="exp", g_scale=0.5,
    )  # fmt: skip
    shared = importances(model)[3]
    assert shared.g(torch.tensor(2.0)).item() == pytest.approx(0.5 * math.exp(2))
    effective = shared.effective()
    torch.testing.assert_close(effective, torch.full_like(effective, 1 - 0.5 * math.exp(-1)))
    strzoo.fit(model, data, strzoo.FitConfig(epochs=1, batch_size=120, weight_decay=0.5))
    assert shared.importance.std() > 0
    assert shared.importance.mean() < 0.9
    assert shared.sparseThreshold.item() != -1.0
    assert count_filters(model)[1] == sum(each.importance.numel() for each in importances(model))


class Plain(nn.Module):
    """A network of a user that says which layers share channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 2, 1)

    def channel_groups(self) -> list[ChannelGroup]:
        return [ChannelGroup(("first",), ("norm",), ("last",), ("norm",))]

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(torch.relu(self.norm(self.first(x))))
        return output


def test_a_network_of_ones_own_is_pruned_biases_and_all() -> None:
    model = strzoo.sparsify_filters_(Plain(), g=lambda s: torch.full_like(s, 0.5)).eval()
    with torch.no_grad():
        importances(model)[0].importance.copy_(torch.linspace(0, 1, 8))
    images = torch.randn(2, 3, 5, 5)
    small = strzoo.remove_filters(model)
    assert (small.first.out_channels, small.last.in_channels) == (4, 4)
    torch.testing.assert_close(small(images), model(images))


def test_what_cannot_be_pruned_is_refused() -> None:
    with pytest.raises(UsageError, match="Linear does not say which layers share channels"):
        strzoo.sparsify_filters_(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="CifarResNet has no filters to prune"):
        strzoo.remove_filters(strzoo.create_model("resnet20"))
    model = strzoo.sparsify_filters_(strzoo.create_model("resnet20"))
    with pytest.raises(UsageError, match="bn1 is a GatedBatchNorm2d"):
        strzoo.sparsify_filters_(model)
    with pytest.raises(IntegrityError, match="channels"):
        strzoo.build_checkpoint(model)
    with pytest.raises(UsageError, match="conv1 has sparse weights; call to_dense_"):
        strzoo.remove_filters(strzoo.sparsify_(model))
    for options, message in (
        ({"g": "tanh"}, "g 'tanh' is not one of sigmoid, exp"),
        ({"g_scale": 0.0}, "the scale of g is 0"),
        ({"g": torch.exp, "g_scale": 2.0}, "g_scale is for g by name"),
    ):
        with pytest.raises(UsageError, match=message):
            strzoo.sparsify_filters_(Plain(), **options)
        with pytest.raises(UsageError, match=message):
            strzoo.sparsify_(Plain(), **options)


def test_a_scaled_g_is_kept_by_the_layers_and_no_checkpoint_forgets_it() -> None:
    model = strzoo.sparsify_(strzoo.create_model("resnet20"), s_init=-3.0, g="exp", g_scale=2.0)
    layer = model.conv1
    bound = 2 * math.exp(-3)
    weight = layer.weight.detach()
    expected = torch.sign(weight) * torch.relu(weight.abs() - bound)
    torch.testing.assert_close(layer.effective_weight(), expected)
    images = torch.randn(2, 3, 8, 8)
    twin = strzoo.to_dense_(copy.deepcopy(model))
    torch.testing.assert_close(twin(images), model(images))
    # The published form has no place for g: its readers would take the sigmoid.
    with pytest.raises(UsageError, match=r"conv1 has a threshold other than sigmoid\(s\)"):
        strzoo.build_checkpoint(model)
    assert strzoo.build_checkpoint(twin).format == "dense"
