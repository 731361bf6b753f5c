"""What `strzoo.compile` can be given, each as a network with a name, a hash and a graph on demand.

The hash comes first and needs neither onnx nor torch, so that a cached plan is found without them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from strzoo.borders import open_file
from strzoo.engine.ir.graph import Graph
from strzoo.errors import StrzooError, UsageError
from strzoo.settings import Settings

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from strzoo.checkpoint import Checkpoint

    Model: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto | nn.Module | Checkpoint

log = logging.getLogger(__name__)

Size = tuple[int, ...]
Step = Callable[[str], object]
# A key that ONNX writes for every tensor whose values are in another file.
_EXTERNAL = b"location"
_BLOCK = 1 << 20


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


def open_network(
    model: Model, size: Size | None, settings: Settings, on_step: Step = log.info
) -> Network:
    """Args: `size` is (height, width) or (channels, height, width), None for the model's own.

    Raises:
        UsageError: no such kind of model.
        StrzooError and its subclasses: the file cannot be had or read.
    """
    if isinstance(model, bytes | bytearray):
        return _open_bytes(bytes(model), size)
    if isinstance(model, str | os.PathLike):
        text = os.fspath(model)
        if Path(text).suffix == ".onnx":
            return _open_onnx(Path(text), size)
        from strzoo.analysis.report import is_file_argument

        if is_file_argument(text):
            return _open_checkpoint(Path(text), size, settings, on_step)
        return _open_id(text, size, settings, on_step)
    kind = type(model).__module__.split(".")[0]
    if kind == "onnx" or (kind.startswith("onnx_") and hasattr(model, "SerializeToString")):
        return _open_proto(model, size)  # type: ignore[arg-type]
    if "torch" in sys.modules:
        from strzoo.checkpoint import Checkpoint

        if isinstance(model, sys.modules["torch"].nn.Module | Checkpoint):
            return _open_module(model, size, settings, on_step)
    raise UsageError(
        f"cannot compile a {type(model).__name__}; give a model id, a checkpoint, ONNX or .strz "
        "file, the bytes of an ONNX file, an onnx.ModelProto or a torch.nn.Module"
    )


def _identify(kind: str, content: str, size: Size | None) -> str:
    return f"{kind} {content} {'own size' if size is None else size}"


def _open_onnx(path: Path, size: Size | None) -> Network:
    digest, first = _hash_onnx(path), _stamp(path)

    def read() -> tuple[Graph, dict[str, str]]:
        if _stamp(path) != first and _hash_onnx(path) != digest:
            raise StrzooError(f"{path} has changed since it was compiled; compile it again")
        return _read_graph(path, size, str(path))

    return Network(path.name, digest, _identify("onnx", digest, size), read, kept=True)


def _hash_onnx(path: Path) -> str:
    """SHA-256 of an ONNX file, those that hold its weights included."""
    from strzoo.onnx.files import list_external

    digest, external = _hash_file(path)
    files = list_external(path) if external else []
    if not files:
        return digest
    digest += "".join(_hash_file(file)[0] for file in files)
    return hashlib.sha256(digest.encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise StrzooError(f"cannot read {path}: {error.strerror or error}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _hash_file(path: Path) -> tuple[str, bool]:
    """SHA-256 of a file, and whether it may be an ONNX file with weights in other files."""
    digest, external, before = hashlib.sha256(), False, b""
    try:
        with open_file(path) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                seam = before + block[: len(_EXTERNAL)]
                external = external or _EXTERNAL in block or _EXTERNAL in seam
                before = block[-len(_EXTERNAL) :]
    except FileNotFoundError:
        raise StrzooError(f"{path} does not exist") from None
    except OSError as error:
        raise StrzooError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest(), external


def _open_bytes(content: bytes, size: Size | None) -> Network:
    digest = hashlib.sha256(content).hexdigest()

    def read() -> tuple[Graph, dict[str, str]]:
        return _read_graph(content, size, "the model")

    return Network("model", digest, _identify("onnx", digest, size), read, kept=False)


def _open_proto(model: onnx.ModelProto, size: Size | None, name: str | None = None) -> Network:
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    name = name or model.graph.name or "model"

    def read() -> tuple[Graph, dict[str, str]]:
        return _read_graph(model, size, name)

    return Network(name, digest, _identify("onnx", digest, size), read, kept=False)


def _read_graph(
    model: onnx.ModelProto | bytes | Path, size: Size | None, source: str
) -> tuple[Graph, dict[str, str]]:
    from strzoo.engine.frontend.read import open_model, read_graph

    proto, _ = open_model(model, source)
    sides = None if size is None else (size[-2], size[-1])
    graph = read_graph(proto, size=sides, source=source)
    channels = graph.shapes[graph.input][0]
    if size is not None and len(size) == 3 and size[0] != channels:
        raise UsageError(f"{source} takes images of {channels} channels, {size[0]} are given")
    metadata = {
        entry.key: entry.value for entry in proto.metadata_props if entry.key.startswith("strzoo.")
    }
    return graph, metadata


def _open_id(name: str, size: Size | None, settings: Settings, on_step: Step) -> Network:
    from strzoo.analysis.report import find_weights
    from strzoo.zoo.registry import get_card

    card = get_card(name, settings=settings)
    found = find_weights(card, settings)
    if found is None:
        from strzoo.hub.load import weights_path

        on_step(f"fetching {card.id}")
        path = weights_path(card.id, "dense", settings)
    else:
        path = found[0]
    return _exported(card.id, card.id, path, size, settings, on_step)


def _open_checkpoint(path: Path, size: Size | None, settings: Settings, on_step: Step) -> Network:
    return _exported(path.name, path, path, size, settings, on_step)


def _exported(
    name: str,
    model: str | Path,
    path: Path,
    size: Size | None,
    settings: Settings,
    on_step: Step,
) -> Network:
    """The network of the checkpoint file `path`, exported when its graph is needed."""
    content = _hash_file(path)[0]

    def read() -> tuple[Graph, dict[str, str]]:
        proto = export_model(model, size, settings, on_step)[0]
        return _read_graph(proto, None, name)

    kind = f"export of {model if isinstance(model, str) else 'a checkpoint'}"
    return Network(name, content, _identify(kind, content, size), read, kept=True)


def _open_module(
    model: nn.Module | Checkpoint, size: Size | None, settings: Settings, on_step: Step
) -> Network:
    proto, name = export_model(model, size, settings, on_step)
    return _open_proto(proto, None, name)


def export_model(
    model: Any, size: Size | None, settings: Settings, on_step: Step
) -> tuple[onnx.ModelProto, str]:
    """A network of torch's as ONNX in memory, with metadata, and its name. It is not compared with
    torch: `strzoo.export_onnx` does that.

    Raises:
        StrzooError and its subclasses: as `strzoo.export_onnx`.
    """
    from strzoo.hub.targets import resolve_target
    from strzoo.onnx.graphs import Deployed, build_graph, set_metadata
    from strzoo.onnx.metadata import describe, find_class_names
    from strzoo.onnx.weights import weighted_nodes, zero_percent

    on_step("loading the network")
    wanted = (3, *size) if size is not None and len(size) == 2 else size
    target = resolve_target(model, wanted, settings=settings)
    on_step("exporting it")
    deployed = Deployed(target.network, softmax=False, preprocessing=None).eval()
    proto = build_graph(deployed, target.input_size)
    metadata = describe(
        target,
        precision="fp32",
        sparsity=zero_percent(list(weighted_nodes(proto))),
        built_in=False,
        softmax=False,
        class_names=find_class_names(target, None),
    )
    set_metadata(proto, metadata)
    return proto, target.name


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
