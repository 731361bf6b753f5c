"""ConvTranspose, as a convolution that makes every phase of the result as channels of its own.

A result pixel q with padding p and stride s is t * s + r = q + p. The weights that reach it are
those whose offset leaves r when it is divided by s, and they read pixels from t back; so the pixels
of one r are a convolution of stride 1, and a copy puts the phases in their places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import Attributes, read_attributes
from strzoo.engine.frontend.builder import GraphBuilder, describe_node
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.ir.graph import Concat, Convolution, Rearrange, Window
from strzoo.errors import IntegrityError
from strzoo.settings import Limits

# Phases are convolutions of their own where less than this part of their windows is used, and more
# of the weights than this is not zero: there zeros would be multiplied.
_USED, _DENSE = 0.8, 0.4


@dataclass(frozen=True)
class _Axis:
    """One axis of a transposed convolution: of `size` pixels, with `made` in the result."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    made: int

    @property
    def shifts(self) -> np.ndarray:
        """How many pixels each weight reads back, [kernel]."""
        return np.arange(self.kernel) * self.dilation // self.stride

    @property
    def phases(self) -> np.ndarray:
        """To which phase of the result each weight belongs, [kernel]."""
        return np.arange(self.kernel) * self.dilation % self.stride

    @property
    def apart(self) -> int:
        """What all shifts are multiples of."""
        return max(int(np.gcd.reduce(self.shifts)), 1)

    @property
    def taps(self) -> int:
        """Of the convolution's window."""
        return int(self.shifts.max()) // self.apart + 1

    @property
    def first(self) -> int:
        """The first t of the convolution: what it need not make is cut off later."""
        return min(self.before // self.stride, int(self.shifts.max()))

    @property
    def last(self) -> int:
        return max((self.made - 1 + self.before) // self.stride, self.size - 1)

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    @property
    def pads(self) -> tuple[int, int]:
        return int(self.shifts.max()) - self.first, self.last - self.size + 1

    def window(self, phase: int | None) -> tuple[int, int, slice]:
        """Padding before and behind, and which taps: all, or those that a phase needs."""
        (before, behind), last = self.pads, self.taps - 1
        if phase is None:
            return before, behind, slice(0, self.taps)
        used = last - self.shifts[self.phases == phase] // self.apart
        # A window that starts behind the map's edge, which padding cannot say, keeps more taps.
        first = min(int(used.min(initial=last)), before // self.apart)
        last = max(int(used.max(initial=first)), last - behind // self.apart)
        cut = (self.taps - 1 - last) * self.apart
        return before - first * self.apart, behind - cut, slice(first, last + 1)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each pixel of the result, its phase and its pixel in the convolution's."""
        at = np.arange(self.made) + self.before
        return at % self.stride, at // self.stride - self.first


def read_transposed(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    weight, bias = builder.weight(node, 1), builder.optional_weight(node, 2)
    if weight.ndim != 4:
        raise Unsupported(f"{weight.ndim - 2} axes; images have two")
    source = builder.map_value(node.input[0])
    channels, height, width = builder.shapes[source]
    groups = attributes.get("group", 1)
    given, per_group, *kernel = weight.shape
    if given != channels or groups < 1 or channels % groups or not per_group:
        raise IntegrityError(
            f"{describe_node(node)!r}: a weight of shape {weight.shape} in {groups} groups does "
            f"not fit {channels} channels"
        )
    if list(attributes.get("kernel_shape", kernel)) != kernel:
        raise IntegrityError(f"kernel_shape of {describe_node(node)!r} is not that of its weight")
    down, across = (
        _read_axis(attributes, axis, size, kernel[axis])
        for axis, size in enumerate((height, width))
    )
    out, phases = groups * per_group, down.stride * across.stride
    Limits.from_env().check(
        "elements", out * phases * channels * down.taps * across.taps, f"the weights of {node.name}"
    )
    Limits.from_env().check("elements", out * down.made * across.made, f"the map of {node.name}")
    # [groups, out, phase, phase, in, tap, tap]
    turned = np.zeros(
        (groups, per_group, down.stride, across.stride, channels // groups, down.taps, across.taps),
        np.float32,
    )
    split = weight.reshape(groups, channels // groups, per_group, *kernel).transpose(0, 2, 1, 3, 4)
    rows, columns = (a.taps - 1 - a.shifts // a.apart for a in (down, across))
    for y, x in np.ndindex(*kernel):
        phase = down.phases[y], across.phases[x]
        turned[:, :, phase[0], phase[1], :, rows[y], columns[x]] = split[..., y, x]
    bias = np.zeros(out, np.float32) if bias is None else bias
    (phase_y, y), (phase_x, x) = down.places(), across.places()
    phase = np.add.outer(phase_y * across.stride, phase_x)
    pixel = np.add.outer(y * across.count, x)
    plane = down.count * across.count
    used = weight.size / (out * channels // groups * phases * down.taps * across.taps)
    if used < _USED and np.count_nonzero(weight) > _DENSE * weight.size:
        parts = []
        for i, j in np.ndindex(down.stride, across.stride):
            kept = turned[:, :, i, j].reshape(out, channels // groups, down.taps, across.taps)
            parts.append(_emit_phase(builder, node, source, kept, bias, (down, across), (i, j)))
        value = builder.emit(Concat, node, tuple(parts))
        places, step = phase * out * plane + pixel, 1
    else:
        kept = turned.reshape(out * phases, channels // groups, down.taps, across.taps)
        bias = np.repeat(bias, phases)
        value = _emit_phase(builder, node, source, kept, bias, (down, across))
        places, step = phase * plane + pixel, phases
    if phases == 1 and places.shape == (down.count, across.count):
        return
    builder.emit(Rearrange, node, (value,), places=places[None], repeats=out, step=step)


def _emit_phase(
    builder: GraphBuilder,
    node: onnx.NodeProto,
    source: str,
    weight: np.ndarray,
    bias: np.ndarray,
    axes: tuple[_Axis, _Axis],
    phase: tuple[int, int] | None = None,
) -> str:
    """The convolution of one phase, whose window is no larger than it needs; or of all phases."""
    (top, bottom, high), (left, right, wide) = (
        axis.window(None if phase is None else phase[number]) for number, axis in enumerate(axes)
    )
    return builder.emit(
        Convolution,
        node,
        (source,),
        weight=np.ascontiguousarray(weight[:, :, high, wide]),
        bias=bias,
        window=Window(
            (high.stop - high.start, wide.stop - wide.start),
            pads=(top, left, bottom, right),
            dilations=(axes[0].apart, axes[1].apart),
        ),
        groups=builder.shapes[source][0] // weight.shape[1],
    )


def _read_axis(attributes: Attributes, axis: int, size: int, kernel: int) -> _Axis:
    stride, dilation, extra = (
        _number(attributes, name, axis, default)
        for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    if min(kernel, stride, dilation) < 1 or extra < 0:
        raise Unsupported("a kernel, stride or dilation below 1, or padding below 0")
    whole = stride * (size - 1) + extra + dilation * (kernel - 1) + 1
    mode = attributes.get("auto_pad", "NOTSET")
    wanted = list(attributes.get("output_shape") or [])[-2:]
    before, after = (_number(attributes, "pads", axis + end, 0, 4) for end in (0, 2))
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Unsupported(f"auto_pad {str(mode)[:20]!r}")
    if wanted or mode.startswith("SAME"):
        total = whole - (wanted[axis] if wanted else size * stride)
        if total < 0:
            raise Unsupported("a result larger than its windows")
        before = total // 2 if mode == "SAME_UPPER" else total - total // 2
        after = total - before
    elif mode == "VALID":
        before = after = 0
    if min(before, after) < 0 or whole - before - after < 1:
        raise Unsupported("negative padding, or a result without pixels")
    return _Axis(size, kernel, stride, dilation, before, whole - before - after)


def _number(attributes: Attributes, name: str, place: int, default: int, count: int = 2) -> int:
    values = attributes.get(name) or [default] * count
    if len(values) != count:
        raise Unsupported(f"{name} of {len(values)} numbers; images have two axes")
    return int(values[place])
