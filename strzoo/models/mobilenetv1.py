"""MobileNetV1 (Howard et al., arXiv:1704.04861) in the published key layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from strzoo.errors import UsageError
from strzoo.models.architecture import (
    Architecture,
    ForeignLayout,
    ImageSize,
    Options,
    State,
    import_library,
)
from strzoo.models.blocks import ConvLayer, classify, initialize
from strzoo.sparse.filters import ChannelGroup

# (output channels at width 1, stride) of the 13 depthwise-separable blocks.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


def scale_channels(channels: int, width: float) -> int:
    """`channels` times `width`, to the nearest multiple of 8, at least 8."""
    return max(8, int(channels * width + 4) // 8 * 8)


def infer_width(channels: Iterable[int]) -> float:
    """The roundest width whose networks have these output channels: stem, then the 13 blocks.

    Channels that no width gives yield the nearest; a shape check of the network tells.
    """
    low, high = 0.0, float("inf")
    for base, count in zip((32, *(base for base, _ in _BLOCKS)), channels, strict=True):
        low = max(low, 0.0 if count <= 8 else (count - 4) / base)
        high = min(high, (count + 4) / base)
    for digits in range(1, 8):
        width = round((low + high) / 2, digits)
        if low <= width < high:
            return width
    return low


class MobileNetV1(nn.Module):
    """Input [N, 3, H, W] of any size, output [N, classes].

    `width` multiplies every channel count; `small_stem` keeps the resolution in the first
    convolution, for images of about 32x32; `relu6` clips activations at 6, as timm's network does.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        conv: ConvLayer = nn.Conv2d,
        width: float = 1.0,
        small_stem: bool = False,
        head_bias: bool = False,
        relu6: bool = False,
    ) -> None:
        super().__init__()
        if width <= 0:
            raise UsageError(f"width is {width}; it must be positive")
        self.small_stem, self.relu6 = small_stem, relu6  # the shapes of the weights do not tell
        channels = scale_channels(32, width)
        activation = nn.ReLU6 if relu6 else nn.ReLU
        blocks = [_stem(conv, activation, channels, 1 if small_stem else 2)]
        for base, stride in _BLOCKS:
            outputs = scale_channels(base, width)
            blocks.append(_separable(conv, activation, channels, outputs, stride))
            channels = outputs
        self.model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1))
        self.fc = conv(channels, num_classes, 1, bias=head_bias)
        initialize(self)

    def channel_groups(self) -> list[ChannelGroup]:
        """Which layers share channels, see `strzoo.sparse.filters`."""
        groups = []
        writer, norm = "model.0.0", "model.0.1"
        for number in range(1, len(_BLOCKS) + 1):
            block = f"model.{number}"
            last = f"{block}.1"  # of the depthwise convolution
            groups.append(
                ChannelGroup((writer,), (norm, last), (f"{block}.3",), (last,), (f"{block}.0",))
            )
            writer, norm = f"{block}.3", f"{block}.4"
        return [*groups, ChannelGroup((writer,), (norm,), ("fc",), (norm,))]

    def forward(self, x: Tensor) -> Tensor:
        return classify(self.fc, self.model(x))


Activation = type[nn.ReLU] | type[nn.ReLU6]


def _stem(conv: ConvLayer, activation: Activation, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv(3, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        activation(inplace=True),
    )


def _separable(
    conv: ConvLayer, activation: Activation, inputs: int, outputs: int, stride: int
) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise 1x1 convolution."""
    return nn.Sequential(
        conv(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        activation(inplace=True),
        conv(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        activation(inplace=True),
    )


def _recognise(state: State, declared: Options) -> dict[str, Any] | None:
    if "model.0.0.weight" not in state:
        return None
    convolutions = [state.get(f"model.{i}.{3 if i else 0}.weight") for i in range(14)]
    channels = [weight.shape[0] for weight in convolutions if weight is not None]
    complete = len(channels) == len(convolutions)  # else the check of the state names the key
    return {
        "small_stem": declared.get("small_stem") is True,
        "relu6": declared.get("relu6") is True,
        "width": infer_width(channels) if complete else 1.0,
    }


def _input_size(options: Options) -> ImageSize:
    return (3, 32, 32) if options.get("small_stem") else (3, 224, 224)


_TIMM_STAGES = (1, 2, 2, 6, 2)  # blocks per stage of timm's MobileNetV1
_TIMM_PARTS = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}


def _timm_key(key: str) -> str:
    top, _, rest = key.partition(".")
    if top == "fc":
        return f"classifier.{rest}"
    index, part, leaf = rest.split(".")
    if index == "0":
        return f"{'conv_stem' if part == '0' else 'bn1'}.{leaf}"
    block = int(index) - 1
    stage = 0
    while block >= _TIMM_STAGES[stage]:
        block -= _TIMM_STAGES[stage]
        stage += 1
    return f"blocks.{stage}.{block}.{_TIMM_PARTS[part]}.{leaf}"


def _timm(creation: str, relu6: bool) -> ForeignLayout:
    """timm's MobileNetV1 uses ReLU6 unless told otherwise; STR's was trained with ReLU."""

    def create(num_classes: int) -> nn.Module:
        timm = import_library("timm", purpose="the timm layout")
        act_layer = "relu6" if relu6 else "relu"
        model: nn.Module = timm.create_model(
            "mobilenetv1_100", act_layer=act_layer, num_classes=num_classes
        )
        return model

    return ForeignLayout(
        "timm",
        creation,
        create,
        _timm_key,
        "classifier",
        ("conv_stem.weight", "blocks.4.1.conv_pw.weight"),
        {"relu6": relu6},
    )


ARCHITECTURES = (
    Architecture(
        "mobilenetv1",
        "MobileNetV1",
        MobileNetV1,
        {"small_stem": False, "head_bias": False, "width": 1.0, "relu6": False},
        _recognise,
        _input_size,
        layouts=(
            # A file that says nothing of its network is of the first.
            _timm("timm.create_model('mobilenetv1_100')", True),
            _timm("timm.create_model('mobilenetv1_100', act_layer='relu')", False),
        ),
    ),
)
