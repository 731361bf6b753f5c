"""BatchNorm whose statistics are those of all processes, on the CPU too.

torch's own SyncBatchNorm runs on GPUs only and is used there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the images of all processes, each of which has equally many.

    Mean and variance are sums that are exchanged, and so are their gradients: training equals
    that of one process with all the images, to rounding.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        world = torch.distributed.get_world_size()
        count = world * input.numel() / input.shape[1]
        values = input.to(self.weight.dtype)  # under autocast the input is in half precision
        mean = all_reduce(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self._update(mean, variance * count / (count - 1))
        result = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        result = result * self.weight[:, None, None] + self.bias[:, None, None]
        return result.to(input.dtype)

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def share_statistics(model: nn.Module, device: torch.device) -> nn.Module:
    """Make every BatchNorm of `model` use the statistics of all processes; keys stay."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
    return model
