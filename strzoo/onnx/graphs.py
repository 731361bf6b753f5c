"""From a torch network to a clean ONNX graph: BatchNorm folded, plain operators, readable names."""

from __future__ import annotations

import copy
import logging
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from strzoo.borders import shorten_cause
from strzoo.errors import StrzooError, UsageError
from strzoo.models.scores import find_scores, flatten_scores
from strzoo.onnx.files import read_opset
from strzoo.onnx.folding import fold_norms
from strzoo.onnx.tensors import decode_tensor
from strzoo.redirected_output import chatter_to
from strzoo.sparse.selection import CONVOLUTIONS, TRANSPOSED
from strzoo.zoo.registry import Preprocessing

log = logging.getLogger(__name__)

INPUT, OUTPUT, BATCH = "images", "logits", "batch"
SOFTMAX_OUTPUT = "probabilities"
# Stable in onnxruntime from 1.18 on, older than what strzoo itself needs: a file made with the
# newest one runs there too.
DEFAULT_OPSET = 21
OLDEST_OPSET = 15
_EXPORTER_OPSET = 18  # below it torch's exporter has no implementations
# The exporter could not follow the network: it chooses its way by values, say. The older exporter
# would follow one example and freeze its way into the file.
_UNTRACEABLE = "TorchExportError"
_SUMMARY = "## Exception summary"  # a line of its messages; the next one is the cause
_IR_VERSION = 10  # onnxruntime 1.18 reads up to this
_PREFIX = "network."


class FixedBatchError(UsageError):
    """The network's code works for the number of images that it was exported with, and no other."""


class Deployed(nn.Module):
    """A network as it is deployed: images in, logits or probabilities out.

    With built-in preprocessing the input is uint8 [N, H, W, 3] and normalisation is part of the
    network; else it is float32 [N, C, H, W], normalised by the caller.
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self, network: nn.Module, *, softmax: bool, preprocessing: Preprocessing | None
    ) -> None:
        super().__init__()
        self.network = network
        self.softmax = softmax
        self.preprocessed = preprocessing is not None
        if preprocessing is not None:
            mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
            self.register_buffer("offset", (255 * mean).reshape(1, -1, 1, 1))
            self.register_buffer("scale", (1 / (255 * std)).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if self.preprocessed:
            # Without contiguous() the pool would be exported as the strides of channels-last.
            images = images.permute(0, 3, 1, 2).contiguous()
            images = (images.float() - self.offset) * self.scale
        name = type(self.network).__name__
        logits = flatten_scores(find_scores(self.network(images), name), name)
        return logits.softmax(1) if self.softmax else logits


def build_graph(
    model: Deployed,
    input_size: tuple[int, int, int],
    *,
    opset: int = DEFAULT_OPSET,
    batch: int | None = None,
) -> onnx.ModelProto:
    """The ONNX model of `model`, in memory.

    Args:
        model: in evaluation mode, on the CPU.
        input_size: channels, height, width of one image.
        opset: version of the default operator set.
        batch: a fixed batch size, or None for a dynamic axis named `batch`.

    Raises:
        UsageError: no such opset, or the batch is not positive.
        FixedBatchError: `batch` is None, and the network's code takes one number of images.
        StrzooError: torch cannot export the network, or onnx cannot bring it to that opset.
    """
    check_opset(opset)
    if batch is not None and batch < 1:
        raise UsageError(f"batch is {batch}; it must be at least 1, or None for a dynamic one")
    example = _example(model, input_size, batch or 2)
    network, folded = fold_norms(model.network, torch.zeros(batch or 2, *input_size))
    try:
        graph = _export(_with_network(model, network), example, opset, batch is None)
    except StrzooError as error:
        if not folded:
            raise
        log.info("BatchNorm is left to the exporter: %s", error)
        network = copy.deepcopy(model.network)
        graph = _export(_with_network(model, network), example, opset, batch is None)
    if batch is None and graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        raise FixedBatchError(
            "the network is another one for each number of images: its code counts them or goes "
            "through them one by one; give the number that it is to take (batch=1, --batch 1)"
        )
    _pool_globally(graph)
    _clean(graph)
    if _opset_of(graph) != opset:
        graph = _convert_opset(graph, opset)
    graph.ir_version = min(graph.ir_version, _IR_VERSION)
    if left := sum(node.op_type == "BatchNormalization" for node in graph.graph.node):
        log.warning(
            "%d BatchNorm layers could not be folded into a convolution and stay as they are", left
        )
    return graph


def check_opset(opset: int) -> None:
    """Raise a UsageError unless strzoo and the installed onnx can write that opset."""
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UsageError(
            f"opset {opset} is not between {OLDEST_OPSET} and {newest}, the newest of the "
            f"installed onnx; the default is {DEFAULT_OPSET}"
        )


def _opset_of(model: onnx.ModelProto) -> int:
    return read_opset(model).get("ai.onnx", 0)


def _example(model: Deployed, input_size: tuple[int, int, int], batch: int) -> Tensor:
    channels, height, width = input_size
    if model.preprocessed:
        return torch.zeros(batch, height, width, channels, dtype=torch.uint8)
    return torch.zeros(batch, channels, height, width)


def _with_network(model: Deployed, network: nn.Module) -> Deployed:
    """`model` with a network of its own, whose weights are laid out in rows in place, whatever
    layout it was trained in.

    Convolutions with channels-last weights have channels-last outputs, and the exporter writes
    the pool of such an output as a gather by strides. Only a clone has the strides of rows:
    contiguous() takes a 1x1 weight of either layout for the other.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    made = copy.copy(model)
    made._modules = {**model._modules, "network": network}
    return made


def _export(model: Deployed, example: Tensor, opset: int, dynamic: bool) -> onnx.ModelProto:
    """What torch's exporter makes, or (torch 2.6 fails on BatchNorms left to it) its older one."""
    export: Any = torch.onnx.export  # its types differ from version to version
    names: dict[str, Any] = {
        "input_names": [INPUT],
        "output_names": [SOFTMAX_OUTPUT if model.softmax else OUTPUT],
        "verbose": False,
    }
    shapes = {"dynamic_shapes": ({0: torch.export.Dim(BATCH)},)} if dynamic else {}
    try:
        with chatter_to(log), torch.no_grad():
            program = export(
                model,
                (example,),
                dynamo=True,
                opset_version=max(opset, _EXPORTER_OPSET),
                optimize=True,
                **names,
                **shapes,
            )
            assert program is not None
            graph: onnx.ModelProto = program.model_proto
            _name_batch(graph)
            return graph
    except Exception as error:  # the exporter wraps any error of the network's own code
        log.info("torch's exporter fails: %s", error)
        if type(error).__name__ == _UNTRACEABLE:
            raise _export_error(example, error) from error
        log.info("its older exporter is tried")
        problem = error
    axes = {name: {0: BATCH} for name in (INPUT, names["output_names"][0])} if dynamic else {}
    try:
        with chatter_to(log), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "model.onnx")
            export(
                model,
                (example,),
                file,
                dynamo=False,
                opset_version=min(opset, _EXPORTER_OPSET),
                dynamic_axes=axes,
                **names,
            )
            return onnx.load(file)
    except Exception as error:
        log.info("the older exporter fails too: %s", error)
        raise _export_error(example, problem) from problem


def _name_batch(model: onnx.ModelProto) -> None:
    """Call a batch of any size `BATCH`; torch 2.6 calls it s0, whatever it was told."""
    graph = model.graph
    known = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if known and dim.dim_param == known:
                dim.dim_param = BATCH


def run_once(model: nn.Module, example: Tensor) -> Tensor:
    """The class scores of some images: what a network says itself is clearer than what an exporter
    makes of it.

    Raises:
        UsageError: its output is not class scores.
        StrzooError: it does not run on such an image.
    """
    try:
        with torch.inference_mode():
            scores: Tensor = model(example)
            return scores
    except UsageError as error:
        raise UsageError(
            f"{error}; export a network with other outputs by torch.onnx.export, and give the ONNX "
            "file"
        ) from error
    except StrzooError:
        raise
    except Exception as error:  # whatever the network's own code raises
        kinds = [type(m) for m in model.modules() if isinstance(m, (*CONVOLUTIONS, *TRANSPOSED))]
        if kinds and not issubclass(kinds[0], (nn.Conv2d, nn.ConvTranspose2d)):
            raise StrzooError(
                f"the network is not for images (its first convolution is a {kinds[0].__name__}), "
                "and only such are exported here; export it by torch.onnx.export, and give the "
                "ONNX file"
            ) from error
        size = "x".join(map(str, example.shape[1:]))
        raise StrzooError(
            f"the network does not run on one {size} input ({shorten_cause(error)}); pass the "
            "input size it takes, (channels, height, width) if it has not three channels"
        ) from error


def _export_error(example: Tensor, error: Exception) -> StrzooError:
    lines = [line.strip() for line in str(error).splitlines()]
    if _SUMMARY in lines:  # under headlines that every failure has
        lines = lines[lines.index(_SUMMARY) + 1 :]
        lines = [line for line in lines if line][:1]
    lines = [line for line in lines if line] or [type(error).__name__]
    size = "x".join(map(str, example.shape))
    return StrzooError(
        f"torch cannot export the network for a {size} input ({lines[-1][:200]}); "
        "check the input size; -v logs what the exporter said"
    )


def _clean(model: onnx.ModelProto) -> None:
    """Drop what only debugs the exporter (source paths among it) and give layers their names."""
    graph = model.graph
    del graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    graph.name = "strzoo"
    for item in [model, graph, *graph.input, *graph.output, *graph.initializer, *graph.node]:
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
        item.doc_string = ""
    # A name without its prefix may be an activation's, or of preprocessing that is built in.
    taken = {name for node in graph.node for name in [*node.input, *node.output]}
    names = {}
    for tensor in graph.initializer:
        short = tensor.name.removeprefix(_PREFIX)
        names[tensor.name] = tensor.name if short in taken else short
        taken.add(names[tensor.name])
        tensor.name = names[tensor.name]
    used: set[str] = set()
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        if len(node.input) > 1 and node.input[1].endswith(".weight"):
            node.name = node.input[1].removesuffix(".weight")
        # A normalisation and a layer can share a weight's name, and one layer can run twice.
        node.name = _unique(node.name or node.op_type.lower(), used)


def _unique(name: str, used: set[str]) -> str:
    """`name`, or with a number if a node has it already."""
    found, number = name, 2
    while found in used:
        found, number = f"{name}_{number}", number + 1
    used.add(found)
    return found


def _pool_globally(model: onnx.ModelProto) -> None:
    """A mean over height and width is GlobalAveragePool, which every runtime and engine knows."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    images = {v.name for v in graph.value_info if len(v.type.tensor_type.shape.dim) == 4}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "ReduceMean" or node.input[0] not in images or len(node.input) != 2:
            continue
        axes = decode_tensor(tensors[node.input[1]]) if node.input[1] in tensors else ()
        if sorted(int(axis) % 4 for axis in axes) != [2, 3]:
            continue
        keeps = {a.name: a.i for a in node.attribute}.get("keepdims", 1)
        node.op_type = "GlobalAveragePool"
        del node.input[1:], node.attribute[:]
        if not keeps:
            output, node.output[0] = node.output[0], f"{node.output[0]}_pooled"
            name = f"{node.name}_flatten"
            nodes.append(onnx.helper.make_node("Flatten", [node.output[0]], [output], name))
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copied)
    used = {name for node in graph.node for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def _convert_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    from onnx import version_converter

    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # the C++ converter raises RuntimeError and its own errors
        raise StrzooError(
            f"onnx cannot bring the network from opset {_opset_of(model)} to {opset} "
            f"({' '.join(str(error).split())[-160:]}); choose another opset"
        ) from error
