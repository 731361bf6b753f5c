from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import UnknownNameError, UsageError
from strzoo.models.mobilenetv1 import scale_channels
from strzoo.sparse.layers import STRConv2d

# Parameters with BatchNorm, weights alone, state-dict keys dense and STR. The ImageNet networks'
# are published; ResNet18 differs from torchvision's 11,689,512 by the 1,000 biases of its fc.
PUBLISHED = {
    "resnet50": (25_556_032, 25_502_912, 319, 373),
    "mobilenetv1": (4_230_976, 4_209_088, 163, 191),
    "resnet18": (11_689_512 - 1000, None, 121, 142),
}


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_parameters_and_keys_are_the_published_ones(architecture: str) -> None:
    params, weights, dense_keys, str_keys = PUBLISHED[architecture]
    with torch.device("meta"):
        dense = strzoo.create_model(architecture)
        sparse = strzoo.create_model(architecture, layer="str")
    assert sum(p.numel() for p in dense.parameters()) == params
    if weights is not None:
        assert sum(p.numel() for p in dense.parameters() if p.dim() == 4) == weights
    assert len(dense.state_dict()) == dense_keys
    assert len(sparse.state_dict()) == str_keys
    thresholds = {k: v for k, v in sparse.state_dict().items() if k.endswith("sparseThreshold")}
    assert all(v.shape == (1, 1) for v in thresholds.values())
    assert sparse.state_dict().keys() - thresholds.keys() == dense.state_dict().keys()


def test_resnet20_has_the_parameters_of_its_definition() -> None:
    # 3x3 convolutions: 3->16; 6 of 16->16; 16->32 and 5 of 32->32; 32->64 and 5 of 64->64;
    # 1x1 shortcuts 16->32 and 32->64; classifier 64->10. BatchNorm: scale and shift each.
    convolutions = 9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    convolutions += 16 * 32 + 32 * 64
    norms = 2 * (7 * 16 + 7 * 32 + 7 * 64)
    model = strzoo.create_model("resnet20")
    assert sum(p.numel() for p in model.parameters()) == convolutions + norms + 64 * 10


def test_resnet50_has_torchvisions_keys_and_fits_its_definition() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        ours, theirs = strzoo.create_model("resnet50"), torchvision.models.resnet50()
    assert theirs.state_dict().keys() - ours.state_dict().keys() == {"fc.bias"}
    for key, value in ours.state_dict().items():
        assert (
            value.flatten(1).shape == theirs.state_dict()[key].flatten(1).shape
            if (key == "fc.weight")
            else value.shape == theirs.state_dict()[key].shape
        )


@pytest.mark.parametrize("architecture", strzoo.list_architectures())
@pytest.mark.parametrize("size", [(32, 32), (65, 48)])
def test_any_input_size_and_number_of_classes(architecture: str, size: tuple[int, int]) -> None:
    model = strzoo.create_model(architecture, num_classes=7).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, *size)).shape == (2, 7)


def test_the_small_stem_keeps_the_resolution() -> None:
    images = torch.randn(1, 3, 32, 32)
    resnet = strzoo.create_model("resnet18", small_stem=True).eval()
    assert resnet.layer1(resnet.maxpool(resnet.conv1(images))).shape[-2:] == (32, 32)
    mobile = strzoo.create_model("mobilenetv1", small_stem=True).eval()
    assert mobile.model[0](images).shape[-2:] == (32, 32)


@pytest.mark.parametrize(("channels", "width", "expected"), [
    (32, 1.0, 32), (32, 0.5, 16), (64, 0.25, 16), (32, 0.1, 8), (1024, 0.75, 768),
])  # fmt: skip
def test_the_width_multiplies_channels_in_steps_of_eight(
    channels: int, width: float, expected: int
) -> None:
    assert scale_channels(channels, width) == expected


def test_a_narrow_mobilenet_has_its_width_everywhere() -> None:
    model = strzoo.create_model("mobilenetv1", width=0.5, num_classes=10)
    assert model.fc.weight.shape == (10, 512, 1, 1)
    assert model.model[0][0].out_channels == 16


def test_the_layer_type_is_an_argument_and_reaches_every_convolution() -> None:
    factory = partial(STRConv2d, threshold="filter", s_init=-5.0)
    model = strzoo.create_model("resnet20", layer=factory)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 22
    assert all(isinstance(m, STRConv2d) for m in convolutions)
    assert model.layer1[0].conv1.sparseThreshold.shape == (16, 1, 1, 1)


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenetv1"])
def test_every_convolution_starts_kaiming_normal(architecture: str) -> None:
    torch.manual_seed(0)
    for module in strzoo.create_model(architecture).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


def test_unknown_choices_are_refused_by_name() -> None:
    with pytest.raises(UnknownNameError, match="nearest: resnet50"):
        strzoo.create_model("resnet51")
    with pytest.raises(UsageError, match="'sparse' is not one of dense, str, dnw, gmp"):
        strzoo.create_model("resnet18", layer="sparse")
    with pytest.raises(UsageError, match="resnet18 has no option 'width'"):
        strzoo.create_model("resnet18", width=0.5)
    with pytest.raises(UsageError, match="num_classes is 0"):
        strzoo.create_model("resnet18", num_classes=0)
    with pytest.raises(UsageError, match="width is -1"):
        strzoo.create_model("mobilenetv1", width=-1)
