"""Pickles of a dictionary with flat uint8 arrays, such as CIFAR's, read without running them.

Nothing that a pickle names is imported or called. numpy's constructors become stand-ins that
build an array only from the bytes at hand, of the one type that is expected: numpy's own
`_reconstruct` and `dtype` would believe a type whose fields lie outside the item.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
from typing import Any, ClassVar

import numpy as np

from strzoo.errors import IntegrityError
from strzoo.settings import Limits

_UINT8 = ("u1", "|u1", "uint8", "B")
# What protocols 2 to 5 need for dictionaries, lists, texts, numbers and arrays. Left out are
# the instructions that reach outside the pickle (PERSID, EXT, NEXT_BUFFER) or that make instances
# in other ways (INST, OBJ, NEWOBJ).
_OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.MEMOIZE),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG1, pickle.BINFLOAT, pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.BINUNICODE),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.EMPTY_DICT, pickle.SETITEM),
    *(pickle.SETITEMS, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_TUPLE),
    *(pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.GLOBAL),
    *(pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.INT, pickle.LONG, pickle.PUT, pickle.GET),
    *(pickle.DICT, pickle.LIST, pickle.DUP),
)


def load_arrays(content: bytes, limits: Limits) -> dict[str, Any]:
    """The dictionary in a pickle, its keys as text.

    Raises:
        pickle.UnpicklingError, ValueError and others: it is damaged or holds something else;
            the caller's border (`strzoo.borders.reading`) names the file.
        IntegrityError: it would unfold to more than the limits allow.
    """
    document = _Reader(content, limits).load()
    if not isinstance(document, dict):
        raise ValueError(f"it holds a {type(document).__name__}, not a dictionary")
    found = {k.decode("ascii") if isinstance(k, bytes) else k: v for k, v in document.items()}
    return {k: v.values() if isinstance(v, _Array) else v for k, v in found.items()}


def _refuse(_reader: Any) -> None:
    raise pickle.UnpicklingError("its pickle has an instruction that such files do not need")


def _load_bytearray(reader: Any) -> None:
    """BYTEARRAY8 without making room for as many bytes as it claims."""
    (size,) = struct.unpack("<Q", reader.read(8))
    reader.append(reader.read(min(size, sys.maxsize)))


# The machine in Python: it keeps its memory in a dictionary, where the one in C makes an array
# as long as the largest index that a file names.
class _Reader(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = {
        code: function if bytes([code]) in _OPCODES else _refuse
        for code, function in pickle._Unpickler.dispatch.items()
    } | {pickle.BYTEARRAY8[0]: _load_bytearray}

    def __init__(self, content: bytes, limits: Limits) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._left, self._limits = limits.bytes, limits

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
            ("_codecs", "encode"): self._encode,
        }
        for core in ("numpy.core", "numpy._core"):
            known[f"{core}.multiarray", "_reconstruct"] = _reconstruct
            known[f"{core}.numeric", "_frombuffer"] = _from_buffer
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"its pickle wants {module}.{name}, which is refused")
        return known[module, name]

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """How protocol 2 of Python 3 writes bytes."""
        if type(text) is not str or encoding != "latin1":
            raise pickle.UnpicklingError("its pickle encodes something else than bytes")
        self._left -= len(text)
        if self._left < 0:
            self._limits.check("bytes", self._limits.bytes - self._left, "what its pickle unfolds")
        return text.encode("latin1")


class _Type:
    """Stands for numpy's dtype: nothing but a name."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        self.name = name.decode("ascii") if isinstance(name, bytes) else name
        if self.name not in _UINT8:
            raise pickle.UnpicklingError(f"its arrays are {str(self.name)[:40]!r}, not uint8")

    def __setstate__(self, state: Any) -> None:
        """Byte order and such, which uint8 has none of; fields make another type of it."""
        if not isinstance(state, tuple) or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("its arrays are structured, not uint8")


class _Array:
    """Stands for an array of numpy's until its bytes are known."""

    def __init__(self, *_: Any) -> None:
        self._values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        self._values = _build(raw, kind, shape, "F" if fortran else "C")

    def values(self) -> np.ndarray:
        if self._values is None:
            raise ValueError("it holds an array without content")
        return self._values


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("its pickle makes something else than an array")
    return _Array()


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> _Array:
    made = _Array()
    made._values = _build(raw, kind, shape, order)
    return made


def _build(raw: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(kind, _Type) or type(raw) is not bytes or order not in ("C", "F"):
        raise pickle.UnpicklingError("its pickle builds an array of something else than bytes")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("its array has no shape")
    if len(shape) > 4:
        raise IntegrityError(f"its array has {len(shape)} axes; images have at most 4")
    return np.frombuffer(raw, np.uint8).reshape(shape, order=order)
