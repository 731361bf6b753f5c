"""Machine code that is loaded without LLVM: linked here, cached or put into a `.strz` file.

The code is one block: instructions and the constants that they read, which refer to each other by
their distances only. So it runs wherever the block is put, and loading it is to copy it and to make
its memory executable. Functions of the C library that LLVM calls, such as memcpy, are reached by
jumps at the end of the block, into which their addresses are written when it is loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import platform
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from strzoo.engine.codegen.blocks import NAME
from strzoo.engine.codegen.mailboxes import NAMES
from strzoo.engine.hardware import missing_flags
from strzoo.errors import StrzooError

_LINE = 64  # bytes, of the cache: no section needs more
# Of the ELF format.
_HEADER, _SECTION = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ")
_SYMBOL, _RELOCATION = struct.Struct("<IBBHQQ"), struct.Struct("<QQq")
_MAGIC, _X86_64 = b"\x7fELF\x02\x01", 62
_PROGBITS, _SYMTAB, _RELA = 1, 2, 4
_WRITE, _ALLOCATE = 1, 2
_DISTANCES = {2: "<i", 4: "<i", 24: "<q"}  # R_X86_64_PC32, R_X86_64_PLT32, R_X86_64_PC64
_CALL = 4
_JUMP = b"\xff\x25\x02\0\0\0\0\0"  # to the address in the 8 bytes that follow


@dataclass(frozen=True, eq=False)
class Block:
    """Linked machine code.

    Args:
        functions: where each begins in `image`.
        imports: where the jump to each function of the C library begins.
        image: uint8.
    """

    functions: Mapping[str, int]
    imports: Mapping[str, int]
    image: np.ndarray


@dataclass(frozen=True, eq=False)
class StoredCode:
    """Machine code of a file.

    Args:
        cpu: the level of processors that it is for, one of `hardware.LEVELS`.
        engine: `generator_digest` of the engine that made it.
        block: what `link` made.
    """

    cpu: str
    engine: str
    block: Block

    def find_misfit(self) -> str | None:
        """Why the code cannot run here; None if it can."""
        if self.engine != generator_digest():
            return "it was made by another version of the engine"
        if not {NAME, *NAMES} <= {*self.block.functions}:
            return "it is incomplete"
        missing = missing_flags(self.cpu)
        if missing:
            return f"it is for {self.cpu}, this processor lacks {', '.join(missing)}"
        return None


class LoadedCode:
    """Code in executable memory: `addresses` of its functions by name.

    Raises:
        ValueError: a function lies outside, or is not in the C library.
        StrzooError: the system gives no executable memory.
    """

    def __init__(self, block: Block) -> None:
        size, library = len(block.image), ctypes.CDLL(None, use_errno=True)
        offsets = [*block.functions.values(), *block.imports.values()]
        if not all(type(offset) is int and 0 <= offset <= size - 16 for offset in offsets):
            raise ValueError("a function that is not in the machine code")
        # It must live as long as an address is in use.
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.write(block.image.data)
        for name, offset in block.imports.items():
            function = getattr(library, name, None)
            if function is None:
                raise ValueError(f"{name} is not in the C library")
            address = ctypes.cast(function, ctypes.c_void_p).value
            struct.pack_into("<Q", self._memory, offset + len(_JUMP), address)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        protect = library.mprotect
        protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        if protect(start, size, mmap.PROT_READ | mmap.PROT_EXEC):
            raise StrzooError("the system gives this process no memory for machine code")
        self.addresses = {name: start + offset for name, offset in block.functions.items()}


def can_link() -> bool:
    """Whether `link` and `LoadedCode` are for this system; elsewhere LLVM loads object files."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


@lru_cache(maxsize=1)
def generator_digest() -> str:
    """The hash of the code generators' source, so that code of another version is not used.

    The same in strzoo and in strzoo_runtime, whose imports have another name.
    """
    digest = hashlib.sha256()
    own = f"from {__name__.partition('.')[0]}.".encode()
    for file in sorted((Path(__file__).parent.parent / "codegen").glob("*.py")):
        digest.update(file.read_bytes().replace(own, b"from strzoo."))
    return digest.hexdigest()


def link(content: bytes) -> Block:
    """The block that an object file for x86-64 makes (ELF, from LLVM).

    Raises:
        StrzooError: it has variables, or refers to others'.
    """
    fields = _HEADER.unpack_from(content)
    if not content.startswith(_MAGIC) or fields[2] != _X86_64:
        raise StrzooError("the machine code is not for Linux on x86-64")
    start, count = fields[6], fields[12]
    sections = [_SECTION.unpack_from(content, start + n * _SECTION.size) for n in range(count)]
    places, block = {}, bytearray()
    for number, (_, kind, flags, _, offset, size, _, _, alignment, _) in enumerate(sections):
        if kind != _PROGBITS or not flags & _ALLOCATE or not size:
            continue  # what only debuggers and exceptions need is left out
        if flags & _WRITE or alignment > _LINE:
            raise StrzooError("the machine code has variables; it cannot be linked")
        block += bytes(-len(block) % max(alignment, 16))
        places[number] = len(block)
        block += content[offset : offset + size]
    imports: dict[str, int] = {}
    symbols, functions = _read_symbols(content, sections, places)
    for _, kind, _, _, offset, size, _, target, _, _ in sections:
        if kind != _RELA or target not in places:
            continue
        for at, info, addend in _RELOCATION.iter_unpack(content[offset : offset + size]):
            place, form = places[target] + at, _DISTANCES.get(info & 0xFFFFFFFF)
            name, value = symbols[info >> 32]
            if value is None and info & 0xFFFFFFFF == _CALL:
                if name not in imports:
                    block += bytes(-len(block) % 16)
                    imports[name] = len(block)
                    block += _JUMP + bytes(8)
                value = imports[name]
            if form is None or value is None:
                raise StrzooError(f"the machine code refers to {name}; it cannot be linked")
            struct.pack_into(form, block, place, value + addend - place)
    block += bytes(16)  # so that every jump and function begins well inside
    return Block(functions, imports, np.frombuffer(block, np.uint8))


def _read_symbols(
    content: bytes, sections: list[tuple[int, ...]], places: Mapping[int, int]
) -> tuple[list[tuple[str, int | None]], dict[str, int]]:
    """Each symbol with its place in the block, if it has one; and the functions among them."""
    table = next(section for section in sections if section[1] == _SYMTAB)
    texts = sections[table[6]][4]
    symbols: list[tuple[str, int | None]] = []
    functions = {}
    for name, kind, _, section, value, _ in _SYMBOL.iter_unpack(
        content[table[4] : table[4] + table[5]]
    ):
        end = content.index(b"\0", texts + name)
        text = content[texts + name : end].decode()
        place = places[section] + value if section in places else None
        symbols.append((text, place))
        if place is not None and kind & 0xF == 2:
            functions[text] = place
    return symbols, functions
