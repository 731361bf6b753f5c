"""What ONNX operators compute of constants, as each opset defines it, within limits of size.

One function per operator: attributes, inputs (None where an optional one is left out) and the
version of the operator set in, an array out. Results are as large as the file says, which is
checked before they are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import Attributes
from strzoo.engine.frontend.problems import Unsupported
from strzoo.onnx.tensors import decode_tensor
from strzoo.settings import Limits

Inputs = Sequence[Any]  # arrays, and None for inputs that are left out
Rule = Callable[[Attributes, Inputs, int], np.ndarray]


def check_size(shape: Sequence[int], dtype: np.dtype, what: str) -> None:
    """Raise an IntegrityError if an array of that shape is above the limits."""
    count = math.prod(int(size) for size in shape)
    limits = Limits.from_env()
    limits.check("elements", count, what)
    limits.check("bytes", count * dtype.itemsize, what)


def _axes(attributes: Attributes, inputs: Inputs, opset: int) -> list[int] | None:
    """Axes of Squeeze and Unsqueeze: an input from opset 13 on, an attribute before."""
    if opset >= 13:
        given = inputs[1] if len(inputs) > 1 else None
        return None if given is None else _integers(given)
    axes = attributes.get("axes")
    return None if axes is None else list(axes)


def _integers(array: np.ndarray) -> list[int]:
    return [int(number) for number in np.atleast_1d(array)]


def _concat(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    axis = attributes["axis"]
    shape = list(inputs[0].shape)
    shape[axis] = sum(array.shape[axis] for array in inputs)
    check_size(shape, inputs[0].dtype, "a Concat of constants")
    return np.concatenate(inputs, axis)


def _gather(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    data, indices = inputs
    axis = attributes.get("axis", 0)
    rest = data.size // max(data.shape[axis], 1)
    check_size((rest, indices.size), data.dtype, "a Gather of constants")
    return np.take(data, indices, axis)


def _reshape(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    data, target = inputs[0], _integers(inputs[1])
    if opset < 14 or not attributes.get("allowzero", 0):
        target = [data.shape[i] if size == 0 else size for i, size in enumerate(target)]
    made: np.ndarray = data.reshape(target)
    return made


def slice_bounds(
    attributes: Attributes, inputs: Inputs, opset: int, shape: Sequence[int]
) -> list[slice]:
    """What Slice takes of each axis of an array of that shape."""
    if opset < 10:
        starts, ends = list(attributes["starts"]), list(attributes["ends"])
        axes, steps = attributes.get("axes"), None
    else:
        given = [None if v is None else _integers(v) for v in [*inputs[1:], None, None][:4]]
        starts, ends, axes, steps = given[0] or [], given[1] or [], given[2], given[3]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    parts = [slice(None)] * len(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        parts[axis] = slice(*_clip(start, end, step, shape[axis]))
    return parts


def _slice(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    data = inputs[0]
    made: np.ndarray = data[tuple(slice_bounds(attributes, inputs, opset, data.shape))]
    return made


def _clip(start: int, end: int, step: int, size: int) -> tuple[int, int | None, int]:
    """Start, end and step for Python: in ONNX a start before the array is its first element."""
    if step < 0:
        start = max(start + size, -1) if start < 0 else min(start, size - 1)
        end = end + size if end < 0 else end
        if start < 0:
            return 0, 0, step
        return start, end if end >= 0 else None, step
    return start, end, step


def _squeeze(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    axes = _axes(attributes, inputs, opset)
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


def _unsqueeze(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    axes = _axes(attributes, inputs, opset)
    return np.expand_dims(inputs[0], tuple(axes or ()))


def _transpose(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    return np.transpose(inputs[0], attributes.get("perm"))


def _flatten(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    data, axis = inputs[0], attributes.get("axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    rows, columns = math.prod(data.shape[:axis]), math.prod(data.shape[axis:])
    made: np.ndarray = data.reshape(rows, columns)
    return made


def _cast(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    if attributes["to"] == onnx.TensorProto.STRING or inputs[0].dtype.kind in "OSU":
        raise Unsupported("of texts")
    kind = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    with np.errstate(invalid="ignore", over="ignore"):
        made: np.ndarray = inputs[0].astype(kind)
    return made


def _expand(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(_integers(inputs[1])))
    check_size(shape, inputs[0].dtype, "an Expand of a constant")
    return np.array(np.broadcast_to(inputs[0], shape))


def _constant_of_shape(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    tensor = attributes.get("value")
    value = np.zeros(1, np.float32) if tensor is None else decode_tensor(tensor)
    shape = [] if inputs[0].size == 0 else _integers(inputs[0])
    check_size(shape, value.dtype, "a ConstantOfShape")
    return np.full(shape, value.reshape(-1)[0], value.dtype)


def _range(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    start, limit, delta = (array.reshape(()).item() for array in inputs)
    count = max(math.ceil((limit - start) / delta), 0)
    check_size((count,), inputs[0].dtype, "a Range")
    return np.asarray(start + np.arange(count) * delta, dtype=inputs[0].dtype)


def _broadcast(compute: Callable[..., Any], *, keep: bool = True) -> Rule:
    """An elementwise rule of any number of inputs, whose result keeps the first one's type."""

    def rule(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
        shape = np.broadcast_shapes(*(array.shape for array in inputs))
        check_size(shape, inputs[0].dtype, "arithmetic of constants")
        with np.errstate(all="ignore"):
            made = compute(*inputs)
        return np.asarray(made, dtype=inputs[0].dtype if keep else None)

    return rule


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Division; of integers it rounds towards zero."""
    if a.dtype.kind not in "iu":
        made: np.ndarray = a / b
        return made
    if not b.all():
        raise ZeroDivisionError("an integer is divided by zero")
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient)


def _power(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.power(a.astype(np.float64), b.astype(np.float64))


def _minimum(*arrays: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum.reduce(np.broadcast_arrays(*arrays)))


def _maximum(*arrays: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*arrays)))


def _sum(*arrays: np.ndarray) -> np.ndarray:
    return np.asarray(np.add.reduce(np.broadcast_arrays(*arrays)))


def _where(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    shape = np.broadcast_shapes(*(array.shape for array in inputs))
    check_size(shape, inputs[1].dtype, "a Where of constants")
    made: Any = np.where(inputs[0], inputs[1], inputs[2])
    return np.asarray(made)


def _reduce(compute: Callable[..., Any], since: int) -> Rule:
    """A reduction, whose axes are an input from opset `since` on."""

    def rule(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
        given = inputs[1] if opset >= since and len(inputs) > 1 else None
        axes = attributes.get("axes") if given is None else _integers(given)
        if axes is None and attributes.get("noop_with_empty_axes", 0):
            return np.asarray(inputs[0])
        kept = bool(attributes.get("keepdims", 1))
        made = compute(inputs[0], axis=None if axes is None else tuple(axes), keepdims=kept)
        return np.asarray(made, dtype=inputs[0].dtype)

    return rule


def _batch_norm(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    """Of weights, which is how their standardization is exported."""
    x, gain, offset, mean, variance = (array.astype(np.float64) for array in inputs[:5])
    shape = (-1, *[1] * (x.ndim - 2))
    if attributes.get("training_mode", 0):
        axes = (0, *range(2, x.ndim))
        mean, variance = x.mean(axes), x.var(axes)
    scale = gain / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    made = x * scale.reshape(shape) + (offset - mean * scale).reshape(shape)
    return np.asarray(made, dtype=inputs[0].dtype)


def _dequantize(attributes: Attributes, inputs: Inputs, opset: int) -> np.ndarray:
    """(x - zero point) * scale: exact in fp32 for integers of 8 bits and less."""
    x, scale = inputs[0], inputs[1]
    zero = inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.zeros_like(scale)
    if attributes.get("block_size", 0) or x.dtype.kind not in "iu" or x.dtype.itemsize > 4:
        raise Unsupported("of blocks, or of other than integers")
    if scale.ndim == 1 and scale.size > 1:
        shape = [1] * x.ndim
        shape[attributes.get("axis", 1)] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    check_size(x.shape, np.dtype(np.float32), "dequantized weights")
    return np.asarray((x.astype(np.int64) - zero.astype(np.int64)) * scale, dtype=np.float32)


# They move numbers without looking at them: of the first input alone, or of all (Concat).
MOVING: dict[str, Rule] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda attributes, inputs, opset: np.asarray(inputs[0]),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
COMPUTING: dict[str, Rule] = {
    "Abs": _broadcast(np.abs),
    "Add": _broadcast(np.add),
    "BatchNormalization": _batch_norm,
    "Ceil": _broadcast(np.ceil),
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantize,
    "Div": _broadcast(_divide),
    "Equal": _broadcast(np.equal, keep=False),
    "Floor": _broadcast(np.floor),
    "Max": _broadcast(_maximum),
    "Min": _broadcast(_minimum),
    "Mul": _broadcast(np.multiply),
    "Neg": _broadcast(np.negative),
    "Pow": _broadcast(_power),
    "Range": _range,
    "Reciprocal": _broadcast(np.reciprocal),
    "ReduceMean": _reduce(np.mean, 18),
    "ReduceSum": _reduce(np.sum, 13),
    "Sqrt": _broadcast(np.sqrt),
    "Sub": _broadcast(np.subtract),
    "Sum": _broadcast(_sum),
    "Where": _where,
}
CAST = _cast
