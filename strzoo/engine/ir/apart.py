"""Which operators of ONNX compute each image by itself.

Only these may take the images of a batch in parts. Others may not even if they do in most cases,
because an axis that they are told, or a constant, may be that of the images.
"""

from __future__ import annotations

from collections.abc import Iterable

# Whatever their attributes.
_APART = {
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "AveragePool",
    "BitShift", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh",
    "DepthToSpace", "DequantizeLinear", "Div", "Elu", "Equal", "Erf", "Exp", "Floor",
    "Gelu", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "IsInf", "IsNaN", "LRN", "LeakyRelu", "Less", "LessOrEqual", "Log", "LpPool", "Max",
    "MaxPool", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Sinh", "Softplus", "Softsign", "SpaceToDepth", "Sqrt", "Sub", "Sum", "Swish", "Tan",
    "Tanh", "ThresholdedRelu", "Where", "Xor",
}  # fmt: skip


def keeps_apart(operators: Iterable[str]) -> bool:
    """Whether what the operators make of an image depends on this image alone, if all that they
    compute with has the images first, or is a constant."""
    return set(operators) <= _APART
