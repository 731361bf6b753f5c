"""A small network of plain, strided, dilated and grouped convolutions, and a linear."""

from __future__ import annotations

from torch import Tensor, nn


class MixedNetwork(nn.Module):
    """Images [N, 3, H, W] in, [N, 5] out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 12, (3, 1), padding=(1, 0), dilation=(2, 1), groups=4)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.first(x).relu_())
        return self.head(x.mean((2, 3)))
