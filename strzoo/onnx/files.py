"""Reading ONNX files: damaged and foreign ones are refused in one line. Imports no torch.

What is read is a plain model: functions inlined, sparse initializers made dense, nodes in order,
weights of files beside it read in. All of it is bounded by `Limits`; no file outside the model's
folder is opened, but for the blobs of a cache that it is in.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import inliner, numpy_helper

from strzoo.borders import open_file, read_file, reading, resolve_inside
from strzoo.errors import IntegrityError, StrzooError
from strzoo.files import refuse_foreign
from strzoo.onnx.order import sort_nodes
from strzoo.onnx.tensors import read_sparse
from strzoo.settings import Limits

_KIND = "a readable ONNX model"
_NODE = 1000  # bytes that a node takes, roughly
_EXTERNAL = b"location"  # a key that ONNX writes for every tensor whose values are in another file
_BLOCK = 1 << 20


def read_onnx(path: Path, *, weights: bool = True, limits: Limits | None = None) -> onnx.ModelProto:
    """The model in a file, with functions inlined and (with `weights`) external files read.

    Raises:
        StrzooError: the file, or one with its weights, cannot be read.
        IntegrityError: it is not an ONNX model, refers to files outside its folder, or unfolds to
            more than the limits allow.
    """
    limits = limits or Limits.from_env()
    refuse_foreign(path, "an ONNX model")
    content = read_file(path, limits)
    with reading(path, _KIND):
        model = onnx.load_model_from_string(content)
        del content
        if weights:
            _read_external(model, path, limits)
    return check_model(model, str(path), limits)


def parse_onnx(
    content: bytes | onnx.ModelProto, source: str, limits: Limits | None = None
) -> onnx.ModelProto:
    """The model in `content`, the bytes of a file or what they mean; `source` names it.

    Raises:
        IntegrityError: as `read_onnx`.
        StrzooError: weights of it are in other files: in which folder, nobody said.
    """
    if isinstance(content, bytes):
        with reading(source, _KIND):
            content = onnx.load_model_from_string(content)
    model = check_model(content, source, limits)
    for tensor in _all_tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            raise StrzooError(
                f"{source}: the weights {tensor.name[:60]!r} are in another file: give its path"
            )
    return model


def check_model(
    model: onnx.ModelProto, source: str, limits: Limits | None = None
) -> onnx.ModelProto:
    """`model` with functions inlined, sparse initializers made dense, and its nodes in order.

    Raises:
        IntegrityError: it holds no graph, nodes or functions that need each other in a circle, or
            more than the limits allow.
    """
    limits = limits or Limits.from_env()
    if not model.ir_version or not model.graph.node:
        raise IntegrityError(f"{source} is not an ONNX model: it has no graph")
    with reading(source, _KIND):
        _check_texts(model, source)
        _check_sizes(model, source, limits)
        if model.functions:
            _check_functions(model, source, limits)
            model = inliner.inline_local_functions(model)
        if model.graph.sparse_initializer:
            model = _make_dense(model, source, limits)
        return sort_nodes(model, source)


def list_external(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold weights of it, sorted; to be called before another
    library opens it: all are regular files in its folder.

    Raises:
        StrzooError: it cannot be read, or a file that it refers to is not there.
        IntegrityError: it refers to a file outside, a link or no regular file.
    """
    with reading(path, _KIND), open_file(path) as stream:
        before = b""
        while block := stream.read(_BLOCK):
            if _EXTERNAL in before[-len(_EXTERNAL) :] + block:
                break
            before = block
        else:
            return []
    with reading(path, _KIND):
        tensors = _all_tensors(onnx.load_model_from_string(read_file(path)))
        return sorted({_locate(t, path)[0] for t in tensors if t.data_location == t.EXTERNAL})


def real_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are no initializers (old files list those too)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in weights]


def read_opset(model: onnx.ModelProto) -> dict[str, int]:
    """Version of each operator set by domain; the default one is "ai.onnx"."""
    return {o.domain or "ai.onnx": o.version for o in model.opset_import}


def _all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = [model.graph]
    nodes: list[onnx.NodeProto] = [node for f in model.functions for node in f.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            if attribute.HasField("g"):
                graphs.append(attribute.g)
            yield from attribute.tensors
            graphs += attribute.graphs


def _check_texts(model: onnx.ModelProto, source: str) -> None:
    """Names are text: protobuf gives those of a damaged file as bytes."""
    graphs, texts = [model.graph], [model.producer_name, model.producer_version]
    texts += [text for entry in model.metadata_props for text in (entry.key, entry.value)]
    texts += [opset.domain for opset in model.opset_import]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if not graphs:
            node = nodes.pop()
            texts += [node.op_type, node.domain, node.name, *node.input, *node.output]
            texts += [attribute.name for attribute in node.attribute]
            graphs += [g for a in node.attribute for g in (*([a.g] if a.HasField("g") else ()),
                                                           *a.graphs)]  # fmt: skip
            continue
        graph = graphs.pop()
        nodes += graph.node
        texts += [graph.name, *(tensor.name for tensor in graph.initializer)]
        for value in (*graph.input, *graph.output, *graph.value_info):
            texts.append(value.name)
            texts += [d.dim_param for d in value.type.tensor_type.shape.dim]
    if any(not isinstance(text, str) for text in texts):
        raise IntegrityError(f"{source} is damaged: a name in it is no text")


def _check_sizes(model: onnx.ModelProto, source: str, limits: Limits) -> None:
    for tensor in model.graph.initializer:
        count = math.prod(tensor.dims)
        if min(tensor.dims, default=1) < 0:
            raise IntegrityError(f"{source}: {tensor.name!r} has the shape {list(tensor.dims)[:8]}")
        limits.check("elements", count, f"{source}: tensor {tensor.name[:60]!r}")


def _locate(tensor: onnx.TensorProto, path: Path) -> tuple[Path, int, int | None]:
    """File, offset and length (None: what its shape needs) of an external tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    numbers = []
    for key in ("offset", "length"):
        text = entries.get(key, "")
        if text and not (text.isascii() and text.isdigit() and len(text) < 19):
            raise IntegrityError(f"{path}: {tensor.name[:60]!r} has the {key} {text[:40]!r}")
        numbers.append(int(text) if text else None)
    file = resolve_inside(path.parent, entries.get("location", ""), str(path))
    return file, numbers[0] or 0, numbers[1]


def _read_external(model: onnx.ModelProto, path: Path, limits: Limits) -> None:
    """Read the tensors that are kept in files beside `path`."""
    total = 0
    for tensor in _all_tensors(model):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        file, offset, length = _locate(tensor, path)
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        needed = -(-math.prod(tensor.dims) * _bits(tensor.data_type, kind) // 8)
        length = needed if length is None else length
        total += length
        limits.check("bytes", total, f"{path}, with the files beside it,")
        with open_file(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            if length != needed or offset + length > size:
                raise IntegrityError(
                    f"{path}: {tensor.name[:60]!r} needs {needed:,} bytes; {file.name} has "
                    f"{max(size - offset, 0):,} from {offset:,} on, {length:,} of them its own"
                )
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.ClearField("external_data")
        tensor.data_location = tensor.DEFAULT


def _bits(kind: int, dtype: np.dtype) -> int:
    """Bits of one stored number: those of four bits and fewer are packed."""
    name = onnx.TensorProto.DataType.Name(kind)
    digits = name.removesuffix("E2M1")
    for suffix, bits in (("INT4", 4), ("FLOAT4", 4), ("INT2", 2)):
        if digits.endswith(suffix):
            return bits
    return dtype.itemsize * 8


Key = tuple[str, str, str]


def _check_functions(model: onnx.ModelProto, source: str, limits: Limits) -> None:
    """Functions may call each other, but not in a circle, and not to more nodes than fit."""
    bodies: dict[Key, Iterable[onnx.NodeProto]] = {
        (f.domain, f.name, getattr(f, "overload", "")): f.node for f in model.functions
    }
    counts: dict[Key, int] = {}
    active: list[Key] = []

    def count(nodes: Iterable[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            total += 1 + sum(
                count(graph.node)
                for a in node.attribute
                for graph in (*([a.g] if a.HasField("g") else ()), *a.graphs)
            )
            key = (node.domain, node.op_type, getattr(node, "overload", ""))
            if key not in bodies:
                continue
            if key in active:
                raise IntegrityError(f"{source}: function {node.op_type[:60]!r} calls itself")
            if key not in counts:
                active.append(key)
                limits.check("nesting", len(active), f"{source}: calls of functions")
                counts[key] = count(bodies[key])
                active.pop()
            total += counts[key]
            limits.check("bytes", total * _NODE, f"{source}, its functions written out,")
        return total

    count(model.graph.node)
    for function in model.functions:  # those that are not called are inlined by nobody
        count(function.node)


def _make_dense(model: onnx.ModelProto, source: str, limits: Limits) -> onnx.ModelProto:
    """A copy of `model` whose sparse initializers are plain ones."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    total = 0
    for sparse in model.graph.sparse_initializer:
        name = sparse.values.name
        shape = tuple(sparse.dims)
        size = math.prod(shape)
        total += size
        limits.check("elements", total, f"{source}: sparse tensor {name[:60]!r}")
        made.graph.initializer.append(numpy_helper.from_array(read_sparse(sparse, source), name))
    del made.graph.sparse_initializer[:]
    return made
