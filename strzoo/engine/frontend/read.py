"""read_network: an ONNX network as graphs and islands; read_graph: as one graph, or an error."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import onnx

from strzoo.borders import naming
from strzoo.engine.frontend.floats import unify_floats
from strzoo.engine.frontend.inputs import check_images, check_outputs
from strzoo.engine.frontend.islands import keep_whole
from strzoo.engine.frontend.partition import Divided, divide, find_worthless
from strzoo.engine.frontend.problems import Whole, describe_problems
from strzoo.engine.frontend.reading import Reading
from strzoo.engine.ir.graph import Graph
from strzoo.engine.ir.parts import Problem
from strzoo.errors import StrzooError, UsageError
from strzoo.onnx.files import check_model, parse_onnx, read_onnx, real_inputs
from strzoo.onnx.fused import expand_fused

Source = onnx.ModelProto | bytes | str | os.PathLike[str]


def read_network(
    model: Source,
    *,
    size: tuple[int, int] | None = None,
    source: str | None = None,
    left: Collection[str] = (),
    all_that_pays: bool = True,
) -> Divided:
    """The network in `model`, its graphs not yet simplified.

    Layers are for one image; a batch size that the file fixes is forgotten where there are no
    islands. Other floats become fp32.

    Args:
        model: path or content of an ONNX file, or the model itself.
        size: height and width of the images, where the file leaves them open. By default what
            strzoo's metadata in the file says.
        source: what to call the model in messages; by default its path.
        left: outputs of nodes that are left to onnxruntime although the engine has them.
        all_that_pays: whether sections that save less than their hand-overs cost are left too.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is not an ONNX model, or contradicts itself.
        UsageError: the size is needed, contradicts the file, or is too small.
    """
    proto, name = open_model(model, source)
    try:
        return _read(proto, size, name, left, all_that_pays, strict=False)
    except StrzooError as error:
        raise type(error)(f"{name}: {error}") from error


def read_whole(
    model: Source, *, size: tuple[int, int] | None = None, source: str | None = None
) -> Divided:
    """The network in `model` as one island. Args and errors as `read_network`."""
    proto, _ = open_model(model, source)
    return Divided(keep_whole(proto, size), (), ())


def read_graph(
    model: Source, *, size: tuple[int, int] | None = None, source: str | None = None
) -> Graph:
    """The network in `model` as one graph. Args and errors as `read_alone`."""
    (graph,) = read_alone(model, size=size, source=source).graphs
    return graph


def read_alone(
    model: Source, *, size: tuple[int, int] | None = None, source: str | None = None
) -> Divided:
    """The network in `model` as the engine alone runs it: one graph. Args as `read_network`.

    Raises:
        UsageError: operators that the engine does not have, all of them listed with their nodes; or
            inputs that are not images.
    """
    proto, name = open_model(model, source)
    try:
        for value in real_inputs(proto):
            check_images(proto, value)
        found = _read(proto, size, name, (), False, strict=True)
        if found.division.islands:
            raise UsageError(refuse(found.division.problems))
    except StrzooError as error:
        raise type(error)(f"{name}: {error}") from error
    return found


def refuse(problems: Collection[Problem]) -> str:
    """That the engine alone cannot run a network, and why."""
    return (
        f"the sparse engine cannot run {describe_problems(problems)}; leave such parts to "
        'onnxruntime, in fp32 with islands="auto" (--islands auto); docs/engine.md says what the '
        "engine runs"
    )


def open_model(model: Source, source: str | None = None) -> tuple[onnx.ModelProto, str]:
    """The model, checked, with functions inlined and fused operators written out, and its name.
    Errors as `read_network`."""
    if isinstance(model, onnx.ModelProto):
        name = source or model.graph.name or "the model"
        return _prepare(check_model(model, name), name), name
    if isinstance(model, bytes):
        name = source or "the model"
        return _prepare(parse_onnx(model, name), name), name
    path = Path(model)
    name = source or str(path)
    return _prepare(read_onnx(path), name), name


def _prepare(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    for kind, values in (("input", real_inputs(model)), ("output", model.graph.output)):
        if not values:
            raise UsageError(f"{name} has no {kind}, so there is nothing to compile")
    check_outputs(model)
    with naming(name):
        return expand_fused(unify_floats(model))


def _read(
    model: onnx.ModelProto,
    size: tuple[int, int] | None,
    name: str,
    left: Collection[str],
    all_that_pays: bool,
    *,
    strict: bool,
) -> Divided:
    """Read the model, and again as long as there are nodes that onnxruntime must run because of
    what comes after them, or that had better be run there."""
    known = {*left}
    problems: dict[Problem, None] = {}
    try:
        while True:
            reading = Reading(model, size, known, strict=strict)
            reading.read_all()
            problems |= dict.fromkeys(reading.problems)
            found = reading.blamed - known
            if not found:
                divided = divide(reading, name, sorted(known), tuple(problems))
                found = find_worthless(divided) - known if all_that_pays else set()
            if not found:
                return divided
            known |= found
    except Whole as whole:
        return Divided(keep_whole(model, size, [*problems] or [whole.problem]), (), ())
