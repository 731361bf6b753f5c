"""How the weights of convolutions and linear layers start, by module type and for all of them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from strzoo.errors import UsageError
from strzoo.training.config_network import FANS, INITIALISATIONS

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Initialisation:
    """The distribution of initial weights; std = gain / sqrt(fan * density).

    - kaiming_normal: normal with that deviation (the paper's, with fan_in);
    - signed_constant: +std or -std with equal chance;
    - unsigned_constant: +std everywhere;
    - default: what torch gives a new layer, weights and biases uniform within 1 / sqrt(fan in); it
      takes no account of mode, nonlinearity and density.

    `fan` is the fan in or out of the layer by `mode`, counted as `torch.nn.init` does. `density`
    below 1 is the scaled fan: the fraction of weights that will stay, so that a network pruned
    from the start keeps its variance.
    `nonlinearity` gives the gain, as `torch.nn.init.calculate_gain`.

    Raises:
        UsageError: an unknown kind, mode or nonlinearity, or a density outside (0, 1].
    """

    kind: str = "kaiming_normal"
    mode: str = "fan_in"
    nonlinearity: str = "relu"
    density: float = 1.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("initialisation", self.kind, INITIALISATIONS),
            ("mode", self.mode, FANS),
        ):
            if value not in known:
                raise UsageError(f"{name} {value!r} is not one of {', '.join(known)}")
        if not 0 < self.density <= 1:
            raise UsageError(f"density is {self.density}; it must lie in (0, 1], 1 for dense")
        try:
            nn.init.calculate_gain(self.nonlinearity)  # type: ignore[arg-type]
        except ValueError:
            raise UsageError(
                f"nonlinearity {self.nonlinearity!r} has no known gain; use relu, linear, tanh, "
                "sigmoid, selu or leaky_relu"
            ) from None


@torch.no_grad()
def initialise_(
    model: nn.Module,
    how: Initialisation | None = None,
    *,
    layers: Collection[str] | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Give every convolution and linear layer of `model` (sparse ones too) new weights, in place.

    Biases become 0 (but for "default"). BatchNorm and thresholds stay as they are.

    Args:
        model: any module.
        how: the distribution; Kaiming normal, fan in, by default.
        layers: names of the layers to start so; all by default.
        generator: source of randomness, on the device of the parameters; torch's global one by
            default.

    Returns:
        `model`.
    """
    how = how or Initialisation()
    gain = nn.init.calculate_gain(how.nonlinearity)  # type: ignore[arg-type]
    for name, module in model.named_modules():
        if not isinstance(module, _LAYERS) or not (layers is None or name in layers):
            continue
        weight = module.weight
        if how.kind == "default":
            bound = 1 / math.sqrt(weight[0].numel())
            for values in (weight, module.bias):
                if values is not None:
                    values.uniform_(-bound, bound, generator=generator)
            continue
        # As torch counts them: of a grouped convolution the fan out covers all groups.
        fan = weight.shape[1 if how.mode == "fan_in" else 0] * math.prod(weight.shape[2:])
        std = gain / math.sqrt(fan * how.density)
        if how.kind == "kaiming_normal":
            weight.normal_(0.0, std, generator=generator)
        elif how.kind == "signed_constant":
            weight.bernoulli_(0.5, generator=generator).mul_(2 * std).sub_(std)
        else:
            weight.fill_(std)
        if module.bias is not None:
            module.bias.zero_()
    return model
