"""Int8 weights for a FastGRNN network: what is stored, and the network it stands for.

Weights are int8, one scale per output of each matrix, symmetric, so that a zero stays zero; biases,
zeta, nu and the scales stay float32, and so does the arithmetic.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from strzoo.errors import IntegrityError
from strzoo.rnn.cell import FastGRNNCell
from strzoo.rnn.classifier import SequenceClassifier

_LARGEST = 127


@dataclass(frozen=True)
class Int8Matrix:
    """`values` int8 [in, out] times `scale` float32 [out] is the matrix."""

    values: Tensor
    scale: Tensor

    def to_float(self) -> Tensor:
        return self.values.to(self.scale) * self.scale


@dataclass(frozen=True)
class Int8Classifier:
    """A folded classifier in int8.

    `matrices` are by parameter name, those of `fc` transposed to [in, out]; `network` is the float
    network that computes with exactly these values.
    """

    network: SequenceClassifier
    matrices: Mapping[str, Int8Matrix]

    @property
    def bytes(self) -> int:
        """Of int8 weights, their scales, biases, zeta and nu; the input's mean and deviation are
        not counted (nor are they in the sizes of the FastGRNN paper)."""
        size = 0
        for name, parameter in self.network.named_parameters():
            matrix = self.matrices.get(name)
            size += 4 * parameter.numel() if matrix is None else matrix.values.numel()
            size += 0 if matrix is None else 4 * matrix.scale.numel()
        return size

    @property
    def kilobytes(self) -> float:
        """`bytes` over 1,024."""
        return self.bytes / 1024


def matrix_names(model: SequenceClassifier) -> list[str]:
    """The parameters that are matrices, in the order in which the network uses them."""
    names = []
    for prefix, module in model.named_modules():
        if isinstance(module, FastGRNNCell):
            names += [f"{prefix}.{name}" for name in module._parameters if name[0] in "WU"]
    return [*names, "fc.weight"]


@torch.no_grad()
def quantise(model: SequenceClassifier) -> Int8Classifier:
    """`model`, folded, with int8 weights.

    Args:
        model: a classifier; it is not changed.

    Returns:
        Int8 matrices, where each output has the scale max |w| / 127, and the network of their
        values; quantising that again gives the same numbers.

    Raises:
        IntegrityError: a weight is not finite.
    """
    network = copy.deepcopy(model.fold()).float().eval()
    parameters = dict(network.named_parameters())
    matrices = {}
    for name in matrix_names(network):
        parameter = parameters[name]
        weight = parameter.t() if name == "fc.weight" else parameter
        if not torch.isfinite(weight).all():
            raise IntegrityError(f"{name} holds a value that is not finite; it cannot be int8")
        scale = weight.abs().amax(0) / _LARGEST
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        matrix = Int8Matrix((weight / scale).round().to(torch.int8).contiguous(), scale)
        value = matrix.to_float()
        parameter.copy_(value.t() if name == "fc.weight" else value)
        matrices[name] = matrix
    return Int8Classifier(network, MappingProxyType(matrices))
