"""What the architectures share: the layer-type argument, the classifier head, initialisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

# Builds a convolution from nn.Conv2d's arguments: nn.Conv2d itself, STRConv2d, or
# functools.partial(STRConv2d, threshold="filter").
ConvLayer = Callable[..., nn.Conv2d]


def initialize(model: nn.Module) -> None:
    """Kaiming normal, fan-in, for every convolution (paper, appendix); BatchNorm at identity.

    Meta tensors have no values to initialise (and asking costs a second of torch imports).
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def classify(fc: nn.Conv2d, pooled: Tensor) -> Tensor:
    """Logits [N, classes] from pooled features [N, C, 1, 1] through the 1x1 convolution."""
    return fc(pooled).flatten(1)
