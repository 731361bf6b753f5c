"""What `strzoo.compile` can be given, each as a network with a name, a hash and a graph on demand.

The hash comes first and needs neither onnx nor torch, so that a cached plan is found without them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strzoo.errors import StrzooError, UsageError, VerificationError
from strzoo.hub.graph_sources import OnnxSource
from strzoo.hub.network_sources import CardSource, ModuleSource
from strzoo.hub.source import Source, check_image_size

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from strzoo.engine.frontend.partition import Divided

log = logging.getLogger(__name__)

Size = tuple[int, ...]
Entries = dict[str, str]
Step = Callable[[str], object]
# Largest difference from torch, of the largest output: rounding is far below it.
_AGREEMENT = 1e-3


@dataclass
class Network:
    """A network that can be compiled.

    Args:
        name: for people.
        content: SHA-256 of the file or the bytes.
        identity: what its plans depend on, the input size included.
        read: makes the model in memory, and the metadata of its export.
        size: of the images, where that is given.
        kept: whether `read` needs nothing but files, so that what it gave need not be kept.
    """

    name: str
    content: str
    identity: str
    read: Callable[[], tuple[onnx.ModelProto, dict[str, str]]]
    kept: bool
    size: Size | None = None
    _read: tuple[onnx.ModelProto, Entries] | None = None

    def forget(self) -> None:
        """Let go of the model in memory."""
        self._read = None

    def _open(self) -> tuple[onnx.ModelProto, Entries]:
        if self._read is None:
            self._read = self.read()
        return self._read

    def divide(self, islands: str, left: Sequence[str] | None = None) -> tuple[Divided, Entries]:
        """The network in parts, and the metadata of its export.

        Args:
            islands: "auto", "missing" or "none", as `strzoo.compile`.
            left: what was left to onnxruntime when it was divided before.
        """
        from strzoo.engine.frontend import read

        proto, entries = self._open()
        sides = None if self.size is None else (self.size[-2], self.size[-1])
        if islands == "none":
            found = read.read_alone(proto, size=sides, source=self.name)
        else:
            pays = islands == "auto" and left is None
            found = read.read_network(
                proto, size=sides, source=self.name, left=left or (), all_that_pays=pays
            )
        self._check_channels(found)
        return found, entries

    def keep_whole(self) -> Divided:
        """The network as one island."""
        from strzoo.engine.frontend.read import read_whole

        proto, _ = self._open()
        sides = None if self.size is None else (self.size[-2], self.size[-1])
        return read_whole(proto, size=sides, source=self.name)

    def _check_channels(self, found: Divided) -> None:
        shape = found.division.inputs[0].shape
        if self.size is not None and len(self.size) == 3 and shape[1:2] != self.size[:1]:
            raise UsageError(
                f"{self.name} takes images of {shape[1] if len(shape) > 1 else 0} channels, "
                f"{self.size[0]} are given"
            )


def open_network(source: Source, size: Size | None, on_step: Step = log.info) -> Network:
    """Args: `size` is (height, width) or (channels, height, width), None for the model's own.

    Raises:
        StrzooError and its subclasses: the file cannot be had or read.
    """
    if isinstance(source, OnnxSource):
        return _open_onnx(source, size)
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

    def read() -> tuple[onnx.ModelProto, Entries]:
        return _with_entries(export_network(source, size, on_step))

    return Network(name, source.sha256, _identify(kind, source.sha256, size), read, kept=True)


def _open_onnx(source: OnnxSource, size: Size | None, name: str | None = None) -> Network:
    digest = source.sha256

    def read() -> tuple[onnx.ModelProto, Entries]:
        return _with_entries(source.read())

    name = name or (source.path.name if source.path else source.name)
    kept = source.path is not None
    return Network(name, digest, _identify("onnx", digest, size), read, kept, size)


def _identify(kind: str, content: str, size: Size | None) -> str:
    return f"{kind} {content} {'own size' if size is None else size}"


def _with_entries(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Entries]:
    from strzoo.onnx.metadata import our_entries

    return proto, our_entries(proto)


def export_network(source: Source, size: Size | None, on_step: Step) -> onnx.ModelProto:
    """A network of torch's as ONNX in memory, with metadata. It is compared with torch on one
    image; `strzoo.export_onnx` does so on many, and more exactly.

    Raises:
        VerificationError: the results differ, although torch's own do not from run to run.
        StrzooError and its subclasses: as `strzoo.export_onnx`.
    """
    import torch

    from strzoo.data.calibration import random_samples
    from strzoo.export.export_onnx import describe
    from strzoo.onnx.graphs import Deployed, FixedBatchError, build_graph, run_once
    from strzoo.onnx.metadata import set_entries
    from strzoo.onnx.weights import weighted_nodes, zero_percent

    on_step("loading the network")
    image_size = check_image_size(size, source.input_size[0]) or source.input_size
    network = source.build_dense()
    for note in source.notes:
        on_step(note)
    on_step("exporting it")
    deployed = Deployed(network, softmax=False, preprocessing=None).eval()
    images = random_samples(image_size, 1).images
    expected = run_once(deployed, images)
    try:
        proto = build_graph(deployed, image_size)
    except FixedBatchError:
        on_step("exporting it for one image at a time, as its code counts the images")
        proto = build_graph(deployed, image_size, batch=1)
    if not _agrees(proto, images, expected) and torch.equal(run_once(deployed, images), expected):
        raise VerificationError(
            "the network's ONNX form gives other results than torch, so it is not compiled; -v "
            "logs what the exporter said"
        )
    sparsity = zero_percent(list(weighted_nodes(proto)))
    set_entries(
        proto, describe(source, image_size, source.class_names, sparsity=sparsity).to_entries()
    )
    return proto


def _agrees(proto: onnx.ModelProto, images: Tensor, expected: Tensor) -> bool:
    """Whether onnxruntime gives `expected`; true if it cannot run the network."""
    import torch

    from strzoo.onnx.parity import session_forward
    from strzoo.onnx.sessions import open_session

    try:
        found = session_forward(open_session(proto.SerializeToString()))(images)
    except (StrzooError, ValueError) as error:  # ValueError: of protobuf, above 2 GB
        log.info("not compared with torch: %s", error)
        return True
    scale = expected[expected.isfinite()].abs().amax() if expected.isfinite().any() else 0.0
    return torch.allclose(found, expected, 0, 1e-6 + _AGREEMENT * float(scale), equal_nan=True)


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
