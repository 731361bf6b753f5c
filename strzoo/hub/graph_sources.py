"""Sources of graphs: ONNX models and compiled plans."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from strzoo.borders import reading
from strzoo.errors import StrzooError, UnknownNameError
from strzoo.files import PLAN_MAGIC
from strzoo.hub.hashes import file_stamp, hash_onnx
from strzoo.settings import Settings
from strzoo.zoo.registry import ModelCard, Preprocessing, load_registry

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from strzoo.onnx.metadata import ModelMetadata

from strzoo.hub.source import IMAGENET_SIZE, ImageSize, Source


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
        stated = self.metadata.preprocessing
        channels = stated.channels if stated else IMAGENET_SIZE[0]
        return (channels, *(self.metadata.input_size or IMAGENET_SIZE[1:]))

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
