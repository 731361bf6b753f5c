"""MobileNetV1 (Howard et al., arXiv:1704.04861) in the published key layout."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

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
    convolution, for images of about 32x32.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        conv: ConvLayer = nn.Conv2d,
        width: float = 1.0,
        small_stem: bool = False,
        head_bias: bool = False,
    ) -> None:
        super().__init__()
        channels = scale_channels(32, width)
        blocks = [_stem(conv, channels, 1 if small_stem else 2)]
        for base, stride in _BLOCKS:
            outputs = scale_channels(base, width)
            blocks.append(_separable(conv, channels, outputs, stride))
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


def _stem(conv: ConvLayer, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv(3, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _separable(conv: ConvLayer, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise 1x1 convolution."""
    return nn.Sequential(
        conv(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        conv(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
