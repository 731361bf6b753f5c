"""InferenceSession: a model with the methods of onnxruntime's class of that name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from strzoo.arguments import show
from strzoo.engine.ir.parts import Port
from strzoo.engine.runtime.load import load
from strzoo.engine.runtime.model import SparseModel
from strzoo.errors import StrzooError, UsageError, install_advice
from strzoo.files import is_plan
from strzoo.settings import Settings

if TYPE_CHECKING:
    from strzoo.hub.resolve import Model

PROVIDER = "CPUExecutionProvider"
_TYPES = {"float32": "float", "float64": "double"}  # the others are called as NumPy calls them


@dataclass(frozen=True)
class NodeArg:
    """An input or an output of a network.

    Args:
        name: as the network calls it.
        shape: the batch included; None where a size is open.
        type: as onnxruntime spells it, such as "tensor(float)".
    """

    name: str
    shape: list[int | None]
    type: str


@dataclass(frozen=True)
class SessionMetadata:
    """What a session knows of its model; `custom_metadata_map` is what the ONNX export says about
    itself (docs/onnx.md)."""

    graph_name: str
    custom_metadata_map: dict[str, str]
    producer_name: str = "strzoo"
    description: str = ""
    domain: str = ""
    graph_description: str = ""
    version: int = 0


@dataclass
class SessionOptions:
    """The options of a session that have a meaning here; onnxruntime's own class fits too.

    Args:
        intra_op_num_threads: threads that a call uses; 0 for the usual number.
    """

    intra_op_num_threads: int = field(default=0)


class InferenceSession:
    """A model on the sparse engine, called as an onnxruntime session is.

    `session.run(None, {"images": x})` returns the outputs as a list of NumPy arrays. One session
    may be used by any number of threads at the same time.

    Args:
        path_or_bytes: a `.strz` file or an ONNX file, its bytes, or any other model that
            `strzoo.compile` takes, a `SparseModel` included; compile the model for what has no
            argument here, such as the size of its images.
        sess_options: onnxruntime's, or `SessionOptions`; the number of threads is read, the other
            options have no meaning here.
        providers: names of execution providers, or pairs of a name and options. The engine runs on
            the CPU, so CPUExecutionProvider must be among them.
        provider_options: options of the providers, which have no meaning here.
        native: whether you trust a `.strz` file: its machine code is run, and llvmlite is not
            needed.
        settings: cache folder, registries, network switches; from the environment by default.

    Raises:
        UsageError: an argument is not valid, or the network has operators that the engine lacks.
        StrzooError and its subclasses: as `strzoo.compile`.
    """

    def __init__(
        self,
        path_or_bytes: Model,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        *,
        native: bool = False,
        settings: Settings | None = None,
    ) -> None:
        _check_providers(providers)
        self._options = SessionOptions(_read_threads(sess_options))
        threads = self._options.intra_op_num_threads or None
        self._model = _open(path_or_bytes, threads, native, settings)
        self._inputs, self._outputs = self._model.inputs, self._model.outputs

    @property
    def model(self) -> SparseModel:
        """The compiled model."""
        return self._model

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[np.ndarray]:
        """Outputs of the network as NumPy arrays.

        Args:
            output_names: which, in the order wanted; None or an empty list for all.
            input_feed: arrays or torch tensors on the CPU by the names of the inputs; floats of
                other types are converted.
            run_options: onnxruntime's, which have no meaning here.

        Raises:
            UsageError: a name, a shape or a type is not the network's.
        """
        if not isinstance(input_feed, Mapping):
            raise UsageError(
                f"the inputs are {show(input_feed)}; expected a dictionary of arrays by name, "
                f"such as {{{self._inputs[0].name!r}: x}}"
            )
        names = [port.name for port in self._outputs]
        wanted = names if not output_names else list(output_names)
        _check_names("output", wanted, names)
        known = [port.name for port in self._inputs]
        _check_names("input", list(input_feed), known)
        if missing := [name for name in known if name not in input_feed]:
            raise UsageError(f"input {missing[0]!r} is missing; the network takes {_list(known)}")
        given: Any = input_feed[known[0]] if len(known) == 1 else dict(input_feed)
        try:
            made: Any = self._model(given)
        except UsageError as error:
            if len(known) > 1:  # the message names the input
                raise
            raise UsageError(f"input {known[0]!r}: {error}") from error
        made = made if isinstance(made, Mapping) else {names[0]: made}
        return [np.asarray(made[name]) for name in wanted]

    def get_inputs(self) -> list[NodeArg]:
        """The network's inputs: name, shape and type."""
        return [_describe(port) for port in self._inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The network's outputs: name, shape and type."""
        return [_describe(port) for port in self._outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """None: the weights are part of the compiled plan."""
        return []

    def get_modelmeta(self) -> SessionMetadata:
        """What the model says about itself."""
        return SessionMetadata(self._model.name, self._model.metadata)

    def get_providers(self) -> list[str]:
        """What runs the model, by onnxruntime's name."""
        return [PROVIDER]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """No provider has options here."""
        return {PROVIDER: {}}

    def set_providers(
        self,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Refuse what is not the CPU; otherwise nothing changes.

        Raises:
            UsageError: CPUExecutionProvider is not among them.
        """
        _check_providers(providers)

    def get_session_options(self) -> SessionOptions:
        """The options that have a meaning here."""
        return self._options


def _open(
    model: Model, threads: int | None, native: bool, settings: Settings | None
) -> SparseModel:
    if isinstance(model, bytes | str | os.PathLike) and is_plan(model):
        return load(model, threads, native=native, settings=settings)
    if isinstance(model, SparseModel) and threads in (None, model.threads):
        return model
    try:
        from strzoo.engine.compile import compile
    except ModuleNotFoundError as error:  # the runtime alone is installed
        raise StrzooError(
            f"{show(model)} is no .strz file; compiling other models needs all of strzoo: "
            f"{install_advice('strzoo[engine]')}"
        ) from error
    return compile(model, threads, native=native, settings=settings)


def _read_threads(options: Any) -> int:
    threads = 0 if options is None else getattr(options, "intra_op_num_threads", None)
    if type(threads) is not int or threads < 0:
        raise UsageError(
            f"sess_options is {show(options)}; expected onnxruntime.SessionOptions, or "
            "an object with a number intra_op_num_threads"
        )
    return threads


def _check_providers(providers: Sequence[Any] | None) -> None:
    if isinstance(providers, str) or not isinstance(providers, Sequence | None):
        raise UsageError(f"providers is {show(providers)}; expected a list such as [{PROVIDER!r}]")
    names = [one if isinstance(one, str) else one[0] for one in providers or () if one]
    if names and PROVIDER not in names:
        raise UsageError(
            f"providers is {_list(names)}; the sparse engine runs on the CPU: add {PROVIDER}, or "
            "leave providers out"
        )


def _check_names(kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise UsageError(f"there is no {kind} {unknown[0]!r:.80}; the network has {_list(known)}")


def _list(names: Sequence[Any]) -> str:
    return ", ".join(f"{name!r:.80}" for name in names)


def _describe(port: Port) -> NodeArg:
    return NodeArg(port.name, list(port.shape), f"tensor({_TYPES.get(port.dtype, port.dtype)})")
