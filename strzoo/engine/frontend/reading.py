"""Reading: one walk over the nodes of an ONNX graph, which become layers or are left over."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import onnx

from strzoo.engine.frontend import (
    arithmetic,
    normalizing,
    operators,
    padding,
    picking,
    rearranging,
    reshaping,
    resizing,
    transposed,
)
from strzoo.engine.frontend.builder import GraphBuilder, describe_node
from strzoo.engine.frontend.constants import Constants
from strzoo.engine.frontend.inputs import Input, find_batch, read_inputs
from strzoo.engine.frontend.problems import Outside, Unsupported, Whole
from strzoo.engine.frontend.types import (
    PROBE,
    count_macs,
    infer_types,
    read_dims,
    tensor_type,
)
from strzoo.engine.ir.graph import Layer
from strzoo.engine.ir.parts import Problem
from strzoo.errors import IntegrityError, StrzooError
from strzoo.onnx.files import read_opset
from strzoo.onnx.order import list_reads

Rule = Callable[[GraphBuilder, onnx.NodeProto], None]

OPERATORS: dict[str, Rule] = {
    "Add": arithmetic.read_arithmetic,
    "AveragePool": operators.read_average_pool,
    "BatchNormalization": normalizing.read_batch_norm,
    "Cast": reshaping.read_cast,
    "Clip": arithmetic.read_clip,
    "Concat": operators.read_concat,
    "Conv": operators.read_convolution,
    "ConvTranspose": transposed.read_transposed,
    "DepthToSpace": rearranging.read_depth_to_space,
    "Div": arithmetic.read_arithmetic,
    **dict.fromkeys(arithmetic.FUNCTIONS, arithmetic.read_function),
    "Dropout": reshaping.read_dropout,
    "Expand": rearranging.read_expand,
    "Flatten": reshaping.read_flatten,
    "Gather": picking.read_gather,
    "Gemm": operators.read_gemm,
    "GlobalAveragePool": operators.read_global_average_pool,
    "GroupNormalization": normalizing.read_group_norm,
    "Identity": reshaping.read_identity,
    "InstanceNormalization": normalizing.read_instance_norm,
    "LayerNormalization": normalizing.read_layer_norm,
    "MatMul": operators.read_matmul,
    "Max": arithmetic.read_limits,
    "MaxPool": operators.read_max_pool,
    "Min": arithmetic.read_limits,
    "Neg": arithmetic.read_negative,
    "Pad": padding.read_pad,
    "Mul": arithmetic.read_arithmetic,
    "Pow": arithmetic.read_power,
    "PRelu": arithmetic.read_prelu,
    "ReduceMean": operators.read_mean,
    "Relu": arithmetic.read_relu,
    "Reshape": reshaping.read_reshape,
    "Resize": resizing.read_resize,
    "Shape": reshaping.read_shape,
    "Slice": picking.read_slice,
    "Softmax": operators.read_softmax,
    "SpaceToDepth": rearranging.read_space_to_depth,
    "Split": picking.read_split,
    "Squeeze": reshaping.read_squeeze,
    "Sub": arithmetic.read_arithmetic,
    "Sum": arithmetic.read_sum,
    "Swish": arithmetic.read_swish,
    "Transpose": rearranging.read_transpose,
    "Unsqueeze": reshaping.read_unsqueeze,
    "Upsample": resizing.read_resize,
}
# What reading a malformed node can raise.
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


# They only say in what shape a value is read: onnxruntime keeps them behind what it made.
_SHAPING = {
    "Cast", "DepthToSpace", "Dropout", "Expand", "Flatten", "Identity", "Reshape", "SpaceToDepth",
    "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Made:
    """A layer and the node that it was made of."""

    layer: Layer
    node: onnx.NodeProto


@dataclass(frozen=True, eq=False)
class Left:
    """A node that onnxruntime runs, in an odd stage, and its multiply-accumulates."""

    node: onnx.NodeProto
    stage: int
    macs: int


class Reading:
    """One walk over a model's nodes.

    Args:
        model: the model.
        size: height and width of the images, where the model leaves them open.
        left: outputs of nodes that are to be left over.
        strict: whether a node that cannot be read is an error. Else it is left over: onnxruntime
            may know better.

    Attributes:
        inputs: of the model.
        batch: the number of images that the file fixes, or None.
        builder: what was read.
        items: layers and nodes that were left over, in order.
        blamed: outputs of nodes that must be left over because of what comes after them; the walk
            is to be repeated.
        problems: why nodes were left over.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        size: tuple[int, int] | None,
        left: Collection[str],
        *,
        strict: bool,
    ) -> None:
        self.model, self._left, self._strict = model, left, strict
        self.inputs = read_inputs(model, size)
        batch = find_batch(self.inputs)
        if batch == 0:
            raise Whole(Problem("inputs", "", "which do not begin with the same batch"))
        self.batch = batch
        self.nodes = needed_nodes(model.graph)
        reserved = {name for node in model.graph.node for name in node.output}
        reserved |= {given.port.name for given in self.inputs}
        opset = read_opset(model).get("ai.onnx", 1)
        self.builder = GraphBuilder(Constants(model.graph, batch), opset, batch, reserved)
        alike = len({_batch_name(given) for given in self.inputs}) == 1
        for given in self.inputs:
            name = given.port.name
            if given.shape is None:
                probed = alike and batch is None
                self.builder.opaque[name] = _probed(given) if probed else given.kind
                self.builder.stages[name] = 0
            else:
                self.builder.add_input(name, given.shape)
        self._used = {name for node in self.nodes for name in list_reads(node)}
        self._used |= {value.name for value in model.graph.output}
        self._makers = {describe_node(node): node for node in self.nodes}
        self._makers |= {name: node for node in self.nodes for name in node.output}
        self.items: list[Made | Left] = []
        self._collected = 0
        self.blamed: set[str] = set()
        self.problems: list[Problem] = []

    def read_all(self) -> None:
        for node in self.nodes:
            self._read(node)
            self._collect(node)
        for value in self.model.graph.output:
            if value.name in self.builder.constants:
                raise Whole(Problem("output", value.name, "which is a constant"))
            if self._check_readable(value.name) and value.name not in self.builder.opaque:
                self._flatten_result(value.name)
            if value.name in self._makers:
                self._collect(self._makers[value.name])

    def _collect(self, node: onnx.NodeProto) -> None:
        """Note the layers made since the last time as those of `node`."""
        self.items += [Made(layer, node) for layer in self.builder.layers[self._collected :]]
        self._collected = len(self.builder.layers)

    def _flatten_result(self, name: str) -> None:
        """A vector is made as such, so that the layers before it can be those of vectors."""
        builder = self.builder
        if len(builder.view(name).shape) == 1 and self.stage_of(name) % 2 == 0:
            builder.bind(self._makers[name], builder.vector_value(name), builder.view(name).shape)

    def stage_of(self, name: str) -> int:
        """Of the value that the ONNX name `name` stands for."""
        stages, opaque = self.builder.stages, self.builder.opaque
        return stages[name if name in opaque else self.builder.view(name).value]

    @np.errstate(all="ignore")  # a file's numbers may be any; each rule looks at what they become
    def _read(self, node: onnx.NodeProto) -> None:
        if any(name in self._left for name in node.output):
            return self._leave(node)
        mark = self.builder.mark()
        try:
            return self._read_node(node)
        except Outside:
            self.builder.undo(mark)
        except Unsupported as problem:
            self.builder.undo(mark)
            maker = self._makers.get(problem.node[1]) if problem.node else None
            if maker is None or set(maker.output) & set(self._left):
                place = problem.node or (_operator(node), describe_node(node))
                self.problems.append(Problem(*place, problem.reason))
            else:
                operator = _operator(maker)
                self.problems.append(Problem(operator, describe_node(maker), problem.reason))
                self.blamed.update(maker.output)
        return self._leave(node)

    def _read_node(self, node: onnx.NodeProto) -> None:
        builder = self.builder
        try:
            if builder.constants.fold(node, builder.opset):
                return
            if _operator(node) not in OPERATORS:
                raise Unsupported
            if node.op_type in _SHAPING and self._made_outside(node.input[0]):
                raise Outside(node.input[0])
            if node.op_type != "Split" and any(
                name in self._used for name in node.output[1:] if name
            ):
                raise Unsupported("its second output is used")
            OPERATORS[node.op_type](builder, node)
        except StrzooError:
            raise
        except _MALFORMED as error:
            reason = " ".join(str(error).split())[:160]
            if not self._strict:
                raise Unsupported(f"which seems malformed: {reason}") from error
            raise IntegrityError(
                f"{node.op_type} {describe_node(node)!r} is malformed ({reason})"
            ) from error

    def _leave(self, node: onnx.NodeProto) -> None:
        """Leave the node to onnxruntime; what it makes can be an input of layers."""
        builder, batch = self.builder, self.batch or PROBE
        stage, known = 1, {}
        for name in list_reads(node):
            if name in builder.constants or not self._check_readable(name):
                continue
            at = self.stage_of(name)
            stage = max(stage, at if at % 2 else at + 1)
            kind = builder.opaque.get(name)
            if name not in builder.opaque:
                shape = (batch, *builder.view(name).shape)
                kind = tensor_type(onnx.TensorProto.FLOAT, shape)
            if kind is not None:
                known[name] = kind
        versions = list(self.model.opset_import)
        types = infer_types(node, known, builder.constants, versions, batch)
        for name in filter(None, node.output):
            dims = read_dims(types.get(name))
            of_images = dims is not None and len(dims) > 1 and dims[0] == batch
            if dims is not None and of_images and all(size % PROBE for size in dims[1:]):
                builder.add_input(name, dims[1:], stage)
            else:
                builder.opaque[name] = types.get(name)
                builder.stages[name] = stage
        self._collect(node)  # what is made for this node to read comes before it
        self.items.append(Left(node, stage, count_macs(node, known, types, builder.constants)))

    def _made_outside(self, name: str) -> bool:
        builder = self.builder
        if name in builder.opaque:
            return True
        if name in builder.constants or name in builder.padded:
            return False
        found = builder.moved.get(name) or rearranging.at_first(builder, name)
        return builder.stages[found.value] % 2 == 1

    def _check_readable(self, name: str) -> bool:
        """Whether onnxruntime can read it. What makes it is to blame otherwise."""
        if name in self.builder.opaque:
            return True
        try:
            self.builder.view(name)
        except Unsupported as problem:
            maker = self._makers[name]
            place = problem.node or (_operator(maker), describe_node(maker))
            self.problems.append(Problem(*place, problem.reason))
            self.blamed.update(maker.output)
            return False
        return True


def _batch_name(given: Input) -> str:
    """What the file calls the first axis, "" if it does not."""
    dims = given.kind.tensor_type.shape.dim
    return str(dims[0].dim_param) if dims else ""


def _probed(given: Input) -> onnx.TypeProto:
    """The type of what onnxruntime alone reads, bytes or numbers of tokens; its open batch is
    `PROBE`, so that it is found again in what onnxruntime makes of it."""
    sizes = [size for size in given.port.shape[1:] if size is not None]
    if not given.port.shape or len(sizes) + 1 != len(given.port.shape):
        return given.kind
    return tensor_type(given.kind.tensor_type.elem_type, (PROBE, *sizes))


def _operator(node: onnx.NodeProto) -> str:
    standard = node.domain in ("", "ai.onnx")
    return node.op_type if standard else f"{node.domain}.{node.op_type}"


def needed_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in the file's order."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(list_reads(node))
            kept.append(node)
    return kept[::-1]
