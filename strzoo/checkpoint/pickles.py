"""Read a pickle without running anything: an interpreter of its opcodes that builds inert values.

Nothing that a pickle names is imported or called. Tensors become `StoredTensor`, which says where
in the file the numbers are; the few constructors that checkpoints use are rebuilt (`rebuilding`);
everything else becomes a `StandIn`. `pickletools.genops` of the standard library parses the
opcodes.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import IO, Any, cast

from strzoo.checkpoint.rebuilding import Global, Rebuilder, StandIn
from strzoo.errors import IntegrityError
from strzoo.settings import Limits

# Each opcode may build an object that is larger than itself; an honest checkpoint with its
# optimizer has some ten thousand.
_MOST_OPCODES = 1 << 21
_LONG_TEXT = 1 << 12
# Python hashes integers below to themselves: no two of them have the same hash.
_WHOLE_KEY = 1 << 60
_LONGEST_KEY = 16  # items of a tuple


def read_pickle(
    stream: io.RawIOBase | io.BytesIO,
    name: str,
    limits: Limits,
    persistent: Callable[[Any], Any],
    nested: Callable[[bytes], Any] | None = None,
) -> Any:
    """The value of the pickle at the stream's position; the stream is left behind it.

    Args:
        stream: a read that asks for more than there is gets what there is.
        name: of the file, for messages.
        limits: `bytes` bounds what texts and copies within the pickle take.
        persistent: gives what a persistent id stands for.
        nested: gives the value of a file of torch's inside the pickle; without it, a stand-in.

    Raises:
        IntegrityError: it would call a function that does harm, or takes too much.
        Exception: of any kind, if it is damaged; the caller has the border.
    """
    return _Interpreter(Rebuilder(name, limits, nested), persistent).run(stream)


class _Bare:
    """What genops needs of a stream. It would ask one with a position for it at each opcode."""

    def __init__(self, stream: io.RawIOBase | io.BytesIO) -> None:
        self.read, self.readline = stream.read, stream.readline


class _Interpreter:
    """The stack machine that `pickle` documents, without its power."""

    def __init__(self, rebuilder: Rebuilder, persistent: Callable[[Any], Any]) -> None:
        self.rebuilder, self.persistent = rebuilder, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: io.RawIOBase | io.BytesIO) -> Any:
        operations = self._operations()
        for count, (opcode, argument, _) in enumerate(
            pickletools.genops(cast(IO[bytes], _Bare(stream)))
        ):
            if count > _MOST_OPCODES:
                raise IntegrityError(
                    f"{self.rebuilder.name} has a pickle of more than {_MOST_OPCODES:,} "
                    "operations, which no network of the zoo needs"
                )
            if opcode.name == "STOP":
                return self.stack.pop()
            operations[opcode.name](argument)
        raise ValueError("a pickle without an end")

    def _operations(self) -> dict[str, Callable[[Any], object]]:
        push = self._push
        numbers = "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT"
        texts = (
            "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 "
            "UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8"
        )
        rebuild = self.rebuilder
        return {
            **dict.fromkeys(numbers.split(), push),
            **dict.fromkeys(texts.split(), self._push_text),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda n: push(self.memo[n])),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("PROTO", "FRAME"), lambda argument: None),
            **dict.fromkeys(
                ("EXT1", "EXT2", "EXT4"),
                lambda code: push(Global("copyreg", f"extension {code}")),
            ),
            "MEMOIZE": lambda _: self._put(len(self.memo)),
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_TUPLE": lambda _: push(()),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_SET": lambda _: push(set()),
            "LIST": lambda _: push(self._pop_mark()),
            "TUPLE": lambda _: push(tuple(self._pop_mark())),
            "TUPLE1": lambda _: push(tuple(self._pop(1))),
            "TUPLE2": lambda _: push(tuple(self._pop(2))),
            "TUPLE3": lambda _: push(tuple(self._pop(3))),
            "FROZENSET": lambda _: push(frozenset(_key(item) for item in self._pop_mark())),
            "DICT": lambda _: self._set({}, self._pop_mark(), is_new=True),
            "SETITEM": lambda _: self._set_top(self._pop(2)),
            "SETITEMS": lambda _: self._set_top(self._pop_mark()),
            "APPEND": lambda _: self._append(self._pop(1)),
            "APPENDS": lambda _: self._append(self._pop_mark()),
            "ADDITEMS": lambda _: self._add(self._pop_mark()),
            "MARK": lambda _: self._mark(),
            "POP": lambda _: self.stack.pop() if self.stack else self._pop_mark(),
            "POP_MARK": lambda _: self._pop_mark(),
            "DUP": lambda _: push(self.stack[-1]),
            "GLOBAL": lambda names: push(Global(*names.split(" ", 1))),
            "STACK_GLOBAL": lambda _: push(Global(*map(_text, self._pop(2)))),
            "PERSID": lambda pid: push(self.persistent(pid)),
            "BINPERSID": lambda _: push(self.persistent(self.stack.pop())),
            "REDUCE": lambda _: push(rebuild.call(*self._pop(2))),
            "NEWOBJ": lambda _: push(rebuild.call(*self._pop(2))),
            "NEWOBJ_EX": lambda _: push(rebuild.call(*self._pop(3)[:2])),
            "OBJ": lambda _: self._call_marked(None),
            "INST": lambda names: self._call_marked(Global(*names.split(" ", 1))),
            "BUILD": lambda _: self._build(),
        }

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _push_text(self, value: Any) -> None:
        if len(value) > _LONG_TEXT:  # a text may take four bytes for each of the file
            self.rebuilder.spend(len(value) * (4 if isinstance(value, str) else 1))
        self.stack.append(value)

    def _put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def _mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError("its stack is empty")
        del self.stack[-count:]
        return items

    def _set_top(self, items: list[Any]) -> None:
        target = self.stack[-1]
        self._set(target.entries if isinstance(target, StandIn) else target, items)

    def _set(self, target: Any, items: list[Any], *, is_new: bool = False) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError(f"entries for a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value
        if is_new:
            self.stack.append(target)

    def _append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        target = target.elements if isinstance(target, StandIn) else target
        if not isinstance(target, list):
            raise TypeError(f"items for a {type(target).__name__}")
        target.extend(items)

    def _add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise TypeError(f"items for a {type(target).__name__}")
        target.update(_key(item) for item in items)

    def _call_marked(self, what: Any) -> None:
        arguments = self._pop_mark()
        if what is None:
            what = arguments.pop(0)
        self.stack.append(self.rebuilder.call(what, tuple(arguments)))

    def _build(self) -> None:
        target, state = self._pop(2)
        self.stack.append(self.rebuilder.build(target, state))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} is no name")
    return value


def _key(value: Any) -> Any:
    """`value` if it is hashed quickly and to something of its own, else a stand-in for it."""
    if value is None or isinstance(value, str | bytes | bool | StandIn):
        return value
    if isinstance(value, Global) or (isinstance(value, int) and abs(value) < _WHOLE_KEY):
        return value
    if isinstance(value, float) and abs(value) < _WHOLE_KEY:
        return value
    if isinstance(value, tuple) and len(value) <= _LONGEST_KEY:
        # Tuples inside tuples can take for ever to hash.
        flat = all(not isinstance(v, tuple | frozenset) and _key(v) is v for v in value)
        return value if flat else StandIn("tuple")
    return StandIn(type(value).__name__)
