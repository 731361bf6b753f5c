"""What the constructors that a pickle names give, without calling any of them.

Those that checkpoints use are rebuilt as plain values; all others give a `StandIn`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from strzoo.checkpoint.stored import (
    Storage,
    StoredArray,
    StoredSparse,
    StoredTensor,
    dtype_of,
)
from strzoo.errors import IntegrityError
from strzoo.settings import Limits

_RENAMED = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}
# What does harm when it is called. It is not called here either, but such a file is refused.
_HARMFUL_MODULES = {"commands", "pty", "runpy", "socket", "subprocess", "webbrowser"}
_HARMFUL_SYSTEM = {
    *("system", "popen", "startfile", "kill", "remove", "unlink", "rmdir", "removedirs"),
    *("rename", "replace", "truncate", "fork", "posix_spawn", "posix_spawnp"),
    *(f"{verb}{v}" for verb in ("exec", "spawn") for v in ("l", "le", "lp", "lpe")),
    *(f"{verb}{v}" for verb in ("exec", "spawn") for v in ("v", "ve", "vp", "vpe")),
}
_HARMFUL = {
    "builtins": {"__import__", "breakpoint", "compile", "eval", "exec", "execfile", "open"},
    "importlib": {"import_module", "reload"},
    "shutil": {"move", "rmtree"},
    "os": _HARMFUL_SYSTEM,
    "posix": _HARMFUL_SYSTEM,
    "nt": _HARMFUL_SYSTEM,
}
_ITEM = 128  # bytes that an item of a copied list or set takes, at most


class Global(NamedTuple):
    """What a pickle refers to by name; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class StandIn:
    """An object of a class that is not rebuilt: its name and what the pickle gives it."""

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.kind[:80]}>"


class StateDict(OrderedDict[Any, Any]):
    """A mapping with the attributes that its pickle gives it; torch keeps `_metadata` there."""

    attributes: Any = None


@dataclass(eq=False)
class _Array:
    """A numpy array whose type and content are still to come."""


@dataclass(frozen=True)
class _DType:
    """A numpy type by its code, such as "f8"."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(f"{self.order}{self.code}")


class Rebuilder:
    """Gives the value of each call in a pickle, and counts what copies take."""

    def __init__(
        self, name: str, limits: Limits, nested: Callable[[bytes], Any] | None = None
    ) -> None:
        self.name, self.limits, self._nested, self._spent = name, limits, nested, 0

    def spend(self, count: int) -> None:
        """Count bytes that the values take beside the file's own.

        Raises:
            IntegrityError: they are more than `limits.bytes`.
        """
        self._spent += count
        self.limits.check("bytes", self._spent, f"{self.name} (the values in its pickle)")

    def call(self, what: Any, arguments: Any) -> Any:
        """The value of `what(*arguments)`, inert.

        Raises:
            IntegrityError: it would do harm.
            Exception: the arguments of a known constructor make no sense.
        """
        if not isinstance(arguments, tuple):
            raise TypeError(f"a {type(arguments).__name__} of arguments")
        if not isinstance(what, Global):
            kind = what.kind if isinstance(what, StandIn) else type(what).__name__
            return StandIn(kind, arguments)
        place = Global(_RENAMED.get(what.module, what.module), what.name)
        if place.module.split(".")[0] in _HARMFUL_MODULES or place.name in _HARMFUL.get(
            place.module, ()
        ):
            raise IntegrityError(
                f"{self.name} is refused: its pickle calls {what}, which no checkpoint needs; "
                "nothing of it was run. Get it from a source you trust"
            )
        if place == _COPYREG and arguments and isinstance(arguments[0], Global):
            return StandIn(str(arguments[0]))
        known = _KNOWN.get(place)
        return StandIn(str(what), arguments) if known is None else known(self, *arguments)

    def build(self, target: Any, state: Any) -> Any:
        """`target` with the state that the pickle gives it."""
        if isinstance(target, StandIn):
            target.state = state
        elif isinstance(target, StateDict):
            target.attributes = state
        elif isinstance(target, _DType):
            return _DType(target.code, state[1] if state[1] in ("<", ">") else "=")
        elif isinstance(target, _Array):
            _, shape, kind, fortran, content = state
            if not isinstance(kind, _DType):
                return StandIn("numpy.ndarray", state=state)
            return StoredArray(kind.numpy(), tuple(shape), bool(fortran), _as_bytes(content))
        return target

    def read_file(self, content: bytes) -> Any:
        """The value of a file of torch's that the pickle holds as bytes."""
        return StandIn("torch.storage") if self._nested is None else self._nested(content)

    def copy_items(self, values: Any) -> Any:
        """`values`, counted: each call makes a copy of them."""
        self.spend(_ITEM * len(values))
        return values


def _as_bytes(value: Any) -> bytes:
    """Bytes; Python 2 wrote them as text."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, bytes | bytearray):
        raise TypeError(f"a {type(value).__name__} is no bytes")
    return bytes(value)


def _encode(rebuilder: Rebuilder, text: str, encoding: str = "latin1") -> bytes:
    rebuilder.spend(len(text))
    return text.encode("latin-1" if encoding.startswith("latin") else "utf-8")


def _bytes(rebuilder: Rebuilder, *arguments: Any) -> Any:
    """`bytes` and `bytearray`: of their text or bytes; a number of zeros stays a stand-in."""
    if arguments and isinstance(arguments[0], str | bytes | bytearray):
        rebuilder.spend(len(arguments[0]))
        return _as_bytes(arguments[0])
    return StandIn("builtins.bytes", arguments) if arguments else b""


def _ordered(rebuilder: Rebuilder, items: Any = ()) -> StateDict:
    made = StateDict()
    pairs = items.items() if isinstance(items, dict) else items
    for key, value in rebuilder.copy_items(pairs):
        if isinstance(key, str | int):
            made[key] = value
    return made


def _counter(rebuilder: Rebuilder, items: Any = ()) -> dict[Any, Any]:
    return dict(rebuilder.copy_items(items)) if isinstance(items, dict) else {}


def _set(kind: type) -> Callable[..., Any]:
    def make(rebuilder: Rebuilder, items: Any = ()) -> Any:
        copied = rebuilder.copy_items(items)
        return kind(v for v in copied if isinstance(v, str | int | float | bytes | None))

    return make


def _size(rebuilder: Rebuilder, items: Any = ()) -> tuple[Any, ...]:
    return tuple(rebuilder.copy_items(items))


def _scalar(rebuilder: Rebuilder, kind: Any, content: Any = b"") -> Any:
    """A numpy scalar as the plain number or text that it is."""
    if not isinstance(kind, _DType):
        return StandIn("numpy.scalar")
    dtype, raw = kind.numpy(), _as_bytes(content)
    if dtype.hasobject or dtype.itemsize != len(raw) or dtype.fields:
        raise ValueError(f"a scalar of {dtype} in {len(raw)} bytes")
    return np.frombuffer(raw, dtype)[0].item() if raw else StandIn("numpy.scalar")


def _dtype(rebuilder: Rebuilder, code: Any, *_: Any) -> Any:
    plain = isinstance(code, str) and code[:1] in "biufcSU" and code[1:].isdecimal()
    if not plain or len(code) > 8:
        return StandIn("numpy.dtype", (code,))
    return _DType(code)


def _tensor(
    rebuilder: Rebuilder, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any
) -> Any:
    if any(isinstance(r, dict) and any(r.values()) for r in rest[2:]):  # conjugated or negated
        return StandIn("torch.Tensor")
    if not isinstance(storage, Storage):
        raise TypeError(f"a tensor in a {type(storage).__name__}")
    return StoredTensor(storage, storage.dtype, offset, tuple(shape), tuple(stride))


def _typed_tensor(
    rebuilder: Rebuilder, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any
) -> Any:
    """_rebuild_tensor_v3 names the type: its storage is a row of bytes."""
    made = _tensor(rebuilder, storage, offset, shape, stride, *rest[:2], *rest[3:])
    if isinstance(made, StoredTensor):
        made = StoredTensor(storage, dtype_of(str(rest[2])), offset, made.shape, made.stride)
    return made


def _sparse(rebuilder: Rebuilder, layout: Any, parts: Any) -> StoredSparse:
    return StoredSparse(str(layout)[:40].removeprefix("torch."), tuple(parts))


def _subclass(rebuilder: Rebuilder, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    return rebuilder.call(function, arguments)


def _first(rebuilder: Rebuilder, value: Any, *_: Any) -> Any:
    return value


def _text(rebuilder: Rebuilder, *arguments: Any) -> str:
    return ":".join(str(a) for a in arguments if isinstance(a, str | int))


def _array(rebuilder: Rebuilder, *_: Any) -> _Array:
    return _Array()


def _from_buffer(
    rebuilder: Rebuilder, content: Any, kind: Any, shape: Any, order: Any = "C", *rest: Any
) -> Any:
    """numpy arrays in pickles of protocol 5."""
    if not isinstance(kind, _DType) or order not in ("C", "F"):
        return StandIn("numpy.ndarray")
    return StoredArray(kind.numpy(), tuple(shape), order == "F", _as_bytes(content))


def _storage(rebuilder: Rebuilder, content: Any) -> Any:
    """A storage that a plain pickle holds as the bytes of a file of its own."""
    return rebuilder.read_file(_as_bytes(content))


_COPYREG = Global("copyreg", "_reconstructor")
_KNOWN: dict[Global, Callable[..., Any]] = {
    Global("collections", "OrderedDict"): _ordered,
    Global("collections", "defaultdict"): lambda rebuilder, *_: {},
    Global("collections", "Counter"): _counter,
    Global("builtins", "dict"): _counter,
    Global("builtins", "set"): _set(set),
    Global("builtins", "frozenset"): _set(frozenset),
    Global("builtins", "bytes"): _bytes,
    Global("builtins", "bytearray"): _bytes,
    Global("_codecs", "encode"): _encode,
    Global("numpy.core.multiarray", "scalar"): _scalar,
    Global("numpy.core.multiarray", "_reconstruct"): _array,
    Global("numpy.core.numeric", "_frombuffer"): _from_buffer,
    Global("numpy", "dtype"): _dtype,
    Global("torch", "Size"): _size,
    Global("torch.serialization", "_get_layout"): _text,
    Global("torch", "device"): _text,
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    Global("torch._utils", "_rebuild_parameter"): _first,
    Global("torch._utils", "_rebuild_parameter_with_state"): _first,
    Global("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _first,
    Global("torch._utils", "_rebuild_device_tensor_from_numpy"): _first,
    Global("torch._utils", "_rebuild_xla_tensor"): _first,
    Global("torch._utils", "_rebuild_sparse_tensor"): _sparse,
    Global("torch._utils", "_rebuild_sparse_csr_tensor"): _sparse,
    Global("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    Global("torch.nn.parameter", "Parameter"): _first,
    Global("torch.storage", "_load_from_bytes"): _storage,
}
