"""Tensors as a checkpoint file describes them, and torch's tensors from them.

A description says where in the file the numbers are. Nothing is read or allocated before it is
compared with what the file holds, and what is never asked for (an optimizer's state) never is.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strzoo.borders import open_file
from strzoo.errors import IntegrityError
from strzoo.settings import Limits

# A storage in a pickle is named after its type: torch.FloatStorage, torch.cuda.HalfStorage.
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "Untyped": torch.uint8,
}
_MOST_AXES = 64
_ALIGNMENT = 8  # bytes
# What the tensors of a file may take in memory beyond its own size: a small tensor can be shared
# by many names, or expanded.
_SLACK = 16 << 20
_ARRAYS = frozenset("biuf")  # kinds of numpy types that torch has too


class QuantisedError(ValueError):
    """A file holds tensors of integers that mean other numbers."""


def storage_dtype(name: str) -> torch.dtype:
    """The type of the numbers in a storage of that class.

    Raises:
        ValueError: there is no such class.
        QuantisedError: its numbers are quantised.
    """
    if name.startswith(("QInt", "QUInt")):
        raise QuantisedError(
            f"it holds quantised tensors ({name[:40]}); save the state dict of the network before "
            "it was quantised"
        )
    try:
        return _STORAGES[name.removesuffix("Storage")]
    except KeyError:
        raise ValueError(f"numbers of an unknown type, {name}") from None


def dtype_of(name: str) -> torch.dtype:
    """The type that torch calls by that name, such as torch.bfloat16.

    Raises:
        ValueError: there is none.
    """
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"numbers of an unknown type, {name}")
    return found


class Memory:
    """The bytes that storages lie in: a file, mapped when the first one is needed, or bytes.

    Args:
        path: of the file, if it is one.
        size: bytes.
        content: the bytes, if it is no file.
    """

    def __init__(self, path: str, size: int, content: bytes | None = None) -> None:
        self.path, self.size, self.content = path, size, content
        self._mapped: torch.UntypedStorage | None = None

    def take(self, start: int, length: int) -> torch.UntypedStorage:
        """`length` bytes from `start` on. They are the file's own: a change of them stays in
        memory, one of the file is seen here.

        Raises:
            ValueError: they are not inside.
        """
        if not (0 <= start <= self.size and 0 <= length <= self.size - start):
            raise ValueError(f"{length:,} bytes at {start:,} are not in the file")
        if self._mapped is None:
            self._mapped = self._map()
        part: torch.UntypedStorage = self._mapped[start : start + length]
        return part

    def _map(self) -> torch.UntypedStorage:
        if self.content is not None:
            flat = torch.frombuffer(bytearray(self.content), dtype=torch.uint8)
        else:  # a private map: what is written to it stays in memory
            # Not torch.from_file: it takes no name that is not UTF-8.
            with open_file(self.path) as stream:
                mapped = mmap.mmap(stream.fileno(), self.size, access=mmap.ACCESS_COPY)
            flat = torch.frombuffer(mapped, dtype=torch.uint8)
        return flat.untyped_storage()


@dataclass(eq=False)
class Storage:
    """A row of numbers: `count` of them, as the pickle says.

    `memory` and `start` are known once the container has been read. In files that were written on
    a machine of the other byte order `swapped` is set.
    """

    dtype: torch.dtype
    count: int
    memory: Memory | None = None
    start: int = 0
    swapped: bool = False
    made: torch.UntypedStorage | None = None

    @property
    def bytes(self) -> int:
        return self.count * self.dtype.itemsize

    def place(
        self, memory: Memory, stream: io.RawIOBase, base: int = 0, *, counts: bool = False
    ) -> None:
        """Its numbers follow in the stream, behind how many there are; go past them.

        Args:
            memory: the file.
            stream: at the number of them.
            base: where in the file the stream begins.
            counts: whether that number is right and `count` still to be set.
        """
        (count,) = struct.unpack("<q", stream.read(8) or b"")
        if counts:
            self.count = count
        if count != self.count or count < 0:
            raise ValueError(f"{count:,} numbers in place of {self.count:,}")
        self.memory, self.start = memory, base + stream.tell()
        if base + stream.seek(self.bytes, os.SEEK_CUR) != self.start + self.bytes:
            raise ValueError("it ends within the numbers of a tensor")

    def lie_in(self, root: Storage, offset: int) -> None:
        """Its numbers are those of `root` from `offset` on."""
        start = offset * self.dtype.itemsize
        if start + self.bytes > root.bytes:
            raise ValueError("a part of a storage that goes beyond it")
        self.memory, self.start = root.memory, root.start + start

    def restore(self) -> torch.UntypedStorage:
        """Its bytes, in memory of their own where they are not aligned in the file."""
        if self.made is None:
            if self.memory is None:
                raise ValueError("a tensor whose numbers are not in the file")
            self.made = self.memory.take(self.start, self.bytes)
            if self.start % _ALIGNMENT or self.swapped:
                self.made = self.made.clone()
                if self.swapped:
                    self.made.byteswap(self.dtype)
        return self.made


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """`shape` numbers of a storage, `stride` apart, from `offset` on."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What it takes in memory once all its numbers are written out."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check(self) -> None:
        """Raise a ValueError unless it lies within its storage."""
        numbers = (self.offset, *self.shape, *self.stride)
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
            raise ValueError(f"a tensor of shape {_short(self.shape)}")
        if len(self.shape) != len(self.stride) or len(self.shape) > _MOST_AXES:
            raise ValueError(f"a tensor of {len(self.shape)} axes and {len(self.stride)} strides")
        last = sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        end = (self.offset + last + 1) * self.dtype.itemsize if 0 not in self.shape else 0
        if end > self.storage.bytes:
            raise ValueError(
                f"a tensor of shape {_short(self.shape)} in {self.storage.bytes:,} bytes"
            )

    def restore(self) -> Tensor:
        self.check()
        made = torch.empty(0, dtype=self.dtype)
        return made.set_(self.storage.restore(), self.offset, self.shape, self.stride)


@dataclass(frozen=True, eq=False)
class StoredArray:
    """A numpy array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    content: bytes

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def restore(self) -> Tensor:
        if self.dtype.kind not in _ARRAYS or self.bytes != len(self.content):
            raise ValueError(f"an array of {self.dtype} and shape {_short(self.shape)}")
        flat = np.frombuffer(self.content, self.dtype)
        shaped = flat.reshape(self.shape, order="F" if self.fortran else "C")
        return torch.from_numpy(shaped.astype(self.dtype.newbyteorder("="), order="C"))


# By rows or columns, of numbers or of blocks.
_COMPRESSED = ("sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")


@dataclass(frozen=True, eq=False)
class StoredSparse:
    """A sparse tensor: its layout, such as "sparse_coo", and its parts, the shape among them."""

    layout: str
    parts: tuple[Any, ...]

    @property
    def bytes(self) -> int:
        """Of its parts; how large it is when dense is checked when it becomes so."""
        return sum(p.bytes for p in self.parts if isinstance(p, StoredTensor))

    def restore(self) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that compressed layouts are in beta state
            if self.layout == "sparse_coo":
                indices, values, shape = self.parts[:3]
                return torch.sparse_coo_tensor(
                    restore(indices), restore(values), tuple(shape), check_invariants=True
                )
            if self.layout not in _COMPRESSED:
                raise ValueError(f"a tensor in the layout {self.layout}")
            compressed, plain, values, shape = self.parts
            return torch.sparse_compressed_tensor(
                restore(compressed),
                restore(plain),
                restore(values),
                tuple(shape),
                layout=getattr(torch, self.layout),
                check_invariants=True,
            )


Stored = StoredTensor | StoredArray | StoredSparse


def restore(value: Any) -> Tensor:
    """torch's tensor of a description.

    Raises:
        ValueError: it claims what the file does not hold.
    """
    if not isinstance(value, Stored):
        raise ValueError(f"a {type(value).__name__} in place of a tensor")
    return value.restore()


class Budget:
    """How much the tensors of a file of `size` bytes may take: as much and a little more."""

    def __init__(self, size: int) -> None:
        self.left = size + _SLACK

    def restore(self, key: str, value: Stored) -> Tensor:
        """The tensor of entry `key`.

        Raises:
            IntegrityError: it claims more than the file can hold.
            ValueError: it claims what the file does not hold.
        """
        self.left -= value.bytes
        if self.left < 0:
            raise IntegrityError(
                f"{key[:80]} claims {_size(value.bytes)}, more than a file of its size holds"
            )
        return value.restore()


def densify(value: Tensor, key: str, limits: Limits) -> Tensor:
    """`value` with its zeros written out if it is sparse.

    Raises:
        IntegrityError: it takes more than `limits` allow.
    """
    if value.layout == torch.strided:
        return value
    elements = math.prod(value.shape)
    limits.check("elements", elements, f"{key}, a sparse tensor of shape {_short(value.shape)},")
    limits.check("bytes", elements * value.dtype.itemsize, f"{key}, a sparse tensor,")
    return value.to_dense()


def _short(shape: tuple[Any, ...]) -> str:
    text = "x".join(str(n) for n in shape[:8])
    return (text if len(shape) <= 8 else f"{text}x...")[:80]


def _size(count: int) -> str:
    return f"{count:,} bytes" if count < 1 << 62 else "more than 4 x 10^18 bytes"
