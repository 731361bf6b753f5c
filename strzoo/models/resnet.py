"""ResNet18 and ResNet50 in the published key layout, and ResNet20 for 32x32 images.

He et al., arXiv:1512.03385. The stride of a bottleneck sits on its 3x3 convolution, and the
classifier is a bias-free 1x1 convolution, as in the published STR checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from strzoo.models.architecture import (
    Architecture,
    ForeignLayout,
    ImageSize,
    Options,
    State,
    import_library,
)
from strzoo.models.blocks import ConvLayer, classify, initialize
from strzoo.sparse.filters import ChannelGroup, residual_groups


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, conv: ConvLayer, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(conv, inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut; four times as many channels come out."""

    expansion = 4

    def __init__(self, conv: ConvLayer, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = conv(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(conv, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + identity)


Block = type[BasicBlock] | type[Bottleneck]


def shortcut(conv: ConvLayer, inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A 1x1 projection where the shape changes, else None (the identity)."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(
        conv(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
    )


def stage(
    conv: ConvLayer, block: Block, inputs: int, planes: int, depth: int, stride: int
) -> nn.Sequential:
    """`depth` blocks; the first changes the shape."""
    outputs = planes * block.expansion
    blocks = [block(conv, inputs, planes, stride)]
    blocks += [block(conv, outputs, planes, 1) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """The four-stage ImageNet ResNet. Input [N, 3, H, W] of any size, output [N, classes].

    `small_stem` replaces the 7x7 stride-2 convolution and the max-pool by one 3x3 stride-1
    convolution, for images of about 32x32.
    """

    def __init__(
        self,
        block: Block,
        depths: tuple[int, int, int, int],
        *,
        num_classes: int,
        conv: ConvLayer = nn.Conv2d,
        small_stem: bool = False,
        head_bias: bool = False,
    ) -> None:
        super().__init__()
        kernel, stride, padding = (3, 1, 1) if small_stem else (7, 2, 3)
        self.conv1 = conv(3, 64, kernel, stride=stride, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        e = block.expansion
        self.layer1 = stage(conv, block, 64, 64, depths[0], 1)
        self.layer2 = stage(conv, block, 64 * e, 128, depths[1], 2)
        self.layer3 = stage(conv, block, 128 * e, 256, depths[2], 2)
        self.layer4 = stage(conv, block, 256 * e, 512, depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = conv(512 * e, num_classes, 1, bias=head_bias)
        initialize(self)

    def channel_groups(self) -> list[ChannelGroup]:
        """Which layers share channels, see `strzoo.sparse.filters`."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return residual_groups(("conv1", "bn1"), _name_blocks(stages), "fc")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return classify(self.fc, self.avgpool(x))


class CifarResNet(nn.Module):
    """The three-stage CIFAR ResNet (16, 32, 64 channels; 6n + 2 layers), 1x1 projections.

    Input [N, 3, H, W], 32x32 in the paper and smaller images too; output [N, classes].
    """

    def __init__(
        self,
        depth_per_stage: int,
        *,
        num_classes: int,
        conv: ConvLayer = nn.Conv2d,
        head_bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = conv(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(conv, BasicBlock, 16, 16, depth_per_stage, 1)
        self.layer2 = stage(conv, BasicBlock, 16, 32, depth_per_stage, 2)
        self.layer3 = stage(conv, BasicBlock, 32, 64, depth_per_stage, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = conv(64, num_classes, 1, bias=head_bias)
        initialize(self)

    def channel_groups(self) -> list[ChannelGroup]:
        """Which layers share channels, see `strzoo.sparse.filters`."""
        stages = (self.layer1, self.layer2, self.layer3)
        return residual_groups(("conv1", "bn1"), _name_blocks(stages), "fc")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return classify(self.fc, self.avgpool(x))


def _name_blocks(stages: Iterable[nn.Sequential]) -> list[tuple[str, nn.Module]]:
    return [
        (f"layer{number}.{index}", block)
        for number, blocks in enumerate(stages, start=1)
        for index, block in enumerate(blocks)
    ]


def _recognise(name: str, state: State, declared: Options) -> dict[str, Any] | None:
    """Options of the ResNet `name` that the keys belong to, or None."""
    stem = state.get("conv1.weight")
    if stem is None or not any(key.startswith("layer3.") for key in state):
        return None
    if not any(key.startswith("layer4.") for key in state):
        return {} if name == "resnet20" else None
    if name != ("resnet50" if "layer4.0.conv3.weight" in state else "resnet18"):
        return None
    return {"small_stem": stem.shape[-1] == 3}


def _input_size(options: Options) -> ImageSize:
    return (3, 32, 32) if options.get("small_stem", True) else (3, 224, 224)


def _torchvision(name: str) -> ForeignLayout:
    def create(num_classes: int) -> nn.Module:
        models = import_library("torchvision", purpose="the torchvision layout").models
        model: nn.Module = models.get_model(name, num_classes=num_classes)
        return model

    return ForeignLayout("torchvision", f"torchvision.models.{name}()", create)


def _timm(name: str) -> ForeignLayout:
    def create(num_classes: int) -> nn.Module:
        timm = import_library("timm", purpose="the timm layout")
        model: nn.Module = timm.create_model(name, num_classes=num_classes)
        return model

    return ForeignLayout("timm", f"timm.create_model('{name}')", create)


def _imagenet(
    name: str, published: str, block: Block, depths: tuple[int, int, int, int]
) -> Architecture:
    return Architecture(
        name,
        published,
        partial(ResNet, block, depths),
        {"small_stem": False, "head_bias": False},
        partial(_recognise, name),
        _input_size,
        layouts=(_torchvision(name), _timm(name)),
    )


ARCHITECTURES = (
    _imagenet("resnet18", "ResNet18", BasicBlock, (2, 2, 2, 2)),
    _imagenet("resnet50", "ResNet50", Bottleneck, (3, 4, 6, 3)),
    Architecture(
        "resnet20",
        "ResNet20",
        partial(CifarResNet, 3),
        {"head_bias": False},
        partial(_recognise, "resnet20"),
        _input_size,
        num_classes=10,
    ),
)
