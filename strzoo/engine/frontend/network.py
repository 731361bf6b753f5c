"""What `strzoo.compile` can be given, each as a network with a name, a hash and a graph on demand.

The hash comes first and needs neither onnx nor torch, so that a cached plan is found without them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strzoo.engine.ir.graph import Graph
from strzoo.errors import UsageError
from strzoo.hub.source import CardSource, ModuleSource, OnnxSource, Source

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

Size = tuple[int, ...]
Step = Callable[[str], object]


@dataclass
class Network:
    """A network that can be compiled.

    Args:
        name: for people.
        content: SHA-256 of the file or the bytes.
        identity: what its plans depend on, the input size included.
        read: makes the graph, not yet simplified, and the metadata of its export.
        kept: whether `read` needs nothing but files, so that what it gave need not be kept.
    """

    name: str
    content: str
    identity: str
    read: Callable[[], tuple[Graph, dict[str, str]]]
    kept: bool


def open_network(source: Source, size: Size | None, on_step: Step = log.info) -> Network:
    """Args: `size` is (height, width) or (channels, height, width), None for the model's own.

    Raises:
        StrzooError and its subclasses: the file cannot be had or read.
    """
    if isinstance(source, OnnxSource):
        return _open_onnx(source, size, on_step=on_step)
    if isinstance(source, CardSource):
        if source.cached_file is None:
            on_step(f"fetching {source.name}")
        name, kind = source.name, f"export of {source.name}"
    elif isinstance(source, ModuleSource) or source.path is None:
        # The exported graph is its identity: a hash of the weights says nothing of the code.
        proto = export_network(source, size, on_step)
        return _open_onnx(OnnxSource(source.settings, proto=proto), None, source.name)
    else:
        name, kind = source.path.name, "export of a checkpoint"

    def read() -> tuple[Graph, dict[str, str]]:
        return _read_graph(export_network(source, size, on_step), None, name)

    return Network(name, source.sha256, _identify(kind, source.sha256, size), read, kept=True)


def _open_onnx(
    source: OnnxSource, size: Size | None, name: str | None = None, on_step: Step = log.info
) -> Network:
    digest = source.sha256
    shown = str(source.path or name or source.name)

    def read() -> tuple[Graph, dict[str, str]]:
        return _read_graph(_keep_answer(source.read(), shown, on_step), size, shown)

    name = name or (source.path.name if source.path else source.name)
    kept = source.path is not None
    return Network(name, digest, _identify("onnx", digest, size), read, kept)


def _keep_answer(model: onnx.ModelProto, shown: str, on_step: Step) -> onnx.ModelProto:
    """The model with the one output that holds the scores, of several."""
    count = len(model.graph.output)
    if count < 2:
        return model
    from strzoo.onnx.outputs import choose_output, keep_output

    try:
        chosen = choose_output(model)
    except UsageError as error:
        raise UsageError(
            f"{shown}: {count} outputs; the sparse engine computes one: {error}"
        ) from error
    on_step(f"output {chosen.name!r} of {count}: {chosen.reason}")
    return keep_output(model, chosen.name)


def _identify(kind: str, content: str, size: Size | None) -> str:
    return f"{kind} {content} {'own size' if size is None else size}"


def _read_graph(
    proto: onnx.ModelProto, size: Size | None, source: str
) -> tuple[Graph, dict[str, str]]:
    from strzoo.engine.frontend.read import read_graph
    from strzoo.onnx.metadata import our_entries

    sides = None if size is None else (size[-2], size[-1])
    graph = read_graph(proto, size=sides, source=source)
    channels = graph.shapes[graph.input][0]
    if size is not None and len(size) == 3 and size[0] != channels:
        raise UsageError(f"{source} takes images of {channels} channels, {size[0]} are given")
    return graph, our_entries(proto)


def export_network(source: Source, size: Size | None, on_step: Step) -> onnx.ModelProto:
    """A network of torch's as ONNX in memory, with metadata. It is not compared with torch:
    `strzoo.export_onnx` does that.

    Raises:
        StrzooError and its subclasses: as `strzoo.export_onnx`.
    """
    from strzoo.export.export_onnx import check_image_size, describe
    from strzoo.onnx.graphs import Deployed, build_graph
    from strzoo.onnx.metadata import set_entries
    from strzoo.onnx.weights import weighted_nodes, zero_percent

    on_step("loading the network")
    wanted = (3, *size) if size is not None and len(size) == 2 else size
    image_size = check_image_size(wanted) or source.input_size
    network = source.build_dense()
    for note in source.notes:
        on_step(note)
    on_step("exporting it")
    deployed = Deployed(network, softmax=False, preprocessing=None).eval()
    proto = build_graph(deployed, image_size)
    sparsity = zero_percent(list(weighted_nodes(proto)))
    set_entries(
        proto, describe(source, image_size, source.class_names, sparsity=sparsity).to_entries()
    )
    return proto


def spell_size(size: Any) -> Size | None:
    """`size` as (height, width) or (channels, height, width).

    Raises:
        UsageError: it is none of: None, a side, two or three positive numbers.
    """
    if size is None:
        return None
    numbers = (size, size) if isinstance(size, int) else size
    try:
        found = tuple(int(number) for number in numbers)
    except (TypeError, ValueError):
        found = ()
    if len(found) not in (2, 3) or min(found) < 1 or found != tuple(numbers):
        raise UsageError(
            f"size {json.dumps(size, default=str)} is neither a side, (height, width) nor "
            "(channels, height, width), all positive"
        )
    return found
