"""GraphBuilder: the layers and values made so far while an ONNX graph is read node by node."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from strzoo.engine.frontend.constants import Constants
from strzoo.engine.frontend.problems import Outside, Unsupported
from strzoo.engine.frontend.values import Moved, Padding, Rearranged, View
from strzoo.engine.ir.graph import Flatten, Layer, Rearrange, Shape
from strzoo.engine.ir.places import describe_places, in_order, pick_channels
from strzoo.engine.ir.shapes import infer_shape
from strzoo.errors import IntegrityError
from strzoo.settings import Limits


class GraphBuilder:
    """Turns node after node into layers; `operators` holds the rules.

    Attributes:
        batch: the batch size that the file fixes, or None.
        opset: version of the default operator set.
        reserved: names that values of other origin have.
    """

    def __init__(
        self,
        constants: Constants,
        opset: int,
        batch: int | None,
        reserved: Iterable[str] = (),
    ) -> None:
        self.constants = constants
        self.opset = opset
        self.batch = batch
        self.layers: list[Layer] = []
        self.shapes: dict[str, Shape] = {}
        self._views: dict[str, View] = {}
        self._flat: dict[str, str] = {}
        self._maps: dict[tuple[str, Shape], str] = {}
        self._names: dict[str, None] = {}
        # What onnxruntime makes and the engine cannot read, by name, with the type if it is known.
        self.opaque: dict[str, onnx.TypeProto | None] = {}
        # Values run in stages, the engine's in even ones, onnxruntime's in odd ones; see `append`.
        self.stages: dict[str, int] = {}
        self._reserved = frozenset(reserved)
        # What Pad and Transpose made, by ONNX name, for the node behind them: see `padding`. The
        # zeros of a Pad are also a value, under whose name they are found here.
        self.padded: dict[str, Padding] = {}
        # Maps whose channels are last in ONNX, as [channels, *pixels]: of any rank from 2 on.
        self.channels_last: dict[str, View] = {}
        self._turned: dict[str, View] = {}
        # What else moves numbers made, by ONNX name, whether or not it is also a value.
        self.rearranged: dict[str, Rearranged] = {}
        # What has its images on another axis than the first, as attention's queries, keys and
        # values before they are taken apart.
        self.moved: dict[str, Moved] = {}
        # What has the images and the first axis of the numbers as one axis, as heads' keys.
        self.merged: dict[str, Rearranged] = {}
        self._tables: tuple[list[Any] | dict[Any, Any], ...] = (
            self.layers, self.shapes, self._views, self._flat, self._maps, self._names, self.stages,
            self.padded, self.channels_last, self._turned, self.rearranged, self.moved, self.merged,
        )  # fmt: skip

    def mark(self) -> list[int]:
        """How much there is now, for `undo`."""
        return [len(table) for table in self._tables]

    def undo(self, mark: list[int]) -> None:
        """Forget what a node made since `mark`, because it cannot be read after all.

        A node never changes what others made, so that all of its own comes last in each table.
        """
        for table, count in zip(self._tables, mark, strict=True):
            while len(table) > count:
                if isinstance(table, dict):
                    table.popitem()
                else:
                    table.pop()

    def add_input(self, name: str, shape: Shape, stage: int = 0) -> None:
        """Let `name` stand for an array [N, *shape] that is given, or made in a stage before."""
        stored = shape if len(shape) in (1, 3) else (math.prod(shape),)
        self.shapes[name], self.stages[name] = stored, stage
        self._views[name] = View(name, shape, ("input", name))

    def view(self, name: str) -> View:
        """What `name`, computed from the images, stands for."""
        if name in self._views:
            return self._views[name]
        if name in self.padded:
            raise Unsupported("not with 0, before other than MaxPool", ("Pad", name))
        if name in self.channels_last or name in self.rearranged:
            self._settle(name)
            return self._views[name]
        if name in self.opaque:
            raise Outside(name)
        if name in self.moved:
            raise Unsupported("of images", ("Transpose", name))
        if name in self.merged:
            raise Unsupported("of images and another axis into one", ("Reshape", name))
        if name in self.constants:
            raise Unsupported(f"its input {name!r} is a constant")
        raise IntegrityError(f"{name!r} is used before it is made")

    def arrangement(self, name: str) -> Rearranged:
        """Where each number of `name` is in one of our values."""
        if name in self.rearranged:
            return self.rearranged[name]
        if name in self.channels_last:
            view = self.channels_last[name]
            index = np.arange(math.prod(view.shape)).reshape(view.shape)
            return Rearranged(view.value, np.moveaxis(index, 0, -1))
        view = self.view(name)
        return Rearranged(view.value, np.arange(math.prod(view.shape)).reshape(view.shape))

    def turned(self, name: str) -> View | None:
        """`name` as a map with the channels last; one is made of any numbers of two axes or more,
        of which the last is that of the channels."""
        if name in self.channels_last:
            return self.channels_last[name]
        found = self.arrangement(name)
        if found.index.ndim < 2:
            return None
        if name not in self._turned:
            index = np.moveaxis(found.index, -1, 0)
            places = index.reshape(len(index), 1, -1)
            value = self.take_numbers(found.value, places, f"{name}_turned")
            self._turned[name] = View(value, index.shape, ("Transpose", name))
        return self._turned[name]

    def _settle(self, name: str) -> None:
        """Make a value of what is so far known as numbers in another order."""
        found = self.arrangement(name)
        shape = found.index.shape
        if in_order(found.index, self.shapes[found.value]):
            value = found.value
        elif len(shape) == 1:
            value = self.take_numbers(found.value, found.index[:, None, None], name)
            value = self.flatten(View(value, shape, ("Transpose", name)))
        elif len(shape) == 2:
            value = self.take_numbers(found.value, found.index[None], name)
        else:
            value = self.take_numbers(found.value, found.index.reshape(*shape[:2], -1), name)
        self._views[name] = View(value, shape, ("Transpose", name))

    def take_numbers(self, value: str, index: np.ndarray, name: str) -> str:
        """A map of the numbers of `value` at `index` [channels, height, width], called `name` where
        no other value is."""
        shape, output = self.shapes[value], self.fresh(name)
        pixels = math.prod(shape[1:])
        layer: Layer = Rearrange(name, (value,), output, **describe_places(index, pixels))
        if len(shape) == 3 and index.shape[1:] == shape[1:]:
            chosen = index[:, 0, 0] // pixels
            plane = np.arange(pixels).reshape(shape[1:])
            if (index == chosen[:, None, None] * pixels + plane).all():
                layer = pick_channels(name, value, output, shape[0], chosen)
        self.append(replace(layer, name=self.unique(name)))
        return output

    def whole(self, value: str) -> View:
        """One of our values, read in its own shape."""
        return View(value, self.shapes[value], ("value", value))

    def constant(self, name: str) -> np.ndarray | None:
        """The constant `name`, or None if it depends on the images."""
        if name in self.constants:
            return self.constants[name]
        self.view(name)
        return None

    def weight(self, node: onnx.NodeProto, index: int) -> np.ndarray:
        """A constant input of `node` as fp32."""
        array = self.constant(node.input[index])
        if array is None:
            raise Unsupported(f"its input {node.input[index]!r} is not a constant")
        if array.dtype.kind in "iub":
            raise Unsupported(f"its weights are {array.dtype}; quantised files are not supported")
        if not array.size:
            raise Unsupported(f"its input {node.input[index]!r} is empty")
        return np.ascontiguousarray(array, dtype=np.float32)

    def optional_weight(self, node: onnx.NodeProto, index: int) -> np.ndarray | None:
        """As `weight`; None where the node leaves that input out."""
        given = len(node.input) > index and node.input[index]
        return self.weight(node, index) if given else None

    def integers(self, name: str) -> list[int]:
        """A constant list of numbers, such as axes or a shape."""
        array = self.constant(name)
        if array is None:
            raise Unsupported(f"its input {name!r} is not a constant")
        return [int(number) for number in np.atleast_1d(array)]

    def map_value(self, name: str) -> str:
        """Our value for `name`, which must be a map, [N, C, H, W]; made one if need be."""
        view = self.view(name)
        if len(view.shape) != 3:
            shape = ", ".join(map(str, view.shape))
            raise Unsupported(f"it makes a [N, {shape}] that is then used as a map", view.maker)
        return self.reshaped(view.value, view.shape)

    def reshaped(self, value: str, shape: Shape) -> str:
        """One of our values as a map of `shape`."""
        if self.shapes[value] == shape:
            return value
        key = (value, shape)
        if key not in self._maps:
            index = np.arange(math.prod(shape)).reshape(shape)
            self._maps[key] = self.take_numbers(value, index, f"{value}_map")
        return self._maps[key]

    def vector_value(self, name: str) -> str:
        """Our value for `name`, which must be a vector: [N, F]; flattened if need be."""
        view = self.view(name)
        if len(view.shape) != 1:
            shape = ", ".join(map(str, view.shape))
            raise Unsupported(f"it makes a [N, {shape}] that is then used as a vector", view.maker)
        return self.flatten(view)

    def flatten(self, view: View) -> str:
        """The value of `view` as a vector, whatever its shape."""
        if len(self.shapes[view.value]) == 1:
            return view.value
        if view.value not in self._flat:
            name = self.unique(f"{view.maker[1]}")
            output = self.fresh(f"{view.value}_flat")
            self.append(Flatten(name, (view.value,), output))
            self._flat[view.value] = output
        return self._flat[view.value]

    def append(self, layer: Layer) -> None:
        """Add a layer, and its output as a value of its own.

        It runs in the first even stage from that of its inputs on.
        """
        shape = infer_shape(layer, [self.shapes[n] for n in layer.inputs])
        stage = max(self.stages[name] for name in layer.inputs)
        self.stages[layer.output] = stage + stage % 2  # the next even one
        Limits.from_env().check("elements", math.prod(shape), f"the result of {layer.name}")
        self.shapes[layer.output] = shape
        self.layers.append(layer)

    def emit(
        self, kind: type[Layer], node: onnx.NodeProto, inputs: tuple[str, ...], **fields: Any
    ) -> str:
        """Add the layer for `node`; its output takes the name of the node's output."""
        output = node.output[0] if node.output[0] not in self.shapes else self.fresh(node.output[0])
        self.append(kind(self.unique(describe_node(node)), inputs, output, **fields))
        self.bind(node, output, self.shapes[output])
        return output

    def emit_elementwise(self, kind: type[Layer], node: onnx.NodeProto, **fields: Any) -> None:
        """As `emit`, of the first input, for layers that work on each number and keep any shape."""
        if node.input[0] in self.channels_last:
            self.emit_last(kind, node, self.channels_last[node.input[0]], **fields)
            return
        view = self.view(node.input[0])
        output = self.emit(kind, node, (view.value,), **fields)
        self.bind(node, output, view.shape)

    def emit_last(
        self, kind: type[Layer], node: onnx.NodeProto, last: View, *others: str, **fields: Any
    ) -> None:
        """As `emit`, of a map with the channels last and other maps, for layers that keep the
        pixels: the channels of the node's output are last, too."""
        value = self.emit(kind, node, (last.value, *others), **fields)
        self.bind(node, value, (self.shapes[value][0], *last.shape[1:]))
        self.turn_last(node)

    def turn_last(self, node: onnx.NodeProto) -> None:
        """Let the output of `node`, a map so far, have its channels last."""
        self.channels_last[node.output[0]] = self._views.pop(node.output[0])

    def bind(self, node: onnx.NodeProto, value: str, shape: Shape) -> None:
        """Let the output of `node` stand for `value` in `shape`."""
        if math.prod(shape) != math.prod(self.shapes[value]):
            raise IntegrityError(f"{describe_node(node)}: {self.shapes[value]} is not {shape}")
        name = describe_node(node)
        self._views[node.output[0]] = View(value, shape, (node.op_type, name))

    def unique(self, name: str) -> str:
        """`name`, or with a number if a layer has it already."""
        found, number = name, 2
        while found in self._names:
            found, number = f"{name}_{number}", number + 1
        self._names[found] = None
        return found

    def fresh(self, name: str) -> str:
        """A name that nothing has yet, in the file or of what was made."""
        found, number = name, 2
        while found in self.shapes or found in self._reserved or found in self.constants:
            found, number = f"{name}_{number}", number + 1
        return found


def describe_node(node: onnx.NodeProto) -> str:
    """Its name, or that of its output, because nodes need no name."""
    return node.name or (node.output[0] if node.output else "") or node.op_type
