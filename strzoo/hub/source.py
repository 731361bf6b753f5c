"""Source: one model of whatever kind, and everything that is known about it.

Each kind answers the same questions. Files are read and hashed when something first asks, once.
Nothing here imports torch or onnx before that.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from strzoo.borders import reading
from strzoo.data.imagenet_classes import list_classes
from strzoo.data.preprocessing import IMAGENET, SMALL, fit_preprocessing
from strzoo.errors import IntegrityError, StrzooError, UnknownNameError, UsageError
from strzoo.files import PLAN_MAGIC
from strzoo.hub.hashes import file_stamp, hash_onnx, hash_tensors, read_hash
from strzoo.settings import Settings
from strzoo.zoo.registry import ModelCard, Preprocessing, load_registry

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from torch import nn

    from strzoo.checkpoint import Checkpoint
    from strzoo.downloads.cache import CachedFile
    from strzoo.onnx.metadata import ModelMetadata

ImageSize = tuple[int, int, int]  # channels, height, width
_IMAGENET_SIZE: ImageSize = (3, 224, 224)
_SMALL_SIDE = 64  # pixels; networks for smaller images are evaluated on whole images


class Source:
    """A model, not yet a network.

    Args:
        name: for people: the id of the published model, else of the file or the class.
        kind: "id", "checkpoint", "onnx", "plan" or "module".
        settings: cache folder, registries and network switches.
    """

    kind = ""
    _file: Path | None = None

    def __init__(self, name: str, settings: Settings) -> None:
        self._name, self.settings = name, settings

    @property
    def name(self) -> str:
        return self.card.id if self.card else self._name

    @property
    def card(self) -> ModelCard | None:
        """What is published about the model; None for anybody's own."""
        return None

    @property
    def path(self) -> Path | None:
        """The file; for an id it is fetched if it is not in the cache. None if there is none.

        Raises:
            OfflineError, NetworkError, IntegrityError: an id's file cannot be had.
        """
        return None

    @property
    def shown(self) -> str:
        """How messages call it: by its file if it has one, else by its name."""
        return str(self._file or self.name)

    @property
    def sha256(self) -> str:
        """Of the file, or of names, types, shapes and bytes of a network's state."""
        raise NotImplementedError

    @property
    def architecture(self) -> str:
        """The name of its architecture, or of its class."""
        raise NotImplementedError

    @property
    def input_size(self) -> ImageSize:
        """Channels, height, width of the images the network was made for."""
        return _IMAGENET_SIZE

    @property
    def stated_preprocessing(self) -> Preprocessing | None:
        """The preprocessing that the card or the file states; None if neither does."""
        return self.card.preprocessing if self.card else None

    @property
    def preprocessing(self) -> Preprocessing:
        """The stated preprocessing, else ImageNet's for the network's input size."""
        return self.stated_preprocessing or usual_preprocessing(self.input_size)

    @property
    def notes(self) -> tuple[str, ...]:
        """What reading it took, stripped, folded or converted; one line each."""
        return ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in order; () if they are not known."""
        card = self.card
        if card is None or card.num_classes != 1000 or card.dataset != "imagenet-1k":
            return ()
        return tuple(c.name for c in list_classes())

    @property
    def checkpoint(self) -> Checkpoint:
        """The weights, read and checked.

        Raises:
            UsageError: this kind of model has no checkpoint.
            StrzooError and its subclasses: the file cannot be had or read.
        """
        raise UsageError(f"{self.name} is {self.described}; {self.wanted}")

    described = "not a checkpoint"
    wanted = "give a model id or a checkpoint file"

    def build_network(self, format: str | None = None) -> nn.Module:
        """The network with its weights, in evaluation mode on the CPU.

        Args:
            format: "str" or "dense"; by default dense for an id, and what a file holds.

        Raises: as `checkpoint`.
        """
        return self.checkpoint.build_model(format)

    def build_dense(self) -> nn.Module:
        """A dense fp32 network of its own in evaluation mode on the CPU, without gradients."""
        import torch

        network = self.build_network("dense")
        return network.to(device="cpu", dtype=torch.float32).requires_grad_(False).eval()


def usual_preprocessing(size: ImageSize) -> Preprocessing:
    """ImageNet's preprocessing for a network that takes images of `size`."""
    side = size[1]
    return fit_preprocessing(SMALL if side < _SMALL_SIDE else IMAGENET, side)


class CheckpointSource(Source):
    """A checkpoint file, or a `Checkpoint` in memory."""

    kind = "checkpoint"
    described = "a checkpoint"

    def __init__(
        self, settings: Settings, *, path: Path | None = None, checkpoint: Checkpoint | None = None
    ) -> None:
        self._file = path or (checkpoint.path if checkpoint else None)
        super().__init__(self._file.name if self._file else "", settings)
        if checkpoint is not None:
            self.__dict__["checkpoint"] = checkpoint
            self.in_memory = True

    in_memory = False

    @property
    def name(self) -> str:
        return super().name or self.architecture

    @cached_property
    def card(self) -> ModelCard | None:
        from strzoo.checkpoint import identify

        try:
            return identify(self.checkpoint, load_registry(self.settings))[0]
        except IntegrityError:  # the user's own network
            return None

    @property
    def path(self) -> Path | None:
        return self._file

    @cached_property
    def checkpoint(self) -> Checkpoint:
        from strzoo.checkpoint import read_checkpoint

        assert self._file is not None
        return read_checkpoint(
            self._file,
            architecture=self.settings.architecture or None,
            limits=self.settings.limits,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return self.checkpoint.notes

    @cached_property
    def sha256(self) -> str:
        if self._file is None or self.in_memory:
            return hash_tensors(self.checkpoint.state_dict)
        return read_hash(self._file)

    @property
    def architecture(self) -> str:
        return self.checkpoint.architecture

    @property
    def input_size(self) -> ImageSize:
        trained_on = self.checkpoint.trained_on
        return trained_on.input_size if trained_on else self.checkpoint.spec.input_size

    @property
    def stated_preprocessing(self) -> Preprocessing | None:
        trained_on = self.checkpoint.trained_on if self.card is None else None
        if trained_on is not None:
            return trained_on.preprocessing
        return super().stated_preprocessing or self.checkpoint.spec.preprocessing

    @property
    def class_names(self) -> tuple[str, ...]:
        trained_on = self.checkpoint.trained_on if self.card is None else None
        return (trained_on.class_names if trained_on else ()) or super().class_names


class CardSource(CheckpointSource):
    """A published model by its id: its file is found or fetched when the weights are needed."""

    kind = "id"
    described = "a published model"

    def __init__(self, card: ModelCard, settings: Settings, format: str | None = None) -> None:
        super().__init__(settings)
        self.__dict__["card"] = card
        self._card, self._format = card, format

    @cached_property
    def cached_file(self) -> CachedFile | None:
        """The verified file in the cache, without touching the network. An STR file gives the
        dense form too, and thresholds beside it, so it comes first unless "dense" is asked for by
        a card that has no other."""
        from strzoo.downloads.cache import Cache  # and with it all that downloads

        cache = Cache(self.settings.cache_dir)
        formats = ["str"] if self._format == "str" else list(self._card.files)
        for format in formats:
            if format in self._card.files and (found := cache.find(self._card, format)):
                return found
        return None

    @cached_property
    def _located(self) -> CachedFile:
        format = self._format or "dense"
        self._card.file(format)
        if format == "dense" and self.cached_file is not None:
            return self.cached_file
        from strzoo.downloads.download import obtain

        return obtain(self._card, format, self.settings).file

    @property
    def path(self) -> Path:
        return self._located.path

    @property
    def sha256(self) -> str:
        return self._located.sha256

    @cached_property
    def checkpoint(self) -> Checkpoint:
        from strzoo.checkpoint import read_checkpoint

        return read_checkpoint(
            self.path, architecture=self._card.architecture, limits=self.settings.limits
        )

    @property
    def architecture(self) -> str:
        return self._card.architecture

    @property
    def input_size(self) -> ImageSize:
        return 3, self._card.preprocessing.crop, self._card.preprocessing.crop

    def build_network(self, format: str | None = None) -> nn.Module:
        return self.checkpoint.build_model(format or self._format or "dense")


class ModuleSource(Source):
    """Any network in memory. It is not copied: `build_network` gives the network itself.

    What is known of it is known of the network inside its wrappers (DataParallel, torch.compile).
    """

    kind = "module"

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        from strzoo.sparse.unwrap import check_values, unwrap

        self.model, self.inner = model, unwrap(model)
        check_values(self.inner)
        super().__init__(type(self.inner).__name__, settings)

    @cached_property
    def sha256(self) -> str:
        return hash_tensors(self.inner.state_dict())

    @property
    def architecture(self) -> str:
        return type(self.inner).__name__

    described = "a network in memory"

    def build_network(self, format: str | None = None) -> nn.Module:
        return self.model

    def build_dense(self) -> nn.Module:
        import torch

        from strzoo.sparse.sparsify import to_dense_
        from strzoo.sparse.unwrap import copy_plain

        if isinstance(self.inner, torch.jit.ScriptModule):
            raise UsageError(
                f"{self.name} is TorchScript, whose layers are hidden: give the torch.nn.Module "
                "that it was made from"
            )
        network = to_dense_(copy_plain(self.inner))
        return network.to(device="cpu", dtype=torch.float32).requires_grad_(False).eval()


class _MetadataSource(Source):
    """What ONNX files and plans have in common: they state what they are in metadata entries."""

    entries: Mapping[str, str]

    @cached_property
    def metadata(self) -> ModelMetadata:
        from strzoo.onnx.metadata import read_metadata

        return read_metadata(self.entries, str(self.path or self._name))

    @cached_property
    def card(self) -> ModelCard | None:
        name = self.metadata.model
        try:
            found = load_registry(self.settings).get(name) if name else None
        except UnknownNameError:
            return None
        return found if found and found.id == name else None

    @property
    def name(self) -> str:
        return self.metadata.model or self._name

    @property
    def architecture(self) -> str:
        return self.metadata.architecture or self.name

    @property
    def stated_preprocessing(self) -> Preprocessing | None:
        return self.metadata.preprocessing

    @property
    def input_size(self) -> ImageSize:
        return (3, *(self.metadata.input_size or _IMAGENET_SIZE[1:]))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.metadata.class_names or super().class_names


class OnnxSource(_MetadataSource):
    """An ONNX file, its bytes, or an `onnx.ModelProto`."""

    kind = "onnx"

    def __init__(
        self,
        settings: Settings,
        *,
        path: Path | None = None,
        content: bytes | None = None,
        proto: onnx.ModelProto | None = None,
    ) -> None:
        name = path.name if path else (proto.graph.name if proto is not None else "") or "model"
        super().__init__(name, settings)
        self._file, self._content, self._proto = path, content, proto
        self._output: str | None = None

    @property
    def path(self) -> Path | None:
        return self._file

    @property
    def described(self) -> str:  # type: ignore[override]
        return "an ONNX file" if self._file else "an ONNX model"

    def open_session(self, **options: Any) -> onnxruntime.InferenceSession:
        """A session of onnxruntime on the model; arguments and errors as `onnx.sessions` has."""
        from strzoo.onnx.sessions import open_session

        if self._file is not None:
            return open_session(self._file, **options)
        model = self.read()  # which also refuses what refers to other files
        with reading(self.shown, "a model of less than 2 GB"):
            content = self._content or model.SerializeToString()
        return open_session(content, **options)

    def read(self) -> onnx.ModelProto:
        """The model with its weights; read anew each time, as it may be large.

        Raises:
            StrzooError: the file cannot be read, or has changed since it was hashed.
            IntegrityError: it is not an ONNX model.
        """
        from strzoo.onnx.files import parse_onnx, read_onnx

        held = self._content if self._proto is None else self._proto
        if held is not None:
            return self._cut(parse_onnx(held, self._name, self.settings.limits))
        assert self._file is not None
        stamp = self.__dict__.get("_stamp")
        changed = stamp is not None and stamp != file_stamp(self._file)
        if changed and hash_onnx(self._file) != self._whole_sha256:
            raise StrzooError(f"{self._file} has changed since it was compiled; compile it again")
        return self._cut(read_onnx(self._file, limits=self.settings.limits))

    def with_output(self, name: str) -> OnnxSource:
        """The model with that output alone, of several."""
        made = copy.copy(self)
        made._output = name
        return made

    def _cut(self, model: onnx.ModelProto) -> onnx.ModelProto:
        from strzoo.onnx.outputs import keep_output

        return keep_output(model, self._output) if self._output else model

    @cached_property
    def entries(self) -> Mapping[str, str]:  # type: ignore[override]
        from strzoo.onnx.files import read_onnx
        from strzoo.onnx.metadata import our_entries

        limits = self.settings.limits
        if self._file is None:
            return our_entries(self.read())
        model = read_onnx(self._file, weights=False, limits=limits)
        return our_entries(model)

    @property
    def sha256(self) -> str:
        """Of the file, those that hold its weights included, and of the output that was chosen."""
        if self._output is None:
            return self._whole_sha256
        return hashlib.sha256(f"{self._whole_sha256} {self._output}".encode()).hexdigest()

    @cached_property
    def _whole_sha256(self) -> str:
        if self._content is not None:
            return hashlib.sha256(self._content).hexdigest()
        if self._proto is not None:
            content = self._proto.SerializeToString(deterministic=True)
            return hashlib.sha256(content).hexdigest()
        assert self._file is not None
        self._stamp = file_stamp(self._file)
        return hash_onnx(self._file)


class Compiled(Protocol):
    """What `strzoo.compile` returns, as far as it is known here."""

    @property
    def metadata(self) -> dict[str, str]: ...

    @property
    def source_sha256(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def report(self) -> Any: ...

    def strzoo_source(self, settings: Settings) -> Source:
        """The model as a source: how the resolver recognises it."""


class PlanSource(_MetadataSource):
    """A network compiled by the sparse engine: a `.strz` file, or what `strzoo.compile` gave."""

    kind = "plan"
    wanted = "give the model that it was compiled from"

    def __init__(
        self, settings: Settings, *, path: Path | None = None, compiled: Compiled | None = None
    ) -> None:
        super().__init__(path.name if path else compiled.name if compiled else "", settings)
        self._file, self.compiled = path, compiled

    @property
    def path(self) -> Path | None:
        return self._file

    @property
    def described(self) -> str:  # type: ignore[override]
        return "a compiled plan of the sparse engine" if self._file else "a compiled model"

    @cached_property
    def header(self) -> dict[str, Any]:
        """What the plan says about itself; its content is checked when it is loaded."""
        if self.compiled is not None:
            return {"metadata": self.compiled.metadata, "source": self.compiled.source_sha256}
        from strzoo.sealed_files import read_header

        assert self._file is not None
        return read_header(self._file, PLAN_MAGIC, "compiled strzoo model")

    @property
    def entries(self) -> Mapping[str, str]:  # type: ignore[override]
        found = self.header.get("metadata")
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}

    @property
    def name(self) -> str:
        return self.metadata.model or str(self.header.get("model", self._name))

    @property
    def sha256(self) -> str:
        """Of the model that it was compiled from."""
        return str(self.header.get("source", ""))

    @property
    def layers(self) -> tuple[tuple[str, int, int], ...]:
        """Name, weights and nonzero weights of each layer, as the plan says; empty where it does
        not."""
        if self.compiled is not None:
            made = self.compiled.report.layers
            return tuple((layer.name, layer.weights, layer.nonzeros) for layer in made)
        try:
            entries = self.header["plans"][0]["layers"]
            return tuple((str(e["name"]), int(e["weights"]), int(e["nonzeros"])) for e in entries)
        except (KeyError, IndexError, TypeError, ValueError):
            return ()
