"""Training as the published code of STR does it, computed anew from a list of what it does.

Plain functions of tensors in float64. Nothing here comes from strzoo: networks are written out as
calls of torch.nn.functional over a mapping from names to tensors, gradients come from autograd, and
schedules, groups, masks, momentum and decay are the formulas of arXiv:2002.03231 and its code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

Network = Callable[[Callable[[str], Tensor], Tensor], Tensor]


def resnet18(of: Callable[[str], Tensor], x: Tensor) -> Tensor:
    """Two basic blocks in each of four stages; the classifier is a 1x1 convolution."""
    x = functional.relu(_norm(of, "bn1", functional.conv2d(x, of("conv1"), stride=2, padding=3)))
    x = functional.max_pool2d(x, 3, stride=2, padding=1)
    for stage in range(1, 5):
        for block in range(2):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = functional.conv2d(x, of(f"{name}.conv1"), stride=stride, padding=1)
            y = functional.relu(_norm(of, f"{name}.bn1", y))
            y = _norm(of, f"{name}.bn2", functional.conv2d(y, of(f"{name}.conv2"), padding=1))
            if stride == 2:
                x = functional.conv2d(x, of(f"{name}.downsample.0"), stride=2)
                x = _norm(of, f"{name}.downsample.1", x)
            x = functional.relu(y + x)
    return functional.conv2d(x.mean((2, 3), keepdim=True), of("fc")).flatten(1)


def mobilenetv1(of: Callable[[str], Tensor], x: Tensor) -> Tensor:
    """A convolution, then 13 pairs of a depthwise and a 1x1 convolution."""
    x = functional.conv2d(x, of("model.0.0"), stride=2, padding=1)
    x = functional.relu(_norm(of, "model.0.1", x))
    for number, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1), start=1):
        name = f"model.{number}"
        x = functional.conv2d(x, of(f"{name}.0"), stride=stride, padding=1, groups=x.shape[1])
        x = functional.relu(_norm(of, f"{name}.1", x))
        x = functional.relu(_norm(of, f"{name}.4", functional.conv2d(x, of(f"{name}.3"))))
    return functional.conv2d(x.mean((2, 3), keepdim=True), of("fc")).flatten(1)


def _norm(of: Callable[[str], Tensor], name: str, x: Tensor) -> Tensor:
    weight, bias = of(f"{name}.weight"), of(f"{name}.bias")
    return functional.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5)


@dataclass
class Original:
    """A run in progress.

    `parameters` are those of the network by name, thresholds included; `method` is dense, str, dnw
    or gmp, and `rate` the final prune rate. `epochs`, `warmup`, `prune_start` and `prune_end` count
    whole epochs. `losses` and `momentum` are filled as the run goes on.
    """

    network: Network
    parameters: dict[str, Tensor]
    method: str
    rate: float = 0.9
    learning_rate: float = 0.256
    momentum_factor: float = 0.875
    weight_decay: float = 3e-5
    decay_bn: bool = True
    smoothing: float = 0.1
    epochs: int = 100
    warmup: int = 5
    prune_start: int = 20
    prune_end: int = 79
    exponential: bool = False
    losses: list[float] = field(default_factory=list)
    momentum: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parameters = {
            name: value.detach().double().clone().requires_grad_()
            for name, value in self.parameters.items()
        }

    def rate_of(self, epoch: int) -> float:
        """The learning rate of a whole epoch."""
        if epoch < self.warmup:
            return self.learning_rate * (epoch + 1) / self.warmup
        if self.exponential:
            return self.learning_rate * 0.97 ** (epoch / 2.4)
        progress = (epoch - self.warmup) / (self.epochs - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * progress)) * self.learning_rate

    def pruned(self, epoch: int) -> float:
        """The prune rate of a whole epoch."""
        if self.method == "dnw":
            return self.rate
        if epoch < self.prune_start:
            return 0.0
        done = min(epoch, self.prune_end) - self.prune_start
        return self.rate - self.rate * (1 - done / (self.prune_end - self.prune_start + 1)) ** 3

    def sparse(self, name: str, epoch: int) -> Tensor:
        """What a layer computes with."""
        weight = self.parameters[f"{name}.weight"]
        if self.method == "dense":
            return weight
        if self.method == "str":
            bound = torch.sigmoid(self.parameters[f"{name}.sparseThreshold"])
            return torch.sign(weight) * torch.relu(torch.abs(weight) - bound)
        order = weight.detach().flatten().abs().argsort()
        mask = torch.ones_like(order, dtype=weight.dtype)
        mask[order[: int(self.pruned(epoch) * weight.numel())]] = 0
        kept = weight * mask.view_as(weight)
        return kept if self.method == "gmp" else weight + (kept - weight).detach()

    def step(self, epoch: int, images: Tensor, labels: Tensor) -> None:
        """One step of SGD on a batch."""

        def of(name: str) -> Tensor:
            return self.parameters[name] if name in self.parameters else self.sparse(name, epoch)

        log_probability = torch.log_softmax(self.network(of, images.double()), dim=1)
        right = log_probability[torch.arange(len(labels)), labels]
        loss = -((1 - self.smoothing) * right + self.smoothing * log_probability.mean(1)).mean()
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        self.losses.append(loss.item())
        rate = self.rate_of(epoch)
        with torch.no_grad():
            for (name, value), gradient in zip(self.parameters.items(), gradients, strict=True):
                spared = "bn" in name and not self.decay_bn
                change = gradient + (0.0 if spared else self.weight_decay) * value
                if name in self.momentum:
                    change = self.momentum_factor * self.momentum[name] + change
                self.momentum[name] = change
                value -= rate * change

    def run(self, batches: Iterable[tuple[int, Tensor, Tensor]]) -> Original:
        """Steps on (epoch, images, labels)."""
        for epoch, images, labels in batches:
            self.step(epoch, images, labels)
        return self


def trained(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters in a state dict: all but BatchNorm's statistics."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value for name, value in state.items() if not name.endswith(statistics)}
